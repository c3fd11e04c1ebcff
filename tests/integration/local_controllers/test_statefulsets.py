"""StatefulSets against the API server; the tests play the kubelet."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from support.plane import ApiPlane, eventually

from agentops.kube.kinds import CONTROLLER_REVISION, EVENT, POD, PVC, STATEFUL_SET

pytestmark = pytest.mark.anyio

STATEFUL = {
    "apiVersion": "apps/v1",
    "kind": "StatefulSet",
    "metadata": {"name": "db", "namespace": "ns"},
    "spec": {
        "serviceName": "db",
        "replicas": 2,
        "selector": {"matchLabels": {"app": "db"}},
        "template": {
            "metadata": {"labels": {"app": "db"}},
            "spec": {
                "containers": [
                    {"name": "c", "image": "agentops:1", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
                ],
                "terminationGracePeriodSeconds": 0,
            },
        },
        "volumeClaimTemplates": [
            {
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            }
        ],
    },
}


async def play(plane: ApiPlane, pods: Any) -> None:
    for pod in await pods():
        if pod.get("status", {}).get("phase") == "Pending":
            await plane.set_pod("ns", pod["metadata"]["name"])


async def test_pods_come_in_order_with_their_claims_and_an_update_replaces_them(plane: ApiPlane, pods: Any) -> None:
    await plane.client.create(STATEFUL_SET, STATEFUL)
    order: list[str] = []

    async def settled() -> Any:
        order.extend(p["metadata"]["name"] for p in await pods() if p["metadata"]["name"] not in order)
        await play(plane, pods)
        current = await plane.client.get(STATEFUL_SET, "db", "ns")
        status = current.get("status", {})
        done = status.get("updatedReplicas") == status.get("readyReplicas") == 2
        return current if done and status["observedGeneration"] == current["metadata"]["generation"] else None

    first = await eventually(settled)
    assert order == ["db-0", "db-1"]
    assert {c["metadata"]["name"] for c in await plane.client.list(PVC, "ns")} == {"data-db-0", "data-db-1"}
    before = {p["metadata"]["uid"] for p in await pods()}
    patch = {"spec": {"template": {"metadata": {"annotations": {"n": "2"}}}}}
    await plane.client.patch(STATEFUL_SET, "db", patch, "ns")
    second = await eventually(settled)
    assert second["status"]["currentRevision"] != first["status"]["currentRevision"]
    assert not before & {p["metadata"]["uid"] for p in await pods()}
    assert len(await plane.client.list(CONTROLLER_REVISION, "ns")) == 2
    await plane.client.delete(STATEFUL_SET, "db", "ns")

    async def gone() -> bool:
        return not await plane.client.list(POD, "ns") and not await plane.client.list(CONTROLLER_REVISION, "ns")

    await eventually(gone)
    assert len(await plane.client.list(PVC, "ns")) == 2, "the claims of a StatefulSet outlive it"


async def test_a_set_that_waits_for_its_pods_to_end_makes_no_new_revisions(plane: ApiPlane, pods: Any) -> None:
    stateful_set = copy.deepcopy(STATEFUL)
    stateful_set["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 30
    made: list[str] = []
    plane.server.store.subscribe("controllerrevisions.apps", lambda event: made.append(event.type))
    await plane.client.create(STATEFUL_SET, stateful_set)
    await eventually(pods)
    await play(plane, pods)
    await plane.client.delete(STATEFUL_SET, "db", "ns", propagation="Foreground")
    await eventually(lambda: "DELETED" in made)
    await plane.client.patch(POD, "db-0", {"metadata": {"annotations": {"wakes": "the controller"}}}, "ns")
    await plane.finish_deletion("ns", "db-0")
    await plane.finish_deletion("ns", "db-1")

    async def gone() -> bool:
        return not await plane.client.list(STATEFUL_SET, "ns")

    await eventually(gone)
    assert made == ["ADDED", "DELETED"]


async def test_old_revisions_go_beyond_the_limit_and_a_recreated_set_takes_its_own_back(
    plane: ApiPlane, pods: Any
) -> None:
    stateful_set = copy.deepcopy(STATEFUL)
    stateful_set["spec"] |= {"replicas": 0, "revisionHistoryLimit": 1}
    await plane.client.create(STATEFUL_SET, stateful_set)
    for number in (1, 2, 3):
        patch = {"spec": {"template": {"metadata": {"annotations": {"n": str(number)}}}}}
        changed = await plane.client.patch(STATEFUL_SET, "db", patch, "ns")
        await eventually(lambda wanted=changed: observed(plane, wanted))

    async def revisions(*numbers: int) -> Any:
        found = await plane.client.list(CONTROLLER_REVISION, "ns")
        return found if sorted(r["revision"] for r in found) == list(numbers) else None

    kept = await eventually(lambda: revisions(3, 4))
    await plane.client.delete(STATEFUL_SET, "db", "ns", propagation="Orphan")
    await eventually(lambda: orphaned(plane))
    again = await plane.client.create(STATEFUL_SET, {**stateful_set, "spec": changed["spec"]})
    await eventually(lambda: observed(plane, again))
    owned = await revisions(3, 4)
    assert {r["metadata"]["name"] for r in owned} == {r["metadata"]["name"] for r in kept}
    assert {r["metadata"]["ownerReferences"][0]["uid"] for r in owned} == {again["metadata"]["uid"]}


async def observed(plane: ApiPlane, wanted: dict[str, Any]) -> bool:
    found = await plane.client.get(STATEFUL_SET, "db", "ns")
    return bool(found["status"].get("observedGeneration") == wanted["metadata"]["generation"])


async def orphaned(plane: ApiPlane) -> bool:
    found = await plane.client.list(CONTROLLER_REVISION, "ns")
    return not await plane.client.list(STATEFUL_SET, "ns") and not any(
        revision["metadata"].get("ownerReferences") for revision in found
    )


async def retaining(plane: ApiPlane, pods: Any, retention: dict[str, str], replicas: int = 2) -> dict[str, Any]:
    """The set with this persistentVolumeClaimRetentionPolicy, all its pods ready."""
    wanted = copy.deepcopy(STATEFUL)
    wanted["spec"] |= {"replicas": replicas, "persistentVolumeClaimRetentionPolicy": retention}
    await plane.client.create(STATEFUL_SET, wanted)

    async def ready() -> dict[str, Any] | None:
        await play(plane, pods)
        current = await plane.client.get(STATEFUL_SET, "db", "ns")
        return current if current.get("status", {}).get("readyReplicas") == replicas else None

    return await eventually(ready)


async def owners(plane: ApiPlane) -> dict[str, list[tuple[str, str]]]:
    """Kind and name of each claim's owners."""
    return {
        c["metadata"]["name"]: [(o["kind"], o["name"]) for o in c["metadata"].get("ownerReferences") or ()]
        for c in await plane.client.list(PVC, "ns")
    }


async def test_each_pod_and_claim_of_a_set_has_an_event_of_its_own(plane: ApiPlane, pods: Any) -> None:
    await retaining(plane, pods, {})

    async def events() -> list[str]:
        found = await plane.client.list(EVENT, "ns", fields="reason=SuccessfulCreate,involvedObject.name=db")
        assert all(e["count"] == 1 and e["firstTimestamp"] == e["lastTimestamp"] for e in found)
        return sorted(e["message"] for e in found) if len(found) == 4 else []

    assert await eventually(events) == [
        "create Claim data-db-0 Pod db-0 in StatefulSet db success",
        "create Claim data-db-1 Pod db-1 in StatefulSet db success",
        "create Pod db-0 in StatefulSet db successful",
        "create Pod db-1 in StatefulSet db successful",
    ]


async def test_the_claims_of_a_set_that_deletes_them_go_with_it(plane: ApiPlane, pods: Any) -> None:
    live = await retaining(plane, pods, {"whenDeleted": "Delete"})
    assert live["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Delete", "whenScaled": "Retain"}
    owned = {"data-db-0": [("StatefulSet", "db")], "data-db-1": [("StatefulSet", "db")]}

    async def all_owned() -> bool:
        return await owners(plane) == owned

    await eventually(all_owned)
    claim = await plane.client.get(PVC, "data-db-0", "ns")
    reference = claim["metadata"]["ownerReferences"][0]
    assert reference["controller"] and reference["blockOwnerDeletion"] and reference["uid"] == live["metadata"]["uid"]
    await plane.client.delete(STATEFUL_SET, "db", "ns")

    async def gone() -> bool:
        return not await plane.client.list(PVC, "ns")

    await eventually(gone)


async def test_a_pod_that_is_scaled_away_takes_its_claim_along(plane: ApiPlane, pods: Any) -> None:
    await retaining(plane, pods, {"whenScaled": "Delete", "whenDeleted": "Retain"})
    assert await owners(plane) == {"data-db-0": [], "data-db-1": []}, "pods that stay own nothing"
    await plane.client.patch(STATEFUL_SET, "db", {"spec": {"replicas": 1}}, "ns")

    async def one_left() -> bool:
        return await owners(plane) == {"data-db-0": []}

    await eventually(one_left)
    await plane.client.patch(STATEFUL_SET, "db", {"spec": {"replicas": 2}}, "ns")

    async def back() -> bool:
        return set(await owners(plane)) == {"data-db-0", "data-db-1"} and len(await pods()) == 2

    await eventually(back)
    await plane.client.delete(STATEFUL_SET, "db", "ns")

    async def gone() -> bool:
        return not await pods()

    await eventually(gone)
    assert len(await plane.client.list(PVC, "ns")) == 2


async def test_a_policy_that_turns_to_retain_takes_the_owners_away(plane: ApiPlane, pods: Any) -> None:
    await retaining(plane, pods, {"whenScaled": "Delete", "whenDeleted": "Delete"}, replicas=1)

    async def owned_by(*wanted: tuple[str, str]) -> bool:
        return await owners(plane) == {"data-db-0": list(wanted)}

    await eventually(lambda: owned_by(("StatefulSet", "db")))
    retain = {"spec": {"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Retain", "whenDeleted": "Retain"}}}
    await plane.client.patch(STATEFUL_SET, "db", retain, "ns")
    await eventually(owned_by)


async def test_a_pod_waits_until_the_claim_of_the_one_before_is_gone(plane: ApiPlane, pods: Any) -> None:
    await retaining(plane, pods, {}, replicas=1)
    claim = await plane.client.get(PVC, "data-db-0", "ns")
    held = {"metadata": {"finalizers": [*claim["metadata"]["finalizers"], "example.com/hold"]}}
    await plane.client.patch(PVC, "data-db-0", held, "ns")
    await plane.client.delete(PVC, "data-db-0", "ns")
    await plane.client.delete(POD, "db-0", "ns")

    async def said() -> bool:
        events = await plane.client.list(EVENT, "ns")
        return any("pvc data-db-0 is being deleted" in e["message"] for e in events)

    await eventually(said)
    assert await pods() == []
    await plane.client.patch(PVC, "data-db-0", {"metadata": {"finalizers": None}}, "ns")

    async def replaced() -> bool:
        fresh = await plane.client.get(PVC, "data-db-0", "ns")
        return len(await pods()) == 1 and fresh["metadata"]["uid"] != claim["metadata"]["uid"]

    await eventually(replaced)
