"""HTTP as clients other than ours speak it: byte by byte, with and without credentials."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import anyio
import pytest
from anyio.abc import SocketStream
from anyio.streams.tls import TLSStream
from support.apiserver import Api, pod

from agentops.local.apiserver.shell import EARLY_BODY_BYTES

pytestmark = pytest.mark.anyio

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
BODY = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "a-"}}).encode()
JSON = "Content-Type: application/json"
ADMIN = "Authorization: Bearer an-admin-token"


class Wire:
    """One connection on which a test writes what it likes."""

    def __init__(self, stream: TLSStream) -> None:
        self._stream = stream
        self._rest = b""

    async def send(self, *lines: str, body: bytes = b"") -> None:
        await self._stream.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def send_raw(self, data: bytes) -> None:
        await self._stream.send(data)

    async def head(self, within_s: float = 5.0) -> str:
        """The next status line and headers."""
        with anyio.fail_after(within_s):
            while b"\r\n\r\n" not in self._rest:
                self._rest += await self._stream.receive()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        return head.decode().lower()

    async def answer(self) -> tuple[int, Any]:
        """The next answer with a Content-Length."""
        head = await self.head()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
        length = int(fields["content-length"])
        with anyio.fail_after(5):
            while len(self._rest) < length:
                self._rest += await self._stream.receive()
        body, self._rest = self._rest[:length], self._rest[length:]
        return int(head.split()[1]), json.loads(body)


@asynccontextmanager
async def connection(cluster: Any) -> AsyncIterator[Wire]:
    context = ssl.create_default_context(cafile=str(cluster.ca_path))
    tcp: SocketStream = await anyio.connect_tcp("127.0.0.1", cluster.port)
    async with await TLSStream.wrap(tcp, hostname="127.0.0.1", ssl_context=context, standard_compatible=False) as tls:
        yield Wire(tls)


async def test_who_asks_before_sending_a_body_is_told_to_go_on(cluster: Any) -> None:
    """curl and Go ask so for large bodies, and wait."""
    async with connection(cluster) as wire:
        await wire.send(f"POST {CONFIG_MAPS} HTTP/1.1", "Host: x", JSON, ADMIN, "Expect: 100-continue",
                        f"Content-Length: {len(BODY)}")  # fmt: skip
        assert await wire.head() == "http/1.1 100 continue"
        await wire.send_raw(BODY)
        assert (await wire.answer())[0] == 201


async def test_who_may_not_write_is_refused_before_the_body_is_sent(cluster: Any) -> None:
    async with connection(cluster) as wire:
        await wire.send(f"POST {CONFIG_MAPS} HTTP/1.1", "Host: x", JSON, "Expect: 100-continue",
                        "Content-Length: 60000000")  # fmt: skip
        code, status = await wire.answer()
        assert (code, status["reason"]) == (403, "Forbidden")


@pytest.mark.parametrize(
    ("credential", "code"), [("X-Nobody: at-all", 403), ("Authorization: Bearer wrong", 401)], ids=["none", "wrong"]
)
async def test_a_large_body_of_a_stranger_is_not_read(cluster: Any, credential: str, code: int) -> None:
    """Neither with its length told nor in chunks: memory is for those who may."""
    length = f"Content-Length: {64 * 1024 * 1024}"
    for framing, first in ((length, b"x"), ("Transfer-Encoding: chunked", b"1\r\nx\r\n")):
        async with connection(cluster) as wire:
            await wire.send(f"POST {CONFIG_MAPS} HTTP/1.1", "Host: x", JSON, credential, framing, body=first)
            assert (await wire.answer())[0] == code


async def test_a_body_over_the_limit_is_refused_at_its_announcement(cluster: Any) -> None:
    async with connection(cluster) as wire:
        await wire.send(f"POST {CONFIG_MAPS} HTTP/1.1", "Host: x", JSON, ADMIN, "Content-Length: 3145729", body=b"x")
        code, status = await wire.answer()
        assert (code, status["reason"]) == (413, "RequestEntityTooLarge")


async def test_a_body_that_outgrows_the_limit_in_chunks_is_refused(cluster: Any) -> None:
    async with connection(cluster) as wire:
        await wire.send(f"POST {CONFIG_MAPS} HTTP/1.1", "Host: x", JSON, ADMIN, "Transfer-Encoding: chunked")
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        for _ in range(49):
            await wire.send_raw(piece)
        code, status = await wire.answer()
        assert (code, status["reason"]) == (413, "RequestEntityTooLarge")


async def test_a_large_body_of_somebody_who_may_is_taken_and_the_connection_lives_on(cluster: Any) -> None:
    filled = json.loads(BODY) | {"data": {"a": "x" * EARLY_BODY_BYTES}}
    large = json.dumps(filled).encode()
    async with connection(cluster) as wire:
        for body in (large, BODY, large):
            await wire.send(f"POST {CONFIG_MAPS} HTTP/1.1", "Host: x", JSON, ADMIN, f"Content-Length: {len(body)}",
                            body=body)  # fmt: skip
            assert (await wire.answer())[0] == 201


async def test_a_url_may_be_as_long_as_the_script_that_kubectl_exec_puts_into_it(cluster: Any) -> None:
    async with connection(cluster) as wire:
        await wire.send(f"GET {CONFIG_MAPS}?labelSelector=a&x={'y' * 100_000} HTTP/1.1", "Host: x", ADMIN)
        code, body = await wire.answer()
        assert (code, body["kind"]) == (200, "ConfigMapList")


@pytest.mark.parametrize(
    "request_", [b"GARBAGE\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n"]
)
async def test_what_is_no_http_is_refused_without_a_traceback(
    cluster: Any, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with connection(cluster) as wire:
        await wire.send_raw(request_)
        assert " 400 " in (await wire.head()).split("\r\n", 1)[0]
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_body_that_is_not_what_its_encoding_says_is_a_bad_request(
    cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with connection(cluster) as wire:
        lines = (f"POST {CONFIG_MAPS} HTTP/1.1", "Host: x", ADMIN, JSON, "Content-Encoding: gzip", "Content-Length: 4")
        await wire.send(*lines, body=b"junk")
        code, body = await wire.answer()
        assert (code, body["reason"]) == (400, "BadRequest")
    assert not [record for record in caplog.records if record.exc_info]


class Talker:
    """A kubelet whose containers and ports say more than anybody reads."""

    def __init__(self, port: int) -> None:
        self._port = port

    def address(self, namespace: str, pod: str, port: int) -> tuple[str, int]:
        return "127.0.0.1", self._port

    async def exec(self, namespace: str, pod: str, container: str, command: Any, *, stdin: bool, tty: bool) -> Talker:
        return self

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        while True:
            await anyio.lowlevel.checkpoint()
            yield 1, b"x" * 1000

    async def kill(self) -> None: ...


@pytest.mark.parametrize("path", ["exec?command=yes", "portforward?ports=80"])
async def test_a_client_that_goes_in_the_middle_of_a_stream_is_no_error(
    cluster: Any, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(stream: SocketStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async with stream:
                while True:
                    await stream.send(b"x" * 1000)

    pods = "/api/v1/namespaces/default/pods"
    api = Api(cluster.server)
    await api.post(pods, pod("p", nodeName="n"))
    await api.patch(f"{pods}/p/status", {"status": {"phase": "Running"}})
    tls = ssl.create_default_context(cafile=str(cluster.ca_path))
    headers = {"Authorization": "Bearer an-admin-token"}
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls), headers=headers) as session,
    ):
        tasks.start_soon(listener.serve, talk)
        cluster.server.node = Talker(int(listener.extra(anyio.abc.SocketAttribute.local_port)))
        for _ in range(5):
            url = f"{cluster.url}{pods}/p/{path}"
            async with session.ws_connect(url, protocols=("v5.channel.k8s.io",)) as socket:
                for _ in range(20):
                    await socket.receive_bytes()
                socket._response.connection.transport.abort()  # type: ignore[union-attr]
                await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()
    assert not [record.getMessage() for record in caplog.records if record.levelname == "ERROR" or record.exc_info]
