"""The stateful set's decisions: order of creation, removal and replacement."""

from __future__ import annotations

from typing import Any

import pytest

from agentops.kube.kinds import POD, STATEFUL_SET
from agentops.local.controllers.ordinals import REVISION_LABEL, OrdinalStep, claim_owners, claims_for, plan, pod_for


class World:
    def __init__(self, make: Any, replicas: int = 3, **spec: Any) -> None:
        self.make = make
        self.set = {
            "metadata": make.meta("db"),
            "spec": {
                "replicas": replicas,
                "serviceName": "db",
                "selector": {"matchLabels": {"app": "db"}},
                "template": {"spec": {"containers": []}},
                **spec,
            },
        }
        self.pods: dict[int, dict[str, Any]] = {}
        self.update = "r1"
        self.log: list[str] = []

    def step(self) -> OrdinalStep:
        current = self.set.get("status", {}).get("currentRevision", self.update)
        step = plan(self.set, list(self.pods.values()), current=current, update=self.update, now=self.make.now)
        self.set["status"] = step.status
        for pod in step.deletes:
            ordinal = int(pod["metadata"]["name"][3:])
            del self.pods[ordinal]
            self.log.append(f"-{ordinal}")
        for ordinal in step.create:
            self.pods[ordinal] = self.make.pod(f"db-{ordinal}", ready=False, labels={REVISION_LABEL: self.update})
            self.log.append(f"+{ordinal}")
        return step

    def ready(self, *ordinals: int) -> None:
        for ordinal in ordinals or self.pods:
            self.pods[ordinal]["status"]["conditions"][0]["status"] = "True"

    def settle(self) -> None:
        for _ in range(20):
            self.step()
            self.ready()
        self.log.clear()


def test_pods_start_one_by_one_in_order(make: Any) -> None:
    world = World(make)
    for _ in range(3):
        world.step()
        world.step()
        world.ready()
    assert world.log == ["+0", "+1", "+2"]
    status = world.step().status
    assert (status["replicas"], status["readyReplicas"], status["availableReplicas"]) == (3, 3, 3)
    assert status["currentRevision"] == status["updateRevision"] == "r1"


def test_parallel_starts_all_at_once(make: Any) -> None:
    world = World(make, podManagementPolicy="Parallel")
    world.step()
    assert world.log == ["+0", "+1", "+2"]


def test_scaling_down_removes_the_highest_first_one_by_one(make: Any) -> None:
    world = World(make)
    world.settle()
    world.set["spec"]["replicas"] = 1
    world.step()
    assert world.log == ["-2"]
    world.step()
    assert world.log == ["-2", "-1"]


def test_an_update_goes_from_the_highest_down_and_waits_for_each(make: Any) -> None:
    world = World(make)
    world.settle()
    world.update = "r2"
    world.step()
    world.step()
    world.step()
    assert world.log == ["-2", "+2"]
    assert world.set["status"]["currentRevision"] == "r1"
    world.settle()
    assert {p["metadata"]["labels"][REVISION_LABEL] for p in world.pods.values()} == {"r2"}
    assert world.set["status"]["currentRevision"] == "r2"


def test_partition_keeps_low_ordinals_on_the_old_revision(make: Any) -> None:
    world = World(make, updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 2}})
    world.settle()
    world.update = "r2"
    world.settle()
    revisions = [world.pods[n]["metadata"]["labels"][REVISION_LABEL] for n in range(3)]
    assert revisions == ["r1", "r1", "r2"]


def test_on_delete_replaces_only_what_somebody_deleted(make: Any) -> None:
    world = World(make, updateStrategy={"type": "OnDelete"})
    world.settle()
    world.update = "r2"
    world.step()
    assert world.log == []


def test_a_finished_pod_is_replaced(make: Any) -> None:
    world = World(make)
    world.settle()
    world.pods[1]["status"]["phase"] = "Failed"
    world.step()
    world.step()
    assert world.log == ["-1", "+1"]


@pytest.mark.parametrize("start", [0, 5])
def test_pods_have_stable_names_hosts_and_claims(make: Any, start: int) -> None:
    templates = [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]
    world = World(make, volumeClaimTemplates=templates, ordinals={"start": start})
    assert world.step().create == [start]
    pod = pod_for(world.set, world.set["spec"]["template"], start, "r1", STATEFUL_SET)
    assert (pod["metadata"]["name"], pod["spec"]["hostname"], pod["spec"]["subdomain"]) == (
        f"db-{start}",
        f"db-{start}",
        "db",
    )
    assert pod["spec"]["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": f"data-db-{start}"}}]
    (claim,) = claims_for(world.set, start)
    assert claim["metadata"]["name"] == f"data-db-{start}"


@pytest.mark.parametrize(
    ("scaled", "deleted", "ordinal", "owner"),
    [
        ("Retain", "Retain", 0, ""),
        ("Retain", "Retain", 5, ""),
        ("Retain", "Delete", 0, "db"),
        ("Retain", "Delete", 5, "db"),
        ("Delete", "Retain", 0, ""),
        ("Delete", "Retain", 5, "db-5"),
        ("Delete", "Delete", 0, "db"),
        ("Delete", "Delete", 5, "db-5"),
    ],
)
def test_who_owns_a_claim(make: Any, scaled: str, deleted: str, ordinal: int, owner: str) -> None:
    world = World(make, persistentVolumeClaimRetentionPolicy={"whenScaled": scaled, "whenDeleted": deleted})
    pod = make.pod(f"db-{ordinal}", ready=True)
    other = {"kind": "ConfigMap", "name": "c", "uid": "1"}
    claim = {"metadata": {"ownerReferences": [other]}}
    found = claim_owners(claim, world.set, STATEFUL_SET, pod, POD)
    assert [r["name"] for r in found] == ["c", owner][: 2 if owner else 1]
    settled = {"metadata": {"ownerReferences": found}}
    assert claim_owners(settled, world.set, STATEFUL_SET, pod, POD) == found


def test_a_claim_of_somebody_else_or_of_an_earlier_set_is_left_alone(make: Any) -> None:
    world = World(make, persistentVolumeClaimRetentionPolicy={"whenScaled": "Delete", "whenDeleted": "Delete"})
    pod = make.pod("db-0", ready=True)
    for reference in (
        {"kind": "Backup", "name": "b", "uid": "1", "controller": True},
        {"kind": "StatefulSet", "name": "db", "uid": "an earlier one", "controller": True},
    ):
        claim = {"metadata": {"ownerReferences": [reference]}}
        assert claim_owners(claim, world.set, STATEFUL_SET, pod, POD) == [reference]
