"""pods/resize: what of a pod that runs can still be changed."""

from __future__ import annotations

from typing import Any

import pytest
from support.apiserver import PODS, Api, pod

pytestmark = pytest.mark.anyio


def amounts(cpu: str = "100m", memory: str = "64Mi", **more: str) -> dict[str, Any]:
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": "200m", "memory": "128Mi", **more}}


def change(name: str = "main", **container: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": name, **container}]}}


async def resize(api: Api, body: dict[str, Any]) -> Any:
    made = pod("p", initContainers=[{"name": "init", "image": "agentops:1", "resources": amounts()}])
    made["spec"]["containers"][0]["resources"] = amounts()
    assert (await api.post(PODS, made)).status == 201
    return await api.patch(f"{PODS}/p/resize", body, "strategic")


async def test_cpu_and_memory_of_a_container_change_and_the_generation_with_them(api: Api) -> None:
    reply = await resize(api, change(resources={"requests": {"cpu": "150m"}, "limits": {"memory": "1Gi"}}))
    assert reply.status == 200, reply.message
    assert reply.body["spec"]["containers"][0]["resources"] == {
        "requests": {"cpu": "150m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "1Gi"},
    }  # fmt: skip
    assert reply.body["metadata"]["generation"] == 2
    assert (await api.get(f"{PODS}/p/resize")).body["metadata"]["name"] == "p"
    whole = reply.body
    whole["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "170m"
    assert (await api.put(f"{PODS}/p/resize", whole)).body["metadata"]["generation"] == 3


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (change(image="agentops:2"), "spec: Forbidden: only cpu and memory resources are mutable"),
        (
            change(resources={"limits": {"ephemeral-storage": "1Gi"}}),
            "spec: Forbidden: only cpu and memory resources are mutable",
        ),
        (
            change(resources={"requests": {"memory": None}, "limits": {"memory": None}}),
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
        ),
        (
            change(resources={"requests": {"cpu": "200m", "memory": "128Mi"}}),
            'spec: Invalid value: "Guaranteed": Pod QOS Class may not change as a result of resizing',
        ),
        (
            change(resources={"requests": {"cpu": "2"}}),
            "must be less than or equal to cpu limit of 200m",
        ),
        (
            change("side", image="agentops:1"),
            "spec.containers: Forbidden: containers may not be renamed or reordered on resize",
        ),
        (
            {"spec": {"initContainers": [{"name": "init", "resources": {"requests": {"cpu": "50m"}}}]}},
            "spec.initContainers[0].resources: Forbidden: resources for non-sidecar init containers are immutable",
        ),
    ],
)  # fmt: skip
async def test_nothing_else_changes(api: Api, body: dict[str, Any], refusal: str) -> None:
    # The init container keeps the class Burstable in one case only: there it has to be Guaranteed itself.
    reply = await resize(api, body) if "Guaranteed" not in refusal else await _without_init(api, body)
    assert (reply.status, refusal in reply.message) == (422, True), reply.body


async def _without_init(api: Api, body: dict[str, Any]) -> Any:
    made = pod("p")
    made["spec"]["containers"][0]["resources"] = amounts()
    await api.post(PODS, made)
    return await api.patch(f"{PODS}/p/resize", body, "strategic")


async def test_metadata_stays_and_the_pod_itself_takes_no_resize(api: Api) -> None:
    body = {"metadata": {"labels": {"a": "b"}}, **change(resources={"requests": {"cpu": "150m"}})}
    reply = await resize(api, body)
    assert (reply.status, "labels" in reply.body["metadata"]) == (200, False)
    assert (await api.patch(f"{PODS}/p", change(resources={"requests": {"cpu": "1m"}}), "strategic")).status == 422


async def test_a_resize_asks_quotas_and_ranges(api: Api) -> None:
    quota = {"metadata": {"name": "q"}, "spec": {"hard": {"limits.memory": "256Mi"}}}
    await api.post("/api/v1/namespaces/default/resourcequotas", quota)
    reply = await resize(api, change(resources={"limits": {"memory": "1Gi"}}))
    assert (reply.status, "exceeded quota: q" in reply.message) == (403, True)
    limits = [{"type": "Container", "max": {"cpu": "300m"}}]
    await api.post("/api/v1/namespaces/default/limitranges", {"metadata": {"name": "r"}, "spec": {"limits": limits}})
    reply = await api.patch(f"{PODS}/p/resize", change(resources={"limits": {"cpu": "400m"}}), "strategic")
    assert (reply.status, "maximum cpu usage per Container is 300m" in reply.message) == (403, True)


async def test_discovery_names_it(api: Api) -> None:
    found = {r["name"]: r for r in (await api.get("/api/v1")).body["resources"]}
    assert (found["pods/resize"]["kind"], found["pods/resize"]["verbs"]) == ("Pod", ["get", "patch", "update"])
