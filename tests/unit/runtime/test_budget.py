from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentops.runtime.budget import context_window, estimate, plan, trim
from agentops.runtime.messages import Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart, assistant, user


def exchange(number: int, size: int) -> list[Message]:
    """A user message, a tool call, its result and an answer, of about `size` characters each."""
    call = f"c{number}"
    return [
        user("u" * size),
        Message("assistant", (ToolCallPart(call, "bash", '{"command": "ls"}'),)),
        Message("tool", (ToolResultPart(call, "bash", "r" * size),)),
        assistant("a" * size),
    ]


def test_the_numbers_follow_the_formula() -> None:
    budget = plan(window=1000, fraction=0.75, system="s" * 400, tool_count=2, memory="m" * 40, prompt="p" * 5)
    assert (budget.budget, budget.system, budget.tools, budget.memory, budget.prompt) == (750, 100, 300, 10, 6)
    assert budget.conversation == 750 - 100 - 300 - 10 - 6


def test_a_budget_that_is_overdrawn_leaves_nothing_for_the_conversation() -> None:
    assert plan(window=100, fraction=0.5, system="s" * 4000, tool_count=0, memory="", prompt="").conversation == 0


def test_reasoning_and_errors_cost_nothing() -> None:
    message = Message("assistant", (ReasoningPart("r" * 400), TextPart("abcde")))
    failed = Message("tool", (ToolResultPart("c", "bash", "x" * 400, is_error=True),))
    assert (estimate([message]), estimate([failed])) == (6, 4)


def test_windows_are_found_by_prefix_and_overridden_by_name() -> None:
    assert context_window("claude-opus-9") == 200_000
    assert context_window("gpt-4.1-mini") == 1_047_576
    assert context_window("unheard-of") == 200_000
    assert context_window("gpt-4o", {"gpt-4o": 5}) == 5


@given(st.lists(st.integers(0, 2000), max_size=8), st.integers(0, 3000))
def test_trimming_fits_and_orphans_no_tool_result(sizes: list[int], budget: int) -> None:
    messages = [message for number, size in enumerate(sizes) for message in exchange(number, size)]
    rest = messages[trim(messages, budget) :]
    calls = {call.tool_call_id for message in rest for call in message.tool_calls}
    results = {part.tool_call_id for message in rest for part in message.content if isinstance(part, ToolResultPart)}
    assert calls == results
    assert bool(rest) == bool(messages)
    assert estimate(rest) <= budget or len([message for message in rest if message.role != "tool"]) <= 1


def test_nothing_is_dropped_that_fits() -> None:
    messages = exchange(1, 10)
    assert trim(messages, estimate(messages)) == 0
