"""Keeping the conversation within its budget: what is too much leaves at the front, and its summary stays."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
from attrs import frozen

from agentops.runtime.aside import Aside
from agentops.runtime.budget import estimate, trim
from agentops.runtime.errors import ProviderFault
from agentops.runtime.messages import Message, TextPart
from agentops.telemetry.logging import get_logger

log = get_logger("runtime.compaction")

TARGET = 0.75
"""How much of its budget the conversation keeps when it was over, so that not every turn has to be summarised."""
TIMEOUT_S = 60.0
_HEADING = "Summary of the earlier conversation:\n"


@frozen
class Eviction:
    """`drop` oldest messages leave; `summary`, if there is one, takes their place."""

    drop: int = 0
    summary: Message | None = None

    def of(self, conversation: Sequence[Message]) -> tuple[Message, ...]:
        """What stays."""
        return (*((self.summary,) if self.summary else ()), *conversation[self.drop :])

    def and_more(self, dropped: int) -> Eviction:
        """This, and `dropped` messages of what stayed."""
        if not dropped:
            return self
        return Eviction(self.drop + dropped - (1 if self.summary else 0), None)


async def fit(conversation: Sequence[Message], budget: int, aside: Aside) -> Eviction:
    """What must leave so that the rest has at most `budget` tokens.

    Without an answer from the model the summary there was stays, and what leaves now is not in it.
    """
    pinned = conversation[0] if conversation and conversation[0].role == "system" else None
    first = 1 if pinned is not None else 0
    rest = conversation[first:]
    room = budget - estimate(conversation[:first])
    if estimate(rest) <= room:
        return Eviction()
    drop = trim(rest, int(room * TARGET))
    if not drop:
        return Eviction()
    before = pinned.text.removeprefix(_HEADING) if pinned is not None else ""
    try:
        with anyio.fail_after(TIMEOUT_S):
            text = await aside.summary(rest[:drop], before)
    except (ProviderFault, TimeoutError) as error:
        log.warning("conversation.not_summarised", messages=drop, error=str(error) or "no answer in time")
        text = ""
    summary = Message("system", (TextPart(_HEADING + text),)) if text else pinned
    log.info("conversation.trimmed", messages=drop, summarised=bool(text))
    return Eviction(first + drop, summary)
