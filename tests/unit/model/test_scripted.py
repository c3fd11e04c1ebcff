from __future__ import annotations

import pytest
from support.model import asked

from agentops.model.backend import CallArguments, CallStart, Finish, Reasoning, Text
from agentops.model.errors import Refused, StreamCut, StreamEnded, StreamFailed
from agentops.model.script import parse_script
from agentops.model.scripted import ScriptedBackend
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio


def backend(*turns: dict, **more: object) -> ScriptedBackend:
    return ScriptedBackend(parse_script({"turns": list(turns), **more}), LoopClock())


async def said(model: ScriptedBackend, request) -> str:
    return "".join([part.text async for part in model.answer(request).parts if isinstance(part, Text)])


async def test_turns_without_conditions_answer_once_each_in_order() -> None:
    model = backend({"text": "one"}, {"text": "two"})
    assert [await said(model, asked("user: x")) for _ in range(2)] == ["one", "two"]
    with pytest.raises(Refused, match=r"no turn for request 7 .*'x'") as caught:
        await said(model, asked("user: x", number=7))
    assert caught.value.status == 500


async def test_a_condition_wins_over_the_order_and_does_not_use_it_up() -> None:
    model = backend({"text": "plain"}, {"when": {"user": "time"}, "text": "noon"})
    assert await said(model, asked("user: what time is it")) == "noon"
    assert await said(model, asked("user: what time is it")) == "noon"
    assert await said(model, asked("user: hello")) == "plain"


async def test_a_user_condition_is_not_taken_again_when_the_tool_result_comes_back() -> None:
    model = backend(
        {"when": {"user": "list"}, "tool_calls": [{"name": "bash"}]},
        {"when": {"tool_result": "README"}, "text": "a README"},
    )
    first = [part async for part in model.answer(asked("user: list")).parts]
    assert first[:2] == [CallStart("call_1_0", "bash"), CallArguments("{}")]
    assert first[-1].reason == "tool_calls"
    assert await said(model, asked("user: list", "assistant: ", "tool: README.md")) == "a README"


async def test_step_and_turn_count_within_the_conversation() -> None:
    model = backend(
        {"when": {"step": 1}, "text": "second step"},
        {"when": {"turn": 1}, "text": "second turn"},
        otherwise={"text": "other"},
    )
    assert await said(model, asked("user: a", "assistant: ", "tool: r")) == "second step"
    assert await said(model, asked("user: a", "assistant: b", "user: c")) == "second turn"
    assert await said(model, asked("user: a")) == "other"


async def test_conditions_see_system_prompt_model_and_request() -> None:
    model = backend(
        {"when": {"system": "pirate"}, "text": "arr"},
        {"when": {"model": "big"}, "text": "big"},
        {"when": {"request": '"temperature":0.5'}, "text": "warm"},
    )
    assert await said(model, asked("system: be a pirate", "user: x")) == "arr"
    assert await said(model, asked("user: x", model="big-one")) == "big"
    assert await said(model, asked("user: x", raw={"temperature": 0.5})) == "warm"


async def test_times_bounds_a_condition() -> None:
    model = backend(
        {"when": {"user": "x"}, "times": 1, "error": {"status": 503}}, {"when": {"user": "x"}, "text": "ok"}
    )
    with pytest.raises(Refused) as caught:
        await said(model, asked("user: x"))
    assert caught.value.status == 503
    assert await said(model, asked("user: x")) == "ok"


async def test_parts_come_in_the_documented_order_with_estimated_usage() -> None:
    model = backend(
        {"reasoning": "hm", "text": ["a", "b"], "echo": "user", "tool_calls": [{"name": "t", "raw": "{"}], "repeat": 2}
    )
    parts = [part async for part in model.answer(asked("user: me")).parts]
    assert parts[:-1] == [
        Reasoning("hm"),
        *[Text("a"), Text("b")] * 2,
        Text("me"),
        CallStart("call_1_0", "t"),
        CallArguments("{"),
    ]
    assert isinstance(parts[-1], Finish)
    assert parts[-1].usage.output_tokens == 3


@pytest.mark.parametrize(("how", "raises"), [("error", StreamFailed), ("end", StreamEnded), ("cut", StreamCut)])
async def test_an_answer_breaks_after_that_many_chunks(how: str, raises: type[Exception]) -> None:
    model = backend({"text": ["a", "b", "c"], "breaks": {"with": how, "after": 2}})
    parts = []

    async def listen() -> None:
        async for part in model.answer(asked("user: x")).parts:
            parts.append(part)  # noqa: PERF401

    with pytest.raises(raises):
        await listen()
    assert parts == [Text("a"), Text("b")]


class TestInVirtualTime:
    @pytest.fixture
    def anyio_backend(self):
        import trio.testing

        return ("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})

    async def test_delays_pass_before_the_first_and_between_chunks(self) -> None:
        import anyio

        model = backend({"text": ["a", "b"], "delay": "1h", "chunk_delay": "10m"})
        start = anyio.current_time()
        stamps = [round(anyio.current_time() - start) async for _ in model.answer(asked("user: x")).parts]
        assert stamps == [4200, 4800, 4800]

    async def test_a_hanging_turn_never_answers(self) -> None:
        import anyio

        model = backend({"hang": True})
        with anyio.move_on_after(100_000) as waiting:
            await said(model, asked("user: x"))
        assert waiting.cancelled_caught
