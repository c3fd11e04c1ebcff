"""Questions to a model beside the conversation: what a conversation was about, what of it is worth keeping.

One call each, without tools. The model is `titleModel`, which may be a cheaper one than the agent's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import aclosing

import orjson
from attrs import field, frozen

from agentops.runtime.messages import Message, TextPart, ToolCallPart, user
from agentops.runtime.metrics import RuntimeMetrics
from agentops.runtime.providers.base import CallOptions, Finish, SystemPrompt, TextDelta
from agentops.runtime.providers.chain import ModelChain, Switched

MAX_OUTPUT_TOKENS = 1024
MAX_CHARS = 60_000
"""Of a conversation that is shown to the model: its end."""
MAX_SUMMARY_CHARS = 4_000
TYPES = ("decision", "bugfix", "discovery", "pattern", "architecture", "config", "learning")

_EXTRACT = f"""You find in a conversation the one piece of knowledge that will help in later conversations.
Answer with one JSON object and nothing else: {{"type": …, "title": …, "content": …, "tags": […]}}
- type is one of {", ".join(TYPES)}
- title has at most 80 characters
- content is two to five sentences that can be understood without the conversation; they say what, and why
- tags are two to five lower-case words
When nothing is worth keeping, title is "No significant knowledge to extract" and tags is ["empty"]."""

_SUMMARISE = """You shorten the older part of a conversation between a user and an agent, so that the agent can go on
without it. Keep what the user asked for and wants, decisions and their reasons, names, paths, numbers, what was done
and what is still open. Leave out greetings and the text of long outputs. Answer with the summary only, in at most 300
words."""


@frozen
class Extracted:
    """Knowledge in the shape of an observation."""

    type: str
    title: str
    content: str
    tags: tuple[str, ...] = field(default=())


class Aside:
    """Asks the models of `chain`."""

    def __init__(self, chain: ModelChain, metrics: RuntimeMetrics) -> None:
        self._chain = chain
        self._metrics = metrics

    async def extract(self, messages: Sequence[Message], focus: str = "", kind: str = "") -> Extracted:
        """The knowledge in `messages`; `focus` and `kind` are what the user is after. Raises ProviderFault."""
        wishes = [f"Look for: {focus}"] if focus else []
        wishes += [f"The type should be {kind}."] if kind else []
        return read_extracted(await self._ask(_EXTRACT, "\n\n".join([*wishes, transcript(messages)])), kind)

    async def summary(self, messages: Sequence[Message], before: str = "") -> str:
        """`messages` in a few sentences; `before` is the summary of what came before them. Raises ProviderFault."""
        earlier = [f"Summary of what came before:\n{before}"] if before else []
        answer = await self._ask(_SUMMARISE, "\n\n".join([*earlier, transcript(messages)]))
        return answer.strip()[:MAX_SUMMARY_CHARS]

    async def _ask(self, system: str, text: str) -> str:
        said: list[str] = []
        options = CallOptions(max_output_tokens=MAX_OUTPUT_TOKENS)
        stream = self._chain.turn().stream(SystemPrompt(system), [user(text)], (), options)
        async with aclosing(stream) as deltas:
            async for delta in deltas:
                match delta:
                    case TextDelta(piece):
                        said.append(piece)
                    case Switched():
                        said.clear()
                    case Finish():
                        self._metrics.tokens_used(delta.usage)
        return "".join(said)


def transcript(messages: Sequence[Message]) -> str:
    """One line for each text and each tool call; the end of it when it is long."""
    lines = []
    for message in messages:
        for part in message.content:
            match part:
                case TextPart(text) if text.strip():
                    lines.append(f"[{message.role}] {text.strip()}")
                case ToolCallPart(_, name, _):
                    lines.append(f"[{message.role}] Tool call: {name}")
    return "\n".join(lines)[-MAX_CHARS:]


def read_extracted(answer: str, kind: str = "") -> Extracted:
    """What the model said, which may be wrapped in a code fence; as it is when it is no such object."""
    text = re.sub(r"^```\w*\s*|\s*```$", "", answer.strip())
    try:
        found = orjson.loads(text)
        return Extracted(
            type=str(found.get("type") or kind or "learning"),
            title=str(found["title"])[:200],
            content=str(found["content"]),
            tags=tuple(str(tag) for tag in found.get("tags") or ()),
        )
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        return Extracted("learning", "Extracted knowledge", answer.strip(), ("auto-extracted",))
