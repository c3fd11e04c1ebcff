"""The scheduler's filters, one by one, in kube-scheduler's words."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from agentops.local.kubelet.fitting import Candidate, misfits, selects_namespaces
from agentops.local.podresources import pod_limits, pod_requests

ZONED = {"kubernetes.io/hostname": "local", "zone": "a"}


def pod(
    name: str = "p", namespace: str = "default", labels: dict[str, str] | None = None, cpu: str = "", **spec: Any
) -> dict[str, Any]:
    container = {"name": "main", "resources": {"requests": {"cpu": cpu}} if cpu else {}}
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": f"{namespace}/{name}", "labels": labels or {}},
        "spec": {"containers": [container], **spec},
    }


def why(wanted: dict[str, Any], *there: dict[str, Any], namespaces: Any = None, **node: Any) -> list[str]:
    allocatable = {"cpu": "2", "memory": "1Gi", "pods": "3"}
    found = {
        "metadata": {"name": "local", "labels": ZONED},
        "spec": node,
        "status": {"allocatable": allocatable},
    }
    return misfits(wanted, Candidate(found, there, namespaces or {}))


def affinity(kind: str, *terms: dict[str, Any]) -> dict[str, Any]:
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": list(terms)}}


def node_affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}}


def near(app: str, key: str = "zone", **term: Any) -> dict[str, Any]:
    return {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}, **term}


def test_a_pod_without_wishes_fits() -> None:
    assert why(pod()) == []


def test_requests_add_up_to_what_the_node_can_give() -> None:
    assert why(pod(cpu="500m"), pod("a", cpu="1"), pod("b", cpu="500m")) == []
    assert why(pod(cpu="501m"), pod("a", cpu="1"), pod("b", cpu="500m")) == ["Insufficient cpu"]


def test_every_resource_that_is_short_is_named() -> None:
    wanted = pod()
    wanted["spec"]["containers"][0]["resources"] = {
        "requests": {"cpu": "3", "memory": "2Gi", "nvidia.com/gpu": 1, "example.com/none": 0}
    }
    assert why(wanted) == ["Insufficient cpu", "Insufficient memory", "Insufficient nvidia.com/gpu"]


def test_a_full_node_takes_nobody() -> None:
    assert why(pod(), pod("a"), pod("b")) == []
    assert why(pod(), pod("a"), pod("b"), pod("c")) == ["Too many pods"]


def test_what_starts_first_counts_if_it_is_more_and_sidecars_count_throughout() -> None:
    def container(cpu: str, **fields: Any) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": cpu}}, **fields}

    sidecar = container("300m", restartPolicy="Always")
    first = pod(initContainers=[sidecar, container("2")], overhead={"cpu": "50m"})
    first["spec"]["containers"] = [container("1"), container("500m")]
    assert pod_requests(first) == {"cpu": Decimal("2.35")}
    first["spec"]["initContainers"] = [container("1"), sidecar]
    assert pod_requests(first) == {"cpu": Decimal("1.85")}


def test_what_is_asked_for_the_whole_pod_replaces_the_sum() -> None:
    assert pod_requests(pod(cpu="2", resources={"requests": {"cpu": "1"}})) == {"cpu": Decimal(1)}


def test_overhead_adds_to_the_limits_there_are() -> None:
    limited = pod(overhead={"cpu": "50m", "memory": "1Mi"})
    limited["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "1"}}
    assert pod_limits(limited) == {"cpu": Decimal("1.05")}


def test_a_cordoned_node_takes_only_who_tolerates_it() -> None:
    assert why(pod(), unschedulable=True) == ["node(s) were unschedulable"]
    toleration = {"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}
    assert why(pod(tolerations=[toleration]), unschedulable=True) == []


@pytest.mark.parametrize(
    ("toleration", "fits"),
    [
        ({"key": "gpu", "value": "yes"}, True),
        ({"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}, True),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "value": "no"}, False),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "disk", "operator": "Exists"}, False),
    ],
)
def test_a_taint_keeps_away_who_does_not_tolerate_it(toleration: dict[str, str], fits: bool) -> None:
    taints = [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]
    refusal = [] if fits else ["node(s) had untolerated taint {gpu: yes}"]
    assert why(pod(tolerations=[toleration]), taints=taints) == refusal


def test_a_taint_that_is_only_a_preference_keeps_nobody_away() -> None:
    assert why(pod(), taints=[{"key": "gpu", "effect": "PreferNoSchedule"}]) == []


def on_label(key: str, operator: str, value: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": [value]}]}


def on_name(name: str) -> dict[str, Any]:
    return {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}


@pytest.mark.parametrize(
    ("terms", "fits"),
    [
        ([on_label("zone", "In", "a")], True),
        ([on_label("zone", "NotIn", "a")], False),
        ([on_label("cores", "Gt", "4")], False),
        ([on_label("zone", "In", "a") | on_name("other")], False),
        ([on_name("other"), on_name("local")], True),
        ([{}], False),
    ],
)
def test_a_pod_goes_where_one_of_its_terms_matches(terms: list[dict[str, Any]], fits: bool) -> None:
    refusal = [] if fits else ["node(s) didn't match Pod's node affinity/selector"]
    assert why(pod(affinity=node_affinity(*terms))) == refusal


def test_a_node_selector_wants_every_label() -> None:
    assert why(pod(nodeSelector={"zone": "a"})) == []
    assert why(pod(nodeSelector={"zone": "a", "disk": "fast"})) == ["node(s) didn't match Pod's node affinity/selector"]


def test_a_host_port_is_given_once_an_address() -> None:
    def on(port: int, **fields: Any) -> list[dict[str, Any]]:
        return [{"name": "main", "ports": [{"containerPort": 80, "hostPort": port, **fields}]}]

    refusal = ["node(s) didn't have free ports for the requested pod ports"]
    there = pod("a", containers=on(8080, hostIP="127.0.0.2"))
    assert why(pod(containers=on(8080)), there) == refusal
    assert why(pod(containers=on(8080, hostIP="127.0.0.3")), there) == []
    assert why(pod(containers=on(8080, protocol="UDP")), there) == []
    assert why(pod(containers=on(8081)), there) == []


def test_a_pod_joins_those_it_wants_to_be_with() -> None:
    refusal = ["node(s) didn't match pod affinity rules"]
    wanted = pod(affinity=affinity("podAffinity", near("db")))
    assert why(wanted) == refusal
    assert why(wanted, pod("a", labels={"app": "db"})) == []
    assert why(wanted, pod("a", "other", labels={"app": "db"})) == refusal
    assert why(pod(affinity=affinity("podAffinity", near("db", "rack"))), pod("a", labels={"app": "db"})) == refusal


def test_the_first_of_a_group_joins_nobody() -> None:
    assert why(pod(labels={"app": "db"}, affinity=affinity("podAffinity", near("db")))) == []


def test_a_pod_stays_away_from_those_it_wants_to_be_without() -> None:
    lonely = affinity("podAntiAffinity", near("db"))
    assert why(pod(affinity=lonely), pod("a", labels={"app": "db"})) == ["node(s) didn't match pod anti-affinity rules"]
    assert why(pod(affinity=lonely), pod("a", labels={"app": "web"})) == []
    there = pod("a", affinity=lonely)
    assert why(pod(labels={"app": "db"}), there) == ["node(s) didn't satisfy existing pods anti-affinity rules"]


def test_namespaces_are_picked_by_name_and_by_label() -> None:
    there = pod("a", "team", labels={"app": "db"})
    labels = {"team": {"kind": "shared"}, "default": {}}
    by_name = pod(affinity=affinity("podAffinity", near("db", namespaces=["team"])))
    by_label = pod(affinity=affinity("podAffinity", near("db", namespaceSelector={"matchLabels": {"kind": "shared"}})))
    assert why(by_name, there, namespaces=labels) == why(by_label, there, namespaces=labels) == []
    assert why(by_label, there, namespaces={"team": {}}) == ["node(s) didn't match pod affinity rules"]
    assert [selects_namespaces([one]) for one in (by_name, by_label)] == [False, True]


def test_pods_spread_over_as_many_domains_as_there_must_be() -> None:
    def spread(**rule: Any) -> dict[str, Any]:
        selector = {"labelSelector": {"matchLabels": {"app": "web"}}}
        return pod(
            labels={"app": "web"},
            topologySpreadConstraints=[{"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", **selector, **rule}],
        )

    refusal = "node(s) didn't match pod topology spread constraints"
    there = pod("a", labels={"app": "web"})
    assert why(spread(topologyKey="zone"), there) == []
    assert why(spread(topologyKey="zone", minDomains=2), there) == [refusal]
    assert why(spread(topologyKey="zone", minDomains=2)) == []
    assert why(spread(topologyKey="rack")) == [f"{refusal} (missing required label)"]
    assert why(spread(topologyKey="rack", whenUnsatisfiable="ScheduleAnyway")) == []
