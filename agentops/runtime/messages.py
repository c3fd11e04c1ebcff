"""The conversation: messages made of parts, as working memory keeps them and `/working-memory` shows them.

Values only. Providers translate them to their vendor's shape; `to_wire` is the console's shape
(runtime specification, A12).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import orjson
from attrs import frozen

Role = Literal["system", "user", "assistant", "tool"]


@frozen
class TextPart:
    text: str


@frozen
class ReasoningPart:
    """What the model thought. `signature` is the provider's proof of it, sent back unchanged; with
    `redacted` it holds the thought itself, which only the provider can read."""

    text: str
    signature: str = ""
    redacted: bool = False


@frozen
class ToolCallPart:
    """The model asks for a tool. `input` is the arguments as the JSON text the model wrote."""

    tool_call_id: str
    tool_name: str
    input: str


@frozen
class ToolResultPart:
    """What the tool said. `metadata` is JSON text for the console, or None."""

    tool_call_id: str
    tool_name: str
    text: str
    is_error: bool = False
    metadata: str | None = None


Part = TextPart | ReasoningPart | ToolCallPart | ToolResultPart


@frozen
class Message:
    role: Role
    content: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All text parts joined."""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def tool_calls(self) -> tuple[ToolCallPart, ...]:
        return tuple(part for part in self.content if isinstance(part, ToolCallPart))


def user(text: str) -> Message:
    return Message("user", (TextPart(text),))


def assistant(text: str) -> Message:
    return Message("assistant", (TextPart(text),))


def to_wire(message: Message) -> dict[str, Any]:
    """`{role, content: [{type, …}]}`: the shape of `GET /working-memory` and of the store."""
    return {"role": message.role, "content": [_part_to_wire(part) for part in message.content]}


def from_wire(data: Mapping[str, Any]) -> Message:
    """The inverse of `to_wire`; parts of unknown type are dropped. Raises ValueError on a non-message."""
    role = data.get("role")
    if role not in ("system", "user", "assistant", "tool"):
        raise ValueError(f"message role {role!r} is unknown")
    parts = (_part_from_wire(part) for part in data.get("content") or ())
    return Message(role, tuple(part for part in parts if part is not None))


def _part_to_wire(part: Part) -> dict[str, Any]:
    match part:
        case TextPart(text):
            return {"type": "text", "text": text}
        case ReasoningPart(text, signature, redacted):
            signed = {"signature": signature} if signature else {}
            return {"type": "reasoning", "text": text} | signed | ({"redacted": True} if redacted else {})
        case ToolCallPart(call_id, name, arguments):
            return {
                "type": "tool-call",
                "tool_call_id": call_id,
                "tool_name": name,
                "input": arguments,
                "provider_executed": False,
            }
    output = {"type": "error", "error": part.text} if part.is_error else {"type": "text", "text": part.text}
    wire = {
        "type": "tool-result",
        "tool_call_id": part.tool_call_id,
        "tool_name": part.tool_name,
        "output": output,
    }
    if part.metadata is not None:
        wire["metadata"] = part.metadata
    return wire


def _part_from_wire(data: Mapping[str, Any]) -> Part | None:
    match data.get("type"):
        case "text":
            return TextPart(data.get("text", ""))
        case "reasoning":
            return ReasoningPart(data.get("text", ""), data.get("signature", ""), data.get("redacted", False))
        case "tool-call":
            return ToolCallPart(data["tool_call_id"], data.get("tool_name", ""), data.get("input", "{}"))
        case "tool-result":
            output = data.get("output") or {}
            is_error = output.get("type") == "error"
            return ToolResultPart(
                data["tool_call_id"],
                data.get("tool_name", ""),
                output.get("error" if is_error else "text") or "",
                is_error,
                data.get("metadata"),
            )
    return None


def transcript(messages: Iterable[Message], limit: int = 5000, most_bytes: int = 512 << 10) -> list[dict[str, str]]:
    """`[{role, content}]` for the memory service: tool calls flattened, each at most `limit` characters.

    A long session gets a lower limit, so that all of it has at most `most_bytes` as JSON and the service takes it.
    """
    said: list[tuple[str, str]] = []
    for message in messages:
        if message.role not in ("user", "assistant"):
            continue
        lines = [message.text] if message.text else []
        lines += [f"[tool_call: {call.tool_name}]" for call in message.tool_calls]
        if lines:
            said.append((message.role, "\n".join(lines)[:limit]))
    while True:
        rows = [{"role": role, "content": text[:limit]} for role, text in said]
        if limit <= 1 or len(orjson.dumps(rows)) <= most_bytes:
            return rows
        limit //= 2
