"""The deployment rollout: arithmetic, invariants under any timing, revisions, conditions."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentops.kube.kinds import DEPLOYMENT
from agentops.local.controllers.pods import annotations_of, name_of, uid_of
from agentops.local.controllers.rollout import (
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    REVISION,
    Step,
    fenceposts,
    find_new,
    max_unavailable,
    plan,
    replicas_of,
    shares,
)


class World:
    """A cluster in a list: applies steps, and lets replica sets grow and become ready a little at a time."""

    def __init__(self, deployment: dict[str, Any], now: Any) -> None:
        self.deployment = deployment
        self.sets: list[dict[str, Any]] = []
        self.now = now
        self.uids = 0

    def step(self, **more: Any) -> Step:
        self.now += timedelta(seconds=1)
        step = plan(self.deployment, self.sets, kind=DEPLOYMENT, now=self.now, **more)
        if step.create is not None:
            self.uids += 1
            step.create["metadata"] |= {
                "uid": f"rs-{self.uids}",
                "generation": 1,
                "creationTimestamp": self.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            step.create["status"] = {"observedGeneration": 1}
            self.sets.append(step.create)
        for change in step.changes:
            for rs in self.sets:
                if uid_of(rs) == uid_of(change.replica_set):
                    if change.replicas is not None:
                        rs["spec"]["replicas"] = change.replicas
                    if change.min_ready_s is not None:
                        rs["spec"]["minReadySeconds"] = change.min_ready_s
                    rs["metadata"].setdefault("annotations", {}).update(change.annotations)
        gone = {uid_of(rs) for rs in step.deletes}
        self.sets = [rs for rs in self.sets if uid_of(rs) not in gone]
        self.deployment["metadata"].setdefault("annotations", {}).update(step.annotations)
        self.deployment["status"] = step.status
        return step

    def grow(self, rs: dict[str, Any], *, ready: bool = True) -> None:
        """The replica set controller and the kubelet catch up with one set."""
        size = replicas_of(rs)
        ready_now = size if ready else min(size, rs["status"].get("readyReplicas", 0))
        rs["status"] = {
            "replicas": size,
            "readyReplicas": ready_now,
            "availableReplicas": ready_now,
            "observedGeneration": 1,
        }

    def settle(self, rounds: int = 60) -> None:
        for _ in range(rounds):
            self.step()
            for rs in self.sets:
                self.grow(rs)

    def roll(self, image: str) -> None:
        self.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = image
        self.deployment["metadata"]["generation"] += 1

    def condition(self, type_: str) -> dict[str, Any]:
        return next(c for c in self.deployment["status"]["conditions"] if c["type"] == type_)

    def sizes(self) -> list[int]:
        return [replicas_of(rs) for rs in self.sets]


@pytest.fixture
def world(make: Any) -> World:
    return World(make.deployment(3), make.now)


def test_first_step_creates_one_replica_set_of_full_size_named_after_the_template(world: World) -> None:
    step = world.step()
    assert step.create is not None
    digest = step.create["metadata"]["labels"]["pod-template-hash"]
    assert name_of(step.create) == f"web-{digest}"
    assert step.create["spec"]["selector"]["matchLabels"] == {"app": "web", "pod-template-hash": digest}
    assert step.create["spec"]["template"]["metadata"]["labels"]["pod-template-hash"] == digest
    assert replicas_of(step.create) == 3
    notes = annotations_of(step.create)
    assert (notes[DESIRED_REPLICAS], notes[MAX_REPLICAS], notes[REVISION]) == ("3", "4", "1")
    assert step.annotations == {REVISION: "1"}
    assert world.condition("Progressing")["reason"] == "NewReplicaSetCreated"
    assert world.condition("Available")["status"] == "False"


def test_rollout_ends_complete_with_one_set_of_full_size(world: World) -> None:
    world.settle(5)
    status = world.deployment["status"]
    assert {k: status[k] for k in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")} == {
        "replicas": 3,
        "updatedReplicas": 3,
        "readyReplicas": 3,
        "availableReplicas": 3,
    }
    assert "unavailableReplicas" not in status
    assert world.condition("Progressing")["reason"] == "NewReplicaSetAvailable"
    assert world.condition("Available")["reason"] == "MinimumReplicasAvailable"


def test_nothing_is_left_to_write_once_complete(world: World) -> None:
    world.settle(5)
    before = world.deployment["status"]
    step = world.step()
    assert (step.create, step.changes, step.deletes, step.annotations) == (None, [], [], {})
    assert step.status == before


def test_a_changed_template_rolls_and_keeps_the_old_set_at_zero(world: World) -> None:
    world.settle(5)
    world.roll("a:2")
    world.settle()
    assert world.sizes() == [0, 3]
    assert [annotations_of(rs)[REVISION] for rs in world.sets] == ["1", "2"]
    assert world.deployment["metadata"]["annotations"][REVISION] == "2"
    assert (
        world.condition("Progressing")["message"]
        == f'ReplicaSet "{name_of(world.sets[1])}" has successfully progressed.'
    )


def test_undo_makes_the_old_set_current_under_a_new_revision(world: World) -> None:
    world.settle(5)
    world.roll("a:2")
    world.settle()
    world.roll("a:1")
    world.settle()
    assert world.sizes() == [3, 0]
    assert [annotations_of(rs)[REVISION] for rs in world.sets] == ["3", "2"]
    assert annotations_of(world.sets[0])["deployment.kubernetes.io/revision-history"] == "1"
    assert world.deployment["metadata"]["annotations"][REVISION] == "3"


def test_change_cause_travels_to_the_replica_set(world: World) -> None:
    world.deployment["metadata"]["annotations"] = {
        "kubernetes.io/change-cause": "first",
        "deployment.kubernetes.io/revision": "9",
    }
    step = world.step()
    assert step.create is not None
    assert annotations_of(step.create)["kubernetes.io/change-cause"] == "first"
    assert annotations_of(step.create)[REVISION] == "1"


def test_a_broken_image_never_takes_availability_below_the_bound(world: World) -> None:
    world.settle(5)
    world.roll("broken")
    for _ in range(10):
        world.step()
        for rs in world.sets:
            world.grow(rs, ready=rs is not world.sets[-1])
    assert world.sizes() == [3, 1]
    assert world.condition("Available")["status"] == "True"


def test_progress_deadline_is_reported_and_requeued_for(world: World) -> None:
    world.deployment["spec"]["progressDeadlineSeconds"] = 30
    world.step()
    step = world.step()
    assert step.requeue_after_s is not None
    assert 25 < step.requeue_after_s <= 30
    world.now += timedelta(seconds=31)
    world.step()
    condition = world.condition("Progressing")
    assert (condition["status"], condition["reason"]) == ("False", "ProgressDeadlineExceeded")
    for rs in world.sets:
        world.grow(rs)
    world.step()
    assert world.condition("Progressing")["reason"] == "NewReplicaSetAvailable"


def test_scaling_a_finished_rollout_resizes_its_set_and_keeps_the_condition(world: World) -> None:
    world.settle(5)
    world.deployment["spec"]["replicas"] = 5
    world.step()
    assert world.sizes() == [5]
    assert annotations_of(world.sets[0])[DESIRED_REPLICAS] == "5"
    world.settle(3)
    assert world.condition("Progressing")["reason"] == "NewReplicaSetAvailable"
    assert world.deployment["status"]["readyReplicas"] == 5


def test_scaling_amid_a_rollout_shares_the_pods_in_proportion(world: World) -> None:
    world.deployment["spec"]["replicas"] = 10
    world.settle(5)
    world.roll("broken")
    for _ in range(4):
        world.step()
        for rs in world.sets:
            world.grow(rs, ready=rs is not world.sets[-1])
    assert world.sizes() == [8, 5]
    world.deployment["spec"]["replicas"] = 20
    world.step()
    assert sum(world.sizes()) == 25
    assert world.sizes()[0] > world.sizes()[1] > 5


def test_scale_to_zero_is_complete_at_zero(world: World) -> None:
    world.settle(5)
    world.deployment["spec"]["replicas"] = 0
    world.settle(4)
    assert world.sizes() == [0]
    assert "replicas" not in world.deployment["status"]
    assert world.condition("Available")["status"] == "True"


def test_paused_deployment_scales_but_does_not_roll(world: World) -> None:
    world.settle(5)
    world.deployment["spec"]["paused"] = True
    world.roll("a:2")
    world.deployment["spec"]["replicas"] = 4
    world.settle(4)
    assert world.sizes() == [4]
    assert world.condition("Progressing")["reason"] == "DeploymentPaused"
    del world.deployment["spec"]["paused"]
    world.settle()
    assert world.sizes() == [0, 4]
    assert world.condition("Progressing")["reason"] == "NewReplicaSetAvailable"


def test_recreate_waits_for_the_old_pods_to_be_gone(world: World) -> None:
    world.deployment["spec"]["strategy"] = {"type": "Recreate"}
    world.settle(5)
    world.roll("a:2")
    world.step(old_pods_running=True)
    assert world.sizes() == [0]
    assert world.step(old_pods_running=True).create is None
    step = world.step(old_pods_running=False)
    assert step.create is not None
    assert replicas_of(step.create) == 3


def test_history_beyond_the_limit_is_deleted_oldest_first(world: World) -> None:
    world.deployment["spec"]["revisionHistoryLimit"] = 2
    for n in range(1, 6):
        world.roll(f"a:{n}")
        world.settle()
    assert [annotations_of(rs)[REVISION] for rs in world.sets] == ["3", "4", "5"]


def test_min_ready_seconds_reach_the_current_set_without_a_rollout(world: World) -> None:
    world.settle(5)
    world.deployment["spec"]["minReadySeconds"] = 30
    world.step()
    assert [rs["spec"]["minReadySeconds"] for rs in world.sets] == [30]
    assert world.step().changes == []


def test_a_restart_annotation_is_another_template(world: World) -> None:
    world.settle(5)
    world.deployment["spec"]["template"]["metadata"]["annotations"] = {"kubectl.kubernetes.io/restartedAt": "now"}
    assert find_new(world.deployment, world.sets) is None
    world.settle()
    assert world.sizes() == [0, 3]


def test_a_replica_set_that_cannot_create_pods_surfaces_on_the_deployment(world: World) -> None:
    world.step()
    world.sets[0]["status"]["conditions"] = [
        {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "forbidden"}
    ]
    world.step()
    assert world.condition("ReplicaFailure")["message"] == "forbidden"
    world.grow(world.sets[0])
    world.step()
    assert all(c["type"] != "ReplicaFailure" for c in world.deployment["status"]["conditions"])


@pytest.mark.parametrize(
    ("surge", "unavailable", "replicas", "expected"),
    [
        ("25%", "25%", 3, (1, 0)),
        ("25%", "25%", 10, (3, 2)),
        (0, 0, 5, (0, 1)),
        ("0%", "1%", 5, (0, 1)),
        (2, 1, 5, (2, 1)),
    ],
)
def test_fenceposts_round_surge_up_and_unavailable_down(
    make: Any, surge: Any, unavailable: Any, replicas: int, expected: tuple[int, int]
) -> None:
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    deployment = make.deployment(replicas, strategy={"type": "RollingUpdate", "rollingUpdate": rolling})
    assert fenceposts(deployment) == expected


@given(
    seed=st.integers(0, 2**32),
    replicas=st.integers(0, 12),
    surge=st.one_of(st.integers(0, 4), st.sampled_from(["0%", "25%", "100%"])),
    unavailable=st.one_of(st.integers(0, 4), st.sampled_from(["0%", "25%", "100%"])),
)
@settings(max_examples=60, deadline=None)
def test_any_rollout_stays_inside_its_bounds_and_ends(
    seed: int, replicas: int, surge: int | str, unavailable: int | str
) -> None:
    rng = random.Random(seed)
    deployment = {
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "a"}]}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
        },
    }
    from datetime import UTC, datetime

    world = World(deployment, datetime(2026, 1, 1, tzinfo=UTC))
    world.settle()
    world.roll("b")
    most, least = replicas + fenceposts(deployment)[0], replicas - max_unavailable(deployment)
    for _ in range(200):
        world.step()
        assert sum(world.sizes()) <= most, "more pods than replicas + maxSurge"
        alive = sum(min(rs["status"].get("availableReplicas", 0), replicas_of(rs)) for rs in world.sets)
        assert alive >= least, "fewer available pods than replicas - maxUnavailable"
        for rs in world.sets:
            if rng.random() < 0.7:
                world.grow(rs, ready=rng.random() < 0.6)
    world.settle()
    assert world.sizes()[-1] == replicas
    assert sum(world.sizes()) == replicas


@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=6), target=st.integers(0, 300))
def test_shares_add_up_and_never_go_negative(sizes: list[int], target: int) -> None:
    delta = target - sum(sizes)
    result = shares(sizes, delta)
    assert min(result) >= 0
    assert sum(result) == (target if sum(sizes) else 0)
