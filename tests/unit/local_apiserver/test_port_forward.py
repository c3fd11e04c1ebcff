"""kubectl port-forward: SPDY in a WebSocket, and the channel protocol of the Python client."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketStream
from support.apiserver import PODS, Api, pod

from agentops.local.apiserver import WebSocketUpgrade, spdy
from agentops.local.apiserver.node import NodeStreamError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Node:
    """Every pod's port is really `port` of this machine."""

    def __init__(self, port: int) -> None:
        self.port = port

    def address(self, namespace: str, pod: str, port: int) -> tuple[str, int]:
        if port == 1:
            raise NodeStreamError(f"pod {pod} has no address yet", 503)
        return "127.0.0.1", self.port


class Client:
    """The kubectl end of the tunnel."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.codec = spdy.HeaderCodec()
        self.reader = spdy.FrameReader()
        self.closed = anyio.Event()
        self._to_server, self._incoming = anyio.create_memory_object_stream[bytes](1000)
        self._from_server, self.outgoing = anyio.create_memory_object_stream[bytes](1000)
        self._frames: list[spdy.Frame] = []

    # the server's side
    async def receive(self) -> bytes | None:
        try:
            return await self._incoming.receive()
        except anyio.EndOfStream:
            return None

    async def send(self, data: bytes) -> None:
        await self._from_server.send(data)

    async def close(self) -> None:
        self.closed.set()

    # the client's side
    async def say(self, data: bytes) -> None:
        await self._to_server.send(data)

    def hang_up(self) -> None:
        self._to_server.close()

    def drop(self) -> None:
        for end in (self._to_server, self._incoming, self._from_server, self.outgoing):
            end.close()

    async def open(self, request: int, port: int) -> tuple[int, int]:
        """The error stream, half-closed at once, and the data stream, as kubectl does."""
        ids = 4 * request + 1, 4 * request + 3
        for stream, kind, flags in ((ids[0], "error", spdy.FIN), (ids[1], "data", 0)):
            block = self.codec.encode({"Streamtype": kind, "Port": str(port), "Requestid": str(request)})
            head = struct.pack(">IIH", stream, 0, 0)
            await self.say(spdy.control(spdy.SYN_STREAM, head + block, flags))
        return ids

    async def frame(self) -> spdy.Frame:
        while not self._frames:
            self._frames += self.reader.feed(await self.outgoing.receive())
        return self._frames.pop(0)

    async def until_closed(self, stream: int) -> bytes:
        """What the server says on a stream, to its FIN."""
        said = b""
        while True:
            frame = await self.frame()
            if (frame.kind, frame.stream) == (0, stream):
                said += frame.payload
                if frame.fin:
                    return said


@asynccontextmanager
async def forwarding(api: Api, port: int, *, protocol: str = "", query: str = "") -> AsyncIterator[Client]:
    api.server.node = Node(port)  # type: ignore[assignment]
    await api.post(PODS, pod("p", nodeName="n"))
    await api.patch(f"{PODS}/p/status", {"status": {"phase": "Running"}})
    answer = await api.server.handle(api.request("GET", f"{PODS}/p/portforward{query}", upgrade="websocket"))
    assert isinstance(answer, WebSocketUpgrade), answer
    client = Client(protocol or answer.protocols[0])
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer.serve, client)
            yield client
            client.hang_up()
            await client.closed.wait()
    client.drop()


@asynccontextmanager
async def upper_case_server() -> AsyncIterator[int]:
    """Answers each connection's whole input in capitals, at its end."""

    async def answer(stream: SocketStream) -> None:
        async with stream:
            said = b"".join([chunk async for chunk in stream])
            await stream.send(said.upper())

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        yield int(listener.extra(anyio.abc.SocketAttribute.local_port))
        tasks.cancel_scope.cancel()


def test_the_dictionary_is_that_of_the_specification() -> None:
    assert len(spdy.DICTIONARY) == 1423
    assert hashlib.sha256(spdy.DICTIONARY).hexdigest().startswith("51d27341373f923f")


async def test_bytes_go_both_ways_until_both_sides_have_finished(api: Api) -> None:
    async with upper_case_server() as port, forwarding(api, port) as client:
        error, data = await client.open(0, 80)
        assert [(await client.frame()).kind for _ in range(2)] == [spdy.SYN_REPLY, spdy.SYN_REPLY]
        await client.say(spdy.data(data, b"hello ") + spdy.data(data, b"world", fin=True))
        said = [await client.frame() for _ in range(3)]
        assert said == [
            spdy.Frame(0, data, False, b"HELLO WORLD"),
            spdy.Frame(0, error, True, b""),
            spdy.Frame(0, data, True, b""),
        ]


async def test_connections_run_side_by_side(api: Api) -> None:
    async with upper_case_server() as port, forwarding(api, port) as client:
        opened = [await client.open(i, 80) for i in range(20)]
        for i, (_, data) in enumerate(opened):
            await client.say(spdy.data(data, f"no {i}".encode(), fin=True))
        said: dict[int, bytes] = {data: b"" for _, data in opened}
        ended: set[int] = set()
        while len(ended) < 20:
            frame = await client.frame()
            if frame.kind == 0 and frame.stream in said:
                said[frame.stream] += frame.payload
                ended |= {frame.stream} if frame.fin else set()
        assert sorted(said.values()) == sorted(f"NO {i}".encode() for i in range(20))


async def test_a_slice_of_the_stream_may_end_anywhere(api: Api) -> None:
    async with upper_case_server() as port, forwarding(api, port) as client:
        _, data = await client.open(0, 80)
        for byte in spdy.data(data, b"slow", fin=True):
            await client.say(bytes([byte]))
        assert await client.until_closed(data) == b"SLOW"


@pytest.mark.parametrize(("port", "reason"), [(80, b"connection refused"), (1, b"pod p has no address yet")])
async def test_a_port_nobody_listens_on_is_told_on_the_error_stream(api: Api, port: int, reason: bytes) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        free = int(listener.extra(anyio.abc.SocketAttribute.local_port))
    async with forwarding(api, free) as client:
        error, _ = await client.open(0, port)
        said = await client.until_closed(error)
        assert said.startswith(b"error forwarding port %d to pod: " % port)
        assert reason in said


async def test_a_ping_comes_back(api: Api) -> None:
    async with forwarding(api, 1) as client:
        await client.say(spdy.control(spdy.PING, b"\x00\x00\x00\x07"))
        assert (await client.frame()) == spdy.Frame(spdy.PING, 0, False, b"\x00\x00\x00\x07")


async def test_a_stream_of_another_type_is_reset(api: Api) -> None:
    async with forwarding(api, 1) as client:
        block = client.codec.encode({"streamtype": "data", "port": "99999", "requestid": "1"})
        await client.say(spdy.control(spdy.SYN_STREAM, struct.pack(">IIH", 1, 0, 0) + block))
        assert (await client.frame()).kind == spdy.RST_STREAM


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\n\r\n" * 10,
        b"\x00\x00\x00\x01\x00\xff\xff\xff",
        b"\x80\x02\x00\x01\x00\x00\x00\x00",
        b"\x80\x03\x00\x01\x00\x00\x00\x02xx",
        b"\x80\x03\x00\x01\x00\x00\x00\x0e" + b"x" * 14,
    ],
)
async def test_bytes_that_are_no_spdy_end_the_tunnel_quietly(api: Api, junk: bytes) -> None:
    async with forwarding(api, 1) as client:
        await client.say(junk)
        if not junk.startswith(b"GET"):
            await client.closed.wait()


async def test_the_python_clients_channels_carry_a_port_each(api: Api) -> None:
    async with (
        upper_case_server() as port,
        forwarding(api, port, protocol="v5.channel.k8s.io", query="?ports=80,81") as client,
    ):
        heads = [await client.outgoing.receive() for _ in range(4)]
        assert sorted(heads) == [b"\x00P\x00", b"\x01P\x00", b"\x02Q\x00", b"\x03Q\x00"]
        await client.say(b"\x02hello")
        await client.say(b"\xff\x02")
        assert await client.outgoing.receive() == b"\x02HELLO"
        assert not client.closed.is_set()
        await client.say(b"\xff\x00")
        await client.closed.wait()


async def test_a_pod_that_does_not_run_cannot_be_forwarded_to(api: Api) -> None:
    await api.post(PODS, pod("p", nodeName="n"))
    reply = await api.get(f"{PODS}/p/portforward", upgrade="websocket")
    assert reply.message == "unable to forward port because pod is not running. Current status=Pending"


async def test_ports_of_a_query_must_be_ports(api: Api) -> None:
    await api.post(PODS, pod("p", nodeName="n"))
    await api.patch(f"{PODS}/p/status", {"status": {"phase": "Running"}})
    for bad in ("0", "65536", "-1", "x", "9" * 5000):
        assert (await api.get(f"{PODS}/p/portforward?ports={bad}", upgrade="websocket")).status == 400
