"""PodDisruptionBudgets hold evictions back; the tests play the kubelet."""

from __future__ import annotations

from typing import Any

import pytest
from support.plane import ApiPlane, eventually

from agentops.kube.errors import ApiError
from agentops.kube.kinds import DEPLOYMENT, POD, POD_DISRUPTION_BUDGET

pytestmark = pytest.mark.anyio


def budget(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": "ns"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec},
    }


async def status(plane: ApiPlane, **wanted: int) -> Any:
    """The budget's status, once it has these figures."""

    async def look() -> Any:
        found = (await plane.client.get(POD_DISRUPTION_BUDGET, "web", "ns"))["status"]
        return found if all(found.get(key) == value for key, value in wanted.items()) else None

    return await eventually(look)


async def running(plane: ApiPlane, pods: Any, count: int) -> list[str]:
    async def look() -> Any:
        found = await pods("app=web")
        return found if len(found) == count else None

    names = [pod["metadata"]["name"] for pod in await eventually(look)]
    for name in names:
        await plane.set_pod("ns", name)
    return names


async def evict(plane: ApiPlane, name: str, **options: Any) -> None:
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": "ns"},
        "deleteOptions": options,
    }
    await plane.client.create(POD, body, namespace="ns", name=name, subresource="eviction")


async def test_a_budget_lets_as_many_pods_go_as_it_can_spare(
    plane: ApiPlane, pods: Any, deployment: dict[str, Any]
) -> None:
    deployment["spec"]["replicas"] = 3
    deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 30
    await plane.client.create(DEPLOYMENT, deployment)
    await plane.client.create(POD_DISRUPTION_BUDGET, budget(minAvailable=2))
    one, two, _ = await running(plane, pods, 3)
    counted = await status(plane, disruptionsAllowed=1, currentHealthy=3, desiredHealthy=2, expectedPods=3)
    assert [(c["type"], c["status"], c["reason"]) for c in counted["conditions"]] == [
        ("DisruptionAllowed", "True", "SufficientPods")
    ]
    await evict(plane, one)
    going = await plane.client.get(POD, one, "ns")
    assert going["metadata"]["deletionTimestamp"]
    reasons = {c["type"]: c["reason"] for c in going["status"]["conditions"] if c.get("reason")}
    assert reasons["DisruptionTarget"] == "EvictionByEvictionAPI"
    with pytest.raises(ApiError) as refused:
        await evict(plane, two)
    assert (refused.value.code, refused.value.reason) == (429, "TooManyRequests")
    assert refused.value.message == "Cannot evict pod as it would violate the pod's disruption budget."
    await status(plane, disruptionsAllowed=0, currentHealthy=2)
    with pytest.raises(ApiError, match="disruption budget"):
        await evict(plane, two)


async def test_a_trial_eviction_takes_nothing(plane: ApiPlane, pods: Any, deployment: dict[str, Any]) -> None:
    await plane.client.create(DEPLOYMENT, deployment)
    await plane.client.create(POD_DISRUPTION_BUDGET, budget(maxUnavailable=1))
    one, _ = await running(plane, pods, 2)
    await status(plane, disruptionsAllowed=1, expectedPods=2)
    await evict(plane, one, dryRun=["All"])
    assert not (await plane.client.get(POD, one, "ns"))["metadata"].get("deletionTimestamp")
    assert (await status(plane, disruptionsAllowed=1)).get("disruptedPods") is None


async def test_percentages_count_what_the_owner_wants_and_round_up(
    plane: ApiPlane, pods: Any, deployment: dict[str, Any]
) -> None:
    deployment["spec"]["replicas"] = 3
    await plane.client.create(DEPLOYMENT, deployment)
    await plane.client.create(POD_DISRUPTION_BUDGET, budget(minAvailable="50%"))
    await running(plane, pods, 3)
    await status(plane, expectedPods=3, desiredHealthy=2, disruptionsAllowed=1)


async def test_a_pod_that_counts_for_nothing_may_always_go(
    plane: ApiPlane, pods: Any, deployment: dict[str, Any]
) -> None:
    await plane.client.create(DEPLOYMENT, deployment)
    await plane.client.create(POD_DISRUPTION_BUDGET, budget(minAvailable=2))
    one, two = await running(plane, pods, 2)
    await status(plane, disruptionsAllowed=0, currentHealthy=2)
    with pytest.raises(ApiError, match="disruption budget"):
        await evict(plane, one)
    await plane.set_pod("ns", two, phase="Failed")
    await evict(plane, two)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"minAvailable": 1, "maxUnavailable": 1}, "cannot be both set"),
        ({"minAvailable": "half"}, "spec.minAvailable"),
        ({"maxUnavailable": -1}, "spec.maxUnavailable"),
    ],
)
async def test_a_budget_nobody_could_count_is_refused(plane: ApiPlane, spec: dict[str, Any], field: str) -> None:
    with pytest.raises(ApiError, match=field):
        await plane.client.create(POD_DISRUPTION_BUDGET, budget(**spec))
