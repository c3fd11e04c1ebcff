"""Server-side apply and field ownership."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.apiserver import CONFIG_MAPS, DEPLOYMENTS, WIDGETS, Api, config_map, deployment, widget

from agentops.local.apiserver.apply.fields import build, members

pytestmark = pytest.mark.anyio


def managers(body: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {
        (m["manager"], m["operation"], m.get("subresource", "")): m["fieldsV1"]
        for m in body["metadata"].get("managedFields", ())
    }


async def test_applying_creates_and_owns_what_was_said(widgets: Api) -> None:
    reply = await widgets.apply(f"{WIDGETS}/a", widget("a", tools=[{"name": "x", "to": "y"}]), "m1")
    assert reply.status == 201
    assert reply.body["spec"]["mode"] == "daemon"
    owned = managers(reply.body)
    assert owned == {
        ("m1", "Apply", ""): {
            "f:spec": {"f:model": {}, "f:tools": {'k:{"name":"x"}': {".": {}, "f:name": {}, "f:to": {}}}}
        }
    }


async def test_applying_the_same_again_writes_nothing(widgets: Api) -> None:
    first = await widgets.apply(f"{WIDGETS}/a", widget("a"), "m1")
    widgets.server.clock.advance(60)  # type: ignore[attr-defined]
    second = await widgets.apply(f"{WIDGETS}/a", widget("a"), "m1")
    assert second.status == 200
    assert second.body == first.body


async def test_another_managers_value_is_a_conflict_until_forced(widgets: Api) -> None:
    await widgets.apply(f"{WIDGETS}/a", widget("a", replicas=1), "m1")
    reply = await widgets.apply(f"{WIDGETS}/a", widget("a", replicas=2), "m2")
    assert (reply.status, reply.reason) == (409, "Conflict")
    assert reply.message == 'Apply failed with 1 conflict: conflict with "m1": .spec.replicas'
    assert reply.body["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "m1"', "field": ".spec.replicas"}
    ]
    forced = await widgets.apply(f"{WIDGETS}/a", widget("a", replicas=2), "m2", force=True)
    owned = managers(forced.body)
    assert forced.body["spec"]["replicas"] == 2
    assert "f:replicas" not in owned["m1", "Apply", ""]["f:spec"]
    assert "f:replicas" in owned["m2", "Apply", ""]["f:spec"]
    # The same value is shared, not a conflict.
    assert "f:model" in owned["m1", "Apply", ""]["f:spec"]


async def test_an_update_manager_is_named_with_its_version(widgets: Api) -> None:
    await widgets.post(f"{WIDGETS}?fieldManager=kubectl-create", widget("a", replicas=1))
    reply = await widgets.apply(f"{WIDGETS}/a", widget("a", replicas=2), "m1")
    assert reply.message.endswith('conflict with "kubectl-create" using test.example.com/v1: .spec.replicas')


async def test_what_is_no_longer_applied_goes_unless_somebody_else_owns_it(widgets: Api) -> None:
    await widgets.apply(f"{WIDGETS}/a", widget("a", replicas=1, temp="1", mode="task"), "m1")
    await widgets.apply(f"{WIDGETS}/a", widget("a", temp="1"), "m2")
    reply = await widgets.apply(f"{WIDGETS}/a", widget("a"), "m1")
    assert reply.body["spec"] == {"model": "gpt", "temp": "1", "mode": "daemon"}


async def test_items_of_keyed_lists_are_owned_one_by_one(widgets: Api) -> None:
    await widgets.apply(f"{WIDGETS}/a", widget("a", tools=[{"name": "x", "to": "1"}, {"name": "y"}]), "m1")
    await widgets.apply(f"{WIDGETS}/a", widget("a", tools=[{"name": "z"}]), "m2")
    reply = await widgets.apply(f"{WIDGETS}/a", widget("a", tools=[{"name": "x", "to": "1"}]), "m1")
    assert reply.body["spec"]["tools"] == [{"name": "x", "to": "1"}, {"name": "z"}]
    gone = await widgets.apply(f"{WIDGETS}/a", widget("a"), "m2")
    assert gone.body["spec"]["tools"] == [{"name": "x", "to": "1"}]


async def test_lists_without_a_type_are_one_leaf(widgets: Api) -> None:
    await widgets.apply(f"{WIDGETS}/a", widget("a", args=["1"]), "m1")
    reply = await widgets.apply(f"{WIDGETS}/a", widget("a", args=["2"]), "m2")
    assert reply.message.endswith('conflict with "m1": .spec.args')
    forced = await widgets.apply(f"{WIDGETS}/a", widget("a", args=["2"]), "m2", force=True)
    assert forced.body["spec"]["args"] == ["2"]


async def test_labels_are_owned_key_by_key(api: Api) -> None:
    first = config_map("a", k="1")
    first["metadata"]["labels"] = {"one": "1"}
    second = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"two": "2"}}}
    await api.apply(f"{CONFIG_MAPS}/a", first, "m1")
    both = await api.apply(f"{CONFIG_MAPS}/a", second, "m2")
    assert both.body["metadata"]["labels"] == {"one": "1", "two": "2"}
    del first["metadata"]["labels"]
    left = await api.apply(f"{CONFIG_MAPS}/a", first, "m1")
    assert left.body["metadata"]["labels"] == {"two": "2"}


async def test_containers_of_a_deployment_merge_by_name_and_ports_by_two_keys(api: Api) -> None:
    body = deployment("web")
    body["spec"]["template"]["spec"]["containers"][0]["ports"] = [{"containerPort": 80}]
    await api.apply(f"{DEPLOYMENTS}/web", body, "m1")
    again = await api.apply(f"{DEPLOYMENTS}/web", body, "m1")
    container = again.body["spec"]["template"]["spec"]["containers"][0]
    assert container["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    sidecar: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"template": {"spec": {"containers": [{"name": "side", "image": "agentops:1"}]}}},
    }
    both = await api.apply(f"{DEPLOYMENTS}/web", sidecar, "m2")
    assert both.status == 200, both
    assert [c["name"] for c in both.body["spec"]["template"]["spec"]["containers"]] == ["side", "main"] or [
        c["name"] for c in both.body["spec"]["template"]["spec"]["containers"]
    ] == ["main", "side"]


async def test_status_is_applied_through_its_own_door(widgets: Api) -> None:
    await widgets.apply(f"{WIDGETS}/a", widget("a"), "m1")
    status = {**widget("a"), "status": {"phase": "Up"}}
    del status["spec"]
    reply = await widgets.apply(f"{WIDGETS}/a/status", status, "m2")
    assert reply.body["status"] == {"phase": "Up"}
    assert reply.body["spec"]["model"] == "gpt"
    assert managers(reply.body)["m2", "Apply", "status"] == {"f:status": {"f:phase": {}}}


async def test_updates_are_tracked_by_manager_and_subresource(widgets: Api) -> None:
    created = await widgets.post(WIDGETS, widget("a", replicas=1), user_agent="operator/1.0 (linux)")
    assert managers(created.body)["operator", "Update", ""]["f:spec"]["f:replicas"] == {}
    await widgets.patch(f"{WIDGETS}/a?fieldManager=editor", {"spec": {"replicas": 2}})
    reply = await widgets.patch(f"{WIDGETS}/a/status?fieldManager=ctl", {"status": {"phase": "x"}})
    owned = managers(reply.body)
    assert "f:replicas" not in owned["operator", "Update", ""]["f:spec"]
    assert owned["editor", "Update", ""] == {"f:spec": {"f:replicas": {}}}
    assert owned["ctl", "Update", "status"] == {"f:status": {"f:phase": {}}} or owned["ctl", "Update", "status"] == {
        "f:status": {".": {}, "f:phase": {}}
    }


async def test_managed_fields_can_be_cleared_and_patched(widgets: Api) -> None:
    await widgets.apply(f"{WIDGETS}/a", widget("a"), "m1")
    renamed = await widgets.patch(
        f"{WIDGETS}/a", [{"op": "replace", "path": "/metadata/managedFields/0/manager", "value": "m9"}], "json"
    )
    assert list(managers(renamed.body)) == [("m9", "Apply", "")]
    cleared = await widgets.patch(f"{WIDGETS}/a", {"metadata": {"managedFields": [{}]}})
    assert "managedFields" not in cleared.body["metadata"]


async def test_bad_apply_requests_are_refused(widgets: Api) -> None:
    nobody = await widgets.patch(f"{WIDGETS}/a", widget("a"), "apply")
    assert nobody.status == 422
    assert "fieldManager: Required value: is required for apply patch" in nobody.message
    body = widget("a")
    body["metadata"]["managedFields"] = [{"manager": "x"}]
    managed = await widgets.apply(f"{WIDGETS}/a", body, "m1")
    assert (managed.status, managed.message) == (400, "metadata.managedFields must be nil")
    unknown = await widgets.apply(f"{WIDGETS}/a", widget("a", nosuch=1), "m1")
    assert ".spec.nosuch: field not declared in schema" in unknown.message
    forced = await widgets.patch(f"{WIDGETS}/a?force=true", {"spec": {}})
    assert forced.status == 422


async def test_an_apply_may_be_yaml(widgets: Api) -> None:
    text = b"apiVersion: test.example.com/v1\nkind: Widget\nmetadata: {name: a}\nspec: {model: gpt}\n"
    reply = await widgets.apply(f"{WIDGETS}/a", text, "m1")
    assert reply.status == 201


paths = st.sets(
    st.lists(st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"y"']), min_size=1, max_size=4).map(tuple), max_size=12
)


@given(paths)
def test_a_field_set_survives_its_wire_form(members_of: set[tuple[str, ...]]) -> None:
    assert members(build(members_of)) == members_of


async def test_an_item_that_is_no_longer_applied_goes_with_the_defaults_in_it(api: Api) -> None:
    """targetPort, protocol and a container's defaults belong to nobody: they must not keep the item there."""
    path = "/api/v1/namespaces/default/services/s"
    ports = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}}
    assert (await api.apply(path, service, "m1")).status == 201
    ports.pop()
    reply = await api.apply(path, service, "m1")
    assert reply.status == 200, reply.message
    assert [port["port"] for port in reply.body["spec"]["ports"]] == [80]

    made = deployment("d")
    made["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "agentops:1"})
    assert (await api.apply(f"{DEPLOYMENTS}/d", made, "m1")).status == 201
    reply = await api.apply(f"{DEPLOYMENTS}/d", deployment("d"), "m1")
    assert reply.status == 200, reply.message
    assert [c["name"] for c in reply.body["spec"]["template"]["spec"]["containers"]] == ["main"]


async def test_an_item_in_which_somebody_else_owns_something_keeps_that(api: Api) -> None:
    made = deployment("d")
    side = {"name": "side", "image": "agentops:1"}
    made["spec"]["template"]["spec"]["containers"].append({**side, "args": ["x"]})
    assert (await api.apply(f"{DEPLOYMENTS}/d", made, "m1")).status == 201
    other = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
             "spec": {"template": {"spec": {"containers": [side]}}}}  # fmt: skip
    assert (await api.apply(f"{DEPLOYMENTS}/d", other, "m2")).status == 200
    reply = await api.apply(f"{DEPLOYMENTS}/d", deployment("d"), "m1")
    kept = reply.body["spec"]["template"]["spec"]["containers"][1]
    assert (kept["name"], kept["image"], "args" in kept) == ("side", "agentops:1", False)


async def test_a_block_that_is_no_longer_applied_is_defaulted_anew(api: Api) -> None:
    made = deployment("d")
    made["spec"]["strategy"] = {"rollingUpdate": {"maxSurge": 3}}
    assert (await api.apply(f"{DEPLOYMENTS}/d", made, "m1")).status == 201
    reply = await api.apply(f"{DEPLOYMENTS}/d", deployment("d"), "m1")
    assert reply.body["spec"]["strategy"] == {
        "type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
    }  # fmt: skip


async def test_letting_go_of_all_labels_leaves_the_rest_of_the_metadata(api: Api) -> None:
    labelled = config_map("a", x="1")
    labelled["metadata"]["labels"] = {"a": "b"}
    first = await api.apply(f"{CONFIG_MAPS}/a", labelled, "m1")
    second = await api.apply(f"{CONFIG_MAPS}/a", config_map("a", x="1"), "m1")
    assert "labels" not in second.body["metadata"]
    assert second.body["metadata"]["uid"] == first.body["metadata"]["uid"]
