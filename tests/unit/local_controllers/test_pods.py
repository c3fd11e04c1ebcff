"""Reading pods, ordering them for deletion, and making them from a template."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from agentops.kube.kinds import REPLICA_SET
from agentops.local.controllers.pods import (
    available_in_s,
    deletion_order,
    is_active,
    name_of,
    pod_from_template,
    template_hash,
)


def test_available_means_ready_for_long_enough(make: Any) -> None:
    pod = make.pod()
    assert available_in_s(pod, 0, make.now) == 0
    assert available_in_s(pod, 90, make.now) == 30
    assert available_in_s(pod, 90, make.now + timedelta(seconds=31)) == 0
    assert available_in_s(make.pod(ready=False), 0, make.now) is None


def test_finished_and_leaving_pods_are_not_active(make: Any) -> None:
    assert is_active(make.pod())
    assert not is_active(make.pod(deleting=True))
    assert not is_active(make.pod(phase="Succeeded"))


def test_the_pods_that_hurt_least_go_first(make: Any) -> None:
    steady, fresh = make.pod("steady"), make.pod("fresh")
    fresh["status"]["conditions"][0]["lastTransitionTime"] = make.stamp(-1)
    waiting = make.pod("waiting", ready=False)
    pending = make.pod("pending", phase="Pending")
    homeless = make.pod("homeless", phase="Pending", spec={"nodeName": ""})
    cheap = make.pod("cheap", annotations={"controller.kubernetes.io/pod-deletion-cost": "-5"})
    order = [name_of(p) for p in deletion_order([steady, cheap, fresh, waiting, pending, homeless])]
    assert order == ["homeless", "pending", "waiting", "cheap", "fresh", "steady"]


def test_hash_depends_on_content_only_and_is_a_label(make: Any) -> None:
    one = template_hash({"a": 1, "b": [1, 2]})
    assert one == template_hash({"b": [1, 2], "a": 1})
    assert one != template_hash({"a": 1, "b": [1, 2]}, 1)
    assert set(one) <= set("bcdfghjklmnpqrstvwxz2456789")
    assert 0 < len(one) <= 10


def test_pod_from_template_is_controlled_by_its_owner(make: Any) -> None:
    owner = {"metadata": make.meta("web-abc")}
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}
    pod = pod_from_template(template, owner, REPLICA_SET, finalizers=("x/y",))
    assert pod["metadata"]["generateName"] == "web-abc-"
    assert pod["metadata"]["ownerReferences"][0] == {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "web-abc",
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    assert pod["metadata"]["finalizers"] == ["x/y"]
    assert "annotations" not in pod["metadata"]
