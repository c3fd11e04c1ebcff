"""Admission: who starts, who waits, who gives way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentops.operator.queue import RunView, admit


def run(name: str, created: int = 0, **flags: bool) -> RunView:
    return RunView(name=name, created=f"2026-01-01T00:00:{created:02d}Z", **flags)


RUNS = st.lists(
    st.builds(
        RunView,
        name=st.text("abcdefgh", min_size=1, max_size=3),
        created=st.integers(0, 9).map(lambda second: f"2026-01-01T00:00:0{second}Z"),
        admitted=st.booleans(),
        finished=st.booleans(),
        waiting=st.booleans(),
    ),
    unique_by=lambda item: item.name,
    max_size=12,
)


def active(runs: list[RunView]) -> set[str]:
    return {item.name for item in runs if item.admitted and not item.finished}


@given(RUNS, st.sampled_from(["queue", "reject", "replace"]), st.integers(1, 4))
def test_never_more_than_max_runs_are_handed_out(runs: list[RunView], policy: str, max_runs: int) -> None:
    decision = admit(runs, policy, max_runs)
    assert len(active(runs) | set(decision.admit)) <= max(max_runs, len(active(runs)))


@given(RUNS, st.sampled_from(["queue", "reject", "replace"]), st.integers(1, 4))
def test_only_runs_that_wait_are_admitted_or_rejected(runs: list[RunView], policy: str, max_runs: int) -> None:
    decision = admit(runs, policy, max_runs)
    waiting = {item.name for item in runs if item.waiting and not item.admitted and not item.finished}
    assert {*decision.admit, *decision.reject} <= waiting


@given(RUNS, st.sampled_from(["queue", "reject", "replace"]), st.integers(1, 4))
def test_the_decision_does_not_depend_on_the_order_of_the_list(runs: list[RunView], policy: str, max_runs: int) -> None:
    assert admit(runs, policy, max_runs) == admit(list(reversed(runs)), policy, max_runs)


@given(RUNS, st.integers(1, 4))
def test_queue_admits_in_order_of_creation_then_name(runs: list[RunView], max_runs: int) -> None:
    admitted = admit(runs, "queue", max_runs).admit
    waiting = sorted(
        (item for item in runs if item.waiting and not item.admitted and not item.finished), key=lambda r: r.order
    )
    assert admitted == tuple(item.name for item in waiting[: len(admitted)])


def test_runs_of_the_same_second_go_by_name() -> None:
    assert admit([run("b"), run("a")], "queue", 1).admit == ("a",)


def test_a_free_slot_is_left_empty_only_when_nobody_waits() -> None:
    assert admit([run("a", admitted=True, finished=True), run("b")], "queue", 1).admit == ("b",)


def test_lowering_max_runs_takes_no_slot_back() -> None:
    runs = [run("a", 0, admitted=True), run("b", 1, admitted=True), run("c", 2)]
    decision = admit(runs, "queue", 1)
    assert (decision.admit, decision.reject, decision.replace) == ((), (), ())


def test_reject_refuses_who_comes_too_late() -> None:
    decision = admit([run("a", 0), run("b", 1)], "reject", 1)
    assert decision.admit == ("a",)
    assert decision.reject == ("b",)


def test_replace_stops_the_oldest_before_the_newest_is_admitted() -> None:
    decision = admit([run("old", 0, admitted=True), run("new", 1)], "replace", 1)
    assert decision.admit == ()
    assert decision.replace == (("old", "new"),)


def test_replace_lets_the_newest_in_once_the_slot_is_free() -> None:
    decision = admit([run("old", 0, admitted=True, finished=True), run("new", 1)], "replace", 1)
    assert decision.admit == ("new",)


def test_replace_passes_over_waiting_runs_that_a_newer_one_outdates() -> None:
    decision = admit([run("a", 0), run("b", 1)], "replace", 1)
    assert decision.admit == ("b",)
    assert decision.replace == (("a", "b"),)


def test_replace_without_a_newcomer_changes_nothing() -> None:
    runs = [run("a", 0, admitted=True), run("b", 1, admitted=True)]
    assert admit(runs, "replace", 1).replace == ()
