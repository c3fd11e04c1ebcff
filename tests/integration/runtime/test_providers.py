"""One contract for every adapter, against the scripted model over real sockets."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx2
import orjson
import pytest
from support.model import scripted_model

from agentops.api.runs import Usage
from agentops.api.runtime_config import ProviderConfig
from agentops.net.resolve import http_client
from agentops.runtime.errors import ProviderAuthFault, ProviderFault
from agentops.runtime.messages import Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart, user
from agentops.runtime.providers.anthropic import LEFT_OUT
from agentops.runtime.providers.base import (
    Adapter,
    CallOptions,
    Delta,
    Finish,
    ProviderWarning,
    ReasoningDelta,
    ReasoningSignature,
    Source,
    SystemPrompt,
    TextDelta,
    ToolInputDelta,
    ToolInputStart,
    ToolSpec,
)
from agentops.runtime.providers.factory import AdapterFactory
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio

BASH = ToolSpec("bash", "Runs a command.", {"type": "object", "properties": {"command": {"type": "string"}}})
READ = ToolSpec("read", "Reads a file.", {"type": "object", "properties": {"path": {"type": "string"}}})
EVERY = ("openaicompat", "openai", "openrouter", "anthropic")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=EVERY)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Stopped(LoopClock):
    """A clock that stands still."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._seconds)


@asynccontextmanager
async def adapter(
    tmp_path: Path, kind: str, script: Any, *, read_timeout_s: float = 60, now: float | None = None, **fields: Any
) -> AsyncIterator[tuple[Adapter, Any]]:
    """An adapter of that type and a function that gives the requests the model saw.

    `now` stops its clock, so many seconds after the beginning of 2026.
    """
    async with scripted_model(tmp_path, script) as client:
        config = ProviderConfig(name="p", type=kind, base_url=f"{client.base_url}/v1", api_key_env="KEY", **fields)
        ids = itertools.count(1)
        clock = LoopClock() if now is None else Stopped(now)

        def http(**options: Any) -> httpx2.AsyncClient:
            return http_client(**{**options, "timeout": httpx2.Timeout(60, read=read_timeout_s)})

        built = AdapterFactory({"KEY": "sk-1"}, http, clock, lambda: f"new{next(ids)}").adapter(config)

        async def requests() -> list[dict[str, Any]]:
            return [orjson.loads(line) for line in (await client.get("/requests")).text.splitlines()]

        try:
            yield built, requests
        finally:
            await built.aclose()


async def ask(
    model: Adapter,
    messages: Sequence[Message] = (user("go"),),
    system: SystemPrompt = SystemPrompt("Be brief."),
    options: CallOptions | None = None,
) -> list[Delta]:
    stream = model.stream("m", system, messages, (BASH, READ), options or CallOptions())
    return [delta async for delta in stream]


def text_of(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


def calls_of(deltas: Sequence[Delta]) -> list[tuple[str, str]]:
    """Name and whole arguments of each tool call."""
    starts = [delta for delta in deltas if isinstance(delta, ToolInputStart)]
    return [
        (start.tool_name, "".join(d.text for d in deltas if isinstance(d, ToolInputDelta) and d.id == start.id))
        for start in starts
    ]


def finish_of(deltas: Sequence[Delta]) -> Finish:
    assert isinstance(deltas[-1], Finish)
    return deltas[-1]


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


def plain_answer(kind: str, text: str, *, usage: bool = True) -> str:
    """A whole answer in the vendor's format, as it stands on the wire."""
    if kind == "anthropic":
        counts = {"usage": {"input_tokens": 3, "output_tokens": 1}} if usage else {}
        message = {"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": [], **counts}
        return sse(
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, **counts},
            {"type": "message_stop"},
        )
    counts = {"usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}} if usage else {}
    return sse(
        {"id": "c1", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        {"id": "c1", "choices": []},
        {"id": "c1", "choices": [{"index": 0, "delta": {"content": text}}]},
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


# ---- Anthropic


async def test_an_overloaded_error_inside_the_stream_is_a_529(tmp_path: Path) -> None:
    body = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    script = [{"text": ["Half", " of"], "breaks": {"after": 1, "with": "error", "body": body}}]
    async with adapter(tmp_path, "anthropic", script) as (model, _):
        with pytest.raises(ProviderFault, match="overloaded_error") as caught:
            await ask(model)
    assert (caught.value.status, caught.value.retryable) == (529, True)


async def test_signed_thoughts_go_back_and_breakpoints_stand_where_they_save(tmp_path: Path) -> None:
    script = [{"reasoning": "Hm.", "text": "Yes."}, {"text": "Done."}]
    async with adapter(tmp_path, "anthropic", script) as (model, requests):
        deltas = await ask(model)
        signature = next(delta.signature for delta in deltas if isinstance(delta, ReasoningSignature))
        history = (
            user("go"),
            Message(
                "assistant",
                (ReasoningPart("unsigned"), ReasoningPart("Hm.", signature), ToolCallPart("a:1", "bash", "{}")),
            ),
            Message("tool", (ToolResultPart("a:1", "bash", "ok"),)),
            Message("user", (TextPart("and now?"),)),
        )
        await ask(model, history)
        seen = (await requests())[-1]
    body = seen["body"]
    cached = {"type": "ephemeral"}
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "go"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": signature},
                {"type": "tool_use", "id": "a_1", "name": "bash", "input": {}, "cache_control": cached},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a_1", "content": "ok"},
                {"type": "text", "text": "and now?"},
            ],
        },
    ]
    assert [tool.get("cache_control") for tool in body["tools"]] == [None, cached]
    assert body["system"] == [{"type": "text", "text": "Be brief.", "cache_control": cached}]


async def test_call_defaults_reach_anthropic_and_what_it_refuses_is_a_warning(tmp_path: Path) -> None:
    defaults = {"anthropic": {"effort": "low", "thinkingBudgetTokens": 2048, "disableParallelToolUse": True}}
    async with adapter(tmp_path, "anthropic", [{"text": "x"}], call_defaults=defaults) as (model, requests):
        deltas = await ask(model, options=CallOptions(temperature=0.2, max_output_tokens=1000))
        body = (await requests())[-1]["body"]
    assert body["output_config"] == {"effort": "low"}
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert body["max_tokens"] == 3048
    assert "temperature" not in body
    warned = [delta.text for delta in deltas if isinstance(delta, ProviderWarning)]
    assert len(warned) == 2
    assert "temperature 0.2" in warned[1]


async def test_a_turn_taken_over_from_another_vendor_goes_on_without_thinking(tmp_path: Path) -> None:
    def history(thought: ReasoningPart) -> list[Message]:
        asked = Message("assistant", (thought, ToolCallPart("c1", "bash", "{}")))
        return [user("go"), asked, Message("tool", (ToolResultPart("c1", "bash", "ok"),))]

    defaults = {"anthropic": {"thinkingBudgetTokens": 2048}}
    script = [{"text": "x"}, {"text": "y"}]
    async with adapter(tmp_path, "anthropic", script, call_defaults=defaults) as (model, requests):
        await ask(model, history(ReasoningPart("theirs")))
        await ask(model, history(ReasoningPart("ours", "sig")))
        assert ["thinking" in seen["body"] for seen in await requests()] == [False, True]


async def test_a_conversation_cut_in_the_middle_of_a_turn_begins_with_the_user(tmp_path: Path) -> None:
    history = [Message("assistant", (ToolCallPart("c1", "bash", "{}"),))]
    history += [Message("tool", (ToolResultPart("c1", "bash", "ok"),)), user("go on")]
    async with adapter(tmp_path, "anthropic", [{"text": "x"}]) as (model, requests):
        await ask(model, history)
        sent = (await requests())[-1]["body"]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert sent[0]["content"] == [{"type": "text", "text": LEFT_OUT}]


async def test_what_stays_the_same_is_cached_apart_from_what_a_turn_adds(tmp_path: Path) -> None:
    async with adapter(tmp_path, "anthropic", [{"text": "x"}]) as (model, requests):
        await ask(model, system=SystemPrompt("You are sre.", "<memory:context>…"))
        system = (await requests())[-1]["body"]["system"]
    assert [(block["text"], "cache_control" in block) for block in system] == [
        ("You are sre.", True),
        ("<memory:context>…", False),
    ]


async def test_the_key_goes_as_x_api_key_to_another_server_unless_the_headers_say_otherwise(tmp_path: Path) -> None:
    async with adapter(tmp_path, "anthropic", [{"text": "x"}]) as (model, requests):
        await ask(model)
        headers = (await requests())[-1]["headers"]
    assert ("x-api-key" in headers, "authorization" in headers) == (True, False)
    own = {"Authorization": "Bearer theirs"}
    async with adapter(tmp_path, "anthropic", [{"text": "x"}], headers=own) as (model, requests):
        await ask(model)
        headers = (await requests())[-1]["headers"]
    assert ("x-api-key" in headers, "authorization" in headers) == (False, True)


async def test_the_vendor_gets_a_bearer_and_citations_become_sources() -> None:
    seen: list[httpx2.Request] = []
    cited = {"type": "web_search_result_location", "url": "https://e.org/a", "title": "A", "cited_text": "a"}
    cited |= {"encrypted_index": "i"}
    empty = {"type": "text", "text": ""}
    usage = {"input_tokens": 3, "output_tokens": 1, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 5}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
    events = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "redacted_thinking", "data": "xyz"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": empty},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "citations_delta", "citation": cited}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "A."}},
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "refusal"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
    body = b"".join(b"event: %s\ndata: %s\n\n" % (e["type"].encode(), orjson.dumps(e)) for e in events)

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    def client(**options: Any) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.MockTransport(answer), **options)

    config = ProviderConfig(name="p", type="anthropic", api_key_env="KEY")
    model = AdapterFactory({"KEY": "sk-1"}, client, LoopClock(), lambda: "id").adapter(config)
    deltas = await ask(model)
    await model.aclose()
    assert str(seen[0].url) == "https://api.anthropic.com/v1/messages"
    assert (seen[0].headers["authorization"], "x-api-key" in seen[0].headers) == ("Bearer sk-1", False)
    counted = Usage(input_tokens=12, output_tokens=2, total_tokens=14, cache_creation_tokens=4, cache_read_tokens=5)
    assert deltas == [
        ReasoningSignature("xyz", redacted=True),
        Source("source1", "url", "https://e.org/a", "A"),
        TextDelta("A."),
        Finish("content-filter", counted, "msg_1"),
    ]


# ---- OpenAI and OpenRouter


async def test_call_defaults_reach_openai_and_a_refused_temperature_is_a_warning(tmp_path: Path) -> None:
    defaults = {"openai": {"reasoningEffort": "low", "serviceTier": "flex"}}
    async with adapter(tmp_path, "openai", [{"text": "x"}], call_defaults=defaults) as (model, requests):
        deltas = await ask(model, options=CallOptions(temperature=0.2, max_output_tokens=9))
        body = (await requests())[-1]["body"]
    assert (body["reasoning_effort"], body["service_tier"], body["max_completion_tokens"]) == ("low", "flex", 9)
    assert "temperature" not in body
    assert any(isinstance(delta, ProviderWarning) for delta in deltas)


async def test_an_error_inside_openrouters_stream_has_its_status(tmp_path: Path) -> None:
    body = '{"error": {"code": 502, "message": "upstream is gone"}, "choices": []}'
    script = [{"text": ["Half", " of"], "breaks": {"after": 1, "with": "error", "body": body}}]
    async with adapter(tmp_path, "openrouter", script) as (model, _):
        with pytest.raises(ProviderFault, match="upstream is gone") as caught:
            await ask(model)
    assert (caught.value.status, caught.value.retryable) == (502, True)
