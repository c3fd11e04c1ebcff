"""One contract for every adapter, against the scripted model over real sockets."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
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
from agentops.runtime.providers.base import (
    Adapter,
    CallOptions,
    Delta,
    Finish,
    ProviderWarning,
    ReasoningDelta,
    ReasoningSignature,
    Source,
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


@asynccontextmanager
async def adapter(tmp_path: Path, kind: str, script: Any, **fields: Any) -> AsyncIterator[tuple[Adapter, Any]]:
    """An adapter of that type and a function that gives the requests the model saw."""
    async with scripted_model(tmp_path, script) as client:
        config = ProviderConfig(name="p", type=kind, base_url=f"{client.base_url}/v1", api_key_env="KEY", **fields)
        ids = itertools.count(1)
        built = AdapterFactory({"KEY": "sk-1"}, http_client, LoopClock(), lambda: f"new{next(ids)}").adapter(config)

        async def requests() -> list[dict[str, Any]]:
            return [orjson.loads(line) for line in (await client.get("/requests")).text.splitlines()]

        try:
            yield built, requests
        finally:
            await built.aclose()


async def ask(
    model: Adapter,
    messages: Sequence[Message] = (user("go"),),
    system: str = "Be brief.",
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
