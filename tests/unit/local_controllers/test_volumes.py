"""Which volume a claim gets, and what a provisioned one looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentops.local.controllers.volumes import (
    claims_of,
    default_storage_class,
    match_volume,
    provisioned_volume,
    uses_claim,
    volume_path,
)


def claim(make: Any, size: str = "1Gi", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": make.meta("data"),
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size}},
            "storageClassName": "manual",
            **spec,
        },
    }


def volume(make: Any, name: str, size: str, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": make.meta(name),
        "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "manual", **spec},
        "status": {"phase": "Available"},
    }


def test_the_smallest_volume_that_is_large_enough_wins(make: Any) -> None:
    volumes = [volume(make, "big", "10Gi"), volume(make, "small", "512Mi"), volume(make, "right", "2048Mi")]
    found = match_volume(claim(make), volumes)
    assert found is not None
    assert found["metadata"]["name"] == "right"


def test_a_volume_reserved_for_the_claim_comes_first_and_one_taken_never(make: Any) -> None:
    mine = volume(make, "mine", "5Gi", claimRef={"namespace": "ns", "name": "data"})
    taken = volume(make, "taken", "1Gi", claimRef={"namespace": "ns", "name": "other"})
    found = match_volume(claim(make), [volume(make, "free", "1Gi"), taken, mine])
    assert found is not None
    assert found["metadata"]["name"] == "mine"
    assert match_volume(claim(make), [taken]) is None


def test_a_volume_of_an_earlier_claim_of_that_name_is_not_ours(make: Any) -> None:
    old = volume(make, "old", "1Gi", claimRef={"namespace": "ns", "name": "data", "uid": "earlier"})
    assert match_volume(claim(make), [old]) is None


def test_class_and_access_mode_must_fit(make: Any) -> None:
    wide = claim(make, accessModes=["ReadWriteMany"])
    assert match_volume(wide, [volume(make, "v", "1Gi")]) is None
    other = claim(make, storageClassName="fast")
    assert match_volume(other, [volume(make, "v", "1Gi")]) is None


def test_directories_of_two_claims_of_one_name_differ(make: Any, tmp_path: Path) -> None:
    first, second = volume_path(tmp_path, claim(make)), volume_path(tmp_path, claim(make))
    assert first != second
    assert first.name.startswith("ns-data-")


def test_a_provisioned_volume_is_bound_to_its_claim_by_uid(make: Any, tmp_path: Path) -> None:
    wanted = claim(make, storageClassName="local-path")
    made = provisioned_volume(wanted, default_storage_class(), tmp_path / "x")
    assert made["metadata"]["name"] == f"pvc-{wanted['metadata']['uid']}"
    assert made["spec"]["claimRef"]["uid"] == wanted["metadata"]["uid"]
    assert made["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    assert match_volume(wanted, [made]) is made


def test_a_finished_pod_no_longer_uses_its_claim(make: Any) -> None:
    volumes = [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "scratch", "ephemeral": {}}]
    pod = make.pod("p", spec={"volumes": volumes})
    assert claims_of(pod) == ["data", "p-scratch"]
    assert uses_claim(pod, "data")
    assert not uses_claim(make.pod("p", phase="Failed", spec={"volumes": volumes}), "data")
