"""The adapter protocol: one streaming call, typed deltas, typed errors.

An adapter translates messages and tools to its vendor's shape and the vendor's stream back into
deltas. It never retries, never falls back and keeps no conversation: `chain` and `turn` do.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Literal, Protocol

from attrs import field, frozen

from agentops.api.runs import Usage
from agentops.runtime.messages import Message

FinishReason = Literal["stop", "length", "content-filter", "tool-calls", "error", "other", "unknown"]


@frozen
class ToolSpec:
    """What the model is told about a tool. `schema` is a JSON schema of type object."""

    name: str
    description: str
    schema: Mapping[str, Any]


@frozen
class SystemPrompt:
    """`fixed` stays the same from turn to turn, so vendors can cache it; `turn` belongs to one turn."""

    fixed: str = ""
    turn: str = ""

    @property
    def text(self) -> str:
        return "\n\n".join(part for part in (self.fixed, self.turn) if part)


@frozen
class CallOptions:
    """Settings of one model call; None leaves the provider's own default."""

    temperature: float | None = None
    max_output_tokens: int | None = None


@frozen
class TextDelta:
    text: str


@frozen
class ReasoningDelta:
    text: str


@frozen
class ReasoningSignature:
    """Ends a piece of reasoning and has to go back to the provider unchanged (`ReasoningPart.signature`).

    With `redacted` it is the reasoning itself, in a form only the provider can read.
    """

    signature: str
    redacted: bool = False


@frozen
class Source:
    """Something the answer cites. `id` is unique within the call; `url` is empty for a document without one."""

    id: str
    source_type: Literal["url", "document"]
    url: str
    title: str = ""


@frozen
class ToolInputStart:
    """A tool call begins; `id` is unique within the turn."""

    id: str
    tool_name: str


@frozen
class ToolInputDelta:
    id: str
    text: str


@frozen
class Finish:
    """Always the last delta of a stream that did not fail. `usage.input_tokens` includes cached ones."""

    reason: FinishReason
    usage: Usage = field(factory=Usage)
    response_id: str = ""


@frozen
class ProviderWarning:
    """Something the caller should know but that does not end the call."""

    text: str


Delta = (
    TextDelta
    | ReasoningDelta
    | ReasoningSignature
    | Source
    | ToolInputStart
    | ToolInputDelta
    | Finish
    | ProviderWarning
)


class Adapter(Protocol):
    """One provider account. Inert until `stream`; `aclose` releases its connections."""

    provider: str
    """The provider's name in config.json."""

    kind: str
    """The provider's type: `openaicompat`, `openai`, …"""

    def stream(
        self,
        model: str,
        system: SystemPrompt,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        options: CallOptions,
    ) -> AsyncGenerator[Delta, None]:
        """One model call, at least one delta. Raises ProviderFault, also from the middle of the stream."""
        ...

    async def aclose(self) -> None: ...
