"""Create, read, update and delete: the rules every kind follows."""

from __future__ import annotations

import pytest
from support.apiserver import CONFIG_MAPS, DEPLOYMENTS, WIDGETS, Api, config_map, deployment, widget

pytestmark = pytest.mark.anyio


async def test_the_server_sets_identity_and_version(api: Api) -> None:
    reply = await api.post(CONFIG_MAPS, config_map("a", k="v"))
    meta = reply.body["metadata"]
    assert reply.status == 201
    assert meta["namespace"] == "default"
    assert meta["creationTimestamp"] == "2026-01-01T00:00:00Z"
    assert len(meta["uid"]) == 36
    assert "generation" not in meta
    assert meta["resourceVersion"] == str(api.server.store.revision)


async def test_creating_twice_is_already_exists(api: Api) -> None:
    await api.post(CONFIG_MAPS, config_map("a"))
    reply = await api.post(CONFIG_MAPS, config_map("a"))
    assert (reply.status, reply.reason, reply.message) == (409, "AlreadyExists", 'configmaps "a" already exists')
    assert reply.body["details"] == {"name": "a", "kind": "configmaps"}


async def test_a_missing_object_is_not_found(widgets: Api) -> None:
    reply = await widgets.get(f"{WIDGETS}/x")
    assert (reply.status, reply.message) == (404, 'widgets.test.example.com "x" not found')
    assert reply.body["details"] == {"name": "x", "group": "test.example.com", "kind": "widgets"}


async def test_an_unknown_path_is_plain_text(api: Api) -> None:
    reply = await api.get("/apis/nothing.example.com/v1/things")
    assert (reply.status, reply.body) == (404, b"404 page not found\n")


async def test_generate_name_adds_five_characters(api: Api) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "run-"}}
    reply = await api.post(CONFIG_MAPS, body)
    assert reply.body["metadata"]["name"].startswith("run-")
    assert len(reply.body["metadata"]["name"]) == 9
    assert reply.body["metadata"]["generateName"] == "run-"


@pytest.mark.parametrize(
    ("meta", "code", "message"),
    [
        ({}, 422, "name or generateName is required"),
        ({"name": "a", "namespace": "other"}, 400, "the namespace of the provided object does not match"),
        ({"name": "a", "resourceVersion": "5"}, 500, "resourceVersion should not be set on objects to be created"),
        ({"name": "A_b"}, 422, "a lowercase RFC 1123 subdomain must consist of"),
        ({"name": "a", "labels": {"x": "no spaces"}}, 422, "a valid label must be an empty string or consist of"),
        ({"name": "a", "labels": {"x": 5}}, 400, "json: cannot unmarshal number into Go struct field"),
    ],
)
async def test_bad_metadata_is_refused(api: Api, meta: dict[str, object], code: int, message: str) -> None:
    reply = await api.post(CONFIG_MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})
    assert reply.status == code, reply
    assert message in reply.message


async def test_a_wrong_api_version_is_refused(widgets: Api) -> None:
    reply = await widgets.post(WIDGETS, {**widget("a"), "apiVersion": "test.example.com/v2"})
    assert reply.status == 400
    assert "the API version in the data (test.example.com/v2) does not match the expected API version" in reply.message


async def test_nothing_is_created_in_a_missing_namespace(api: Api) -> None:
    reply = await api.post("/api/v1/namespaces/nons/configmaps", config_map("a"))
    assert (reply.status, reply.message) == (404, 'namespaces "nons" not found')


async def test_a_terminating_namespace_takes_nothing_new_and_goes_when_finalized(api: Api) -> None:
    await api.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "nz"}})
    gone = await api.delete("/api/v1/namespaces/nz")
    assert gone.body["status"]["phase"] == "Terminating"
    reply = await api.post("/api/v1/namespaces/nz/configmaps", config_map("a"))
    assert reply.status == 403
    assert "unable to create new content in namespace nz because it is being terminated" in reply.message
    assert reply.body["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    live = (await api.get("/api/v1/namespaces/nz")).body
    live["spec"]["finalizers"] = []
    assert (await api.put("/api/v1/namespaces/nz/finalize", live)).status == 200
    assert (await api.get("/api/v1/namespaces/nz")).status == 404


async def test_a_stale_update_is_a_conflict(api: Api) -> None:
    old = (await api.post(CONFIG_MAPS, config_map("a", k="1"))).body
    await api.put(f"{CONFIG_MAPS}/a", {**old, "data": {"k": "2"}})
    reply = await api.put(f"{CONFIG_MAPS}/a", {**old, "data": {"k": "3"}})
    assert (reply.status, reply.reason) == (409, "Conflict")
    assert reply.message == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your '
        "changes to the "
        "latest version and try again"
    )


async def test_a_custom_resource_update_needs_a_resource_version(widgets: Api) -> None:
    await widgets.post(WIDGETS, widget("a"))
    reply = await widgets.put(f"{WIDGETS}/a", widget("a", replicas=2))
    assert reply.status == 422
    assert "metadata.resourceVersion: Invalid value: 0: must be specified for an update" in reply.message


async def test_a_built_in_may_be_replaced_unconditionally(api: Api) -> None:
    await api.post(DEPLOYMENTS, deployment("a"))
    reply = await api.put(f"{DEPLOYMENTS}/a", deployment("a", "agentops:2"))
    assert reply.status == 200
    assert reply.body["metadata"]["generation"] == 2


async def test_a_write_that_changes_nothing_keeps_the_revision(api: Api) -> None:
    first = (await api.post(CONFIG_MAPS, config_map("a", k="1"))).body
    revision = api.server.store.revision
    for reply in (
        await api.put(f"{CONFIG_MAPS}/a", first),
        await api.patch(f"{CONFIG_MAPS}/a", {"data": {"k": "1"}}),
        await api.patch(f"{CONFIG_MAPS}/a", [{"op": "replace", "path": "/data/k", "value": "1"}], "json"),
    ):
        assert reply.status == 200
        assert reply.body["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert api.server.store.revision == revision


async def test_status_and_spec_are_written_through_their_own_doors(widgets: Api) -> None:
    created = await widgets.post(WIDGETS, {**widget("a"), "status": {"phase": "Running"}})
    assert "status" not in created.body
    both = {"spec": {"replicas": 2}, "status": {"phase": "X"}, "metadata": {"labels": {"a": "b"}}}
    spec_only = await widgets.patch(f"{WIDGETS}/a", both)
    assert "status" not in spec_only.body
    assert spec_only.body["metadata"]["generation"] == 2
    status_only = await widgets.patch(
        f"{WIDGETS}/a/status",
        {"spec": {"replicas": 9}, "status": {"phase": "Y", "bogus": 1}, "metadata": {"labels": {"c": "d"}}},
    )
    assert status_only.body["status"] == {"phase": "Y"}
    assert status_only.body["spec"]["replicas"] == 2
    assert status_only.body["metadata"]["labels"] == {"a": "b"}
    assert status_only.body["metadata"]["generation"] == 2


async def test_labels_do_not_bump_the_generation(widgets: Api) -> None:
    await widgets.post(WIDGETS, widget("a"))
    reply = await widgets.patch(f"{WIDGETS}/a", {"metadata": {"labels": {"a": "b"}}})
    assert reply.body["metadata"]["generation"] == 1


async def test_deleting_without_finalizers_answers_a_status_with_the_uid(api: Api) -> None:
    uid = (await api.post(CONFIG_MAPS, config_map("a"))).body["metadata"]["uid"]
    reply = await api.delete(f"{CONFIG_MAPS}/a", {"propagationPolicy": "Background"})
    assert reply.body["status"] == "Success"
    assert reply.body["details"] == {"name": "a", "kind": "configmaps", "uid": uid}
    assert (await api.get(f"{CONFIG_MAPS}/a")).status == 404


async def test_a_finalizer_holds_the_object_until_it_is_removed(widgets: Api) -> None:
    body = widget("a")
    body["metadata"]["finalizers"] = ["x.io/f"]
    await widgets.post(WIDGETS, body)
    first = await widgets.delete(f"{WIDGETS}/a")
    assert first.body["metadata"]["deletionTimestamp"]
    assert first.body["metadata"]["deletionGracePeriodSeconds"] == 0
    assert first.body["metadata"]["generation"] == 2
    again = await widgets.delete(f"{WIDGETS}/a")
    assert again.body["metadata"]["resourceVersion"] == first.body["metadata"]["resourceVersion"]
    added = await widgets.patch(f"{WIDGETS}/a", {"metadata": {"finalizers": ["x.io/f", "x.io/g"]}})
    assert added.status == 422
    assert 'found new finalizers []string{"x.io/g"}' in added.message
    released = await widgets.patch(f"{WIDGETS}/a", {"metadata": {"finalizers": None}})
    assert released.status == 200
    assert (await widgets.get(f"{WIDGETS}/a")).status == 404


async def test_propagation_policies_become_finalizers(widgets: Api) -> None:
    for policy, finalizer in (("Foreground", "foregroundDeletion"), ("Orphan", "orphan")):
        await widgets.post(WIDGETS, widget("a"))
        reply = await widgets.delete(f"{WIDGETS}/a", {"propagationPolicy": policy})
        assert reply.body["metadata"]["finalizers"] == [finalizer]
        await widgets.patch(f"{WIDGETS}/a", {"metadata": {"finalizers": []}})
    await widgets.post(WIDGETS, widget("a"))
    bad = await widgets.delete(f"{WIDGETS}/a", {"propagationPolicy": "Nonsense"})
    assert bad.status == 422
    assert '"Foreground", "Background", "Orphan", "nil"' in bad.message


async def test_delete_preconditions_are_checked(api: Api) -> None:
    await api.post(CONFIG_MAPS, config_map("a"))
    reply = await api.delete(f"{CONFIG_MAPS}/a", {"preconditions": {"uid": "other"}})
    assert reply.status == 409
    assert "the UID in the precondition (other) does not match" in reply.message


async def test_delete_collection_answers_the_objects(api: Api) -> None:
    for name in ("a", "b", "c"):
        body = config_map(name)
        body["metadata"]["labels"] = {"keep": str(name == "c").lower()}
        await api.post(CONFIG_MAPS, body)
    reply = await api.delete(f"{CONFIG_MAPS}?labelSelector=keep=false")
    assert [i["metadata"]["name"] for i in reply.body["items"]] == ["a", "b"]
    left = await api.get(CONFIG_MAPS)
    assert [i["metadata"]["name"] for i in left.body["items"]] == ["c"]


async def test_dry_run_changes_nothing(api: Api) -> None:
    revision = api.server.store.revision
    reply = await api.post(f"{CONFIG_MAPS}?dryRun=All", config_map("a"))
    assert reply.status == 201
    assert reply.body["metadata"]["uid"]
    assert "resourceVersion" not in reply.body["metadata"]
    assert api.server.store.revision == revision
    assert (await api.post(f"{CONFIG_MAPS}?dryRun=Some", config_map("a"))).status == 422


async def test_unknown_fields_are_refused_warned_about_or_dropped(widgets: Api) -> None:
    body = widget("a", foo=1, bar=2)
    strict = await widgets.post(f"{WIDGETS}?fieldValidation=Strict", body)
    assert strict.status == 400
    assert strict.message == (
        'Widget in version "v1" cannot be handled as a Widget: strict decoding error: unknown field "spec.bar", '
        'unknown field "spec.foo"'
    )
    warned = await widgets.post(WIDGETS, body)
    assert warned.status == 201
    assert warned.warnings == '299 - "unknown field \\"spec.bar\\"", 299 - "unknown field \\"spec.foo\\""'
    assert "foo" not in warned.body["spec"]
    ignored = await widgets.post(f"{WIDGETS}?fieldValidation=Ignore", widget("b", foo=1))
    assert (ignored.status, ignored.warnings) == (201, "")


async def test_duplicate_keys_are_noticed(widgets: Api) -> None:
    raw = (
        b'{"apiVersion":"test.example.com/v1","kind":"Widget","metadata":{"name":"a"},'
        b'"spec":{"model":"gpt","model":"other"}}'
    )
    reply = await widgets.post(f"{WIDGETS}?fieldValidation=Strict", raw)
    assert 'duplicate field "spec.model"' in reply.message


async def test_a_wrong_type_in_a_built_in_is_what_go_says(api: Api) -> None:
    body = deployment("a")
    body["spec"]["replicas"] = "three"
    reply = await api.post(DEPLOYMENTS, body)
    assert reply.status == 400
    assert reply.message.endswith(
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
    )


async def test_an_object_may_not_be_larger_than_the_limit(api: Api) -> None:
    reply = await api.post(CONFIG_MAPS, config_map("a", k="x" * (3 * 1024 * 1024)))
    assert (reply.status, reply.reason) == (413, "RequestEntityTooLarge")


async def test_yaml_bodies_keep_words_as_words(api: Api) -> None:
    text = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: yes, when: 2020-01-01}\n"
    reply = await api.call("POST", CONFIG_MAPS, text, content_type="application/yaml")
    assert reply.body["data"] == {"k": "yes", "when": "2020-01-01"}


async def test_one_is_neither_true_nor_one_point_zero(widgets: Api) -> None:
    await widgets.post(WIDGETS, widget("a", free={"x": 1}))
    reply = await widgets.patch(f"{WIDGETS}/a", {"spec": {"free": {"x": True}}})
    assert (reply.body["spec"]["free"]["x"], reply.body["metadata"]["generation"]) == (True, 2)
    reply = await widgets.patch(f"{WIDGETS}/a", {"spec": {"free": {"x": True}}})
    assert reply.body["metadata"]["generation"] == 2
