"""What only one vendor does: signatures, cache breakpoints, tiers, citations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from support.providers import adapter, ask

from agentops.api.runs import Usage
from agentops.api.runtime_config import ProviderConfig
from agentops.runtime.errors import ProviderFault
from agentops.runtime.messages import Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart, user
from agentops.runtime.providers.anthropic import LEFT_OUT
from agentops.runtime.providers.base import (
    CallOptions,
    Finish,
    ProviderWarning,
    ReasoningSignature,
    Source,
    SystemPrompt,
    TextDelta,
)
from agentops.runtime.providers.factory import AdapterFactory
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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
