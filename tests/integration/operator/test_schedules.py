"""Schedules: whatever happens to the operator, no run is started twice, out of turn or beside too many others.

`hack/run-schedules N` runs more of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from support import operator_model
from support.operator_model import SCHEDULES, Action, Broken, Schedule, run_schedule

from agentops.api.defaults import max_runs
from agentops.local.apiserver.chaos import Fault
from agentops.operator.queue import Admission, RunView
from agentops.operator.reconcilers import agent_run
from agentops.operator.reconcilers.agent_run import AgentRunReconciler
from agentops.operator.reconcilers.task_runs import TaskRuns
from agentops.operator.run_work import RunWork

EXAMPLES = 25


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck),
          phases=(Phase.generate,))  # fmt: skip
@given(SCHEDULES)
def test_every_schedule_ends_well(schedule: Schedule) -> None:
    run_schedule(schedule)


def busy(policy: str = "queue", *what: str) -> Schedule:
    """Runs of both agents, one after the other, and `what` in between."""
    actions = []
    for number in range(12):
        actions.append(Action("create", number, 0.5))
        if what and number % 3 == 2:
            actions.append(Action(what[number % len(what)], number, 1.0))
    return Schedule(seed=4, policy=policy, max_runs=1, actions=tuple(actions), agents_fail=False)


def fails(schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the model finds; waiting less, as it is lost anyway."""
    monkeypatch.setattr(operator_model, "SETTLE_S", 300.0)
    with pytest.raises(Broken) as found:
        run_schedule(schedule)
    return str(found.value)


@pytest.mark.parametrize("policy", ["queue", "reject", "replace"])
def test_a_schedule_without_faults_ends_well(policy: str) -> None:
    outcome = run_schedule(busy(policy))
    assert outcome.reasons["Succeeded"] >= 2
    assert set(outcome.reasons) <= {"Succeeded", "Failed", "Rejected", "Cancelled"}


def test_a_run_made_anew_waits_for_its_namesake_without_going_round_in_circles() -> None:
    actions = (Action("create", 11, 3.0), Action("renew", 58, 0.05), Action("drop-agent", 94, 0.05))
    fault = (Fault.EXPIRE, "get", "jobs", 0.3)
    run_schedule(Schedule(seed=9691, policy="reject", max_runs=2, actions=actions, faults=(fault,), agents_fail=True))


def test_model_notices_one_run_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_run, "max_runs", lambda agent: max_runs(agent) + 1)
    assert "at a time" in fails(busy(), monkeypatch)


def test_model_notices_a_run_out_of_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def last_first(runs: Iterable[RunView], policy: str, max_runs: int) -> Admission:
        waiting = [run for run in runs if not run.finished]
        if any(run.admitted for run in waiting):
            return Admission()
        return Admission(admit=tuple(sorted((run.name for run in waiting), reverse=True)[:max_runs]))

    monkeypatch.setattr(agent_run, "admit", last_first)
    assert "which came first" in fails(busy(), monkeypatch)


def test_model_notices_a_prompt_that_leaves_without_the_finalizer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hold(self: RunWork, client: Any) -> None:
        return

    monkeypatch.setattr(RunWork, "hold", hold)
    assert "without its finalizer" in fails(busy(), monkeypatch)


def test_model_notices_a_slot_that_nobody_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    async def admit_next(self: AgentRunReconciler, agent_key: tuple[str, str]) -> None:
        return

    monkeypatch.setattr(AgentRunReconciler, "_admit_next", admit_next)
    assert "has not ended" in fails(busy(), monkeypatch)


def test_model_notices_a_task_that_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TaskRuns, "_without_job", TaskRuns._create)
    assert "a second Job" in fails(busy("queue", "lose-job"), monkeypatch)


def test_an_agent_does_not_go_round_in_circles_over_an_object_that_only_its_cache_still_holds() -> None:
    what = (
        "create restart-agent delete forget-agent edit-runs delete stop-operator drop-provider "
        "create create create create cut-watches swap-modes create cut-watches"
    )
    which = (94, 11, 85, 96, 29, 68, 89, 10, 81, 18, 23, 22, 51, 90, 26, 68)
    waits_s = (20.0, 0.0, 20.0, 0.0, 0.5, 0.5, 0.5, 0.0, 0.0, 0.5, 0.05, 0.5, 0.0, 0.05, 0.0, 0.05)
    actions = tuple(Action(*action) for action in zip(what.split(), which, waits_s, strict=True))
    faults = ((Fault.SPLIT, "patch", "agents", 0.05), (Fault.TRUNCATE, "list", "pods", 0.05))
    run_schedule(Schedule(seed=4195568, policy="queue", max_runs=1, actions=actions, faults=faults, agents_fail=True))


def test_a_run_is_not_lost_when_only_the_answer_to_the_write_of_its_pod_is() -> None:
    what, which = "create create cut-watches delete", (4, 95, 44, 32)
    actions = tuple(Action(*action) for action in zip(what.split(), which, (3.0, 3.0, 20.0, 20.0), strict=True))
    faults = (
        (Fault.RESET_BEFORE, "get", "pods", 0.05),
        (Fault.HALF_OPEN, "patch", "agentruns", 0.05),
        (Fault.HALF_OPEN, "create", "agents", 1.0),
    )
    run_schedule(Schedule(1183158, "replace", 2, actions, faults, agents_fail=False))


def test_an_operator_may_finish_the_request_that_a_fault_still_delays() -> None:
    what, which = (
        "edit-label drop-provider forget-agent forget-agent forget-agent forget-agent",
        (81, 65, 52, 52, 52, 52),
    )
    actions = tuple(Action(*action) for action in zip(what.split(), which, (0.05, *[0.0] * 5), strict=True))
    run_schedule(Schedule(18379, "queue", 3, actions, ((Fault.DELAY, "*", "*", 0.05),), agents_fail=False))
