"""The job controller's decisions: exactly-once counting, ends, backoff, deadline, suspension, indexes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentops.local.controllers.jobs import (
    INDEX_ANNOTATION,
    INDEX_FAILURES,
    TRACKING_FINALIZER,
    JobStep,
    backoff_in_s,
    finished_at,
    format_indexes,
    is_job_finished,
    parse_indexes,
    plan,
)
from agentops.local.controllers.pods import uid_of


class World:
    """A Job, its pods and a controller that may crash after any single write."""

    def __init__(self, make: Any, **spec: Any) -> None:
        self.make = make
        self.job = make.job(**spec)
        self.pods: list[dict[str, Any]] = []
        self.now = make.now
        self.created = 0
        self.events: list[str] = []

    def step(self, *, crash_after_status: bool = False, crash_after_release: bool = False) -> JobStep:
        step = plan(self.job, self.pods, now=self.now)
        self.job["status"] = step.status
        self.events += [reason for _, reason, _ in step.events]
        if crash_after_status:
            return step
        released = {uid_of(p) for p in step.release}
        for pod in self.pods:
            if uid_of(pod) in released:
                pod["metadata"]["finalizers"] = []
        if crash_after_release:
            return step
        for pod in step.deletes:
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
        self._collect()
        for index in step.create:
            self.created += 1
            annotations = {} if index is None else {INDEX_ANNOTATION: str(index)}
            if index in step.failures:
                annotations[INDEX_FAILURES] = str(step.failures[index])
            self.pods.append(
                self.make.pod(
                    f"p{self.created}",
                    phase="Pending",
                    ready=False,
                    finalizers=(TRACKING_FINALIZER,),
                    annotations=annotations,
                )
            )
        return step

    def _collect(self) -> None:
        self.pods = [
            p for p in self.pods if not p["metadata"].get("deletionTimestamp") or p["metadata"].get("finalizers")
        ]

    def end(self, phase: str, pod: int = -1) -> None:
        target = [p for p in self.pods if p["status"]["phase"] in ("Pending", "Running")][pod]
        target["status"]["phase"] = phase
        stamp = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        target["status"]["containerStatuses"] = [
            {"state": {"terminated": {"exitCode": int(phase == "Failed"), "finishedAt": stamp}}}
        ]

    def conditions(self) -> list[str]:
        return [c["type"] for c in self.job["status"].get("conditions", ()) if c["status"] == "True"]


def test_a_job_creates_its_pod_and_says_so(make: Any) -> None:
    world = World(make)
    step = world.step()
    assert step.create == [None]
    assert world.job["status"]["active"] == 1
    assert world.job["status"]["startTime"] == "2026-01-01T12:00:00Z"
    assert world.step().create == []


def test_success_is_announced_before_it_is_final(make: Any) -> None:
    world = World(make)
    world.step()
    world.end("Succeeded")
    world.step()
    assert world.conditions() == ["SuccessCriteriaMet"]
    world.step()
    assert world.conditions() == ["SuccessCriteriaMet", "Complete"]
    status = world.job["status"]
    assert status["succeeded"] == 1
    assert status["completionTime"] == "2026-01-01T12:00:00Z"
    assert status["uncountedTerminatedPods"] == {}
    assert "active" not in status
    assert status["conditions"][1]["reason"] == "CompletionsReached"
    assert world.events == ["Completed"]


@pytest.mark.parametrize("crash", ["crash_after_status", "crash_after_release"])
def test_a_crash_between_the_writes_counts_each_pod_once(make: Any, crash: str) -> None:
    world = World(make, completions=3, parallelism=3)
    world.step()
    for _ in range(3):
        world.end("Succeeded")
        world.step(**{crash: True})
    world.step()
    world.step()
    assert world.job["status"]["succeeded"] == 3
    assert is_job_finished(world.job)


def test_a_finished_pod_that_vanishes_after_being_listed_still_counts(make: Any) -> None:
    world = World(make, completions=2, parallelism=2)
    world.step()
    world.end("Succeeded")
    world.step()
    world.pods = [p for p in world.pods if p["status"]["phase"] != "Succeeded"]
    world.step()
    assert world.job["status"]["succeeded"] == 1


def test_backoff_limit_ends_the_job_failed_with_both_conditions(make: Any) -> None:
    world = World(make, backoffLimit=0)
    world.step()
    world.end("Failed")
    world.step()
    assert world.conditions() == ["FailureTarget"]
    world.step()
    assert world.conditions() == ["FailureTarget", "Failed"]
    assert world.job["status"]["conditions"][1]["reason"] == "BackoffLimitExceeded"
    assert world.job["status"]["failed"] == 1
    assert "completionTime" not in world.job["status"]
    assert finished_at(world.job) == make.now


def test_failures_are_retried_with_a_growing_pause(make: Any) -> None:
    world = World(make, backoffLimit=6)
    world.step()
    for expected in (10, 20, 40):
        world.end("Failed")
        world.step()
        step = world.step()
        assert step.create == []
        assert step.requeue_after_s == expected
        world.now += timedelta(seconds=expected)
        assert world.step().create == [None]


def test_backoff_is_capped_at_six_minutes_and_reset_by_success(make: Any) -> None:
    failed = []
    for n in range(12):
        pod = make.pod(f"f{n}", phase="Failed")
        pod["status"]["containerStatuses"] = [{"state": {"terminated": {"finishedAt": make.stamp(n)}}}]
        failed.append(pod)
    assert backoff_in_s(failed, make.now + timedelta(seconds=11)) == 360
    done = make.pod("done", phase="Succeeded")
    done["status"]["containerStatuses"] = [{"state": {"terminated": {"finishedAt": make.stamp(20)}}}]
    assert backoff_in_s([*failed, done], make.now) == 0
    assert backoff_in_s(failed, make.now + timedelta(seconds=11), 0.1) == pytest.approx(36)


def test_deadline_deletes_the_pods_and_fails_the_job(make: Any) -> None:
    world = World(make, activeDeadlineSeconds=60)
    world.step()
    assert world.step().requeue_after_s == pytest.approx(60.05)
    world.now += timedelta(seconds=60)
    step = world.step()
    assert len(step.deletes) == 1
    assert world.conditions() == ["FailureTarget"]
    assert world.job["status"]["conditions"][0]["reason"] == "DeadlineExceeded"
    world.step()
    world.step()
    assert world.conditions() == ["FailureTarget", "Failed"]
    assert world.job["status"]["failed"] == 1
    assert world.pods == []


def test_only_as_many_pods_run_as_completions_are_missing(make: Any) -> None:
    world = World(make, completions=5, parallelism=3)
    assert len(world.step().create) == 3
    world.end("Succeeded")
    world.end("Succeeded")
    world.step()
    assert len([p for p in world.pods if p["status"]["phase"] == "Pending"]) == 3
    world.end("Succeeded")
    world.step()
    assert len([p for p in world.pods if p["status"]["phase"] == "Pending"]) == 2


def test_a_work_queue_job_ends_when_one_succeeded_and_all_stopped(make: Any) -> None:
    world = World(make, completions=None, parallelism=2)
    world.step()
    world.end("Succeeded")
    world.step()
    assert world.conditions() == []
    world.end("Succeeded")
    world.step()
    world.step()
    assert "Complete" in world.conditions()
    assert world.job["status"]["succeeded"] == 2


def test_suspending_removes_pods_without_counting_them_as_failed(make: Any) -> None:
    world = World(make)
    world.step()
    world.job["spec"]["suspend"] = True
    world.step()
    world.step()
    assert world.pods == []
    assert world.conditions() == ["Suspended"]
    assert "startTime" not in world.job["status"]
    assert "failed" not in world.job["status"]
    world.job["spec"]["suspend"] = False
    assert world.step().create == [None]
    assert world.conditions() == []
    assert world.events == ["Suspended", "Resumed"]


def test_a_pod_deleted_by_someone_is_replaced_and_counts_as_failed(make: Any) -> None:
    world = World(make)
    world.step()
    world.pods[0]["metadata"]["deletionTimestamp"] = make.stamp()
    world.step()
    world.step()
    assert world.job["status"]["failed"] == 1
    assert world.created == 2


def test_deleting_the_job_lets_go_of_every_pod(make: Any) -> None:
    world = World(make)
    world.step()
    world.job["metadata"]["deletionTimestamp"] = make.stamp()
    assert len(world.step().release) == 1


def test_in_place_restarts_count_against_the_limit(make: Any) -> None:
    world = World(make, backoffLimit=2, template={"spec": {"restartPolicy": "OnFailure"}})
    world.step()
    world.pods[0]["status"] |= {"phase": "Running", "containerStatuses": [{"restartCount": 2}]}
    world.step()
    assert world.job["status"]["conditions"][0]["reason"] == "BackoffLimitExceeded"


def test_pod_failure_policy_fails_the_job_at_once(make: Any) -> None:
    policy = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}]}
    world = World(make, podFailurePolicy=policy)
    world.step()
    world.end("Failed")
    world.step()
    assert world.job["status"]["conditions"][0]["reason"] == "PodFailurePolicy"


def test_indexed_job_runs_each_index_once(make: Any) -> None:
    world = World(make, completionMode="Indexed", completions=4, parallelism=2)
    assert world.step().create == [0, 1]
    world.end("Succeeded", 0)
    assert world.step().create == [2]
    assert world.job["status"]["completedIndexes"] == "0"
    for _ in range(6):
        if any(p["status"]["phase"] == "Pending" for p in world.pods):
            world.end("Succeeded", 0)
        world.step()
    assert world.job["status"]["completedIndexes"] == "0-3"
    assert "Complete" in world.conditions()
    assert world.created == 4


def test_a_step_without_news_changes_nothing(make: Any) -> None:
    world = World(make)
    world.step()
    before = world.job["status"]
    step = plan(world.job, world.pods, now=make.now)
    assert (step.create, step.deletes, step.release, step.events) == ([], [], [], [])
    assert step.status == before


@given(st.sets(st.integers(0, 40)))
def test_index_lists_read_back_as_written(indexes: set[int]) -> None:
    assert parse_indexes(format_indexes(indexes)) == indexes


def test_a_failure_the_policy_ignores_is_made_good_and_keeps_no_job_from_ending(make: Any) -> None:
    rule = {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [1]}}
    world = World(make, backoffLimit=0, podFailurePolicy={"rules": [rule]})
    world.step()
    world.end("Failed")
    world.step()
    world.now += timedelta(seconds=11)
    world.step()
    assert world.created == 2
    world.end("Succeeded")
    for _ in range(3):
        world.step()
    assert world.conditions() == ["SuccessCriteriaMet", "Complete"]
    assert "failed" not in world.job["status"]
    assert all(not p["metadata"]["finalizers"] for p in world.pods)


def indexed(make: Any, completions: int, **spec: Any) -> World:
    return World(make, completionMode="Indexed", completions=completions, parallelism=completions, **spec)


def test_each_index_has_a_backoff_limit_of_its_own(make: Any) -> None:
    world = indexed(make, 2, backoffLimit=2**31 - 1, backoffLimitPerIndex=1)
    world.step()
    world.end("Succeeded", 1)
    for wait_s in (11, 21):
        world.end("Failed", 0)
        world.step()
        world.now += timedelta(seconds=wait_s)
        world.step()
    for _ in range(2):
        world.step()
    status = world.job["status"]
    assert world.created == 3, "the failing index is tried once more, the other not at all"
    assert (status["failedIndexes"], status["completedIndexes"], status["failed"]) == ("0", "1", 2)
    assert world.conditions() == ["FailureTarget", "Failed"]
    assert status["conditions"][-1]["reason"] == "FailedIndexes"


def test_an_index_that_fails_leaves_the_others_their_turn(make: Any) -> None:
    world = indexed(make, 2, backoffLimit=2**31 - 1, backoffLimitPerIndex=3)
    world.step()
    world.end("Failed", 0)
    world.end("Failed", 0)
    world.step()
    world.now += timedelta(seconds=11)
    assert world.step().create == [0, 1]
    world.end("Failed", 0)
    world.step()
    world.now += timedelta(seconds=11)
    step = world.step()
    assert step.create == [], "its second pause is twice as long"
    assert step.requeue_after_s is not None
    assert 8 < step.requeue_after_s < 10


def test_more_failed_indexes_than_allowed_end_the_job(make: Any) -> None:
    world = indexed(make, 3, backoffLimit=2**31 - 1, backoffLimitPerIndex=0, maxFailedIndexes=0)
    world.step()
    world.end("Failed", 2)
    for _ in range(3):
        world.step()
    assert world.job["status"]["conditions"][-1]["reason"] == "MaxFailedIndexesExceeded"


@pytest.mark.parametrize(
    "rule", [{"succeededIndexes": "0"}, {"succeededCount": 1}, {"succeededIndexes": "0-1", "succeededCount": 1}]
)
def test_a_success_policy_ends_the_job_early(make: Any, rule: dict[str, Any]) -> None:
    world = indexed(make, 3, successPolicy={"rules": [{"succeededIndexes": "2"}, rule]})
    world.step()
    world.end("Succeeded", 0)
    assert len(world.step().deletes) == 2
    for pod in world.pods:
        if pod["metadata"].get("deletionTimestamp"):
            pod["status"]["phase"] = "Failed"
    for _ in range(3):
        world.step()
    assert world.conditions() == ["SuccessCriteriaMet", "Complete"]
    assert world.job["status"]["conditions"][-1]["reason"] == "SuccessPolicy"
    assert world.job["status"]["conditions"][-1]["message"] == "Matched rules at index 1"
