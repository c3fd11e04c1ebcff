"""Asking endpoints, against a scripted server on a virtual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import anyio.abc
import attrs
import httpx2
import pytest
import trio.testing

from agentops.controller import Request
from agentops.operator.prober import INTERVAL_S, EndpointProber, Probe, check
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio
KEY = Request("agents", "local")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


def probe(fingerprint: str = "1", *, authenticated: bool = True) -> Probe:
    return Probe(
        request=KEY,
        fingerprint=fingerprint,
        url="http://model/v1/models",
        headers={"Authorization": "Bearer top-secret"},
        authenticated=authenticated,
        fix="put a valid key into Secret agents/key",
    )


async def answer(handler: object, **kind: bool) -> tuple[bool, str, str]:
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(handler)) as http:  # type: ignore[arg-type]
        return await check(http, probe(**kind))


@pytest.mark.parametrize("status", [200, 404, 405])
async def test_any_ordinary_answer_is_reachable(status: int) -> None:
    assert (await answer(lambda _: httpx2.Response(status)))[:2] == (True, "Reachable")


async def test_401_names_the_secret_and_the_fix() -> None:
    status, reason, message = await answer(lambda _: httpx2.Response(401))
    assert (status, reason) == (False, "Unauthorized")
    assert "put a valid key into Secret agents/key" in message


async def test_401_without_credentials_to_send_is_reachable() -> None:
    assert (await answer(lambda _: httpx2.Response(401), authenticated=False))[:2] == (True, "Reachable")


async def test_a_refused_connection_names_the_url_and_the_field() -> None:
    def refuse(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("connection refused")

    status, reason, message = await answer(refuse)
    assert (status, reason) == (False, "Unreachable")
    assert "http://model/v1/models" in message
    assert "spec.endpoint.baseURL" in message


async def test_a_server_error_is_unreachable() -> None:
    assert (await answer(lambda _: httpx2.Response(503)))[:2] == (False, "Unreachable")


async def test_silence_ends_after_five_seconds() -> None:
    async def never(_: httpx2.Request) -> httpx2.Response:
        await anyio.sleep_forever()
        raise AssertionError

    began = anyio.current_time()
    assert (await answer(never))[:2] == (False, "Unreachable")
    assert anyio.current_time() - began == pytest.approx(5)


async def test_one_question_is_asked_once_and_again_after_five_minutes() -> None:
    asked, woken = [], anyio.Event()

    def handler(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(200)

    def http() -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.MockTransport(handler))

    prober = EndpointProber(http, lambda _: woken.set(), LoopClock())
    async with anyio.create_task_group() as tasks:
        await tasks.start(prober.run)
        assert prober.due_in_s(KEY, "1") == 0
        prober.ask(probe())
        prober.ask(probe())
        await woken.wait()
        assert len(asked) == 1
        found = prober.finding(KEY, "1")
        assert found is not None
        assert found.status is True
        assert prober.due_in_s(KEY, "1") == pytest.approx(INTERVAL_S)
        assert prober.finding(KEY, "2") is None
        assert prober.due_in_s(KEY, "2") == 0
        await anyio.sleep(INTERVAL_S)
        assert prober.due_in_s(KEY, "1") == 0
        tasks.cancel_scope.cancel()


async def test_a_server_that_comes_up_late_is_soon_seen() -> None:
    answers, woken = [503, 503, 200], []

    def http() -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: httpx2.Response(answers.pop(0))))

    prober = EndpointProber(http, woken.append, LoopClock())
    waits = []
    async with anyio.create_task_group() as tasks:
        await tasks.start(prober.run)
        for number in range(3):
            prober.ask(probe())
            while len(woken) <= number:
                await anyio.sleep(0.1)
            waits.append(round(prober.due_in_s(KEY, "1")))
            await anyio.sleep(prober.due_in_s(KEY, "1"))
        tasks.cancel_scope.cancel()
    assert waits == [15, 30, INTERVAL_S]


@asynccontextmanager
async def serving(answer: bytes, *, endless: bytes = b"") -> AsyncIterator[str]:
    """A URL where every request gets `answer`, then `endless` for as long as somebody reads."""

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with suppress(anyio.BrokenResourceError):
                await stream.receive()
                await stream.send(answer)
                while endless:
                    await stream.send(endless)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/models"
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_body_without_end_is_not_read(anyio_backend: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(head, endless=b"10000\r\n" + b"x" * 65536 + b"\r\n") as url, httpx2.AsyncClient() as http:
        assert (await check(http, attrs.evolve(probe(), url=url)))[:2] == (True, "Reachable")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "5"},
        {"Authorization": "Bearer top-secret\n# rotated"},
        {"Authorization": "Bearer top-secret\0"},
        {"Authorization": "Bearer top-secret\u2013"},
    ],
)
async def test_a_request_that_cannot_be_sent_is_told_without_its_key(
    anyio_backend: str, headers: dict[str, str]
) -> None:
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as url, httpx2.AsyncClient() as http:
        status, reason, message = await check(http, attrs.evolve(probe(), url=url, headers=headers))
    assert (status, reason) == (False, "Unreachable")
    assert "spec.endpoint.headers" in message
    assert "top-secret" not in message


async def test_whatever_a_server_says_does_not_show_the_key() -> None:
    def echo(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.RemoteProtocolError(f"illegal status line: {request.headers['Authorization']}")

    _, reason, message = await answer(echo)
    assert reason == "Unreachable"
    assert "top-secret" not in message


async def test_an_endpoint_that_breaks_the_client_leaves_the_others_their_answers() -> None:
    def handle(request: httpx2.Request) -> httpx2.Response:
        if request.url.host == "broken":
            raise RuntimeError("a library stumbled")
        return httpx2.Response(200)

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(handle))
    woken: list[Request] = []
    prober = EndpointProber(lambda: http, woken.append, LoopClock())
    other = Request("agents", "other")
    async with anyio.create_task_group() as tasks:
        await tasks.start(prober.run)
        prober.ask(attrs.evolve(probe(), url="http://broken/v1"))
        prober.ask(attrs.evolve(probe(), request=other))
        with anyio.fail_after(10):
            while len(woken) < 2:
                await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()
    found, good = prober.finding(KEY, "1"), prober.finding(other, "1")
    assert found is not None
    assert good is not None
    assert (found.status, good.status) == (False, True)


def test_a_probe_does_not_show_its_key() -> None:
    assert "top-secret" not in repr(probe())
