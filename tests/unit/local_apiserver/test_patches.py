"""The four patch types, as functions and over the API."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.apiserver import CONFIG_MAPS, DEPLOYMENTS, WIDGETS, Api, config_map, deployment, widget

from agentops.kube.kinds import DEPLOYMENT
from agentops.kube.patches import PatchError, create_merge_patch, json_patch, merge_patch, strategic_merge_patch
from agentops.local.apiserver.schema.builtin import schema_of

json_values = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=10,
)
objects = st.dictionaries(st.text(max_size=2), json_values, max_size=4)


@given(objects, objects)
def test_a_created_merge_patch_leads_from_old_to_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert merge_patch(old, create_merge_patch(old, new)) == new


def test_a_json_patch_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(PatchError):
        json_patch({"a": 1}, [{"op": "test", "path": "/a", "value": 2}])
    with pytest.raises(PatchError):
        json_patch({"a": 1}, [{"op": "remove", "path": "/b"}])
    with pytest.raises(PatchError, match="at most 10000"):
        json_patch({}, [{"op": "add", "path": "/a", "value": 1}] * 10_001)


def merged(patch: dict[str, Any]) -> dict[str, Any]:
    """The pod spec of a deployment with containers a and b after a patch to it."""
    spec = {
        "containers": [
            {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]},
            {"name": "b", "image": "2", "args": ["p", "q"]},
        ],
        "volumes": [{"name": "v", "emptyDir": {}}],
    }
    live = {"metadata": {"finalizers": ["one"]}, "spec": {"template": {"spec": spec}}}
    result = strategic_merge_patch(live, {"spec": {"template": {"spec": patch}}}, schema_of(DEPLOYMENT))
    assert live["spec"]["template"]["spec"]["containers"][0]["image"] == "1"
    return dict(result["spec"]["template"]["spec"])


def test_strategic_merge_merges_containers_by_name() -> None:
    spec = merged({"containers": [{"name": "a", "image": "9", "env": [{"name": "Y", "value": "2"}]}, {"name": "c"}]})
    assert [c["name"] for c in spec["containers"]] == ["a", "b", "c"]
    assert spec["containers"][0]["image"] == "9"
    assert [e["name"] for e in spec["containers"][0]["env"]] == ["X", "Y"]


def test_strategic_merge_replaces_lists_without_a_key() -> None:
    assert merged({"containers": [{"name": "b", "args": ["r"]}]})["containers"][1]["args"] == ["r"]


def test_strategic_merge_directives() -> None:
    assert [c["name"] for c in merged({"containers": [{"name": "a", "$patch": "delete"}]})["containers"]] == ["b"]
    replaced = merged({"containers": [{"$patch": "replace"}, {"name": "z"}]})
    assert replaced["containers"] == [{"name": "z"}]
    ordered = merged({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b"}]})
    assert [c["name"] for c in ordered["containers"]] == ["b", "a"]
    retained = merged({"volumes": [{"name": "v", "hostPath": {"path": "/x"}, "$retainKeys": ["name", "hostPath"]}]})
    assert retained["volumes"] == [{"name": "v", "hostPath": {"path": "/x"}}]
    live = {"metadata": {"finalizers": ["one", "two"]}}
    patch = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["one"], "finalizers": ["three"]}}
    assert strategic_merge_patch(live, patch, schema_of(DEPLOYMENT))["metadata"]["finalizers"] == ["two", "three"]


def test_strategic_merge_needs_the_merge_key() -> None:
    with pytest.raises(PatchError, match="does not contain declared merge key: name"):
        merged({"containers": [{"image": "x"}]})


@pytest.mark.anyio
async def test_custom_resources_refuse_strategic_merge(widgets: Api) -> None:
    await widgets.post(WIDGETS, widget("a"))
    reply = await widgets.patch(f"{WIDGETS}/a", {"spec": {}}, "strategic")
    assert (reply.status, reply.reason) == (415, "UnsupportedMediaType")
    assert reply.message == (
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, "
        "application/merge-patch+json, application/apply-patch+yaml"
    )


@pytest.mark.anyio
async def test_a_failed_json_patch_test_is_invalid(api: Api) -> None:
    await api.post(CONFIG_MAPS, config_map("a", k="1"))
    reply = await api.patch(f"{CONFIG_MAPS}/a", [{"op": "test", "path": "/data/k", "value": "2"}], "json")
    assert (reply.status, reply.reason) == (422, "Invalid")
    assert reply.message == "the server rejected our request due to an error in our request"
    assert reply.body["details"] == {}


@pytest.mark.anyio
async def test_a_patch_with_a_stale_version_is_a_conflict(api: Api) -> None:
    old = (await api.post(CONFIG_MAPS, config_map("a"))).body["metadata"]["resourceVersion"]
    await api.patch(f"{CONFIG_MAPS}/a", {"data": {"k": "1"}})
    reply = await api.patch(f"{CONFIG_MAPS}/a", {"metadata": {"resourceVersion": old}, "data": {"k": "2"}})
    assert reply.status == 409


@pytest.mark.anyio
async def test_a_patch_with_an_unknown_field_is_refused_when_strict(api: Api) -> None:
    await api.post(DEPLOYMENTS, deployment("a"))
    reply = await api.patch(f"{DEPLOYMENTS}/a?fieldValidation=Strict", {"spec": {"foo": 1}}, "strategic")
    assert reply.status == 422
    assert 'strict decoding error: unknown field "spec.foo"' in reply.message


@pytest.mark.anyio
async def test_a_patch_of_something_missing_is_not_found(api: Api) -> None:
    assert (await api.patch(f"{CONFIG_MAPS}/a", {"data": {}})).status == 404


@pytest.mark.anyio
async def test_a_json_patch_that_copies_without_end_is_refused(api: Api) -> None:
    await api.post(CONFIG_MAPS, config_map("a"))
    doubling = [{"op": "copy", "from": "/data", "path": f"/data/k{i}"} for i in range(60)]
    patch = [{"op": "add", "path": "/data", "value": {"k": "x" * 100}}, *doubling]
    reply = await api.patch(f"{CONFIG_MAPS}/a", patch, "json")
    assert reply.status == 422


@pytest.mark.anyio
async def test_a_json_patch_may_copy(api: Api) -> None:
    await api.post(CONFIG_MAPS, config_map("a", k="1"))
    patch = [{"op": "copy", "from": "/data/k", "path": "/data/l"}, {"op": "replace", "path": "/data/k", "value": "2"}]
    assert (await api.patch(f"{CONFIG_MAPS}/a", patch, "json")).body["data"] == {"k": "2", "l": "1"}
