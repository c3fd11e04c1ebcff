"""Both wire shapes over a real socket, played from scripts."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import httpx2
import openai
import pytest
from support.model import scripted_model

pytestmark = pytest.mark.anyio

ASK = {"model": "any/name", "messages": [{"role": "user", "content": "hello"}]}
TOOL_TURN = {
    "reasoning": "think",
    "text": "Let me look. ",
    "tool_calls": [{"name": "bash", "arguments": {"command": "ls -la /data"}}, {"name": "read", "raw": '{"pa'}],
    "usage": {"input": 11, "output": 7, "cached": 3},
    "chunk_chars": 8,
}


def sse(text: str) -> list[dict]:
    """The JSON of every data line."""
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ") and line != "data: [DONE]"]


# ---- OpenAI


async def test_a_whole_openai_answer_has_text_reasoning_calls_and_usage(tmp_path: Path) -> None:
    async with scripted_model(tmp_path, [TOOL_TURN]) as client:
        answer = (await client.post("/v1/chat/completions", json=ASK)).json()
    message = answer["choices"][0]["message"]
    assert (answer["model"], answer["choices"][0]["finish_reason"]) == ("any/name", "tool_calls")
    assert (message["content"], message["reasoning_content"]) == ("Let me look. ", "think")
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]] == [
        ("bash", '{"command":"ls -la /data"}'),
        ("read", '{"pa'),
    ]
    assert answer["usage"] == {
        "prompt_tokens": 11,
        "completion_tokens": 7,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 3},
    }


async def test_the_openai_sdk_reads_a_streamed_tool_call(tmp_path: Path) -> None:
    async with (
        scripted_model(tmp_path, [TOOL_TURN]) as client,
        openai.AsyncOpenAI(api_key="k", base_url=f"{client.base_url}/v1", max_retries=0) as sdk,
    ):
        stream = await sdk.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "go"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        text, reasoning, calls, reasons, usage = "", "", {}, [], None
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reasoning += getattr(choice.delta, "reasoning_content", None) or ""
                for call in choice.delta.tool_calls or []:
                    entry = calls.setdefault(call.index, ["", ""])
                    entry[0] += call.function.name or ""
                    entry[1] += call.function.arguments or ""
                reasons.append(choice.finish_reason)
    assert (text, reasoning) == ("Let me look. ", "think")
    assert calls == {0: ["bash", '{"command":"ls -la /data"}'], 1: ["read", '{"pa']}
    assert reasons[-1] == "tool_calls"
    assert usage is not None
    assert usage.total_tokens == 18


async def test_usage_is_streamed_only_when_asked_for(tmp_path: Path) -> None:
    async with scripted_model(tmp_path, [{"text": "a"}, {"text": "a"}]) as client:
        plain = (await client.post("/v1/chat/completions", json=ASK | {"stream": True})).text
        asked = ASK | {"stream": True, "stream_options": {"include_usage": True}}
        counted = (await client.post("/v1/chat/completions", json=asked)).text
    assert not any("usage" in chunk for chunk in sse(plain))
    assert sse(counted)[-1]["choices"] == []
    assert sse(counted)[-1]["usage"]["completion_tokens"] == 1
    assert plain.endswith("data: [DONE]\n\n")


async def test_a_scripted_error_keeps_status_body_and_headers(tmp_path: Path) -> None:
    turns = [
        {"error": {"status": 429, "headers": {"retry-after": "7"}}},
        {"error": {"status": 502, "body": "<html>bad gateway</html>"}},
        {"error": {"status": 401, "body": {"error": "nope"}}},
    ]
    async with scripted_model(tmp_path, turns) as client:
        first, second, third = [await client.post("/v1/chat/completions", json=ASK) for _ in turns]
    assert (first.status_code, first.headers["retry-after"]) == (429, "7")
    assert first.json()["error"]["type"] == "rate_limit_error"
    assert (second.status_code, second.text) == (502, "<html>bad gateway</html>")
    assert (third.status_code, third.json()) == (401, {"error": "nope"})


async def test_an_error_in_the_middle_of_a_stream_is_an_event(tmp_path: Path) -> None:
    script = [{"text": ["a", "b"], "breaks": {"with": "error", "after": 1}}]
    async with scripted_model(tmp_path, script) as client:
        text = (await client.post("/v1/chat/completions", json=ASK | {"stream": True})).text
    assert [chunk["choices"][0]["delta"].get("content") for chunk in sse(text)[:-1]] == ["", "a"]
    assert sse(text)[-1]["error"]["type"] == "server_error"
    assert "[DONE]" not in text


async def test_an_early_end_has_no_finish(tmp_path: Path) -> None:
    async with scripted_model(tmp_path, [{"text": "a", "breaks": {"with": "end"}}]) as client:
        text = (await client.post("/v1/chat/completions", json=ASK | {"stream": True})).text
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in sse(text))
    assert "[DONE]" not in text


@pytest.mark.parametrize("stream", [True, False])
async def test_a_cut_connection_is_an_incomplete_body(tmp_path: Path, stream: bool) -> None:
    async with scripted_model(tmp_path, [{"text": "a", "breaks": {"with": "cut"}}]) as client:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.post("/v1/chat/completions", json=ASK | {"stream": stream})


async def test_a_hanging_answer_ends_when_the_client_leaves(tmp_path: Path) -> None:
    script = [{"text": "a", "breaks": {"with": "hang"}}, {"hang": True}, {"text": "still here"}]
    async with scripted_model(tmp_path, script) as client:
        for _ in range(2):
            with pytest.raises(httpx2.ReadTimeout):
                await client.post("/v1/chat/completions", json=ASK | {"stream": True}, timeout=0.3)
        answer = await client.post("/v1/chat/completions", json=ASK)
    assert answer.json()["choices"][0]["message"]["content"] == "still here"


async def test_a_large_answer_is_repeated_text(tmp_path: Path) -> None:
    async with scripted_model(
        tmp_path, [{"text": "0123456789abcdef" * 64, "chunk_chars": 1024, "repeat": 1000}]
    ) as client:
        text = (await client.post("/v1/chat/completions", json=ASK | {"stream": True})).text
    assert sum(len(chunk["choices"][0]["delta"].get("content") or "") for chunk in sse(text)) == 1024 * 1000


# ---- Anthropic


async def test_a_whole_anthropic_answer_has_blocks_in_order(tmp_path: Path) -> None:
    async with scripted_model(tmp_path, [TOOL_TURN]) as client:
        answer = (await client.post("/v1/messages", json=ASK | {"max_tokens": 10})).json()
    assert [block["type"] for block in answer["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert answer["content"][2]["input"] == {"command": "ls -la /data"}
    assert (answer["stop_reason"], answer["model"]) == ("tool_use", "any/name")
    assert answer["usage"] == {
        "input_tokens": 8,
        "output_tokens": 7,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": 0,
    }


async def test_an_anthropic_stream_opens_and_closes_every_block(tmp_path: Path) -> None:
    async with scripted_model(tmp_path, [TOOL_TURN]) as client:
        text = (await client.post("/v1/messages", json=ASK | {"max_tokens": 10, "stream": True})).text
    events = sse(text)
    assert [event["type"] for event in events][:2] == ["message_start", "ping"]
    assert [event["type"] for event in events][-2:] == ["message_delta", "message_stop"]
    opened = [event["index"] for event in events if event["type"] == "content_block_start"]
    closed = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert opened == closed == [0, 1, 2, 3]
    arguments = "".join(
        event["delta"]["partial_json"]
        for event in events
        if event["type"] == "content_block_delta" and event["index"] == 2
    )
    assert json.loads(arguments) == {"command": "ls -la /data"}
    assert all(line.startswith(("event: ", "data: ")) for line in text.splitlines() if line)


async def test_anthropic_tool_results_and_system_are_seen_by_the_script(tmp_path: Path) -> None:
    script = [{"when": {"tool_result": "README", "system": "brief"}, "text": "seen"}]
    body = {
        "model": "m",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "be brief"}],
        "messages": [
            {"role": "user", "content": "list"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "bash", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "README.md"}]},
        ],
    }
    async with scripted_model(tmp_path, script) as client:
        answer = (await client.post("/v1/messages", json=body)).json()
    assert answer["content"] == [{"type": "text", "text": "seen"}]


async def test_anthropic_errors_have_their_own_shape(tmp_path: Path) -> None:
    async with scripted_model(tmp_path, [{"error": {"status": 529}}]) as client:
        answer = await client.post("/v1/messages", json=ASK)
    assert (answer.status_code, answer.json()["error"]["type"]) == (529, "overloaded_error")


# ---- around


async def test_every_request_can_be_read_back_and_is_recorded(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    async with scripted_model(tmp_path, [{"text": "a"}], record=record) as client:
        await client.post("/v1/chat/completions", json=ASK, headers={"authorization": "Bearer very-secret"})
        await client.post("/v1/messages", json=ASK)
        await client.post("/v1/messages", content=b"{")
        lines = [json.loads(line) for line in (await client.get("/requests")).text.splitlines()]
        assert (await client.delete("/requests")).status_code == 204
        assert (await client.get("/requests")).text == ""
    assert [(line["number"], line["path"], line["answered_by"]) for line in lines] == [
        (1, "/v1/chat/completions", "turns[0]"),
        (2, "/v1/messages", "none"),
        (3, "/v1/messages", "refused"),
    ]
    assert lines[0]["body"] == ASK
    assert lines[0]["headers"]["authorization"].startswith("Bearer sha256:")
    assert "very-secret" not in record.read_text()
    assert [json.loads(line) for line in record.read_text().splitlines()] == lines


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "messages must be a list"),
        (b'{"messages": [{"role": "cat"}]}', "messages[0].role"),
        (b'{"messages": [{"role": "user", "content": 5}]}', "messages[0].content"),
        (b'{"messages": [{"role": "user"}], "max_tokens": 0}', "max_tokens"),
        (b'{"messages": [{"role": "user"}], "tools": [{}]}', "tools[0]"),
        (b'{"messages": [{"role": "user"}], "tool_choice": "maybe"}', "tool_choice"),
    ],
)
async def test_a_bad_request_names_the_field(tmp_path: Path, body: bytes, says: str) -> None:
    async with scripted_model(tmp_path, [{"text": "a"}]) as client:
        answer = await client.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


async def test_models_probes_and_metrics_answer(tmp_path: Path) -> None:
    async with scripted_model(tmp_path, {"model": "tiny", "turns": [{"text": "a"}]}) as client:
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == "tiny"
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        await client.post("/v1/chat/completions", json=ASK)
        metrics = (await client.get("/metrics")).text
        assert (await client.get("/nope")).status_code == 404
    assert 'agentops_model_requests_total{code="200",route="/v1/chat/completions"} 1.0' in metrics


async def test_two_conversations_at_once_do_not_wait_for_each_other(tmp_path: Path) -> None:
    script = [
        {"when": {"user": "slow"}, "text": "s", "breaks": {"with": "hang"}},
        {"when": {"user": "fast"}, "text": "f"},
    ]
    async with scripted_model(tmp_path, script) as client, anyio.create_task_group() as tasks:
        started = anyio.Event()

        async def hang() -> None:
            body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "slow"}]}
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                async for _ in response.aiter_bytes():
                    started.set()

        tasks.start_soon(hang)
        await started.wait()
        body = {"model": "m", "messages": [{"role": "user", "content": "fast"}]}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
        tasks.cancel_scope.cancel()
