from __future__ import annotations

import pytest
from support.model import asked

from agentops.model.backend import ChatMessage, Tool, ToolCall
from agentops.model.small import call_schema, explicit_calls, prompt

TOOLS = (Tool(name="bash"), Tool(name="read_file"))


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("hello", []),
        ('/tool bash {"command": "ls"}', [("bash", '{"command":"ls"}')]),
        ('Do it:\n  /tool bash {"command":\n "ls {}"} thanks', [("bash", '{"command":"ls {}"}')]),
        ('/tool bash {"a": 1}\n/tool read_file {"path": "x"}', [("bash", '{"a":1}'), ("read_file", '{"path":"x"}')]),
        ("/tool bash", [("bash", "{}")]),
        ("what does /tool bash do?", []),
    ],
)
def test_explicit_calls_are_read_from_lines(text: str, calls: list[tuple[str, str]]) -> None:
    assert explicit_calls(text, TOOLS) == calls


def test_an_unknown_tool_is_answered_with_those_on_offer() -> None:
    assert explicit_calls("/tool rm {}", TOOLS) == "There is no tool named rm. Tools on offer: bash, read_file."


@pytest.mark.parametrize("arguments", ["{broken", "[1]", "ls"])
def test_arguments_that_are_no_object_are_explained(arguments: str) -> None:
    assert "not a JSON object" in str(explicit_calls(f"/tool bash {arguments}", TOOLS))


def test_the_schema_of_a_forced_call_names_its_tools() -> None:
    single = call_schema(TOOLS[:1])
    assert single["properties"]["name"] == {"const": "bash"}
    assert [option["properties"]["name"] for option in call_schema(TOOLS)["oneOf"]] == [
        {"const": "bash"},
        {"const": "read_file"},
    ]


def test_tool_calls_and_results_become_words() -> None:
    request = asked("user: go")
    messages = (
        *request.messages,
        ChatMessage(role="assistant", tool_calls=(ToolCall("c", "bash", '{"command":"ls"}'),)),
        ChatMessage(role="tool", text="README.md"),
    )
    from attrs import evolve

    written = prompt(evolve(request, messages=messages), 1000)
    assert [entry["role"] for entry in written] == ["user", "assistant", "user"]
    assert 'bash with {"command":"ls"}' in written[1]["content"]
    assert "README.md" in written[2]["content"]


def test_a_long_conversation_loses_its_oldest_messages_first() -> None:
    talk = [f"user: message {n} " + "x" * 100 for n in range(50)]
    written = prompt(asked("system: be brief", *talk), 200)
    assert written[0] == {"role": "system", "content": "be brief"}
    assert written[-1]["content"].startswith("message 49")
    assert 2 < len(written) < 8
    assert sum(len(entry["content"]) for entry in written) <= 600


def test_one_message_that_is_too_long_keeps_its_end() -> None:
    written = prompt(asked("system: be brief", "user: " + "x" * 10_000 + "END"), 100)
    assert written == [{"role": "user", "content": "x" * 297 + "END"}]
