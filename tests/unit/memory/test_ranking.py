from __future__ import annotations

from agentops.api.memory import ContextObservation, ContextSession
from agentops.memory.ranking import boosted, estimate_tokens, fit, shorten

DAY_MS = 86_400_000


def reminder(id: int, content: str) -> ContextObservation:
    return ContextObservation(id=id, type="decision", title="t", content=content)


def test_a_fresh_row_ranks_before_an_old_one_that_matches_as_well() -> None:
    assert boosted(-2.0, age_ms=0, uses=1) < boosted(-2.0, age_ms=60 * DAY_MS, uses=1)


def test_an_often_used_row_ranks_before_one_said_once() -> None:
    assert boosted(-2.0, age_ms=0, uses=8) < boosted(-2.0, age_ms=0, uses=1)


def test_boosts_never_beat_a_match_twice_as_good() -> None:
    assert boosted(-2.0, age_ms=10_000 * DAY_MS, uses=1) < boosted(-1.0, age_ms=0, uses=1_000_000)


def test_shortening_counts_characters_not_bytes() -> None:
    assert shorten("ä" * 300) == "ä" * 300
    assert shorten("ä" * 301) == "ä" * 300 + "…"


def test_without_a_budget_everything_fits() -> None:
    context = fit([ContextSession(id="s", summary="x" * 10_000)], [reminder(1, "y" * 300)], None)
    assert len(context.recent_sessions) == len(context.recent_observations) == 1


def test_observations_take_the_budget_before_sessions() -> None:
    rows = [reminder(1, "a" * 100), reminder(2, "b" * 100)]
    budget = estimate_tokens(f"- [decision] t: {'a' * 100}\n") + 5
    context = fit([ContextSession(id="s", summary="long " * 20)], rows, budget)
    assert [row.id for row in context.recent_observations] == [1]
    assert context.recent_sessions == ()


def test_no_budget_at_all_gives_an_empty_context() -> None:
    context = fit([ContextSession(id="s", summary="x")], [reminder(1, "y")], 0)
    assert (context.recent_sessions, context.recent_observations) == ((), ())
