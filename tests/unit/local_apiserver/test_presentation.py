"""Discovery, OpenAPI and tables."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from support.apiserver import (
    CONFIG_MAPS,
    CRDS,
    DEPLOYMENTS,
    PODS,
    WIDGETS,
    Api,
    ManualClock,
    config_map,
    deployment,
    pod,
    serve_widgets,
    widget,
)

pytestmark = pytest.mark.anyio

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def cells(table: dict[str, Any]) -> list[dict[str, Any]]:
    names = [c["name"] for c in table["columnDefinitions"]]
    return [dict(zip(names, row["cells"], strict=True)) for row in table["rows"]]


async def test_aggregated_discovery_lists_resources_with_their_subresources(widgets: Api) -> None:
    core = await widgets.get("/api", accept=AGGREGATED)
    assert core.headers["content-type"] == "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    assert core.headers["vary"] == "Accept"
    pods = next(r for r in core.body["items"][0]["versions"][0]["resources"] if r["resource"] == "pods")
    assert pods["shortNames"] == ["po"]
    assert pods["categories"] == ["all"]
    assert "log" in [s["subresource"] for s in pods["subresources"]]
    groups = (await widgets.get("/apis", accept=AGGREGATED)).body["items"]
    group = next(g for g in groups if g["metadata"]["name"] == "test.example.com")
    found = group["versions"][0]["resources"][0]
    assert found["responseKind"] == {"group": "test.example.com", "version": "v1", "kind": "Widget"}
    assert [s["subresource"] for s in found["subresources"]] == ["status", "scale"]


async def test_plain_discovery_answers_for_older_clients(widgets: Api) -> None:
    assert (await widgets.get("/api")).body["versions"] == ["v1"]
    names = [g["name"] for g in (await widgets.get("/apis")).body["groups"]]
    assert "apps" in names
    assert "test.example.com" in names
    one = (await widgets.get("/apis/test.example.com")).body
    assert one["preferredVersion"]["groupVersion"] == "test.example.com/v1"
    listed = (await widgets.get("/apis/test.example.com/v1")).body["resources"]
    assert [r["name"] for r in listed] == ["widgets", "widgets/status", "widgets/scale"]


async def test_discovery_etags_change_with_the_crds(api: Api) -> None:
    first = await api.get("/apis", accept=AGGREGATED)
    same = await api.get("/apis", accept=AGGREGATED, if_none_match=first.headers["etag"])
    assert same.status == 304
    await serve_widgets(api)
    changed = await api.get("/apis", accept=AGGREGATED, if_none_match=first.headers["etag"])
    assert changed.status == 200


async def test_openapi_has_what_kubectl_needs(widgets: Api) -> None:
    index = (await widgets.get("/openapi/v3")).body["paths"]
    url = index["apis/test.example.com/v1"]["serverRelativeURL"]
    reply = await widgets.get(url)
    assert "immutable" in reply.headers["cache-control"]
    path = "/apis/test.example.com/v1/namespaces/{namespace}/widgets/{name}"
    patch = reply.body["paths"][path]["patch"]
    assert "application/strategic-merge-patch+json" not in patch["requestBody"]["content"]
    assert patch["x-kubernetes-group-version-kind"] == {"group": "test.example.com", "version": "v1", "kind": "Widget"}
    assert patch["parameters"][0]["name"] == "fieldValidation"
    schema = reply.body["components"]["schemas"]["com.example.test.v1.Widget"]
    assert schema["properties"]["spec"]["properties"]["port"]["anyOf"] == [{"type": "integer"}, {"type": "string"}]
    apps = (await widgets.get("/openapi/v3/apis/apps/v1")).body
    content = apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]["requestBody"][
        "content"
    ]
    assert "application/strategic-merge-patch+json" in content
    containers = apps["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert containers["x-kubernetes-patch-merge-key"] == "name"
    assert containers["items"] == {"$ref": "#/components/schemas/io.k8s.api.core.v1.Container"}
    crd = (await widgets.get(f"{CRDS}/widgets.test.example.com")).body
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["new"] = {
        "type": "string"
    }
    await widgets.put(f"{CRDS}/widgets.test.example.com", crd)
    again = (await widgets.get("/openapi/v3")).body["paths"]["apis/test.example.com/v1"]["serverRelativeURL"]
    assert again != url


async def test_custom_columns_come_from_the_crd(widgets: Api, clock: ManualClock) -> None:
    await widgets.post(WIDGETS, widget("a", replicas=2))
    clock.advance(552)
    table = (await widgets.get(WIDGETS, accept=TABLE)).body
    assert table["kind"] == "Table"
    assert cells(table) == [{"Name": "a", "Model": "gpt", "Replicas": 2, "Age": "9m12s"}]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    assert table["columnDefinitions"][0]["format"] == "name"


async def test_a_table_watch_defines_its_columns_once(widgets: Api) -> None:
    watch = await widgets.watch(WIDGETS, accept=TABLE)
    await widgets.post(WIDGETS, widget("a"))
    await widgets.post(WIDGETS, widget("b"))
    first, second = await watch.next(), await watch.next()
    assert len(first["object"]["columnDefinitions"]) == 4
    assert second["object"]["columnDefinitions"] == []
    assert second["object"]["rows"][0]["cells"][0] == "b"
    await watch.close()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"phase": "Pending"}, ("0/1", "Pending", "0")),
        (
            {"phase": "Pending", "containerStatuses": [
                {"name": "main", "state": {"waiting": {"reason": "ContainerCreating"}}}]},
            ("0/1", "ContainerCreating", "0"),
        ),
        (
            {"phase": "Running", "containerStatuses": [
                {"name": "main", "ready": True, "restartCount": 2, "state": {"running": {}},
                 "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:00Z"}}}]},
            ("1/1", "Running", "2 (60s ago)"),
        ),
        (
            {"phase": "Running", "containerStatuses": [
                {"name": "main", "restartCount": 5, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
            ("0/1", "CrashLoopBackOff", "5"),
        ),
        (
            {"phase": "Succeeded", "containerStatuses": [
                {"name": "main", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]},
            ("0/1", "Completed", "0"),
        ),
        (
            {"phase": "Failed", "containerStatuses": [{"name": "main", "state": {"terminated": {"exitCode": 3}}}]},
            ("0/1", "ExitCode:3", "0"),
        ),
        (
            {"phase": "Pending", "initContainerStatuses": [{"name": "init", "state": {"running": {}}}]},
            ("0/1", "Init:0/1", "0"),
        ),
    ],
)  # fmt: skip
async def test_pod_status_words(
    api: Api, clock: ManualClock, status: dict[str, Any], expected: tuple[str, ...]
) -> None:
    body = pod("p", nodeName="n")
    if "initContainerStatuses" in status:
        body["spec"]["initContainers"] = [{"name": "init", "image": "agentops:1"}]
    await api.post(PODS, body)
    await api.patch(f"{PODS}/p/status", {"status": status})
    clock.advance(60)
    row = cells((await api.get(PODS, accept=TABLE)).body)[0]
    assert (row["Ready"], row["Status"], row["Restarts"]) == expected
    await api.delete(f"{PODS}/p")
    row = cells((await api.get(PODS, accept=TABLE)).body)[0] if status["phase"] not in ("Succeeded", "Failed") else None
    assert row is None or row["Status"] == "Terminating"


async def test_a_gated_pod_says_what_holds_it(api: Api) -> None:
    made = (await api.post(PODS, pod("p", schedulingGates=[{"name": "example.com/quota"}]))).body
    (condition,) = made["status"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"], condition["message"]) == (
        "PodScheduled",
        "False",
        "SchedulingGated",
        "Scheduling is blocked due to non-empty scheduling gates",
    )
    assert cells((await api.get(PODS, accept=TABLE)).body)[0]["Status"] == "SchedulingGated"


async def test_deployments_and_their_numbers(api: Api) -> None:
    await api.post(DEPLOYMENTS, deployment("web"))
    await api.patch(f"{DEPLOYMENTS}/web/status", {"status": {"readyReplicas": 1, "updatedReplicas": 1}})
    row = cells((await api.get(DEPLOYMENTS, accept=TABLE)).body)[0]
    assert (row["Ready"], row["Up-to-date"], row["Available"], row["Selector"]) == ("1/1", 1, 0, "app=web")


async def test_every_built_in_has_a_table(api: Api) -> None:
    for resource in list(api.server.registry):
        if resource.storage:
            reply = await api.get(resource.kind.path(), accept=TABLE)
            assert reply.body["kind"] == "Table", resource.kind


async def test_every_built_in_has_a_schema_and_discovery(api: Api) -> None:
    for resource in list(api.server.registry):
        assert resource.schema is not None, resource.kind


async def test_unacceptable_forms_are_refused(api: Api) -> None:
    reply = await api.get(PODS, accept="image/png")
    assert (reply.status, reply.reason) == (406, "NotAcceptable")
    proto = await api.get(PODS, accept="application/vnd.kubernetes.protobuf,application/json")
    assert proto.headers["content-type"] == "application/json"


async def test_who_knows_only_the_beta_form_of_discovery_gets_the_plain_one(api: Api) -> None:
    """client-go 1.26 to 1.29 would take version 2 for an empty list of groups."""
    beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
    reply = await api.get("/apis", accept=beta)
    assert (reply.headers["content-type"], reply.body["kind"]) == ("application/json", "APIGroupList")
    both = beta.replace("v=v2beta1", "v=v2") + "," + beta
    assert (await api.get("/apis", accept=both)).body["kind"] == "APIGroupDiscoveryList"


METADATA = "as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (
            f"application/vnd.kubernetes.protobuf;{METADATA}",
            "PartialObjectMetadataList",
        ),
        (
            f"application/vnd.kubernetes.protobuf;{METADATA},application/json;{METADATA},application/json",
            "PartialObjectMetadataList",
        ),
        ("application/vnd.kubernetes.protobuf", "ConfigMapList"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "ConfigMapList"),
        ("application/yaml;q=0.5,application/json", "ConfigMapList"),
        ("*/*", "ConfigMapList"),
        ("application/json;as=Table;v=v2;g=meta.k8s.io,application/json", "ConfigMapList"),
    ],
)
async def test_the_form_asked_for_is_served_as_json(api: Api, accept: str, kind: str) -> None:
    reply = await api.get(CONFIG_MAPS, accept=accept)
    assert (reply.status, reply.body["kind"]) == (200, kind)


async def test_a_version_of_the_table_that_is_none_is_not_acceptable(api: Api) -> None:
    assert (await api.get(CONFIG_MAPS, accept="application/json;as=Table;v=v2;g=meta.k8s.io")).status == 406


async def test_yaml_is_served_to_who_asks_for_it(api: Api) -> None:
    made = await api.post(CONFIG_MAPS, config_map("a", word="yes", number="1e3"), accept="application/yaml")
    assert (made.status, made.headers["content-type"]) == (201, "application/yaml")
    assert yaml.safe_load(made.body)["data"] == {"word": "yes", "number": "1e3"}
    for path in (CONFIG_MAPS, f"{CONFIG_MAPS}/a", "/apis", "/api/v1"):
        reply = await api.get(path, accept="application/yaml")
        assert reply.headers["content-type"] == "application/yaml"
        assert yaml.safe_load(reply.body)["kind"]
    missing = await api.get(f"{CONFIG_MAPS}/nobody", accept="application/yaml, application/json;q=0.1")
    assert (missing.status, yaml.safe_load(missing.body)["reason"]) == (404, "NotFound")
    again = await api.call("PUT", f"{CONFIG_MAPS}/a", made.body, content_type="application/yaml")
    assert again.status == 200
    assert (await api.get(f"{CONFIG_MAPS}?watch=true", accept="application/yaml")).status == 406
    assert (await api.get("/version", accept="application/yaml")).headers["content-type"] == "application/json"


async def test_nothing_is_written_for_who_takes_no_answer(api: Api) -> None:
    for path in (CONFIG_MAPS, "/apis", "/api/v1"):
        assert (await api.get(path, accept="text/html")).status == 406
    refused = await api.post(CONFIG_MAPS, config_map("a"), accept="text/html")
    assert (refused.status, refused.reason) == (406, "NotAcceptable")
    missing = await api.get(f"{CONFIG_MAPS}/a", accept="text/html,*/*;q=0.1")
    assert (missing.status, missing.headers["content-type"]) == (404, "application/json")


async def test_a_table_includes_what_there_is_to_include(api: Api) -> None:
    reply = await api.get(f"{CONFIG_MAPS}?includeObject=Foo", accept=TABLE)
    assert (reply.status, reply.reason) == (400, "BadRequest")
    assert reply.message == (
        'Unable to convert to Table as requested: includeObject: Invalid value: "Foo": '
        "must be 'Metadata', 'Object', 'None', or empty"
    )
    assert (await api.get(f"{CONFIG_MAPS}?includeObject=None", accept=TABLE)).status == 200
