"""The status of ResourceQuotas follows what there is."""

from __future__ import annotations

from typing import Any

import pytest
from support.plane import ApiPlane, eventually

from agentops.kube.kinds import CONFIG_MAP, DEPLOYMENT, EVENT, POD, RESOURCE_QUOTA, SERVICE

pytestmark = pytest.mark.anyio


async def make_quota(plane: ApiPlane, **hard: str) -> None:
    named = {name.replace("_", "."): value for name, value in hard.items()}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "rq", "namespace": "ns"}}
    await plane.client.create(RESOURCE_QUOTA, {**quota, "spec": {"hard": named}})


async def used(plane: ApiPlane, **wanted: str) -> None:
    named = {name.replace("_", "."): value for name, value in wanted.items()}

    async def look() -> bool:
        found = await plane.client.get(RESOURCE_QUOTA, "rq", "ns")
        return bool((found.get("status") or {}).get("used") == named)

    await eventually(look)


async def test_the_status_counts_pods_and_what_they_ask_for(plane: ApiPlane) -> None:
    await make_quota(plane, pods="4", requests_cpu="2", limits_memory="1Gi", services="2")
    await used(plane, pods="0", requests_cpu="0", limits_memory="0", services="0")
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "namespace": "ns"},
        "spec": {
            "containers": [
                {"name": "c", "image": "i", "resources": {"requests": {"cpu": "250m"}, "limits": {"memory": "64Mi"}}}
            ]
        },
    }
    await plane.client.create(POD, pod)
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "ns"}}
    await plane.client.create(SERVICE, {**service, "spec": {"ports": [{"port": 80}]}})
    await used(plane, pods="1", requests_cpu="250m", limits_memory="64Mi", services="1")
    await plane.client.delete(POD, "a", "ns", grace_s=0)
    await used(plane, pods="0", requests_cpu="0", limits_memory="0", services="1")


async def test_other_kinds_are_counted_too(plane: ApiPlane) -> None:
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "ns"}}
    await plane.client.create(CONFIG_MAP, config_map)
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "rq", "namespace": "ns"}}
    hard = {"count/configmaps": "5", "count/deployments.apps": "5"}
    await plane.client.create(RESOURCE_QUOTA, {**quota, "spec": {"hard": hard}})

    async def counted() -> bool:
        status = (await plane.client.get(RESOURCE_QUOTA, "rq", "ns")).get("status") or {}
        # The root CA is published to every namespace.
        return bool(status.get("used") in ({"count/configmaps": n, "count/deployments.apps": "0"} for n in ("1", "2")))

    await eventually(counted)


async def test_a_deployment_that_meets_its_quota_says_so(plane: ApiPlane, deployment: dict[str, Any]) -> None:
    await make_quota(plane, pods="1")
    deployment["spec"]["replicas"] = 2
    await plane.client.create(DEPLOYMENT, deployment)
    await used(plane, pods="1")

    async def told() -> bool:
        events = await plane.client.list(EVENT, "ns")
        return any(e["reason"] == "FailedCreate" and "exceeded quota: rq" in e["message"] for e in events)

    await eventually(told)
