"""How much of the model's window a turn may use, and what leaves the conversation when it is too much.

Estimates, not counts: four characters a token, four tokens a message, 150 a tool schema (runtime
specification, A12). They decide trimming only; what is reported as usage comes from the provider.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

from agentops.runtime.messages import Message, TextPart, ToolCallPart, ToolResultPart

DEFAULT_WINDOW = 200_000
TOOL_SCHEMA_TOKENS = 150
MESSAGE_TOKENS = 4

_WINDOWS: tuple[tuple[str, int], ...] = (
    ("claude-", 200_000),
    ("gpt-4o", 128_000),
    ("gpt-4.1", 1_047_576),
    ("gemini-2.5", 1_048_576),
    ("kimi-k2.5", 256_000),
    ("kimi-k2-0711", 128_000),
    ("moonshot-v1-8k", 8_192),
    ("moonshot-v1-32k", 32_768),
    ("moonshot-v1-128k", 131_072),
    ("smollm2", 4_096),  # as `agentops model` runs it
)


def context_window(model: str, overrides: Mapping[str, int] | None = None) -> int:
    """Tokens the model takes in. `model` without its provider prefix; the longest known prefix wins."""
    if overrides and model in overrides:
        return overrides[model]
    lowered = model.lower()
    return next((size for prefix, size in _WINDOWS if lowered.startswith(prefix)), DEFAULT_WINDOW)


def estimate_text(text: str) -> int:
    return -(-len(text) // 4)


def estimate_message(message: Message) -> int:
    """Text, tool calls (name and input) and successful tool results; reasoning and errors are free."""
    total = MESSAGE_TOKENS
    for part in message.content:
        match part:
            case TextPart(text):
                total += estimate_text(text)
            case ToolCallPart(_, name, arguments):
                total += estimate_text(name) + estimate_text(arguments)
            case ToolResultPart(text=text, is_error=False):
                total += estimate_text(text)
    return total


def estimate(messages: Iterable[Message]) -> int:
    return sum(estimate_message(message) for message in messages)


@frozen
class Budget:
    """The estimate of one turn's parts, in tokens. `conversation` is what earlier turns may take."""

    window: int
    budget: int
    system: int
    tools: int
    memory: int
    prompt: int

    @property
    def conversation(self) -> int:
        return max(0, self.budget - self.system - self.tools - self.memory - self.prompt)


def plan(*, window: int, fraction: float, system: str, tool_count: int, memory: str, prompt: str) -> Budget:
    """`floor(window × fraction)` shared out; see `Budget`."""
    return Budget(
        window=window,
        budget=int(window * fraction),
        system=estimate_text(system),
        tools=tool_count * TOOL_SCHEMA_TOKENS,
        memory=estimate_text(memory),
        prompt=estimate_text(prompt) + MESSAGE_TOKENS if prompt else 0,
    )


def trim(messages: Sequence[Message], budget: int) -> int:
    """How many messages to drop from the front so that the rest fits `budget` tokens.

    Cuts only before a user or assistant message, so a tool result never loses the call it answers,
    and always leaves the last such group.
    """
    starts = [index for index, message in enumerate(messages) if message.role != "tool"]
    remaining = estimate(messages)
    dropped = 0
    for start in starts[1:]:
        if remaining <= budget:
            break
        remaining -= estimate(messages[dropped:start])
        dropped = start
    return dropped
