"""The Metrics API: what pods and nodes use, in the words and forms of a metrics-server."""

from __future__ import annotations

from typing import Any

import pytest
from support.apiserver import Api, Reply
from support.usage import METRICS, metered

from agentops.local.apiserver import User

pytestmark = pytest.mark.anyio

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
PODS = f"{METRICS}/namespaces/default/pods"


@pytest.fixture
async def measured(api: Api) -> Api:
    await metered(api)
    return api


def names(reply: Reply) -> list[str]:
    assert reply.status == 200, reply.message
    return [item["metadata"]["name"] for item in reply.body["items"]]


async def test_a_pod_says_what_each_of_its_containers_uses(measured: Api) -> None:
    found = (await measured.get(f"{PODS}/web")).body
    assert found == {
        "kind": "PodMetrics",
        "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": {
            "name": "web",
            "namespace": "default",
            "labels": {"app": "web"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "timestamp": "2026-01-01T00:05:00Z",
        "window": "15.002s",
        "containers": [
            {"name": "app", "usage": {"cpu": "1250m", "memory": "64Mi"}},
            {"name": "side", "usage": {"cpu": "1234567n", "memory": "12345Ki"}},
        ],
    }


async def test_a_node_says_what_its_machine_uses(measured: Api) -> None:
    found = (await measured.get(f"{METRICS}/nodes/local")).body
    assert (found["kind"], found["window"], found["usage"]) == (
        "NodeMetrics",
        "1m15s",
        {"cpu": "500m", "memory": "1Gi"},
    )
    assert found["metadata"]["labels"] == {"disk": "local"}
    assert "namespace" not in found["metadata"]


async def test_lists_have_what_was_measured_and_matches(measured: Api) -> None:
    everywhere = await measured.get(f"{METRICS}/pods")
    assert (everywhere.body["kind"], everywhere.body["metadata"]) == ("PodMetricsList", {})
    assert names(everywhere) == ["web", "db"]
    assert names(await measured.get(PODS)) == ["web"]
    assert names(await measured.get(f"{METRICS}/namespaces/nowhere/pods")) == []
    assert names(await measured.get(f"{METRICS}/pods?labelSelector=app=db")) == ["db"]
    assert names(await measured.get(f"{METRICS}/pods?labelSelector=app!=db")) == ["web"]
    assert names(await measured.get(f"{METRICS}/pods?fieldSelector=metadata.name=web")) == ["web"]
    assert names(await measured.get(f"{METRICS}/pods?fieldSelector=metadata.namespace=other")) == ["db"]
    nodes = await measured.get(f"{METRICS}/nodes")
    assert (nodes.body["kind"], names(nodes)) == ("NodeMetricsList", ["local"])
    assert names(await measured.get(f"{METRICS}/nodes?labelSelector=disk=far")) == []


@pytest.mark.parametrize("query", ["fieldSelector=spec.nodeName=local", "labelSelector=a in"])
async def test_a_selector_that_nobody_understands_is_refused(measured: Api, query: str) -> None:
    assert (await measured.get(f"{PODS}?{query}")).status == 400


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"{PODS}/new", 'podmetrics.metrics.k8s.io "default/new" not found'),
        (f"{PODS}/none", 'pods "none" not found'),
        (f"{METRICS}/nodes/far", 'nodemetrics.metrics.k8s.io "far" not found'),
        (f"{METRICS}/nodes/none", 'nodes "none" not found'),
    ],
)
async def test_what_has_no_numbers_is_not_found(measured: Api, path: str, message: str) -> None:
    found = await measured.get(path)
    assert (found.status, found.reason, found.message) == (404, "NotFound", message)


async def test_a_new_pod_of_the_same_name_has_not_its_predecessors_numbers(measured: Api) -> None:
    path = "/api/v1/namespaces/default/pods"
    before = (await measured.get(f"{path}/web")).body
    await measured.call("DELETE", f"{path}/web?gracePeriodSeconds=0")
    again = {**before, "metadata": {"name": "web"}, "status": {}}
    assert (await measured.post(path, again)).status == 201
    assert (await measured.get(f"{PODS}/web")).status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", PODS),
        ("DELETE", PODS),
        ("PUT", f"{PODS}/web"),
        ("PATCH", f"{PODS}/web"),
        ("DELETE", f"{PODS}/web"),
        ("POST", f"{METRICS}/nodes"),
        ("DELETE", f"{METRICS}/nodes/local"),
        ("GET", f"{PODS}?watch=true"),
    ],
)
async def test_it_can_only_be_read(measured: Api, method: str, path: str) -> None:
    refused = await measured.call(method, path, {} if method in ("POST", "PUT", "PATCH") else None)
    assert (refused.status, refused.reason) == (405, "MethodNotAllowed")


@pytest.mark.parametrize(
    "path", [f"{PODS}/web/log", f"{METRICS}/pods/web", f"{METRICS}/namespaces/default/nodes", f"{METRICS}/services"]
)
async def test_there_is_nothing_else(measured: Api, path: str) -> None:
    assert (await measured.get(path)).status == 404


async def test_without_a_kubelet_nobody_knows(api: Api) -> None:
    for path in (f"{METRICS}/nodes", PODS):
        refused = await api.get(path)
        assert (refused.status, refused.reason) == (503, "ServiceUnavailable")


async def test_tables_have_a_metrics_servers_columns(measured: Api) -> None:
    def cells(table: dict[str, Any]) -> list[list[Any]]:
        assert [c["name"] for c in table["columnDefinitions"]] == ["Name", "cpu", "memory", "Window"]
        return [row["cells"] for row in table["rows"]]

    pods = (await measured.get(f"{METRICS}/pods", accept=TABLE)).body
    assert cells(pods) == [["web", "1251234567n", "77881Ki", "15.002s"], ["db", "0", "100", "15.002s"]]
    assert pods["rows"][0]["object"]["metadata"]["namespace"] == "default"
    one = (await measured.get(f"{METRICS}/nodes/local", accept=TABLE)).body
    assert cells(one) == [["local", "500m", "1Gi", "1m15s"]]


async def test_both_forms_of_discovery_name_the_group(api: Api) -> None:
    assert "metrics.k8s.io" in [g["name"] for g in (await api.get("/apis")).body["groups"]]
    resources = (await api.get(METRICS)).body["resources"]
    assert [(r["name"], r["singularName"], r["kind"], r["namespaced"], r["verbs"]) for r in resources] == [
        ("nodes", "nodemetrics", "NodeMetrics", False, ["get", "list"]),
        ("pods", "podmetrics", "PodMetrics", True, ["get", "list"]),
    ]
    groups = (await api.get("/apis", accept=AGGREGATED)).body["items"]
    group = next(g for g in groups if g["metadata"]["name"] == "metrics.k8s.io")
    assert [(r["resource"], r["verbs"]) for r in group["versions"][0]["resources"]] == [
        ("nodes", ["get", "list"]),
        ("pods", ["get", "list"]),
    ]


async def test_openapi_has_its_reads_and_nothing_that_writes(api: Api) -> None:
    index = (await api.get("/openapi/v3")).body["paths"]
    document = (await api.get(index["apis/metrics.k8s.io/v1beta1"]["serverRelativeURL"])).body
    assert {path: sorted(item) for path, item in document["paths"].items()} == {
        f"{METRICS}/nodes": ["get"],
        f"{METRICS}/nodes/{{name}}": ["get"],
        f"{METRICS}/namespaces/{{namespace}}/pods": ["get"],
        f"{METRICS}/namespaces/{{namespace}}/pods/{{name}}": ["get"],
    }
    pod = next(s for name, s in document["components"]["schemas"].items() if name.endswith(".PodMetrics"))
    assert {"timestamp", "window", "containers", "metadata"} <= pod["properties"].keys()


async def test_who_may_view_pods_may_see_what_they_use(measured: Api) -> None:
    ann = Api(measured.server, User("ann", ("system:authenticated",)))
    assert (await ann.get(PODS)).status == 403
    roles = "/apis/rbac.authorization.k8s.io/v1"
    wanted = {"apiGroups": ["metrics.k8s.io"], "resources": ["nodes", "pods"], "verbs": ["get", "list", "watch"]}
    reader = (await measured.get(f"{roles}/clusterroles/system:aggregated-metrics-reader")).body
    assert reader["rules"] == [wanted]
    for role in ("view", "edit", "admin"):
        assert reader["metadata"]["labels"][f"rbac.authorization.k8s.io/aggregate-to-{role}"] == "true"
        rules = (await measured.get(f"{roles}/clusterroles/{role}")).body["rules"]
        assert wanted in rules, role
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "ann"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}],
    }
    assert (await measured.post(f"{roles}/namespaces/default/rolebindings", binding)).status == 201
    assert names(await ann.get(PODS)) == ["web"]
    assert (await ann.get(f"{METRICS}/namespaces/other/pods")).status == 403
    assert (await ann.get(f"{METRICS}/nodes")).status == 403
