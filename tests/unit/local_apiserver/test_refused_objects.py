"""Objects that a cluster refuses are refused here, in its words; what it takes is taken."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from support.apiserver import CONFIG_MAPS, DEPLOYMENTS, PODS, Api, config_map, deployment, pod

pytestmark = pytest.mark.anyio

CORE = "/api/v1/namespaces/default"
NETWORKING = "/apis/networking.k8s.io/v1/namespaces/default"
STATEFUL_SETS = "/apis/apps/v1/namespaces/default/statefulsets"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
PRIORITIES = "/apis/scheduling.k8s.io/v1/priorityclasses"


def named(**body: Any) -> dict[str, Any]:
    return {"metadata": {"name": "x"}, **body}


async def refused(api: Api, path: str, body: dict[str, Any], refusal: str) -> None:
    reply = await api.post(path, body)
    assert (reply.status, refusal in reply.message) == (422, True), reply.body


async def taken(api: Api, path: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = await api.post(path, body)
    assert reply.status == 201, reply.message
    made: dict[str, Any] = reply.body
    return made


def rolling(**amounts: Any) -> dict[str, Any]:
    return {"strategy": {"rollingUpdate": amounts}}


ROLLING = "spec.strategy.rollingUpdate"


@pytest.mark.parametrize(
    ("spec", "refusal"),
    [
        (
            rolling(maxSurge=0, maxUnavailable=0),
            f"{ROLLING}.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ),
        (rolling(maxSurge="0%", maxUnavailable="0%"), "may not be 0 when `maxSurge` is 0"),
        (rolling(maxSurge="20Percent"), f'{ROLLING}.maxSurge: Invalid value: "20Percent": a valid percent string must'),
        (rolling(maxSurge=-1), f"{ROLLING}.maxSurge: Invalid value: -1: must be greater than or equal to 0"),
        (
            rolling(maxUnavailable="101%"),
            f'{ROLLING}.maxUnavailable: Invalid value: "101%": must not be greater than 100%',
        ),
        (
            {"progressDeadlineSeconds": 5, "minReadySeconds": 5},
            "spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds",
        ),
        ({"minReadySeconds": -1}, "spec.minReadySeconds: Invalid value: -1"),
        ({"revisionHistoryLimit": -1}, "spec.revisionHistoryLimit: Invalid value: -1"),
        (
            {"strategy": {"type": "Foo"}},
            'spec.strategy: Unsupported value: {"type":"Foo"}: supported values: "Recreate", "RollingUpdate"',
        ),
        (
            {"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}},
            f"{ROLLING}: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
    ],
)  # fmt: skip
async def test_a_deployment_can_be_rolled_out(api: Api, spec: dict[str, Any], refusal: str) -> None:
    body = deployment("web")
    body["spec"] |= spec
    await refused(api, DEPLOYMENTS, body, refusal)


@pytest.mark.parametrize(
    "amounts", [{"maxSurge": "200%", "maxUnavailable": 0}, {"maxSurge": 0}, {"maxUnavailable": 500}]
)
async def test_a_deployment_may_surge_as_far_as_it_likes(api: Api, amounts: dict[str, Any]) -> None:
    body = deployment("web")
    body["spec"] |= rolling(**amounts)
    await taken(api, DEPLOYMENTS, body)


@pytest.mark.parametrize(
    ("spec", "refusal"),
    [
        (
            {"podManagementPolicy": "Foo"},
            "spec.podManagementPolicy: Invalid value: \"Foo\": must be 'OrderedReady' or 'Parallel'",
        ),
        (
            {"updateStrategy": {"type": "Foo"}},
            "spec.updateStrategy: Invalid value: {\"type\":\"Foo\"}: must be 'RollingUpdate' or 'OnDelete'",
        ),
        (
            {"updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}}},
            "only allowed for updateStrategy 'RollingUpdate'",
        ),
        (
            {"updateStrategy": {"rollingUpdate": {"partition": -1}}},
            "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1",
        ),
        (
            {"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Keep"}},
            'spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: "Keep"',
        ),
    ],
)  # fmt: skip
async def test_a_stateful_set_has_policies_there_are(api: Api, spec: dict[str, Any], refusal: str) -> None:
    body = deployment("db")
    body["kind"] = "StatefulSet"
    body["spec"] |= spec
    await refused(api, STATEFUL_SETS, body, refusal)


def service(port: Any = None, **spec: Any) -> dict[str, Any]:
    return named(spec={"ports": [{"port": 80, **(port or {})}], **spec})


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (
            service({"protocol": "FTP"}),
            'spec.ports[0].protocol: Unsupported value: "FTP": supported values: "SCTP", "TCP", "UDP"',
        ),
        (service({"targetPort": "Web!"}), 'spec.ports[0].targetPort: Invalid value: "Web!": must contain only'),
        (service({"targetPort": "a-very-long-port-name"}), "must be no more than 15 bytes"),
        (service({"targetPort": 70000}), "spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535"),
        (service({"port": 0}), "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
        (
            service(ports=[{"name": "a", "port": 80}, {"name": "b", "port": 80}]),
            "spec.ports[1]: Duplicate value",
        ),
        (
            service(sessionAffinity="Sticky"),
            'spec.sessionAffinity: Unsupported value: "Sticky": supported values: "ClientIP", "None"',
        ),
        (
            service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 0}}),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and",
        ),
        (
            service(sessionAffinityConfig={"clientIP": {"timeoutSeconds": 5}}),
            "spec.sessionAffinityConfig: Forbidden: must not be set when session affinity is None",
        ),
        (service(externalIPs=["a"]), 'spec.externalIPs[0]: Invalid value: "a": must be a valid IP address'),
        (service(externalIPs=["127.0.0.1"]), "may not be in the loopback range"),
        (
            service(externalTrafficPolicy="Local"),
            'spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services',
        ),
        (
            service(type="NodePort", externalTrafficPolicy="Near"),
            'spec.externalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"',
        ),
        (service(internalTrafficPolicy="Near"), 'spec.internalTrafficPolicy: Unsupported value: "Near"'),
        (service(type="NodePort", clusterIP="None"), "may not be set to 'None' for NodePort services"),
        (service(selector={"a": "b c"}), 'spec.selector: Invalid value: "b c"'),
        (service(type="ExternalName", externalName="a_b"), 'spec.externalName: Invalid value: "a_b"'),
        (
            service(loadBalancerSourceRanges=["10.0.0.0/8"]),
            "spec.loadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            service(type="LoadBalancer", loadBalancerSourceRanges=["10.0.0.0"]),
            'spec.loadBalancerSourceRanges[0]: Invalid value: "10.0.0.0": must be a valid CIDR value',
        ),
    ],
)  # fmt: skip
async def test_a_service_can_be_reached(api: Api, body: dict[str, Any], refusal: str) -> None:
    await refused(api, f"{CORE}/services", body, refusal)


@pytest.mark.parametrize(
    "body",
    [
        service({"targetPort": 0}, clusterIP="None"),
        service({"targetPort": "web", "protocol": "UDP"}),
        service(type="ExternalName", externalName="db.example.com."),
        service(type="LoadBalancer", externalTrafficPolicy="Local", loadBalancerSourceRanges=["10.1.2.3/8"]),
        named(spec={"clusterIP": "None"}),
    ],
)
async def test_services_of_every_type_are_taken(api: Api, body: dict[str, Any]) -> None:
    await taken(api, f"{CORE}/services", body)


async def test_a_service_with_external_addresses_or_affinity_has_clusters_defaults(api: Api) -> None:
    body = service(externalIPs=["192.0.2.7"], sessionAffinity="ClientIP")
    spec = (await taken(api, f"{CORE}/services", body))["spec"]
    assert spec["externalTrafficPolicy"] == "Cluster"
    assert spec["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}


async def test_a_service_that_is_no_longer_seen_from_outside_loses_its_policy(api: Api) -> None:
    await taken(api, f"{CORE}/services", service(type="NodePort", externalTrafficPolicy="Local"))
    reply = await api.patch(f"{CORE}/services/x", {"spec": {"type": "ClusterIP"}})
    assert reply.status == 200, reply.message
    assert "externalTrafficPolicy" not in reply.body["spec"]


def ingress(path: Any = None, backend: Any = None, **rule: Any) -> dict[str, Any]:
    service = {"service": {"name": "web", "port": {"number": 80}}}
    one = {"path": "/", "pathType": "Prefix", "backend": service if backend is None else backend, **(path or {})}
    return named(spec={"rules": [{"http": {"paths": [one]}, **rule}]})


PATH = "spec.rules[0].http.paths[0]"


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (named(), "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"),
        (named(spec={}), "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"),
        (ingress(host="A_b"), 'spec.rules[0].host: Invalid value: "A_b": a lowercase RFC 1123 subdomain must'),
        (ingress(host="10.0.0.1"), 'spec.rules[0].host: Invalid value: "10.0.0.1": must be a DNS name, not an IP addr'),
        (ingress(host="a.*.com"), 'spec.rules[0].host: Invalid value: "a.*.com": a wildcard DNS-1123 subdomain must'),
        (ingress({"path": "x"}), f'{PATH}.path: Invalid value: "x": must be an absolute path'),
        (ingress({"path": "", "pathType": "Exact"}), f'{PATH}.path: Invalid value: "": must be an absolute path'),
        (ingress({"path": "/a//b"}), f"{PATH}.path: Invalid value: \"/a//b\": must not contain '//'"),
        (ingress({"path": "/a/.."}), f"{PATH}.path: Invalid value: \"/a/..\": cannot end with '/..'"),
        (
            ingress({"pathType": "Foo"}),
            f'{PATH}.pathType: Unsupported value: "Foo": supported values: "Exact", "ImplementationSpecific", "Prefix"',
        ),
        (ingress({"pathType": None}), f"{PATH}.pathType: Required value: pathType must be specified"),
        (ingress(backend={"service": {"name": "web"}}), f"{PATH}.backend: Required value: port name or number is"),
        (
            ingress(backend={"service": {"name": "web", "port": {"name": "a", "number": 1}}}),
            f'{PATH}.backend: Invalid value: "": cannot set both port name & port number',
        ),
        (ingress(backend={}), f'{PATH}.backend: Invalid value: "": resource or service backend is required'),
        (
            ingress(backend={"service": {"name": "web", "port": {"number": 70000}}}),
            f"{PATH}.backend.service.port.number: Invalid value: 70000",
        ),
        (ingress(http={"paths": []}), "spec.rules[0].http.paths: Required value"),
        (
            named(spec={"defaultBackend": {"service": {"name": "web"}}}),
            "spec.defaultBackend: Required value: port name or number is required",
        ),
    ],
)  # fmt: skip
async def test_an_ingress_leads_somewhere(api: Api, body: dict[str, Any], refusal: str) -> None:
    await refused(api, f"{NETWORKING}/ingresses", body, refusal)


@pytest.mark.parametrize(
    "body",
    [
        ingress(host="*.example.com"),
        ingress({"path": None, "pathType": "ImplementationSpecific"}),
        ingress(backend={"service": {"name": "web", "port": {"name": "http"}}}),
        ingress(backend={"resource": {"apiGroup": "a.b", "kind": "Bucket", "name": "x"}}),
        named(spec={"rules": [{"host": "a.b"}]}),
        named(
            spec={"defaultBackend": {"service": {"name": "web", "port": {"number": 1}}}, "tls": [{"hosts": ["a.b"]}]}
        ),
    ],
)
async def test_ingresses_of_every_shape_are_taken(api: Api, body: dict[str, Any]) -> None:
    await taken(api, f"{NETWORKING}/ingresses", body)


def policy(port: Any = None, peer: Any = None, **spec: Any) -> dict[str, Any]:
    rule = {**({"ports": [port]} if port is not None else {}), **({"from": [peer]} if peer is not None else {})}
    return named(spec={"podSelector": {}, "ingress": [rule], **spec})


PORT, PEER = "spec.ingress[0].ports[0]", "spec.ingress[0].from[0]"


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (
            policy(policyTypes=["Foo"]),
            'spec.policyTypes[0]: Unsupported value: "Foo": supported values: "Ingress", "Egress"',
        ),
        (policy(policyTypes=["Ingress", "Egress", "Ingress"]), "may not specify more than two policyTypes"),
        (policy({"port": 70000}), f"{PORT}.port: Invalid value: 70000: must be between 1 and 65535, inclusive"),
        (policy({"port": "Web!"}), f'{PORT}.port: Invalid value: "Web!"'),
        (
            policy({"port": 80, "protocol": "ICMP"}),
            f'{PORT}.protocol: Unsupported value: "ICMP": supported values: "TCP", "UDP", "SCTP"',
        ),
        (
            policy({"port": 80, "endPort": 79}),
            f"{PORT}.endPort: Invalid value: 79: must be greater than or equal to `port`",
        ),
        (
            policy({"port": "web", "endPort": 90}),
            f"{PORT}.endPort: Invalid value: 90: may not be specified when `port` is non-numeric",
        ),
        (policy({"endPort": 90}), f"{PORT}.endPort: Invalid value: 90: may not be specified when `port` is"),
        (policy(peer={}), f"{PEER}: Required value: must specify a peer"),
        (policy(peer={"ipBlock": {"cidr": ""}}), f"{PEER}.ipBlock.cidr: Required value"),
        (
            policy(peer={"ipBlock": {"cidr": "10.0.0.0"}}),
            f'{PEER}.ipBlock.cidr: Invalid value: "10.0.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24',
        ),
        (
            policy(peer={"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.1.0.0/24"]}}),
            f'{PEER}.ipBlock.except[0]: Invalid value: "10.1.0.0/24": must be a strict subset of `cidr`',
        ),
        (policy(peer={"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.0.0/16"]}}), "must be a strict subset of"),
        (
            policy(peer={"ipBlock": {"cidr": "10.0.0.0/16"}, "podSelector": {}}),
            f"{PEER}: Forbidden: may not specify both ipBlock and another peer",
        ),
    ],
)  # fmt: skip
async def test_a_network_policy_could_be_enforced(api: Api, body: dict[str, Any], refusal: str) -> None:
    await refused(api, f"{NETWORKING}/networkpolicies", body, refusal)


@pytest.mark.parametrize(
    "body",
    [
        policy({"port": 80, "endPort": 90}, {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}),
        policy({"port": "web"}, {"podSelector": {}, "namespaceSelector": {}}),
        policy({"protocol": "UDP"}, {"ipBlock": {"cidr": "2001:db8::/32"}}),
        policy(peer={"ipBlock": {"cidr": "10.01.2.3/08"}}),
        named(spec={"podSelector": {}, "policyTypes": ["Egress"]}),
    ],
)
async def test_network_policies_of_every_shape_are_taken(api: Api, body: dict[str, Any]) -> None:
    await taken(api, f"{NETWORKING}/networkpolicies", body)


def claim(**spec: Any) -> dict[str, Any]:
    return named(spec={"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, **spec})


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (
            claim(accessModes=["Foo"]),
            'spec.accessModes: Unsupported value: "Foo": supported values: "ReadOnlyMany", "ReadWriteMany", '
            '"ReadWriteOnce", "ReadWriteOncePod"',
        ),
        (claim(accessModes=[]), "spec.accessModes: Required value: at least 1 access mode is required"),
        (
            claim(accessModes=["ReadWriteOncePod", "ReadOnlyMany"]),
            "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
        ),
        (
            claim(resources={"requests": {"storage": "0"}}),
            'spec.resources[storage]: Invalid value: "0": must be greater than zero',
        ),
        (claim(volumeMode="Tape"), 'spec.volumeMode: Unsupported value: "Tape": supported values: "Block", "Filesys'),
        (claim(storageClassName="A b"), 'spec.storageClassName: Invalid value: "A b"'),
    ],
)  # fmt: skip
async def test_a_claim_can_be_bound(api: Api, body: dict[str, Any], refusal: str) -> None:
    await refused(api, f"{CORE}/persistentvolumeclaims", body, refusal)


def volume(**spec: Any) -> dict[str, Any]:
    known = {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/data"}}
    return named(spec={k: v for k, v in {**known, **spec}.items() if v is not None})


async def test_an_empty_volume_is_told_all_it_lacks(api: Api) -> None:
    message = (await api.post("/api/v1/persistentvolumes", named(spec={}))).message
    for problem in (
        "accessModes: Required value",
        "capacity: Required value",
        "spec: Required value: must specify a vol",
    ):
        assert problem in message


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (volume(nfs={"server": "a", "path": "/"}), "spec.nfs: Forbidden: may not specify more than 1 volume type"),
        (volume(capacity={"cpu": "1"}), 'spec.capacity: Unsupported value: {"cpu":"1"}: supported values: "storage"'),
        (volume(capacity={"storage": "-1"}), 'spec.capacity[storage]: Invalid value: "-1": must be greater than zero'),
        (volume(accessModes=["Foo"]), 'spec.accessModes: Unsupported value: "Foo"'),
        (
            volume(persistentVolumeReclaimPolicy="Burn"),
            'spec.persistentVolumeReclaimPolicy: Unsupported value: "Burn": supported values: "Delete", "Recycle"',
        ),
        (volume(hostPath={"path": "/a/../b"}), "must not contain '..'"),
        (
            volume(hostPath=None, local={"path": "/a"}),
            "spec.nodeAffinity: Required value: Local volume requires node affinity",
        ),
    ],
)  # fmt: skip
async def test_a_volume_can_be_mounted(api: Api, body: dict[str, Any], refusal: str) -> None:
    await refused(api, "/api/v1/persistentvolumes", body, refusal)


async def test_a_volume_of_a_driver_is_taken(api: Api) -> None:
    await taken(api, "/api/v1/persistentvolumes", volume(hostPath=None, csi={"driver": "a.b", "volumeHandle": "v"}))


def piece(kind: str = "IPv4", *addresses: str, ports: Any = ()) -> dict[str, Any]:
    return named(addressType=kind, endpoints=[{"addresses": list(addresses)}], ports=list(ports))


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (
            piece("IP", "10.0.0.1"),
            'addressType: Unsupported value: "IP": supported values: "FQDN", "IPv4", "IPv6"',
        ),
        (piece("", "10.0.0.1"), "addressType: Required value"),
        (piece("IPv4", "::1"), 'endpoints[0].addresses[0]: Invalid value: "::1": must be a valid IPv4 address'),
        (piece("IPv6", "a"), 'endpoints[0].addresses[0]: Invalid value: "a": must be a valid IPv6 address'),
        (piece("FQDN", "local"), "should be a domain with at least two segments separated by dots"),
        (piece("IPv4"), "endpoints[0].addresses: Required value: must contain at least 1 address"),
        (piece("IPv4", "10.0.0.1", ports=[{"port": 1}, {"port": 2}]), 'ports[1].name: Duplicate value: ""'),
        (piece("IPv4", "10.0.0.1", ports=[{"protocol": "FTP"}]), 'ports[0].protocol: Unsupported value: "FTP"'),
    ],
)
async def test_an_endpoint_slice_has_addresses_of_its_type(api: Api, body: dict[str, Any], refusal: str) -> None:
    await refused(api, SLICES, body, refusal)


@pytest.mark.parametrize(
    "body", [piece("IPv4", "127.65.0.9"), piece("IPv6", "fd00::1"), piece("FQDN", "a.example.com.")]
)
async def test_endpoint_slices_of_every_type_are_taken(api: Api, body: dict[str, Any]) -> None:
    await taken(api, SLICES, body)


@pytest.mark.parametrize(
    ("subset", "refusal"),
    [
        ({}, "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"),
        ({"addresses": [{"ip": "db"}]}, 'subsets[0].addresses[0].ip: Invalid value: "db": must be a valid IP address'),
        (
            {"addresses": [{"ip": "::1"}], "ports": [{"port": 1}, {"port": 2}]},
            "subsets[0].ports[0].name: Required value",
        ),
        ({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 0}]}, "subsets[0].ports[0].port: Invalid value: 0"),
    ],
)
async def test_endpoints_made_by_hand_can_become_slices(api: Api, subset: dict[str, Any], refusal: str) -> None:
    await refused(api, f"{CORE}/endpoints", named(subsets=[subset]), refusal)


def secret(kind: str, **data: str) -> dict[str, Any]:
    return named(type=f"kubernetes.io/{kind}", data={k: base64.b64encode(v.encode()).decode() for k, v in data.items()})


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (
            secret("service-account-token"),
            "metadata.annotations[kubernetes.io/service-account.name]: Required value",
        ),
        (secret("tls"), "data[tls.crt]: Required value"),
        (secret("tls", **{"tls.crt": "x"}), "data[tls.key]: Required value"),
        (secret("dockerconfigjson"), "data[.dockerconfigjson]: Required value"),
        (
            secret("dockerconfigjson", **{".dockerconfigjson": "no"}),
            'data[.dockerconfigjson]: Invalid value: "<secret contents redacted>"',
        ),
        (secret("dockercfg", **{".dockercfg": "[" * 2000}), "data[.dockercfg]: Invalid value"),
        (secret("dockercfg"), "data[.dockercfg]: Required value"),
        (secret("basic-auth"), "data[username]: Required value"),
        (secret("basic-auth"), "data[password]: Required value"),
        (secret("ssh-auth"), "data[ssh-privatekey]: Required value"),
        (secret("ssh-auth", **{"ssh-privatekey": ""}), "data[ssh-privatekey]: Required value"),
    ],
)  # fmt: skip
async def test_a_secret_holds_what_its_type_promises(api: Api, body: dict[str, Any], refusal: str) -> None:
    await refused(api, f"{CORE}/secrets", body, refusal)


@pytest.mark.parametrize(
    "body",
    [
        secret("basic-auth", password=""),
        secret("dockerconfigjson", **{".dockerconfigjson": '{"auths":{}}'}),
        secret("ssh-auth", **{"ssh-privatekey": "k"}),
        named(type="example.com/mine"),
    ],
)
async def test_secrets_with_what_they_need_are_taken(api: Api, body: dict[str, Any]) -> None:
    await taken(api, f"{CORE}/secrets", body)


async def test_a_key_of_a_config_map_is_text_or_bytes(api: Api) -> None:
    body = {**config_map("c", k="1"), "binaryData": {"k": "AA=="}}
    refusal = 'data[k]: Invalid value: "k": duplicate of key present in binaryData'
    await refused(api, CONFIG_MAPS, body, refusal)


async def test_rules_of_a_namespace_name_no_urls(api: Api) -> None:
    rule = {"nonResourceURLs": ["/metrics"], "verbs": ["get"]}
    await refused(
        api, f"{RBAC}/namespaces/default/roles", named(rules=[rule]),
        'rules[0].nonResourceURLs: Invalid value: ["/metrics"]: namespaced rules cannot apply to non-resource URLs',
    )  # fmt: skip
    both = {**rule, "apiGroups": [""], "resources": ["pods"]}
    await refused(
        api, f"{RBAC}/clusterroles", named(rules=[both]),
        "rules cannot apply to both regular resources and non-resource URLs",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fields", "refusal"),
    [
        (
            "system-mine",
            {"value": 1},
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. "
            "error: system-mine is not a known system priority class",
        ),
        (
            "mine",
            {"value": 1_000_000_001},
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
        ),
        ("mine", {"value": 1, "preemptionPolicy": "Always"}, 'preemptionPolicy: Unsupported value: "Always"'),
    ],
)  # fmt: skip
async def test_the_highest_priorities_are_the_systems(
    api: Api, name: str, fields: dict[str, Any], refusal: str
) -> None:
    await refused(api, PRIORITIES, {"metadata": {"name": name}, **fields}, refusal)


async def test_the_systems_priorities_are_there_and_stay(api: Api) -> None:
    listed = (await api.get(PRIORITIES)).body["items"]
    assert {c["metadata"]["name"]: c["value"] for c in listed} == {
        "system-cluster-critical": 2_000_000_000,
        "system-node-critical": 2_000_001_000,
    }
    reply = await api.delete(f"{PRIORITIES}/system-node-critical")
    assert (reply.status, "this is a system priority class and cannot be deleted" in reply.message) == (403, True)
    made = (await api.post(PODS, pod("p", priorityClassName="system-node-critical"))).body
    assert made["spec"]["priority"] == 2_000_001_000
    highest = await api.post(PRIORITIES, {"metadata": {"name": "mine"}, "value": 1_000_000_000})
    assert highest.body["preemptionPolicy"] == "PreemptLowerPriority"
    changed = await api.patch(f"{PRIORITIES}/mine", {"value": 5})
    assert "value: Forbidden: may not be changed in an update." in changed.message


async def test_a_pod_names_a_runtime_and_a_priority_there_are(api: Api) -> None:
    reply = await api.post(PODS, pod("x", runtimeClassName="nope"))
    assert (reply.status, reply.message) == (
        403, 'pods "x" is forbidden: pod rejected: RuntimeClass "nope" not found',
    )  # fmt: skip
    reply = await api.post(PODS, pod("x", priorityClassName="nope"))
    assert (reply.status, reply.message) == (
        403, 'pods "x" is forbidden: no PriorityClass with name nope was found',
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"{NETWORKING}/ingresses", named(spec={"rules": [{"http": {"paths": [None]}}], "tls": [{"hosts": [None]}]})),
        (f"{NETWORKING}/ingresses", ingress(backend={"service": None, "resource": None})),
        (f"{NETWORKING}/networkpolicies", policy(peer={"ipBlock": {"cidr": "10.0.0.0/8", "except": [None]}})),
        (f"{NETWORKING}/networkpolicies", named(spec={"podSelector": {}, "ingress": [None], "policyTypes": [None]})),
        (f"{CORE}/services", service(externalIPs=[None], loadBalancerSourceRanges=[None])),
        (
            f"{CORE}/services",
            service(ports=[None], sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": None}),
        ),
        (f"{CORE}/persistentvolumeclaims", claim(accessModes=[None])),
        ("/api/v1/persistentvolumes", volume(capacity={"storage": None})),
        ("/apis/batch/v1/namespaces/default/jobs", named(spec={"podFailurePolicy": {"rules": [None]}})),
    ],
)
async def test_nothing_where_something_belongs_is_the_callers_error(api: Api, path: str, body: dict[str, Any]) -> None:
    assert (await api.post(path, body)).status in (400, 422)
