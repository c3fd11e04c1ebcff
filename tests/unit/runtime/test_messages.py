from __future__ import annotations

import orjson
import pytest

from agentops.runtime.messages import (
    Message,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    assistant,
    from_wire,
    to_wire,
    transcript,
    user,
)


def test_a_message_survives_the_wire() -> None:
    for message in (
        user("hi"),
        Message("assistant", (ReasoningPart("hm"), TextPart("so"), ToolCallPart("c1", "ls", '{"path":"."}'))),
        Message("assistant", (ReasoningPart("hm", "sig"), ReasoningPart("", "sealed", redacted=True), TextPart("so"))),
        Message("tool", (ToolResultPart("c1", "ls", "a\nb", False, '{"ui":"file-tree"}'),)),
        Message("tool", (ToolResultPart("c1", "ls", "no", True),)),
    ):
        assert from_wire(to_wire(message)) == message


def test_the_wire_shape_is_the_documented_one() -> None:
    wire = to_wire(Message("tool", (ToolResultPart("c1", "bash", "boom", True, "{}"),)))
    assert wire == {
        "role": "tool",
        "content": [
            {
                "type": "tool-result",
                "tool_call_id": "c1",
                "tool_name": "bash",
                "output": {"type": "error", "error": "boom"},
                "metadata": "{}",
            }
        ],
    }


def test_unknown_parts_are_dropped_and_unknown_roles_refused() -> None:
    assert from_wire({"role": "user", "content": [{"type": "hologram"}]}) == Message("user", ())
    with pytest.raises(ValueError, match="role"):
        from_wire({"role": "oracle"})


def test_the_transcript_flattens_tool_calls_and_cuts() -> None:
    messages = [
        user("x" * 6000),
        Message("assistant", (ToolCallPart("c1", "bash", "{}"),)),
        Message("tool", (ToolResultPart("c1", "bash", "secret output"),)),
    ]
    assert transcript(messages) == [
        {"role": "user", "content": "x" * 5000},
        {"role": "assistant", "content": "[tool_call: bash]"},
    ]


def test_a_long_session_is_shortened_to_what_the_memory_service_takes() -> None:
    messages = [message for _ in range(500) for message in (user("\n" * 5000), assistant("é" * 5000))]
    rows = transcript(messages)
    assert len(rows) == 1000
    assert 100_000 < len(orjson.dumps(rows)) <= 512 << 10
