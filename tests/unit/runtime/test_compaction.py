from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentops.runtime.aside import Aside, Extracted, read_extracted, transcript
from agentops.runtime.budget import estimate
from agentops.runtime.compaction import Eviction, fit
from agentops.runtime.errors import ProviderFault
from agentops.runtime.messages import Message, TextPart, ToolCallPart, ToolResultPart, assistant, user
from agentops.runtime.metrics import RuntimeMetrics
from agentops.runtime.providers.base import Finish, TextDelta
from agentops.runtime.providers.chain import BoundModel, ModelChain
from agentops.telemetry.metrics import Registry
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio

SAID = (TextDelta("They spoke."), Finish("stop"))


def aside(adapter: Any) -> Aside:
    return Aside(ModelChain((BoundModel(adapter, "m"),), LoopClock()), RuntimeMetrics(Registry()))


def turns(count: int) -> list[Message]:
    return [message for number in range(count) for message in (user(f"q{number}" + "x" * 98), assistant("y" * 100))]


async def test_what_fits_stays_and_nobody_is_asked(scripted: Any) -> None:
    model = scripted("p")
    conversation = turns(3)
    assert await fit(conversation, estimate(conversation), aside(model)) == Eviction()
    assert model.calls == []


async def test_a_summary_takes_in_the_one_before(scripted: Any) -> None:
    model = scripted("p", SAID, SAID)
    first = await fit(turns(10), 300, aside(model))
    stayed = [*first.of(turns(10)), *turns(5)]
    second = await fit(stayed, 300, aside(model))
    kept = second.of(stayed)
    assert [message.role for message in kept].count("system") == 1
    assert kept[0].text.endswith("They spoke.")
    assert estimate(kept) <= 300
    assert model.calls[1][2][0].text.startswith("Summary of what came before:\nThey spoke.")


async def test_without_a_model_the_old_summary_stays(scripted: Any) -> None:
    fault = ProviderFault("no", provider="p", status=401)
    pinned = Message("system", (TextPart("Summary of the earlier conversation:\nOld."),))
    evicted = await fit([pinned, *turns(10)], 300, aside(scripted("p", [fault])))
    assert evicted.summary == pinned
    assert evicted.of([pinned, *turns(10)])[0] == pinned
    nothing = await fit(turns(10), 300, aside(scripted("p", [fault])))
    assert nothing.summary is None
    assert nothing.drop > 0


@given(st.integers(0, 10), st.booleans(), st.integers(0, 12))
def test_more_that_leaves_is_counted_from_what_stayed(drop: int, summarised: bool, more: int) -> None:
    conversation = turns(5)
    first = Eviction(drop, assistant("summary") if summarised and drop else None)
    stayed = first.of(conversation)
    more = min(more, len(stayed))
    assert first.and_more(more).of(conversation) == stayed[more:]


def test_a_transcript_names_texts_and_calls() -> None:
    messages = [
        user("list"),
        Message("assistant", (TextPart("Sure."), ToolCallPart("c", "bash", "{}"))),
        Message("tool", (ToolResultPart("c", "bash", "long"),)),
    ]
    assert transcript(messages) == "[user] list\n[assistant] Sure.\n[assistant] Tool call: bash"


@pytest.mark.parametrize("answer", ["no JSON", "[1]", '{"title": "only"}', ""])
def test_an_answer_that_is_no_object_is_kept_as_text(answer: str) -> None:
    assert read_extracted(answer) == Extracted("learning", "Extracted knowledge", answer, ("auto-extracted",))
