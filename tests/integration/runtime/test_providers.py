"""One contract for every adapter, against the scripted model over real sockets."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import orjson
import pytest
from support.providers import KEY, adapter, ask, calls_of, finish_of, text_of

from agentops.api.runs import Usage
from agentops.api.runtime_config import ProviderConfig
from agentops.net.resolve import http_client
from agentops.runtime.errors import ProviderAuthFault, ProviderFault
from agentops.runtime.messages import Message, ToolCallPart, ToolResultPart, assistant, user
from agentops.runtime.providers import bounds, calls
from agentops.runtime.providers.base import (
    ReasoningDelta,
    ToolInputDelta,
)
from agentops.runtime.providers.factory import AdapterFactory
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio

EVERY = ("openaicompat", "openai", "openrouter", "anthropic")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=EVERY)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_text_arrives_whole_and_stops(tmp_path: Path, kind: str) -> None:
    async with adapter(tmp_path, kind, [{"text": ["Hello, ", "world"]}]) as (model, _):
        deltas = await ask(model)
    assert text_of(deltas) == "Hello, world"
    assert finish_of(deltas).reason == "stop"


async def test_a_tool_call_streams_its_input(tmp_path: Path, kind: str) -> None:
    script = [{"tool_calls": [{"name": "bash", "arguments": {"command": "ls -la /data"}}], "chunk_chars": 6}]
    async with adapter(tmp_path, kind, script) as (model, _):
        deltas = await ask(model)
    assert calls_of(deltas) == [("bash", '{"command":"ls -la /data"}')]
    assert len([delta for delta in deltas if isinstance(delta, ToolInputDelta)]) > 1
    assert finish_of(deltas).reason == "tool-calls"


async def test_parallel_tool_calls_keep_their_own_inputs(tmp_path: Path, kind: str) -> None:
    calls = [{"name": "bash", "arguments": {"command": "ls"}}, {"name": "read", "arguments": {"path": "a"}}]
    async with adapter(tmp_path, kind, [{"text": "Both.", "tool_calls": calls}]) as (model, _):
        deltas = await ask(model)
    assert calls_of(deltas) == [("bash", '{"command":"ls"}'), ("read", '{"path":"a"}')]
    assert text_of(deltas) == "Both."


async def test_where_nobody_listens_nobody_was_asked(kind: str) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        config = ProviderConfig(name="p", type=kind, base_url=base_url, api_key_env="KEY")
        model = AdapterFactory({"KEY": KEY}, http_client, LoopClock(), lambda: "id").adapter(config)
        with pytest.raises(ProviderFault, match="cannot connect") as caught:
            await ask(model)
        await model.aclose()
    assert (caught.value.kind, caught.value.unheard) == ("connection_error", True)


async def test_reasoning_is_apart_from_the_text(tmp_path: Path, kind: str) -> None:
    async with adapter(tmp_path, kind, [{"reasoning": "Hm.", "text": "Yes."}]) as (model, _):
        deltas = await ask(model)
    assert "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta)) == "Hm."
    assert text_of(deltas) == "Yes."


async def test_input_tokens_include_the_cached_ones(tmp_path: Path, kind: str) -> None:
    script = [{"text": "x", "usage": {"input": 1200, "output": 5, "cached": 1000}}]
    async with adapter(tmp_path, kind, script) as (model, _):
        usage = finish_of(await ask(model)).usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens, usage.cache_read_tokens) == (
        1200,
        5,
        1205,
        1000,
    )


async def test_401_names_the_variable_and_is_not_retried(tmp_path: Path, kind: str) -> None:
    async with adapter(tmp_path, kind, [{"error": {"status": 401}}]) as (model, _):
        with pytest.raises(ProviderAuthFault, match="environment variable KEY") as caught:
            await ask(model)
    assert not caught.value.retryable


@pytest.mark.parametrize(("status", "named"), [(429, "rate_limited"), (500, "server_error"), (529, "server_error")])
async def test_a_status_that_may_pass_is_retryable(tmp_path: Path, kind: str, status: int, named: str) -> None:
    script = [{"error": {"status": status, "headers": {"retry-after": "7"}}}, {"text": "not asked twice"}]
    async with adapter(tmp_path, kind, script) as (model, requests):
        with pytest.raises(ProviderFault) as caught:
            await ask(model)
        assert len(await requests()) == 1, "the SDK retried by itself"
    fault = caught.value
    assert (fault.status, fault.kind, fault.retryable, fault.retry_after_s) == (status, named, True, 7.0)


async def test_a_hanging_model_is_left_at_once_when_cancelled(tmp_path: Path, kind: str) -> None:
    async with adapter(tmp_path, kind, [{"hang": True}, {"text": "Next."}]) as (model, requests):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, model)
            with anyio.fail_after(5):
                while not await requests():
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
        assert text_of(await ask(model)) == "Next."


@pytest.mark.parametrize("how", ["end", "cut"])
async def test_half_an_answer_is_a_fault_that_may_pass(tmp_path: Path, kind: str, how: str) -> None:
    script = [{"text": ["Half of", " an answer"], "breaks": {"after": 1, "with": how}}]
    async with adapter(tmp_path, kind, script) as (model, _):
        with pytest.raises(ProviderFault, match="broke off") as caught:
            await ask(model)
    assert (caught.value.retryable, caught.value.kind) == (True, "connection_error")


async def test_an_error_inside_the_stream_may_pass(tmp_path: Path, kind: str) -> None:
    script = [{"text": ["Half of", " an answer"], "breaks": {"after": 1, "with": "error"}}]
    async with adapter(tmp_path, kind, script) as (model, _):
        with pytest.raises(ProviderFault) as caught:
            await ask(model)
    assert caught.value.retryable


async def test_invalid_tool_json_reaches_the_caller_and_goes_back_as_an_object(tmp_path: Path, kind: str) -> None:
    broken = {"tool_calls": [{"name": "bash", "raw": '{"brok'}]}
    async with adapter(tmp_path, kind, [broken, {"text": "Sorry."}]) as (model, requests):
        assert calls_of(await ask(model)) == [("bash", '{"brok')]
        history = (
            user("go"),
            Message("assistant", (ToolCallPart("c1", "bash", '{"brok'),)),
            Message("tool", (ToolResultPart("c1", "bash", "not JSON", is_error=True),)),
        )
        assert text_of(await ask(model, history)) == "Sorry."
        assert "malformed" in orjson.dumps((await requests())[-1]).decode()


# ---- What goes wrong, the same for every provider


def sse(*events: Any) -> str:
    """Events as a stream; strings are lines of their own."""

    def written(event: Any) -> str:
        if isinstance(event, str):
            return event
        return f"event: {event.get('type', 'message')}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"

    return "".join(map(written, events))


def plain_answer(kind: str, *pieces: str, usage: bool = True) -> str:
    """A whole answer in the vendor's format, as it stands on the wire; an event for each piece."""
    if kind == "anthropic":
        counts = {"usage": {"input_tokens": 3, "output_tokens": 1}} if usage else {}
        message = {"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": [], **counts}
        return sse(
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
                for piece in pieces
            ),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, **counts},
            {"type": "message_stop"},
        )
    counts = {"usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}} if usage else {}
    return sse(
        {"id": "c1", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        {"id": "c1", "choices": []},
        *({"id": "c1", "choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces),
        {"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], **counts},
        "data: [DONE]\n\n",
    )


def calls_answer(kind: str, *calls: tuple[int, str, str, str]) -> str:
    """Tool calls `(index, id, name, arguments)` in the vendor's format."""
    if kind == "anthropic":
        blocks: list[Any] = []
        for index, call_id, name, arguments in calls:
            delta = {"type": "input_json_delta", "partial_json": arguments}
            block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
            blocks += [
                {"type": "content_block_start", "index": index, "content_block": block},
                {
                    "type": "content_block_delta",
                    "index": index,
                    "delta": delta,
                },
                {"type": "content_block_stop", "index": index},
            ]
        usage = {"input_tokens": 3, "output_tokens": 1}
        message = {"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
        end = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": usage}
        return sse({"type": "message_start", "message": message}, *blocks, end, {"type": "message_stop"})
    chunks = [
        {"id": "c1", "choices": [{"index": 0, "delta": {"tool_calls": [
            {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}]}}]}
        for index, call_id, name, arguments in calls
    ]  # fmt: skip
    return sse(
        *chunks, {"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}, "data: [DONE]\n\n"
    )


@pytest.mark.parametrize(
    ("status", "named", "retryable", "says"),
    [
        (400, "bad_request", False, "HTTP 400"),
        (403, "auth_error", False, "environment variable KEY"),
        (404, "not_found", False, "check that model m exists there"),
        (408, "timeout", True, "HTTP 408"),
        (409, "bad_request", True, "HTTP 409"),
        (413, "too_long", False, "does not fit this model"),
        (422, "bad_request", False, "HTTP 422"),
        (503, "server_error", True, "HTTP 503"),
        (504, "timeout", True, "HTTP 504"),
    ],
)
async def test_a_status_says_what_to_do(
    tmp_path: Path, kind: str, status: int, named: str, retryable: bool, says: str
) -> None:
    async with adapter(tmp_path, kind, [{"error": {"status": status}}, {"text": "not asked twice"}]) as (
        model,
        requests,
    ):
        with pytest.raises(ProviderFault, match=says) as caught:
            await ask(model)
        assert len(await requests()) == 1
    assert (caught.value.status, caught.value.kind, caught.value.retryable) == (status, named, retryable)
    assert "provider p (http://" in str(caught.value)


@pytest.mark.parametrize("status", [401, 403, 400, 500])
async def test_a_provider_that_quotes_the_key_is_not_quoted(tmp_path: Path, kind: str, status: int) -> None:
    error = {"type": "api_error", "message": f"the key {KEY} may not do this"}
    body = {"type": "error", "error": error} if kind == "anthropic" else {"error": error}
    async with adapter(tmp_path, kind, [{"error": {"status": status, "body": body}}]) as (model, _):
        with pytest.raises(ProviderFault) as caught:
            await ask(model)
    assert KEY not in str(caught.value)
    assert ("may not do this" in str(caught.value)) is (status != 401)


@pytest.mark.parametrize("status", [400, 200])
async def test_a_provider_that_quotes_headers_or_a_part_of_the_key_is_not_quoted(
    tmp_path: Path, kind: str, status: int
) -> None:
    said = "x" * (295 - len(KEY) // 2) + f"{KEY} gate-of-the-test"  # the line is cut within the key
    turn: Any = {"raw": {"body": said}} if status == 200 else {"error": {"status": status, "body": {"error": said}}}
    async with adapter(tmp_path, kind, [turn], headers={"X-Gate": "gate-of-the-test"}) as (model, _):
        with pytest.raises(ProviderFault) as caught:
            await ask(model)
    assert "sk-" not in str(caught.value)
    assert "gate" not in str(caught.value)


async def test_a_connection_error_that_quotes_the_key_is_not_quoted(kind: str) -> None:
    def refused(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.LocalProtocolError(f"Illegal header value {request.headers.raw!r}")

    def http(**options: Any) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.MockTransport(refused), **options)

    config = ProviderConfig(name="p", type=kind, base_url="http://here/v1", api_key_env="KEY", headers={"X-G": "gate1"})
    model = AdapterFactory({"KEY": KEY}, http, LoopClock(), lambda: "new").adapter(config)
    with pytest.raises(ProviderFault, match="cannot connect: Illegal header value") as caught:
        await ask(model)
    await model.aclose()
    assert KEY not in str(caught.value)
    assert "gate1" not in str(caught.value)


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
        "prompt is too long: 208310 tokens > 200000 maximum",
        "the request exceeds the available context size, try increasing it",
    ],
)
async def test_a_conversation_that_does_not_fit_is_told_apart(tmp_path: Path, kind: str, message: str) -> None:
    error = {"type": "invalid_request_error", "message": message}
    body = {"type": "error", "error": error} if kind == "anthropic" else {"error": error}
    async with adapter(tmp_path, kind, [{"error": {"status": 400, "body": body}}]) as (model, _):
        with pytest.raises(ProviderFault) as caught:
            await ask(model)
    assert (caught.value.kind, caught.value.retryable) == ("too_long", False)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 2026 00:01:00 GMT"}, 60.0),
        ({"retry-after": "Wed, 01 Jan 2020 00:00:00 GMT"}, 0.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
    ],
)
async def test_how_long_a_provider_asks_to_wait(
    tmp_path: Path, kind: str, headers: dict[str, str], seconds: float | None
) -> None:
    async with adapter(tmp_path, kind, [{"error": {"status": 429, "headers": headers}}], now=0.0) as (model, _):
        with pytest.raises(ProviderFault) as caught:
            await ask(model)
    assert caught.value.retry_after_s == seconds


@pytest.mark.parametrize(
    ("turn", "says"),
    [({"hang": True}, "gave no answer in time"),
     ({"text": ["Half of", " it"], "breaks": {"after": 1, "with": "hang"}}, "went silent in the middle")],
)  # fmt: skip
async def test_a_model_that_goes_silent_is_a_timeout(tmp_path: Path, kind: str, turn: Any, says: str) -> None:
    async with adapter(tmp_path, kind, [turn], read_timeout_s=0.3) as (model, _):
        with pytest.raises(ProviderFault, match=says) as caught:
            await ask(model)
    assert (caught.value.kind, caught.value.retryable, caught.value.status) == ("timeout", True, None)


@pytest.mark.parametrize("body", ["data: {not json\n\n", "<html>hello</html>", "", "\x00\x01\x02"])
async def test_an_answer_that_is_none_is_a_fault(tmp_path: Path, kind: str, body: str) -> None:
    async with adapter(tmp_path, kind, [{"raw": {"body": body}}]) as (model, _):
        with pytest.raises(ProviderFault, match=r"did not answer in|broke off"):
            await ask(model)


@pytest.mark.parametrize("size", [1, 5])
async def test_characters_cut_between_packets_are_whole(tmp_path: Path, kind: str, size: int) -> None:
    text = "añ🙂漢字" * 4
    async with adapter(tmp_path, kind, [{"raw": {"body": plain_answer(kind, text), "slice": size}}]) as (model, _):
        assert text_of(await ask(model)) == text


async def test_one_piece_may_be_a_mebibyte(tmp_path: Path, kind: str) -> None:
    text = "0123456789abcdé " * (1 << 16)
    async with adapter(tmp_path, kind, [{"echo": "user", "chunk_chars": len(text)}]) as (model, _):
        deltas = await ask(model, [user(text)])
    assert text_of(deltas) == text


async def test_an_answer_without_usage_counts_nothing(tmp_path: Path, kind: str) -> None:
    body = plain_answer(kind, "hi", usage=False)
    async with adapter(tmp_path, kind, [{"raw": {"body": body}}]) as (model, _):
        deltas = await ask(model)
    assert (text_of(deltas), finish_of(deltas).usage, finish_of(deltas).reason) == ("hi", Usage(), "stop")


async def test_calls_without_a_name_arrive_and_go_back_with_one(tmp_path: Path, kind: str) -> None:
    body = calls_answer(kind, (0, "c1", "", "{}"), (1, "c2", "functions.bash", "{}"))
    async with adapter(tmp_path, kind, [{"raw": {"body": body}}, {"text": "ok"}]) as (model, requests):
        assert [name for name, _ in calls_of(await ask(model))] == ["", "functions.bash"]
        parts = (ToolCallPart("c1", "", "{}"), ToolCallPart("c2", "functions.bash", "{}"))
        results = tuple(ToolResultPart(part.tool_call_id, part.tool_name, "unknown", is_error=True) for part in parts)
        await ask(model, (user("go"), Message("assistant", parts), Message("tool", results)))
        sent = orjson.dumps((await requests())[-1]["body"]["messages"]).decode()
    assert '"name":"unnamed"' in sent
    assert '"name":"functions_bash"' in sent


async def test_calls_under_one_index_or_id_stay_apart(tmp_path: Path, kind: str) -> None:
    body = calls_answer(kind, (0, "c1", "bash", '{"command":"a"}'), (0, "c2", "read", '{"path":"b"}'))
    async with adapter(tmp_path, kind, [{"raw": {"body": body}}]) as (model, _):
        assert calls_of(await ask(model)) == [("bash", '{"command":"a"}'), ("read", '{"path":"b"}')]


@pytest.mark.parametrize("size", [1, 1000])
async def test_characters_cut_between_events_are_whole(tmp_path: Path, kind: str, size: int) -> None:
    """JSON writes many emoji as two halves, and some servers cut between them."""
    pieces = ["half ", "\ud83d", "\ude42", " whole 🙂, lone \ud83d", " and \ude42", " last \ud83d"]
    body = re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", plain_answer(kind, *pieces))
    async with adapter(tmp_path, kind, [{"raw": {"body": body, "slice": size}}]) as (model, _):
        text = text_of(await ask(model))
    assert text == "half 🙂 whole 🙂, lone \ufffd and \ufffd last \ufffd"


ODD_EVENTS = (
    "5", "[]", "null", '{"choices": {"a": 1}}', '{"choices": [5]}', '{"choices": [{"delta": {"content": 5}}]}',
    '{"choices": [{"delta": {"tool_calls": "x"}}]}', '{"choices": ' + "[" * 50_000 + "]" * 50_000 + "}",
    '{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 5}}',
    '{"type": "content_block_start", "index": {}, "content_block": 7}',
)  # fmt: skip


async def test_an_event_of_another_shape_is_passed_over_or_a_fault(tmp_path: Path, kind: str) -> None:
    named = "event: content_block_delta\n" if kind == "anthropic" else ""
    bodies = [f"{named}data: {event}\n\n" + plain_answer(kind, "hi") for event in ODD_EVENTS]
    async with adapter(tmp_path, kind, [{"raw": {"body": body}} for body in bodies]) as (model, _):
        for _ in bodies:
            try:
                assert text_of(await ask(model)) == "hi"
            except ProviderFault as fault:
                assert "did not answer in" in str(fault)  # noqa: PT017


async def test_an_event_without_end_is_left(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_EVENT_BYTES", 1 << 20)
    body = "data: " + "x" * (3 << 20)
    async with adapter(tmp_path, kind, [{"raw": {"body": body, "slice": 1 << 16}}]) as (model, _):
        with pytest.raises(ProviderFault, match="model m was stopped: one piece of its answer has more than 1 MiB"):
            await ask(model)


async def test_an_answer_without_end_is_left(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_ANSWER_CHARS", 5000)
    async with adapter(tmp_path, kind, [{"text": "word " * 10, "repeat": 10_000}]) as (model, _):
        with pytest.raises(ProviderFault, match=r"wrote more than 5000 characters .*; ask for less") as caught:
            await ask(model)
    assert not caught.value.retryable
    assert "baseURL" not in str(caught.value)


async def test_a_redirect_is_not_followed_and_says_where_it_leads(kind: str) -> None:
    def moved(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(307, headers={"Location": "http://elsewhere/v1"})

    def http(**options: Any) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.MockTransport(moved), **options)

    config = ProviderConfig(name="p", type=kind, base_url="http://here/v1", api_key_env="KEY")
    model = AdapterFactory({"KEY": KEY}, http, LoopClock(), lambda: "new").adapter(config)
    with pytest.raises(ProviderFault, match=r"HTTP 307 .*it leads to http://elsewhere/v1,.*set baseURL") as caught:
        await ask(model)
    await model.aclose()
    assert not caught.value.retryable


@contextmanager
def calls_counted() -> Iterator[Counter[str]]:
    """How many functions of Python this thread calls, per event: the work that is done, on a machine of any speed."""
    made: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, argument: made.update([event]))
    try:
        yield made
    finally:
        sys.setprofile(None)


async def test_a_long_conversation_is_sent_whole_without_holding_up_the_loop(tmp_path: Path, kind: str) -> None:
    said = [
        message for number in range(1500) for message in (user(f"question {number}"), assistant(f"answer {number}"))
    ]
    async with adapter(tmp_path, kind, [{"text": "first"}, {"text": "ok"}]) as (model, requests):
        await ask(model)
        with calls_counted() as made:
            deltas = await ask(model, [*said, user("last")])
        sent = (await requests())[-1]["body"]["messages"]
    assert text_of(deltas) == "ok"
    assert [m["role"] for m in sent if m["role"] != "system"] == ["user", "assistant"] * 1500 + ["user"]
    assert made["call"] < 200 * len(said), "comparing each message with the SDK's types takes ten times as many"
