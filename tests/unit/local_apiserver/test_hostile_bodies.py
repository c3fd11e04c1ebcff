"""Bodies nobody sends by accident: each is refused in good time and harms nothing."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support.apiserver import (
    CONFIG_MAPS,
    CRDS,
    DEPLOYMENTS,
    PODS,
    WIDGETS,
    Api,
    config_map,
    deployment,
    pod,
    widget,
    widget_crd,
)

from agentops.kube import kinds
from agentops.kube.patches import strategic_merge_patch
from agentops.local.apiserver.schema.builtin import schema_of
from agentops.local.apiserver.writes import Writer

pytestmark = pytest.mark.anyio


def bomb(levels: int) -> bytes:
    """YAML of a few hundred bytes that stands for 9**levels strings."""
    lines = ["apiVersion: v1", "kind: ConfigMap", "metadata: {name: a}", "x0: &x0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"x{i}: &x{i} [{','.join([f'*x{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines).encode()


async def test_yaml_whose_aliases_blow_up_is_refused(api: Api) -> None:
    reply = await api.call("POST", CONFIG_MAPS, bomb(9), content_type="application/yaml")
    assert (reply.status, reply.message) == (
        400, "error converting YAML to JSON: yaml: document contains excessive aliasing",
    )  # fmt: skip


async def test_yaml_that_contains_itself_is_refused(api: Api) -> None:
    body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: &d {a: *d}"
    assert (await api.call("POST", CONFIG_MAPS, body, content_type="application/yaml")).status == 400


async def test_yaml_may_use_aliases(api: Api) -> None:
    body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: &v one, b: *v}"
    reply = await api.call("POST", CONFIG_MAPS, body, content_type="application/yaml")
    assert reply.body["data"] == {"a": "one", "b": "one"}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "text/html"])
async def test_a_body_of_another_media_type_is_refused(api: Api, kind: str) -> None:
    reply = await api.call("POST", CONFIG_MAPS, config_map("a"), content_type=kind)
    assert (reply.status, reply.reason) == (415, "UnsupportedMediaType")


@pytest.mark.parametrize(
    "body",
    [
        [1],
        {"preconditions": 5},
        {"preconditions": {"uid": [1]}},
        {"dryRun": 5},
        {"dryRun": "All"},
        {"gracePeriodSeconds": {}},
        {"gracePeriodSeconds": True},
        {"propagationPolicy": ["Background"]},
        {"orphanDependents": "x"},
    ],
)
async def test_delete_options_of_the_wrong_type_delete_nothing(api: Api, body: Any) -> None:
    await api.post(CONFIG_MAPS, config_map("a"))
    assert (await api.delete(f"{CONFIG_MAPS}/a", body)).status == 400
    assert (await api.get(f"{CONFIG_MAPS}/a")).status == 200
    await api.post(PODS, pod("p", nodeName="n"))
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": body}
    assert (await api.post(f"{PODS}/p/eviction", eviction)).status == 400
    assert "deletionTimestamp" not in (await api.get(f"{PODS}/p")).body["metadata"]


async def test_an_endless_grace_does_not_overflow(api: Api) -> None:
    await api.post(PODS, pod("p", nodeName="n"))
    reply = await api.delete(f"{PODS}/p", {"gracePeriodSeconds": 10**18})
    assert (reply.status, reply.body["metadata"]["deletionGracePeriodSeconds"]) == (200, 2**31 - 1)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"{PODS}/p/binding", {"target": 5}),
        (f"{PODS}/p/binding", {"target": {"name": {}}}),
        ("/api/v1/namespaces/default/serviceaccounts/default/token", {"spec": 5}),
        ("/api/v1/namespaces/default/serviceaccounts/default/token", {"spec": {"boundObjectRef": "x"}}),
    ],
)
async def test_subresources_take_objects_only(api: Api, path: str, body: Any) -> None:
    await api.post(PODS, pod("p"))
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    await api.post("/api/v1/namespaces/default/serviceaccounts", account)
    assert (await api.post(path, body)).status in (400, 422)


@pytest.mark.parametrize("body", [[1], {"spec": 5}, {"metadata": [1], "spec": {"replicas": 1}}, {"metadata": 5}])
async def test_a_scale_of_the_wrong_shape_scales_nothing(api: Api, body: Any) -> None:
    await api.post(DEPLOYMENTS, deployment("a"))
    before = (await api.get(f"{DEPLOYMENTS}/a")).body
    replies = [await api.put(f"{DEPLOYMENTS}/a/scale", body), await api.patch(f"{DEPLOYMENTS}/a/scale", body)]
    assert {reply.status for reply in replies} <= {400, 409, 422}
    assert (await api.get(f"{DEPLOYMENTS}/a")).body == before


@pytest.mark.parametrize(
    "spec",
    [
        {"$setElementOrder/containers": 5},
        {"$setElementOrder/containers": {"a": 1}},
        {"$deleteFromPrimitiveList/containers": 5},
        {"$retainKeys": 5},
        {"$patch": "nonsense"},
        {"containers": [5]},
        {"containers": [{"image": "x"}]},
    ],
)
async def test_directives_that_make_no_sense_change_nothing(api: Api, spec: Any) -> None:
    await api.post(DEPLOYMENTS, deployment("a"))
    before = (await api.get(f"{DEPLOYMENTS}/a")).body
    reply = await api.patch(f"{DEPLOYMENTS}/a", {"spec": {"template": {"spec": spec}}}, "strategic")
    assert reply.status in (400, 422)
    assert (await api.get(f"{DEPLOYMENTS}/a")).body == before


def test_a_long_strategic_patch_takes_time_by_its_length_not_by_its_square() -> None:
    schema = schema_of(kinds.DEPLOYMENT)
    containers = [{"name": f"c{i}", "image": "x"} for i in range(40_000)]
    order = [{"name": f"c{i}"} for i in reversed(range(40_000))]
    spec = {"containers": containers, "$setElementOrder/containers": order}
    began = time.process_time()
    merged = strategic_merge_patch({}, {"spec": {"template": {"spec": spec}}}, schema)
    assert time.process_time() - began < 10
    assert merged["spec"]["template"]["spec"]["containers"] == containers[::-1]


async def test_a_pod_that_is_hopelessly_large_is_refused_before_it_is_worked_on(api: Api) -> None:
    """60,000 containers would take ten seconds to default, validate and own, and be too large then."""
    body = pod("a", containers=[{"name": f"c{number}", "image": "a"} for number in range(60_000)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "_validate", None)  # nothing validates it
        reply = await api.post(PODS, body)
        assert (reply.status, reply.reason) == (413, "RequestEntityTooLarge")
        small = pod("b")
        small["spec"]["containers"][0]["env"] = [{"name": f"E{n}", "value": "x"} for n in range(50_000)]
        assert (await api.post(PODS, small)).status == 413


async def test_an_object_full_of_embedded_json_may_be_as_large_as_any(api: Api) -> None:
    """Colons and quotes inside a value are no fields."""
    text = '{"a":1},' * 100_000
    assert (await api.post(CONFIG_MAPS, config_map("a", x=text))).status == 201


async def test_a_delete_that_says_two_things_about_dependents_is_refused(api: Api) -> None:
    assert (await api.post(CONFIG_MAPS, config_map("a"))).status == 201
    reply = await api.delete(f"{CONFIG_MAPS}/a", {"propagationPolicy": "Background", "orphanDependents": True})
    assert (reply.status, "cannot be both set" in reply.message) == (422, True)


async def test_a_field_manager_has_a_name_of_bounded_length(api: Api) -> None:
    reply = await api.post(f"{CONFIG_MAPS}?fieldManager={'x' * 129}", config_map("a"))
    assert (reply.status, "fieldManager: Too long" in reply.message) == (422, True)


def api_object(api_version: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "a"}, **fields}


NULLS_IN_LISTS = [
    ("/api/v1/namespaces/default/endpoints", api_object("v1", "Endpoints", subsets=[None])),
    ("/api/v1/namespaces/default/endpoints", api_object("v1", "Endpoints", subsets=[{"ports": [None]}])),
    ("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
     api_object("discovery.k8s.io/v1", "EndpointSlice", addressType="IPv4", endpoints=[{"addresses": [None]}])),
    ("/apis/rbac.authorization.k8s.io/v1/clusterroles",
     api_object("rbac.authorization.k8s.io/v1", "ClusterRole", rules=[None])),
    ("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
     api_object("networking.k8s.io/v1", "NetworkPolicy", spec={"podSelector": {}, "ingress": [{"ports": [None]}]})),
    ("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
     api_object("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", webhooks=[None])),
    (PODS, pod("a", volumes=[None])),
    (PODS, pod("a", containers=[None])),
    (PODS, pod("a", containers=[{"name": "m", "image": "a", "ports": [None], "env": [None], "args": [None]}])),
    (CONFIG_MAPS, {**config_map("a"), "metadata": {"name": "a", "finalizers": [None], "ownerReferences": [None]}}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), NULLS_IN_LISTS)
async def test_null_in_a_list_is_an_empty_item_as_in_go(api: Api, path: str, body: Any) -> None:
    reply = await api.post(path, body)
    assert reply.status in (201, 422), reply
    for accept in ("application/json", "application/json;as=Table;v=v1;g=meta.k8s.io"):
        assert (await api.get(path, accept=accept)).status == 200


async def test_null_in_a_map_of_strings_is_an_empty_string_as_in_go(api: Api) -> None:
    body = {**config_map("a", x="y"), "metadata": {"name": "a", "labels": {"app": None}}}
    body["data"]["z"] = None
    made = (await api.post(CONFIG_MAPS, body)).body
    assert (made["metadata"]["labels"], made["data"]) == ({"app": ""}, {"x": "y", "z": ""})


@pytest.mark.parametrize(
    ("replicas", "said"), [(1 << 40, "number 1099511627776"), (1.5, "number 1.5"), (True, "bool"), ([], "array")]
)
async def test_a_number_that_does_not_fit_is_refused_as_by_gos_decoder(api: Api, replicas: Any, said: str) -> None:
    body = deployment("a")
    body["spec"]["replicas"] = replicas
    reply = await api.post(DEPLOYMENTS, body)
    text = f"json: cannot unmarshal {said} into Go struct field DeploymentSpec.spec.replicas of type int32"
    assert (reply.status, reply.message.endswith(text)) == (400, True), reply.message


@pytest.mark.parametrize(
    "change",
    [
        {"properties": [1]},
        {"properties": {"a": 5}},
        {"items": {"maxItems": "x"}},
        {"pattern": ["a"]},
        {"maxLength": "5"},
        {"required": "a"},
        {"additionalProperties": "yes"},
        {"x-kubernetes-validations": [{"rule": ["true"]}]},
        {"x-kubernetes-validations": 5},
        {"allOf": {"a": 1}},
        {"not": [1]},
    ],
)
async def test_a_crd_whose_schema_is_of_the_wrong_type_is_refused(api: Api, change: dict[str, Any]) -> None:
    crd = widget_crd()
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["more"] = {"type": "object", **change}
    reply = await api.post(CRDS, crd)
    assert reply.status == 400, reply
    assert "cannot be handled as a CustomResourceDefinition" in reply.message


async def test_a_misspelt_keyword_of_a_crds_schema_is_named(api: Api) -> None:
    crd = widget_crd()
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["more"] = {"type": "array", "items": {"type": "string", "maxlength": 5}}
    at = "spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.more.items.maxlength"
    reply = await api.post(f"{CRDS}?fieldValidation=Strict", crd)
    assert (reply.status, f'unknown field "{at}"' in reply.message) == (400, True), reply.message


async def test_a_default_beside_a_pattern_that_is_none_is_refused_with_the_pattern(api: Api) -> None:
    crd = widget_crd()
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["more"] = {"type": "string", "pattern": "(", "default": "x"}
    reply = await api.post(CRDS, crd)
    assert (reply.status, "must be a valid regular expression" in reply.message) == (422, True)


@pytest.mark.parametrize("number", ["x", "1.5", "nan", "1e3", "1_0", "²", "99999999999999999999"])
@pytest.mark.parametrize("name", ["limit", "watch=true&timeoutSeconds"])
async def test_a_parameter_that_is_no_whole_number_is_a_bad_request(api: Api, name: str, number: str) -> None:
    reply = await api.get(f"{CONFIG_MAPS}?{name}={number}")
    assert (reply.status, "strconv.ParseInt" in reply.message) == (400, True)


async def test_a_resource_version_beyond_64_bits_is_a_bad_request(api: Api) -> None:
    reply = await api.get(f"{CONFIG_MAPS}?resourceVersion={'9' * 5000}")
    assert (reply.status, reply.message.endswith("value out of range")) == (400, True)


async def test_logs_of_less_than_nothing_are_invalid(api: Api) -> None:
    await api.post(PODS, pod("a", nodeName="n"))
    reply = await api.get(f"{PODS}/a/log?tailLines=-1")
    assert (reply.status, "must be greater than or equal to 0" in reply.message) == (422, True)


@pytest.mark.parametrize("port", ["²", "0", "99999", "x"])
async def test_a_proxy_to_no_port_is_a_bad_request(api: Api, port: str) -> None:
    await api.post(PODS, pod("a", nodeName="n"))
    assert (await api.get(f"{PODS}/a:{port}/proxy/")).status == 400


def nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


@pytest.mark.parametrize("levels", [195, 230, 300, 900, 1000, 5000])
async def test_what_can_be_stored_can_be_shown_and_what_is_deeper_is_refused(widgets: Api, levels: int) -> None:
    head, tail = b'{"apiVersion":"test.example.com/v1","kind":"Widget","metadata":{"name":"a"},', b"}"
    body = head + b'"spec":{"model":"gpt","free":' + nested(levels) + b"}" + tail
    patch = b'{"spec":{"free":' + nested(levels) + b"}}"
    assert (await widgets.post(WIDGETS, widget("b"))).status == 201
    replies = [
        await widgets.call("POST", WIDGETS, body),
        await widgets.patch(f"{WIDGETS}/b", patch),
        await widgets.apply(f"{WIDGETS}/c", body.replace(b'"a"', b'"c"', 1), "me"),
    ]
    expected = {200, 201} if levels == 195 else {400}
    assert {reply.status for reply in replies} <= expected, replies
    for accept in ("application/json", "application/json;as=Table;v=v1;g=meta.k8s.io"):
        assert (await widgets.get(f"{WIDGETS}?includeObject=Object", accept=accept)).status == 200
