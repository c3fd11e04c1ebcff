"""What no kubelet could act on, or must not, is refused when the pod is created."""

from __future__ import annotations

from typing import Any

import pytest
from support.apiserver import PODS, Api, pod

pytestmark = pytest.mark.anyio


async def refusal(api: Api, *, volume: Any = None, **container: Any) -> str:
    body = pod("p", volumes=[{"name": "v", **(volume or {"emptyDir": {}})}])
    body["spec"]["containers"][0] |= container
    reply = await api.post(PODS, body)
    assert reply.status == 422, reply.body
    return reply.message


@pytest.mark.parametrize("sub_path", ["../x", "/etc", "a/../../b", "..x"])
async def test_a_sub_path_stays_in_its_volume(api: Api, sub_path: str) -> None:
    mount = {"name": "v", "mountPath": "/v", "subPath": sub_path}
    assert "spec.containers[0].volumeMounts[0].subPath" in await refusal(api, volumeMounts=[mount])


@pytest.mark.parametrize(
    ("volume", "field"),
    [
        ({"configMap": {"name": "c", "items": [{"key": "a", "path": "../x"}]}}, "configMap.items[0].path"),
        ({"secret": {"secretName": "c", "items": [{"key": "a", "path": "/x"}]}}, "secret.items[0].path"),
        (
            {"projected": {"sources": [{"configMap": {"name": "c", "items": [{"key": "a", "path": "../x"}]}}]}},
            "projected.sources[0].configMap.items[0].path",
        ),
        (
            {"projected": {"sources": [{"serviceAccountToken": {"path": "/etc/x"}}]}},
            "projected.sources[0].serviceAccountToken.path",
        ),
        ({"hostPath": {"path": "/a/../etc"}}, "hostPath.path"),
    ],
)
async def test_the_files_of_a_volume_stay_in_it(api: Api, volume: Any, field: str) -> None:
    assert f"spec.volumes[0].{field}" in await refusal(api, volume=volume)


@pytest.mark.parametrize(
    ("probe", "field"),
    [
        ({"httpGet": {"port": 99999999}}, "httpGet.port"),
        ({"tcpSocket": {"port": 0}}, "tcpSocket.port"),
        ({"exec": {"command": []}}, "exec.command"),
        ({}, "must specify a handler type"),
        ({"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}, "may not specify more than 1 handler type"),
        ({"exec": {"command": ["a"]}, "periodSeconds": -1}, "periodSeconds"),
        ({"exec": {"command": ["a"]}, "successThreshold": 2}, "successThreshold"),
    ],
)
async def test_a_probe_can_be_asked(api: Api, probe: Any, field: str) -> None:
    message = await refusal(api, livenessProbe=probe)
    assert "spec.containers[0].livenessProbe" in message
    assert field in message


async def test_a_negative_grace_is_a_second_and_an_endless_one_is_refused(api: Api) -> None:
    created = await api.post(PODS, pod("p", terminationGracePeriodSeconds=-5))
    assert created.body["spec"]["terminationGracePeriodSeconds"] == 1
    refused = await api.post(PODS, pod("q", terminationGracePeriodSeconds=10**18))
    assert "spec.terminationGracePeriodSeconds" in refused.message


async def test_a_resource_field_has_the_divisor_that_typed_clients_write_back(api: Api) -> None:
    resource = {"containerName": "c", "resource": "limits.cpu"}
    body = pod("p", volumes=[{"name": "v", "downwardAPI": {"items": [{"path": "cpu", "resourceFieldRef": resource}]}}])
    body["spec"]["containers"][0]["env"] = [{"name": "CPU", "valueFrom": {"resourceFieldRef": resource}}]
    made = (await api.post(PODS, body)).body["spec"]
    assert made["containers"][0]["env"][0]["valueFrom"]["resourceFieldRef"]["divisor"] == "0"
    volume = next(v for v in made["volumes"] if v["name"] == "v")
    assert volume["downwardAPI"]["items"][0]["resourceFieldRef"]["divisor"] == "0"


REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
TERMS = f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms"


def node_terms(*terms: Any) -> dict[str, Any]:
    return {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(terms)}}}}


def expression(operator: str, *values: str, key: str = "zone") -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def near(**term: Any) -> dict[str, Any]:
    return {"affinity": {"podAffinity": {REQUIRED: [{"topologyKey": "zone", **term}]}}}


def tolerating(**toleration: Any) -> dict[str, Any]:
    return {"tolerations": [toleration]}


def spread(**rule: Any) -> dict[str, Any]:
    known = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    return {"topologySpreadConstraints": [known | rule]}


@pytest.mark.parametrize(
    ("spec", "refusal"),
    [
        (node_terms(), f"{TERMS}: Required value: must have at least one node selector term"),
        (node_terms(expression("Is", "a")), f'{TERMS}[0].matchExpressions[0].operator: Invalid value: "Is"'),
        (node_terms(expression("In")), f"{TERMS}[0].matchExpressions[0].values: Required value"),
        (node_terms(expression("Exists", "a")), f"{TERMS}[0].matchExpressions[0].values: Forbidden"),
        (node_terms(expression("Gt", "1", "2")), f"{TERMS}[0].matchExpressions[0].values: Required value"),
        (node_terms(expression("In", "a", key="a b")), f'{TERMS}[0].matchExpressions[0].key: Invalid value: "a b"'),
        (
            node_terms({"matchFields": [{"key": "spec.x", "operator": "In", "values": ["a"]}]}),
            f'{TERMS}[0].matchFields[0].key: Invalid value: "spec.x": not a valid field selector key',
        ),
        (near(topologyKey=""), f"spec.affinity.podAffinity.{REQUIRED}[0].topologyKey: Required value"),
        (
            near(labelSelector=expression("Gt", "1")),
            f'spec.affinity.podAffinity.{REQUIRED}[0].labelSelector.matchExpressions[0].operator: Invalid value: "Gt"',
        ),
        (tolerating(value="b"), "spec.tolerations[0].operator: Invalid value"),
        (tolerating(key="a", operator="Like"), 'spec.tolerations[0].operator: Unsupported value: "Like"'),
        (tolerating(key="a", operator="Exists", value="b"), "value must be empty when `operator` is 'Exists'"),
        (tolerating(key="a", operator="Exists", effect="No"), 'spec.tolerations[0].effect: Unsupported value: "No"'),
        (
            tolerating(key="a", operator="Exists", effect="NoSchedule", tolerationSeconds=3),
            "spec.tolerations[0].effect: Invalid value",
        ),
        (spread(maxSkew=0), "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0"),
        (spread(whenUnsatisfiable="No"), 'topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "No"'),
        (spread(whenUnsatisfiable="ScheduleAnyway", minDomains=2), "spec.topologySpreadConstraints[0].minDomains"),
        ({"nodeSelector": {"zone": "a b"}}, 'spec.nodeSelector: Invalid value: "a b"'),
        ({"dnsPolicy": "Mine"}, 'spec.dnsPolicy: Unsupported value: "Mine"'),
        ({"dnsPolicy": "None"}, "spec.dnsConfig: Required value"),
        ({"activeDeadlineSeconds": 0}, "spec.activeDeadlineSeconds: Invalid value: 0"),
        ({"hostname": "A_b"}, 'spec.hostname: Invalid value: "A_b"'),
        ({"securityContext": {"runAsUser": -1}}, "spec.securityContext.runAsUser: Invalid value: -1"),
        (
            {"securityContext": {"supplementalGroups": [1, -2]}},
            "spec.securityContext.supplementalGroups[1]: Invalid value: -2",
        ),
        (
            {"securityContext": {"seccompProfile": {"type": "None"}}},
            'spec.securityContext.seccompProfile.type: Unsupported value: "None"',
        ),
    ],
)  # fmt: skip
async def test_a_scheduler_could_act_on_what_a_pod_wants(api: Api, spec: dict[str, Any], refusal: str) -> None:
    reply = await api.post(PODS, pod("p", **spec))
    assert (reply.status, refusal in reply.message) == (422, True), reply.body


def asking(requests: dict[str, Any], limits: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"resources": {"requests": requests, **({"limits": limits} if limits else {})}}


@pytest.mark.parametrize(
    ("container", "field"),
    [
        (asking({"cpu": "-1"}), 'resources.requests[cpu]: Invalid value: "-1": must be greater than or equal to 0'),
        (asking({"cpu": "2"}, {"cpu": "1"}), 'resources.requests: Invalid value: "2": must be less than or equal to'),
        (asking({"gpu": 1}), 'resources.requests[gpu]: Invalid value: "gpu": must be a standard resource type'),
        (asking({"nvidia.com/gpu": 1}), "resources.limits: Required value: Limit must be set"),
        (asking({"nvidia.com/gpu": 1}, {"nvidia.com/gpu": 2}), "must be equal to nvidia.com/gpu limit of 2"),
        (asking({"nvidia.com/gpu": "500m"}, {"nvidia.com/gpu": "500m"}), "must be an integer"),
        ({"ports": [{"containerPort": 80, "hostPort": 70000}]}, "ports[0].hostPort: Invalid value: 70000"),
        ({"ports": [{"containerPort": 0}]}, "ports[0].containerPort: Invalid value: 0"),
        ({"ports": [{"containerPort": 80, "protocol": "FTP"}]}, 'ports[0].protocol: Unsupported value: "FTP"'),
        ({"ports": [{"containerPort": 80, "name": "Web!"}]}, 'ports[0].name: Invalid value: "Web!"'),
        ({"ports": [{"containerPort": n, "name": "web"} for n in (80, 81)]}, "ports[1].name: Duplicate value"),
        ({"imagePullPolicy": "Sometimes"}, 'imagePullPolicy: Unsupported value: "Sometimes"'),
        ({"terminationMessagePolicy": "Log"}, 'terminationMessagePolicy: Unsupported value: "Log"'),
        (
            {"securityContext": {"privileged": True, "allowPrivilegeEscalation": False}},
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ),
    ],
)  # fmt: skip
async def test_a_container_asks_for_what_there_is(api: Api, container: dict[str, Any], field: str) -> None:
    message = await refusal(api, **container)
    assert field in message
    assert "spec.containers[0]." in message


async def test_a_network_policys_selectors_select(api: Api) -> None:
    peer = {"from": [{"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}]}
    policy = {"metadata": {"name": "p"}, "spec": {"podSelector": {"matchLabels": {"a": "b c"}}, "ingress": [peer]}}
    reply = await api.post("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", policy)
    assert reply.status == 422
    assert [cause["field"] for cause in reply.body["details"]["causes"]] == [
        "spec.podSelector.matchLabels",
        "spec.ingress[0].from[0].namespaceSelector.matchExpressions[0].operator",
    ]
