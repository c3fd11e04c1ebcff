"""ResourceQuotas and LimitRanges: what they refuse, in kube-apiserver's words, and what they fill in."""

from __future__ import annotations

from typing import Any

import pytest
from support.apiserver import PODS, Api, pod

pytestmark = pytest.mark.anyio

NS = "/api/v1/namespaces/default"


async def quota(api: Api, hard: dict[str, str], name: str = "rq", **spec: Any) -> None:
    reply = await api.post(f"{NS}/resourcequotas", {"metadata": {"name": name}, "spec": {"hard": hard, **spec}})
    assert reply.status == 201, reply.body


async def limits(api: Api, **item: Any) -> None:
    reply = await api.post(f"{NS}/limitranges", {"metadata": {"name": "lr"}, "spec": {"limits": [item]}})
    assert reply.status == 201, reply.body


def asking(name: str, requests: dict[str, str] | None = None, limits: dict[str, str] | None = None, **spec: Any) -> Any:
    made = pod(name, **spec)
    resources = {key: value for key, value in (("requests", requests), ("limits", limits)) if value}
    made["spec"]["containers"][0]["resources"] = resources
    return made


async def test_a_pod_more_than_the_quota_has_is_refused(api: Api) -> None:
    await quota(api, {"pods": "1"})
    assert (await api.post(PODS, pod("a"))).status == 201
    reply = await api.post(PODS, pod("b"))
    assert (reply.status, reply.reason) == (403, "Forbidden")
    assert reply.message == (
        'pods "b" is forbidden: exceeded quota: rq, requested: pods=1, used: pods=1, limited: pods=1'
    )


async def test_a_pod_that_is_over_makes_room(api: Api) -> None:
    await quota(api, {"pods": "1"})
    await api.post(PODS, pod("a"))
    await api.patch(f"{PODS}/a/status", {"status": {"phase": "Succeeded"}})
    assert (await api.post(PODS, pod("b"))).status == 201


async def test_what_pods_ask_for_is_added_up_and_every_excess_is_named(api: Api) -> None:
    await quota(api, {"requests.cpu": "1", "limits.memory": "1Gi", "pods": "9"})
    assert (await api.post(PODS, asking("a", {"cpu": "600m"}, {"memory": "512Mi"}))).status == 201
    reply = await api.post(PODS, asking("b", {"cpu": "0.5"}, {"memory": "600Mi"}))
    assert reply.message == (
        'pods "b" is forbidden: exceeded quota: rq, requested: limits.memory=600Mi,requests.cpu=500m, '
        "used: limits.memory=512Mi,requests.cpu=600m, limited: limits.memory=1Gi,requests.cpu=1"
    )
    assert (await api.post(PODS, asking("b", {"cpu": "400m"}, {"memory": "512Mi"}))).status == 201


async def test_a_pod_that_does_not_say_what_the_quota_counts_is_refused(api: Api) -> None:
    await quota(api, {"cpu": "1", "limits.memory": "1Gi"})
    reply = await api.post(PODS, pod("a"))
    assert reply.message == (
        'pods "a" is forbidden: failed quota: rq: must specify cpu for: main; limits.memory for: main'
    )


@pytest.mark.parametrize(
    ("spec", "made", "status"),
    [
        ({"scopes": ["BestEffort"]}, pod("x"), 403),
        ({"scopes": ["BestEffort"]}, asking("x", {"cpu": "1"}), 201),
        ({"scopes": ["NotBestEffort"]}, pod("x"), 201),
        ({"scopes": ["Terminating"]}, pod("x", activeDeadlineSeconds=5), 403),
        ({"scopes": ["NotTerminating"]}, pod("x", activeDeadlineSeconds=5), 201),
        (
            {"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": "In", "values": ["system-node-critical"]}]}},
            pod("x", priorityClassName="system-node-critical"),
            403,
        ),
        (
            {"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "DoesNotExist"}]}},
            pod("x", priorityClassName="system-node-critical"),
            201,
        ),
    ],
)  # fmt: skip
async def test_scopes_choose_the_pods_a_quota_is_about(api: Api, spec: Any, made: Any, status: int) -> None:
    await quota(api, {"pods": "0"}, **spec)
    assert (await api.post(PODS, made)).status == status


async def test_any_resource_can_be_counted(api: Api) -> None:
    await quota(api, {"count/configmaps": "1", "secrets": "0", "count/roles.rbac.authorization.k8s.io": "0"})
    assert (await api.post(f"{NS}/configmaps", {"metadata": {"name": "a"}})).status == 201
    refused = [
        await api.post(f"{NS}/configmaps", {"metadata": {"name": "b"}}),
        await api.post(f"{NS}/secrets", {"metadata": {"name": "b"}}),
        await api.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", {"metadata": {"name": "b"}}),
    ]
    assert [reply.status for reply in refused] == [403, 403, 403]
    assert "requested: count/configmaps=1, used: count/configmaps=1, limited: count/configmaps=1" in refused[0].message
    elsewhere = await api.post("/api/v1/namespaces/kube-public/configmaps", {"metadata": {"name": "b"}})
    assert elsewhere.status == 201


async def test_a_claim_counts_with_its_size_and_its_class_also_when_it_grows(api: Api) -> None:
    await quota(api, {"requests.storage": "2Gi", "slow.storageclass.storage.k8s.io/persistentvolumeclaims": "1"})

    def claim(name: str, size: str) -> dict[str, Any]:
        resources = {"requests": {"storage": size}}
        spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "slow", "resources": resources}
        return {"metadata": {"name": name}, "spec": spec}

    claims = f"{NS}/persistentvolumeclaims"
    assert (await api.post(claims, claim("a", "1Gi"))).status == 201
    assert (
        "slow.storageclass.storage.k8s.io/persistentvolumeclaims=1" in (await api.post(claims, claim("b", "1"))).message
    )
    grown = await api.patch(f"{claims}/a", {"spec": {"resources": {"requests": {"storage": "3Gi"}}}})
    assert "requested: requests.storage=2Gi, used: requests.storage=1Gi, limited: requests.storage=2Gi" in grown.message
    assert (await api.patch(f"{claims}/a", {"spec": {"resources": {"requests": {"storage": "2Gi"}}}})).status == 200


async def test_node_ports_are_counted(api: Api) -> None:
    await quota(api, {"services.nodeports": "1", "services": "5"})

    def service(name: str, **spec: Any) -> dict[str, Any]:
        return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}

    services = f"{NS}/services"
    assert (await api.post(services, service("a", type="NodePort"))).status == 201
    assert (await api.post(services, service("b", type="NodePort"))).status == 403
    assert (await api.post(services, service("c"))).status == 201
    assert (await api.patch(f"{services}/c", {"spec": {"type": "NodePort"}})).status == 403


async def test_a_quota_is_not_used_up_by_a_dry_run(api: Api) -> None:
    await quota(api, {"pods": "1"})
    assert (await api.post(f"{PODS}?dryRun=All", pod("a"))).status == 201
    assert (await api.post(PODS, pod("a"))).status == 201
    assert (await api.post(f"{PODS}?dryRun=All", pod("b"))).status == 403


@pytest.mark.parametrize(
    ("hard", "refusal"),
    [
        ({"gpu": "1"}, 'spec.hard[gpu]: Invalid value: "gpu": must be a standard resource for quota'),
        ({"pods": "-1"}, 'spec.hard[pods]: Invalid value: "-1": must be greater than or equal to 0'),
        ({"pods": "1500m"}, 'spec.hard[pods]: Invalid value: "1500m": must be an integer'),
    ],
)
async def test_a_quota_counts_what_there_is(api: Api, hard: dict[str, str], refusal: str) -> None:
    reply = await api.post(f"{NS}/resourcequotas", {"metadata": {"name": "rq"}, "spec": {"hard": hard}})
    assert (reply.status, refusal in reply.message) == (422, True), reply.body


async def test_containers_get_the_amounts_of_the_range(api: Api) -> None:
    await limits(api, type="Container", default={"cpu": "1", "memory": "1Gi"}, defaultRequest={"cpu": "100m"})
    reply = await api.post(PODS, asking("a", limits={"cpu": "500m"}))
    assert reply.body["spec"]["containers"][0]["resources"] == {
        "limits": {"cpu": "500m", "memory": "1Gi"},
        "requests": {"cpu": "500m", "memory": "1Gi"},
    }
    assert reply.body["metadata"]["annotations"]["kubernetes.io/limit-ranger"] == (
        "LimitRanger plugin set: memory request for container main; memory limit for container main"
    )
    assert (await api.post(PODS, pod("b"))).body["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "100m"


async def test_with_amounts_of_a_range_a_pod_meets_a_quota(api: Api) -> None:
    await limits(api, type="Container", defaultRequest={"cpu": "100m"})
    await quota(api, {"requests.cpu": "150m"})
    assert (await api.post(PODS, pod("a"))).status == 201
    assert "requested: requests.cpu=100m, used: requests.cpu=100m" in (await api.post(PODS, pod("b"))).message


@pytest.mark.parametrize(
    ("item", "made", "why"),
    [
        ({"max": {"cpu": "1"}}, asking("a", limits={"cpu": "2"}),
         "maximum cpu usage per Container is 1, but limit is 2"),
        ({"min": {"cpu": "1"}}, asking("a", {"cpu": "500m"}),
         "minimum cpu usage per Container is 1, but request is 500m"),
        ({"min": {"cpu": "1"}, "max": {"memory": "1Gi"}}, asking("a", {"cpu": "500m"}, {"memory": "2Gi"}),
         "[minimum cpu usage per Container is 1, but request is 500m, "
         "maximum memory usage per Container is 1Gi, but limit is 2Gi]"),
        ({"maxLimitRequestRatio": {"cpu": "2"}}, asking("a", {"cpu": "1"}, {"cpu": "3"}),
         "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"),
        ({"type": "Pod", "max": {"memory": "1Gi"}}, pod("a"),
         "maximum memory usage per Pod is 1Gi.  No limit is specified"),
    ],
)  # fmt: skip
async def test_a_pod_outside_the_range_is_refused(api: Api, item: Any, made: Any, why: str) -> None:
    await limits(api, **{"type": "Container", **item})
    reply = await api.post(PODS, made)
    assert (reply.status, reply.message) == (403, f'pods "a" is forbidden: {why}')


async def test_a_claim_outside_the_range_is_refused(api: Api) -> None:
    await limits(api, type="PersistentVolumeClaim", min={"storage": "1Gi"}, max={"storage": "2Gi"})

    async def claim(size: str) -> str:
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
        reply = await api.post(f"{NS}/persistentvolumeclaims", {"metadata": {"name": f"c{size.lower()}"}, "spec": spec})
        return reply.message if reply.status != 201 else ""

    assert "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 500Mi" in await claim("500Mi")
    assert "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi" in await claim("3Gi")
    assert await claim("2Gi") == ""


@pytest.mark.parametrize(
    ("item", "refusal"),
    [
        ({"type": "Node"}, 'spec.limits[0].type: Invalid value: "Node"'),
        ({"type": "Pod", "default": {"cpu": "1"}}, "spec.limits[0].default: Forbidden"),
        ({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}},
         'spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1'),
    ],
)  # fmt: skip
async def test_a_range_is_one(api: Api, item: Any, refusal: str) -> None:
    reply = await api.post(f"{NS}/limitranges", {"metadata": {"name": "lr"}, "spec": {"limits": [item]}})
    assert (reply.status, refusal in reply.message) == (422, True), reply.body
