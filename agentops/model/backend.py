"""What a model is to the rest: a `ChatRequest` in, `Part`s out.

Both wire shapes are read into `ChatRequest` and written from parts, so a script and the real model behave the same on
either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from attrs import field, frozen


@frozen(slots=True)
class ToolCall:
    """A call the model made. `arguments` is JSON text, valid or not."""

    id: str
    name: str
    arguments: str


@frozen(slots=True, kw_only=True)
class ChatMessage:
    """One message. `role` is system, user, assistant or tool; a tool's `text` is its result."""

    role: str
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@frozen(slots=True, kw_only=True)
class Tool:
    """A tool on offer. `parameters` is JSON Schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(factory=dict)


@frozen(slots=True, kw_only=True)
class ToolChoice:
    """`mode` is auto, none or required; `name` is the one tool that is required."""

    mode: str = "auto"
    name: str | None = None


@frozen(slots=True, kw_only=True)
class ChatRequest:
    """One request, whichever shape it came in. `number` counts requests from 1; `raw` is the body as sent."""

    number: int
    model: str
    messages: tuple[ChatMessage, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    max_tokens: int | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    raw: Mapping[str, Any] = field(factory=dict)

    @property
    def system(self) -> str:
        """All system messages."""
        return "\n".join(message.text for message in self.messages if message.role == "system")

    @property
    def last_user(self) -> str:
        """What the user said last."""
        return next((message.text for message in reversed(self.messages) if message.role == "user"), "")

    @property
    def last_tool_result(self) -> str:
        """The tool results that end the conversation, joined; empty when something else ends it."""
        texts: list[str] = []
        for message in reversed(self.messages):
            if message.role != "tool":
                break
            texts.append(message.text)
        return "\n".join(reversed(texts))

    @property
    def turn(self) -> int:
        """Which turn of the conversation this is, from 0: user messages before the last one."""
        return max(sum(message.role == "user" for message in self.messages) - 1, 0)

    @property
    def step(self) -> int:
        """Which model call of the turn this is, from 0: assistant messages after the last user message."""
        count = 0
        for message in reversed(self.messages):
            if message.role == "user":
                break
            count += message.role == "assistant"
        return count


@frozen(slots=True, kw_only=True)
class Usage:
    """Tokens."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0


@frozen(slots=True)
class Reasoning:
    text: str


@frozen(slots=True)
class Text:
    text: str


@frozen(slots=True)
class CallStart:
    """A tool call begins; its arguments follow until the next start."""

    id: str
    name: str


@frozen(slots=True)
class CallArguments:
    text: str


@frozen(slots=True)
class Finish:
    """The last part. `reason` is stop, length, tool_calls or content_filter."""

    reason: str
    usage: Usage


Part = Reasoning | Text | CallStart | CallArguments | Finish


@frozen(slots=True)
class Answer:
    """`label` names for the record who answers; `parts` may raise Refused before the first one, AnswerBroken after."""

    label: str
    parts: AsyncIterator[Part]


class Backend(Protocol):
    """Something that answers."""

    @property
    def model_names(self) -> tuple[str, ...]:
        """What `/v1/models` lists; any name is accepted."""
        ...

    def not_ready(self) -> str | None:
        """Why it cannot answer yet; None when it can."""
        ...

    def answer(self, request: ChatRequest) -> Answer:
        """Begin to answer; nothing is awaited here."""
        ...


def estimate_tokens(text: str) -> int:
    """A quarter of the characters, at least one for any text."""
    return (len(text) + 3) // 4
