"""SmolLM2 itself, fetched once for all tests of this file (AGENTOPS_MODEL_DIR: a directory that keeps it)."""

from __future__ import annotations

import os

import httpx2
import pytest
from support.roles import Role

pytestmark = pytest.mark.small_model


@pytest.fixture(scope="module")
def base_url(tmp_path_factory):
    directory = os.environ.get("AGENTOPS_MODEL_DIR") or str(tmp_path_factory.mktemp("models"))
    with Role("model", "--listen", "127.0.0.1:0", "--model-dir", directory) as role:
        port = role.ready("model.listening", 60)["port"]
        early = httpx2.get(f"http://127.0.0.1:{port}/healthz")
        assert early.status_code == 200
        role.ready("model.ready", 300)
        yield f"http://127.0.0.1:{port}"
        assert role.stop() == 0


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]


def ask(base_url: str, prompt: str, **more: object) -> dict:
    body = {"model": "smollm2", "messages": [{"role": "user", "content": prompt}], **more}
    answer = httpx2.post(f"{base_url}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_it_answers_in_words_the_same_way_twice(base_url: str) -> None:
    first, second = (ask(base_url, "Say hello to the team.", max_tokens=40) for _ in range(2))
    text = first["choices"][0]["message"]["content"]
    assert len(text) > 5
    assert second["choices"][0]["message"]["content"] == text
    assert first["usage"]["completion_tokens"] > 1


def test_readiness_follows_loading(base_url: str) -> None:
    assert httpx2.get(f"{base_url}/readyz").status_code == 200
    assert httpx2.get(f"{base_url}/v1/models").json()["data"][0]["id"] == "smollm2"


def test_it_streams_in_the_anthropic_shape(base_url: str) -> None:
    body = {"model": "x", "max_tokens": 8, "stream": True, "messages": [{"role": "user", "content": "Say hello."}]}
    text = httpx2.post(f"{base_url}/v1/messages", json=body, timeout=120).text
    assert text.count("content_block_delta") >= 2
    assert '"stop_reason":"max_tokens"' in text


def test_a_forced_tool_choice_gives_a_valid_call(base_url: str) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    answer = ask(base_url, "What is the weather in Paris?", tools=TOOLS, tool_choice=choice)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert call["function"]["name"] == "get_weather"
    assert '"city"' in call["function"]["arguments"]


def test_an_explicit_request_calls_the_tool_as_written(base_url: str) -> None:
    answer = ask(base_url, '/tool get_weather {"city": "Oslo"}', tools=TOOLS)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["arguments"] == '{"city":"Oslo"}'


def test_with_tools_on_offer_it_still_answers_in_words(base_url: str) -> None:
    answer = ask(base_url, "Hello!", tools=TOOLS, max_tokens=20)
    assert answer["choices"][0]["message"]["content"]


def test_a_conversation_longer_than_its_context_is_answered(base_url: str) -> None:
    answer = ask(base_url, "word " * 5_000 + "Say hello.", max_tokens=8)
    assert answer["usage"]["prompt_tokens"] < 4096


def test_a_limit_beyond_its_context_is_answered(base_url: str) -> None:
    answer = ask(base_url, "Say hello.", max_tokens=1_000_000, stop=["!", "."])
    assert answer["choices"][0]["finish_reason"] == "stop"
