"""The turn loop with a scripted adapter: event order, ids, interleaving, stopping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import orjson
import pytest

from agentops.api.runs import Usage
from agentops.runtime.budget import plan
from agentops.runtime.errors import ProviderFault
from agentops.runtime.events import Emitter, EventLog, Numbering
from agentops.runtime.messages import Message, ReasoningPart, TextPart, ToolResultPart
from agentops.runtime.metrics import RuntimeMetrics
from agentops.runtime.providers.base import (
    CallOptions,
    Finish,
    ReasoningDelta,
    ReasoningSignature,
    Source,
    SystemPrompt,
    TextDelta,
    ToolInputDelta,
    ToolInputStart,
)
from agentops.runtime.providers.chain import BoundModel, ModelChain
from agentops.runtime.tools.base import Arguments, ToolOutput, schema
from agentops.runtime.tools.box import ToolBox
from agentops.runtime.tools.workspace import Workspace
from agentops.runtime.turn import Steering, Turn, TurnSetup
from agentops.telemetry.metrics import Registry
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio

CALLS = Finish("tool-calls", Usage(input_tokens=10, output_tokens=5, total_tokens=15))
STOP = Finish("stop", Usage(input_tokens=20, output_tokens=5, total_tokens=25))


class Slow:
    """Takes a virtual second and says when it began."""

    description = "slow"
    kind = "builtin"
    schema = schema({})

    def __init__(self, name: str, parallel_safe: bool) -> None:
        self.name = name
        self.parallel_safe = parallel_safe
        self.began: list[float] = []

    async def run(self, arguments: Arguments) -> ToolOutput:
        self.began.append(anyio.current_time())
        await anyio.sleep(1)
        return ToolOutput(f"{self.name} done")


@pytest.fixture
def make(workspace: Workspace, clock: LoopClock, new_id: Callable[[], str], scripted: Any) -> Any:
    def build(
        *scripts: Any, tools: tuple[Any, ...] = (), steering: Any = None, **setup: Any
    ) -> tuple[Turn, EventLog, Any]:
        metrics = RuntimeMetrics(Registry())
        adapter = scripted("p", *scripts)
        log = EventLog(10_000)
        emitter = Emitter(
            session_id="sre", run="r", clock=clock, numbering=Numbering(), broadcast=EventLog(100), log=log
        )
        budget = plan(window=1000, fraction=0.75, system="", tool_count=0, memory="", prompt="x")
        fields = {
            "prompt": "x",
            "system": SystemPrompt(),
            "history": (),
            "budget": budget,
            "options": CallOptions(),
            **setup,
        }
        turn = Turn(
            TurnSetup(**fields),
            chain=ModelChain((BoundModel(adapter, "m"),), clock),
            tools=ToolBox(tools, workspace=workspace, max_result_chars=100, clock=clock, metrics=metrics),
            emitter=emitter,
            clock=clock,
            metrics=metrics,
            new_id=new_id,
            steering=steering,
        )
        return turn, log, adapter

    return build


def types(log: EventLog) -> list[str]:
    return [event.type for event in log.events]


def bodies(log: EventLog, kind: str) -> list[dict[str, Any]]:
    return [orjson.loads(event.body) for event in log.events if event.type == kind]


async def test_reasoning_text_and_tools_follow_the_grammar(make: Any) -> None:
    first = [
        ReasoningDelta("hm"),
        TextDelta("Let "),
        TextDelta("me"),
        ToolInputStart("c1", "look"),
        ToolInputDelta("c1", "{}"),
        CALLS,
    ]
    turn, log, _ = make(first, [TextDelta("Done."), STOP], tools=(Slow("look", True),))
    await turn.run()
    assert types(log) == [
        *("agent_start", "step_start", "reasoning_start", "reasoning_delta", "reasoning_end"),
        *("text_start", "text_delta", "text_delta", "text_end"),
        *("tool_input_start", "tool_input_delta", "tool_input_end", "tool_call"),
        *("stream_finish", "tool_result", "step_finish"),
        *("step_start", "text_start", "text_delta", "text_end", "stream_finish", "step_finish", "agent_finish"),
    ]
    assert [event.seq for event in log.events] == list(range(1, len(log.events) + 1))
    assert turn.output == "Done."
    assert turn.usage.total_tokens == 40
    assert bodies(log, "agent_finish")[0]["total_usage"]["input_tokens"] == 30
    assert bodies(log, "step_finish")[0]["tool_call_count"] == 1
    assert bodies(log, "agent_finish")[0]["model"] == "p/m"


async def test_reading_tools_run_together_and_others_in_turn(make: Any) -> None:
    a, b, c = Slow("a", True), Slow("b", True), Slow("c", False)
    starts = [item for name in "abc" for item in (ToolInputStart(name, name), ToolInputDelta(name, "{}"))]
    turn, log, _ = make([*starts, CALLS], [TextDelta("x"), STOP], tools=(a, b, c))
    await turn.run()
    assert a.began == b.began
    assert c.began[0] == a.began[0] + 1
    results = [part for part in turn.messages[2].content if isinstance(part, ToolResultPart)]
    assert [part.tool_call_id for part in results] == ["a", "b", "c"]
    assert len(bodies(log, "tool_result")) == 3


async def test_pieces_of_two_calls_may_come_interleaved(make: Any) -> None:
    first = [
        ToolInputStart("c1", "look"),
        ToolInputDelta("c1", "{"),
        ToolInputStart("c2", "look"),
        ToolInputDelta("c2", "{"),
        ToolInputDelta("c1", "}"),
        ToolInputDelta("c2", "}"),
        CALLS,
    ]
    turn, log, _ = make(first, [TextDelta("x"), STOP], tools=(Slow("look", True),))
    await turn.run()
    assert [event["is_error"] for event in bodies(log, "tool_result")] == [False, False]
    assert [call.input for call in turn.messages[1].tool_calls] == ["{}", "{}"]


async def test_what_is_said_into_a_turn_reaches_the_next_call_in_order(make: Any) -> None:
    steering = Steering()

    async def say() -> None:
        assert steering.add("also b")
        assert steering.add("and c")

    first = [ToolInputStart("c1", "look"), say, CALLS]
    turn, log, adapter = make(first, [TextDelta("Done."), STOP], tools=(Slow("look", True),), steering=steering)
    await turn.run()
    assert [(message.role, message.text) for message in adapter.calls[1][2]][-2:] == [
        ("user", "also b"),
        ("user", "and c"),
    ]
    assert [body["message"] for body in bodies(log, "steer_applied")] == ["also b", "and c"]
    assert not steering.add("too late")


async def test_a_turn_that_would_end_goes_on_for_what_was_said_meanwhile(make: Any) -> None:
    steering = Steering()

    async def say() -> None:
        steering.add("wait")

    turn, _, _ = make([TextDelta("One."), say, STOP], [TextDelta("Two."), STOP], steering=steering)
    await turn.run()
    assert (turn.steps, turn.output) == (2, "Two.")


async def test_what_nobody_will_read_is_said(make: Any) -> None:
    steering = Steering()

    async def say() -> None:
        steering.add("wait")

    turn, log, _ = make([TextDelta("One."), say, STOP], steering=steering, max_steps=1)
    await turn.run()
    assert "wait" in bodies(log, "warnings")[-1]["warnings"][0]


async def test_a_conversation_the_model_cannot_take_is_halved_until_it_fits(make: Any) -> None:
    roles = ("user", "assistant")
    history = tuple(Message(role, (TextPart(f"{role} {number}"),)) for number in range(4) for role in roles)
    too_long = [ProviderFault("too long", provider="p", status=400, kind="too_long")]
    turn, log, adapter = make(too_long, too_long, [TextDelta("Fits."), STOP], history=history)
    await turn.run()
    assert [len(call[2]) for call in adapter.calls] == [9, 5, 3]
    assert (turn.output, turn.dropped) == ("Fits.", 6)
    assert types(log)[:4] == ["agent_start", "step_start", "warnings", "warnings"]


async def test_a_prompt_the_model_cannot_take_fails(make: Any) -> None:
    too_long = [ProviderFault("too long", provider="p", status=400, kind="too_long")]
    turn, _, adapter = make(too_long, too_long, history=(Message("user", (TextPart("x"),)),))
    with pytest.raises(ProviderFault, match="too long"):
        await turn.run()
    assert len(adapter.calls) == 2


async def test_a_turn_stops_when_the_conversation_fills_the_budget(make: Any) -> None:
    full = Finish("tool-calls", Usage(input_tokens=750))
    turn, log, _ = make([ToolInputStart("c1", "look"), full], tools=(Slow("look", True),))
    await turn.run()
    assert types(log)[-3:] == ["step_finish", "warnings", "agent_finish"]


async def test_stopping_while_the_model_talks_closes_everything_and_keeps_the_words(make: Any) -> None:
    turn, log, _ = make([TextDelta("half"), anyio.sleep_forever])
    with anyio.move_on_after(5):
        await turn.run()
    turn.stop("aborted", "on request", reason="Aborted", retryable=False)
    assert types(log)[-5:] == ["text_delta", "text_end", "stream_finish", "step_finish", "agent_error"]
    assert turn.messages[-1].text == "half\n[aborted: the turn ended here. on request]"


async def test_stopping_inside_the_arguments_of_a_call_forgets_the_call(make: Any) -> None:
    turn, log, _ = make([ToolInputStart("c1", "look"), ToolInputDelta("c1", '{"pa'), anyio.sleep_forever])
    with anyio.move_on_after(5):
        await turn.run()
    turn.stop("aborted", "on request", reason="Aborted", retryable=False)
    assert "tool_call" not in types(log)
    assert types(log)[-4:] == ["tool_input_end", "stream_finish", "step_finish", "agent_error"]
    assert [message.role for message in turn.messages] == ["user", "assistant"]


async def test_stopping_while_a_tool_runs_answers_its_call(make: Any) -> None:
    class Endless(Slow):
        async def run(self, arguments: Arguments) -> ToolOutput:
            await anyio.sleep_forever()
            raise AssertionError

    turn, log, _ = make([ToolInputStart("c1", "look"), CALLS], tools=(Endless("look", False),))
    with anyio.move_on_after(5):
        await turn.run()
    turn.stop("interrupted", "going down", reason="Interrupted", retryable=True)
    assert types(log)[-4:] == ["stream_finish", "tool_result", "step_finish", "agent_error"]
    assert [message.role for message in turn.messages] == ["user", "assistant", "tool", "assistant"]
    error = bodies(log, "agent_error")[0]
    assert (error["reason"], error["retryable"]) == ("Interrupted", True)


async def test_a_failure_before_the_first_word_still_ends_the_step(make: Any) -> None:
    turn, log, _ = make([ProviderFault("no", provider="p", status=400)])
    with pytest.raises(ProviderFault) as failure:
        await turn.run()
    turn.stop("failed", str(failure.value), reason="Error", retryable=False)
    assert types(log) == ["agent_start", "step_start", "stream_finish", "step_finish", "agent_error"]
    assert turn.messages[-1].role == "assistant"


async def test_signed_thoughts_are_kept_for_the_next_call_and_sources_are_shown(make: Any) -> None:
    first = [
        ReasoningDelta("hm"),
        ReasoningSignature("sig1"),
        ReasoningDelta("so"),
        ReasoningSignature("sig2"),
        ReasoningSignature("sealed", redacted=True),
        ToolInputStart("c1", "look"),
        CALLS,
    ]
    last = [Source("s1", "url", "https://e.org", "E"), TextDelta("Done."), STOP]
    turn, log, adapter = make(first, last, tools=(Slow("look", True),))
    await turn.run()
    thought = adapter.calls[1][2][1].content[:3]
    assert thought == (
        ReasoningPart("hm", "sig1"),
        ReasoningPart("so", "sig2"),
        ReasoningPart("", "sealed", redacted=True),
    )
    assert types(log)[2:10] == [
        *("reasoning_start", "reasoning_delta", "reasoning_end"),
        *("reasoning_start", "reasoning_delta", "reasoning_end"),
        *("reasoning_start", "reasoning_end"),
    ]
    [source] = bodies(log, "source")
    assert (source["source_type"], source["url"], source["title"]) == ("url", "https://e.org", "E")
