"""Deployments and ReplicaSets against the API server; the tests play the kubelet."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from support.plane import ApiPlane, eventually

from agentops.kube.kinds import DEPLOYMENT, EVENT, POD, REPLICA_SET, REPLICATION_CONTROLLER

pytestmark = pytest.mark.anyio


def condition(obj: dict[str, Any], type_: str) -> dict[str, Any]:
    return next((c for c in obj.get("status", {}).get("conditions", ()) if c["type"] == type_), {})


async def run_pods(plane: ApiPlane, pods: Any, *, finish: bool = True) -> None:
    """One round of the kubelet: every waiting pod runs, every leaving one is gone."""
    for pod in await pods():
        name = pod["metadata"]["name"]
        if pod["metadata"].get("deletionTimestamp"):
            if finish:
                await plane.finish_deletion("ns", name)
        elif pod.get("status", {}).get("phase") == "Pending":
            await plane.set_pod("ns", name)


async def until(plane: ApiPlane, pods: Any, check: Any) -> Any:
    """Play the kubelet until the Deployment `web` passes the check."""

    async def look() -> Any:
        await run_pods(plane, pods)
        deployment = await plane.client.get(DEPLOYMENT, "web", "ns")
        return deployment if check(deployment) else None

    return await eventually(look, timeout_s=20)


def complete(deployment: dict[str, Any]) -> bool:
    status = deployment.get("status", {})
    return (
        status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and status.get("replicas")
        == status.get("updatedReplicas")
        == status.get("availableReplicas")
        == deployment["spec"]["replicas"]
        and condition(deployment, "Progressing").get("reason") == "NewReplicaSetAvailable"
    )


async def test_a_deployment_becomes_available_with_the_shape_kubectl_reads(
    plane: ApiPlane, pods: Any, deployment: dict[str, Any]
) -> None:
    await plane.client.create(DEPLOYMENT, deployment)
    done = await until(plane, pods, complete)
    assert condition(done, "Available")["status"] == "True"
    assert done["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
    (replica_set,) = await plane.client.list(REPLICA_SET, "ns")
    digest = replica_set["metadata"]["labels"]["pod-template-hash"]
    assert replica_set["metadata"]["name"] == f"web-{digest}"
    for pod in await pods("app=web"):
        assert pod["metadata"]["name"].startswith(f"web-{digest}-")
        assert pod["metadata"]["labels"]["pod-template-hash"] == digest
        (owner,) = pod["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (replica_set["metadata"]["uid"], True)


async def test_exactly_the_wanted_pods_are_created_and_told_about(
    plane: ApiPlane, pods: Any, deployment: dict[str, Any]
) -> None:
    deployment["spec"]["replicas"] = 9
    await plane.client.create(DEPLOYMENT, deployment)
    await eventually(lambda: _count(pods, 9))
    await anyio.sleep(0.2)
    assert len(await pods()) == 9

    async def told() -> bool:
        events = await plane.client.list(EVENT, "ns")
        created = sum(e.get("count") or 1 for e in events if e["reason"] == "SuccessfulCreate")
        return created == 9 and any(e["reason"] == "ScalingReplicaSet" for e in events)

    await eventually(told)


async def _count(pods: Any, wanted: int) -> bool:
    return len(await pods()) == wanted


async def test_a_rollout_replaces_pods_without_losing_availability(
    plane: ApiPlane, pods: Any, deployment: dict[str, Any]
) -> None:
    await plane.client.create(DEPLOYMENT, deployment)
    await until(plane, pods, complete)
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "agentops:2"}]}}}}
    await plane.client.patch(DEPLOYMENT, "web", patch, "ns", type="strategic")

    def never_short(current: dict[str, Any]) -> bool:
        assert condition(current, "Available")["status"] == "True"
        return complete(current)

    done = await until(plane, pods, never_short)
    assert done["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"
    assert {
        p["spec"]["containers"][0]["image"] for p in await pods() if not p["metadata"].get("deletionTimestamp")
    } == {"agentops:2"}
    sizes = sorted(rs["spec"]["replicas"] for rs in await plane.client.list(REPLICA_SET, "ns"))
    assert sizes == [0, 2]


async def test_recreate_stops_the_old_before_it_starts_the_new(
    plane: ApiPlane, pods: Any, deployment: dict[str, Any]
) -> None:
    deployment["spec"]["strategy"] = {"type": "Recreate"}
    deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 30
    await plane.client.create(DEPLOYMENT, deployment)
    await until(plane, pods, complete)
    patch = {"spec": {"template": {"metadata": {"annotations": {"n": "2"}}}}}
    await plane.client.patch(DEPLOYMENT, "web", patch, "ns")

    async def all_leaving() -> bool:
        return all(p["metadata"].get("deletionTimestamp") for p in await pods())

    await eventually(all_leaving)
    await anyio.sleep(0.2)
    assert len(await plane.client.list(REPLICA_SET, "ns")) == 1, "the new set was created before the old pods ended"
    done = await until(plane, pods, complete)
    assert done["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"


async def test_a_deleted_pod_is_replaced(plane: ApiPlane, pods: Any, deployment: dict[str, Any]) -> None:
    await plane.client.create(DEPLOYMENT, deployment)
    await until(plane, pods, complete)
    victim = (await pods())[0]["metadata"]
    await plane.client.delete(POD, victim["name"], "ns")

    async def replaced() -> bool:
        await run_pods(plane, pods)
        alive = await pods()
        return len(alive) == 2 and victim["uid"] not in {p["metadata"]["uid"] for p in alive}

    await eventually(replaced)


async def test_orphans_are_adopted_and_strangers_let_go(plane: ApiPlane, pods: Any, deployment: dict[str, Any]) -> None:
    await plane.client.create(DEPLOYMENT, deployment)
    await until(plane, pods, complete)
    (replica_set,) = await plane.client.list(REPLICA_SET, "ns")
    stranger = (await pods())[0]["metadata"]["name"]
    await plane.client.patch(POD, stranger, {"metadata": {"labels": {"pod-template-hash": "other"}}}, "ns")

    async def let_go() -> bool:
        return not (await plane.client.get(POD, stranger, "ns"))["metadata"].get("ownerReferences")

    await eventually(let_go)
    await eventually(lambda: _count(pods, 3))
    orphan = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "orphan", "namespace": "ns", "labels": replica_set["spec"]["selector"]["matchLabels"]},
        "spec": deployment["spec"]["template"]["spec"],
    }
    await plane.client.create(POD, orphan)

    async def adopted_or_surplus() -> bool:
        found = [p for p in await pods() if p["metadata"]["name"] != stranger]
        owners = {r["uid"] for p in found for r in p["metadata"].get("ownerReferences", ())}
        return len(found) == 2 and owners == {replica_set["metadata"]["uid"]}

    await eventually(adopted_or_surplus)


async def test_pods_that_are_refused_show_on_the_deployment(
    plane: ApiPlane, pods: Any, deployment: dict[str, Any]
) -> None:
    deployment["spec"]["template"]["spec"]["serviceAccountName"] = "missing"
    await plane.client.create(DEPLOYMENT, deployment)

    async def failing() -> bool:
        current = await plane.client.get(DEPLOYMENT, "web", "ns")
        return "missing" in condition(current, "ReplicaFailure").get("message", "")

    await eventually(failing)


async def test_a_settled_deployment_causes_no_more_writes(
    plane: ApiPlane, pods: Any, deployment: dict[str, Any]
) -> None:
    await plane.client.create(DEPLOYMENT, deployment)
    await until(plane, pods, complete)

    async def quiet() -> bool:
        before = plane.server.store.revision
        await anyio.sleep(0.5)
        return plane.server.store.revision == before

    assert await eventually(quiet)


async def test_deleting_a_deployment_takes_everything_with_it(
    plane: ApiPlane, pods: Any, deployment: dict[str, Any]
) -> None:
    await plane.client.create(DEPLOYMENT, deployment)
    await until(plane, pods, complete)
    await plane.client.delete(DEPLOYMENT, "web", "ns")

    async def gone() -> bool:
        await run_pods(plane, pods)
        return not await plane.client.list(REPLICA_SET, "ns") and not await pods()

    await eventually(gone)


async def test_a_replication_controller_keeps_its_pods(plane: ApiPlane, pods: Any, deployment: dict[str, Any]) -> None:
    spec = {"replicas": 2, "template": deployment["spec"]["template"]}
    body = {"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "old", "namespace": "ns"}}
    await plane.client.create(REPLICATION_CONTROLLER, {**body, "spec": spec})

    async def ready() -> bool:
        await run_pods(plane, pods)
        live = await plane.client.get(REPLICATION_CONTROLLER, "old", "ns")
        return live.get("status", {}).get("availableReplicas") == 2

    await eventually(ready)
    for pod in await pods():
        (owner,) = pod["metadata"]["ownerReferences"]
        assert (owner["apiVersion"], owner["kind"], owner["controller"]) == ("v1", "ReplicationController", True)
    await plane.client.patch(REPLICATION_CONTROLLER, "old", {"spec": {"replicas": 0}}, "ns")

    async def gone() -> bool:
        await run_pods(plane, pods)
        return not await pods()

    await eventually(gone)
    settled = await plane.client.get(REPLICATION_CONTROLLER, "old", "ns")
    assert settled["status"]["observedGeneration"] == 2
