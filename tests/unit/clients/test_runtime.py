"""The runtime client: which error means what."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import httpx2
import pytest

from agentops.api.codec import dumps
from agentops.api.runs import RunRecord
from agentops.clients.errors import Busy, NotFound, NotSent, Refused, RuntimeClientError, Unanswered, Unauthorized
from agentops.clients.runtime import MAX_ANSWER_BYTES, RuntimeClient

pytestmark = pytest.mark.anyio
Handler = Callable[[httpx2.Request], httpx2.Response]


def client(handler: Handler, token: str | None = "t") -> RuntimeClient:
    return RuntimeClient(httpx2.AsyncClient(transport=httpx2.MockTransport(handler)), "http://pod:4096/", token)


def answering(status: int, body: bytes = b"") -> Handler:
    return lambda _: httpx2.Response(status, content=body)


def raising(error: Exception) -> Handler:
    def handler(_: httpx2.Request) -> httpx2.Response:
        raise error

    return handler


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (answering(429, b'{"error":"agent is busy"}'), Busy),
        (answering(503), Busy),
        (answering(401), Unauthorized),
        (answering(403), Unauthorized),
        (answering(404), NotFound),
        (answering(400, b'{"error":"prompt is required"}'), Refused),
        (answering(200, b'{"output":"x"}'), Unanswered),
        (answering(202, b"nonsense"), Unanswered),
        (raising(httpx2.ConnectError("refused")), NotSent),
        (raising(httpx2.ConnectTimeout("slow")), NotSent),
        (raising(httpx2.LocalProtocolError("Illegal header value b'x'")), NotSent),
        (raising(httpx2.ReadTimeout("slow")), Unanswered),
        (raising(httpx2.RemoteProtocolError("cut")), Unanswered),
    ],
)
async def test_errors_say_whether_the_prompt_may_have_been_received(
    handler: Handler, expected: type[RuntimeClientError]
) -> None:
    with pytest.raises(RuntimeClientError) as raised:
        await client(handler).start("r", "x")
    assert type(raised.value) is expected


@pytest.mark.parametrize("token", ["s3cret\u2013", "s3cret\n# rotated"])
async def test_a_bearer_that_no_header_can_carry_is_not_sent_and_not_quoted(token: str) -> None:
    async with httpx2.AsyncClient() as http:
        with pytest.raises(NotSent) as raised:
            await RuntimeClient(http, "http://127.0.0.1:9", token).start("r", "x")
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("status", [200, 500])
async def test_an_answer_without_end_fills_nobody_s_memory(status: int) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(1 << 20)

    with pytest.raises(Unanswered, match="GET http://pod:4096/runs/r answered more than"):
        await client(lambda _: httpx2.Response(status, content=endless())).run("r")
    assert taken <= MAX_ANSWER_BYTES / (1 << 20) + 1


async def test_the_runtime_s_own_words_are_kept() -> None:
    with pytest.raises(Refused, match="prompt is required"):
        await client(answering(400, b'{"error":"prompt is required"}')).start("r", "")


async def test_a_record_is_read() -> None:
    record = RunRecord(name="r", state="succeeded", output="hi")
    assert await client(answering(200, dumps(record))).run("r") == record


async def test_both_bearer_headers_are_sent() -> None:
    seen: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, content=b"{}")

    await client(handler).abort("r")
    assert seen[0].headers["Authorization"] == "Bearer t"
    assert seen[0].headers["X-AgentOps-Token"] == "t"
    assert seen[0].headers["X-AgentOps-Run-Name"] == "r"


async def test_events_are_read_until_the_stream_ends() -> None:
    body = b': ping\n\nid: 1\ndata: {"type":"agent_start"}\n\nid: 2\ndata: {"type":"session_idle"}\n\n'
    events = [event async for event in client(answering(200, body)).events("r")]
    assert [event["type"] for event in events] == ["agent_start", "session_idle"]


async def test_events_of_an_unknown_run_are_an_error() -> None:
    with pytest.raises(NotFound):
        _ = [event async for event in client(answering(404)).events("r")]
