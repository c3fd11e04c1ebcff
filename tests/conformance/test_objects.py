"""Writing: versions, preconditions, patches, apply, finalizers, status, owners."""

import pytest
from support.plane import eventually

from agentops.kube.client import retry_on_conflict
from agentops.kube.errors import AlreadyExists, Conflict, Invalid, NotFound, UnsupportedMediaType
from agentops.kube.kinds import CONFIG_MAP, DEPLOYMENT, SECRET

pytestmark = pytest.mark.anyio


def config_map(namespace, name="c", data=None, **metadata):
    return {"metadata": {"name": name, "namespace": namespace, **metadata}, "data": data or {"a": "1"}}


def deployment(namespace, name="d"):
    labels = {"app": name}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "agentops:none"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": pod}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


async def test_created_object_has_identity_and_can_be_read(client, namespace):
    made = await client.create(CONFIG_MAP, config_map(namespace))
    assert made["metadata"]["uid"]
    assert made["metadata"]["resourceVersion"]
    assert made["metadata"]["creationTimestamp"].endswith("Z")
    assert (await client.get(CONFIG_MAP, "c", namespace))["metadata"] == made["metadata"]


async def test_second_creation_is_already_exists(client, namespace):
    await client.create(CONFIG_MAP, config_map(namespace))
    with pytest.raises(AlreadyExists):
        await client.create(CONFIG_MAP, config_map(namespace))


async def test_generate_name_makes_different_names(client, namespace):
    body = {"metadata": {"generateName": "g-", "namespace": namespace}}
    names = {(await client.create(CONFIG_MAP, body))["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("g-") for name in names)


async def test_absent_object_is_not_found(client, namespace):
    with pytest.raises(NotFound) as error:
        await client.get(CONFIG_MAP, "absent", namespace)
    assert error.value.message == 'configmaps "absent" not found'


async def test_bad_name_is_invalid_with_its_field(client, namespace):
    with pytest.raises(Invalid) as error:
        await client.create(CONFIG_MAP, config_map(namespace, "Not_A_Name"))
    assert error.value.causes[0]["field"] == "metadata.name"


async def test_update_of_an_old_version_is_a_conflict(client, namespace):
    old = await client.create(CONFIG_MAP, config_map(namespace))
    new = await client.update(CONFIG_MAP, {**old, "data": {"a": "2"}})
    assert new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]
    with pytest.raises(Conflict):
        await client.update(CONFIG_MAP, {**old, "data": {"a": "3"}})


async def test_conflicts_are_overcome_by_reading_again(client, namespace):
    await client.create(CONFIG_MAP, config_map(namespace, data={"n": "0"}))
    attempts = []

    async def add():
        obj = await client.get(CONFIG_MAP, "c", namespace)
        if not attempts:
            await client.patch(CONFIG_MAP, "c", {"data": {"other": "x"}}, namespace)
        attempts.append(1)
        obj["data"]["n"] = "1"
        return await client.update(CONFIG_MAP, obj)

    assert (await retry_on_conflict(add))["data"] == {"n": "1", "other": "x"}
    assert len(attempts) == 2


async def test_update_that_changes_nothing_keeps_the_version(client, namespace):
    made = await client.create(CONFIG_MAP, config_map(namespace))
    again = await client.update(CONFIG_MAP, made)
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_dry_run_writes_nothing(client, namespace):
    await client.create(CONFIG_MAP, config_map(namespace), dry_run=True)
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAP, "c", namespace)


async def test_merge_patch_sets_and_removes(client, namespace):
    await client.create(CONFIG_MAP, config_map(namespace, data={"a": "1", "b": "2"}))
    patched = await client.patch(CONFIG_MAP, "c", {"data": {"a": None, "c": "3"}}, namespace)
    assert patched["data"] == {"b": "2", "c": "3"}


async def test_patch_with_an_old_version_is_a_conflict(client, namespace):
    old = await client.create(CONFIG_MAP, config_map(namespace))
    await client.patch(CONFIG_MAP, "c", {"data": {"b": "2"}}, namespace)
    fenced = {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}, "data": {"a": "9"}}
    with pytest.raises(Conflict):
        await client.patch(CONFIG_MAP, "c", fenced, namespace)


async def test_json_patch_tests_before_it_writes(client, namespace):
    await client.create(CONFIG_MAP, config_map(namespace))
    with pytest.raises(Invalid):
        await client.patch(
            CONFIG_MAP,
            "c",
            [{"op": "test", "path": "/data/a", "value": "other"}, {"op": "remove", "path": "/data/a"}],
            namespace,
            type="json",
        )
    changed = await client.patch(
        CONFIG_MAP, "c", [{"op": "replace", "path": "/data/a", "value": "2"}], namespace, type="json"
    )
    assert changed["data"] == {"a": "2"}


async def test_strategic_patch_merges_containers_by_name(client, namespace):
    await client.create(DEPLOYMENT, deployment(namespace))
    containers = [{"name": "side", "image": "agentops:side"}]
    patch = {"spec": {"template": {"spec": {"containers": containers}}}}
    patched = await client.patch(DEPLOYMENT, "d", patch, namespace, type="strategic")
    assert {c["name"] for c in patched["spec"]["template"]["spec"]["containers"]} == {"main", "side"}


async def test_unknown_patch_type_is_refused(client, namespace):
    await client.create(CONFIG_MAP, config_map(namespace))
    with pytest.raises(UnsupportedMediaType):
        await client.raw(
            "PATCH", CONFIG_MAP.path(namespace, "c"), body=b"{}", headers={"content-type": "application/json"}
        )


async def test_apply_creates_owns_and_drops_what_is_no_longer_named(client, namespace):
    await client.apply(CONFIG_MAP, config_map(namespace, data={"a": "1", "b": "2"}), field_manager="one")
    await client.patch(CONFIG_MAP, "c", {"data": {"foreign": "kept"}}, namespace, field_manager="two")
    applied = await client.apply(CONFIG_MAP, config_map(namespace, data={"a": "1"}), field_manager="one")
    assert applied["data"] == {"a": "1", "foreign": "kept"}
    managers = {(f["manager"], f["operation"]) for f in applied["metadata"]["managedFields"]}
    assert managers == {("one", "Apply"), ("two", "Update")}


async def test_apply_of_a_field_of_somebody_else_is_a_conflict_that_names_him(client, namespace):
    await client.apply(CONFIG_MAP, config_map(namespace), field_manager="one")
    with pytest.raises(Conflict) as error:
        await client.apply(CONFIG_MAP, config_map(namespace, data={"a": "2"}), field_manager="two", force=False)
    assert error.value.causes[0]["field"] == ".data.a"
    assert '"one"' in error.value.causes[0]["message"]
    taken = await client.apply(CONFIG_MAP, config_map(namespace, data={"a": "2"}), field_manager="two")
    assert taken["data"] == {"a": "2"}


async def test_same_apply_twice_keeps_the_version(client, namespace):
    one = await client.apply(CONFIG_MAP, config_map(namespace), field_manager="one")
    two = await client.apply(CONFIG_MAP, config_map(namespace), field_manager="one")
    assert one["metadata"]["resourceVersion"] == two["metadata"]["resourceVersion"]


async def test_finalizer_keeps_a_deleted_object_until_it_is_removed(client, namespace):
    await client.create(CONFIG_MAP, config_map(namespace, finalizers=["conformance.example/hold"]))
    answer = await client.delete(CONFIG_MAP, "c", namespace)
    assert answer["metadata"]["deletionTimestamp"]
    held = await client.get(CONFIG_MAP, "c", namespace)
    with pytest.raises(Invalid):
        await client.patch(CONFIG_MAP, "c", {"metadata": {"finalizers": ["a/b", "c/d"]}}, namespace)
    held["metadata"]["finalizers"] = []
    await client.update(CONFIG_MAP, held)
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAP, "c", namespace)


async def test_delete_preconditions_are_conflicts(client, namespace):
    made = await client.create(CONFIG_MAP, config_map(namespace))
    with pytest.raises(Conflict):
        await client.delete(CONFIG_MAP, "c", namespace, uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(Conflict):
        await client.delete(CONFIG_MAP, "c", namespace, resource_version="1")
    await client.delete(CONFIG_MAP, "c", namespace, uid=made["metadata"]["uid"])


async def test_collection_is_deleted_by_label(client, namespace):
    for name, label in (("one", "x"), ("two", "y")):
        await client.create(CONFIG_MAP, config_map(namespace, name, labels={"app": label}))
    await client.delete_collection(CONFIG_MAP, namespace, labels="app=x")
    names = {o["metadata"]["name"] for o in await client.list(CONFIG_MAP, namespace, labels="app")}
    assert names == {"two"}


async def test_status_and_spec_are_written_apart(client, namespace):
    made = await client.create(DEPLOYMENT, {**deployment(namespace), "status": {"replicas": 7}})
    assert not made.get("status", {}).get("replicas")
    status = {"status": {"collisionCount": 3}, "spec": {"replicas": 5}}
    patched = await client.patch(DEPLOYMENT, "d", status, namespace, subresource="status")
    assert patched["status"]["collisionCount"] == 3
    assert patched["spec"]["replicas"] == 0


async def test_generation_counts_changes_of_the_spec_only(client, namespace):
    assert (await client.create(DEPLOYMENT, deployment(namespace)))["metadata"]["generation"] == 1
    labelled = await client.patch(DEPLOYMENT, "d", {"metadata": {"labels": {"a": "b"}}}, namespace)
    assert labelled["metadata"]["generation"] == 1
    changed = await client.patch(DEPLOYMENT, "d", {"spec": {"minReadySeconds": 1}}, namespace)
    assert changed["metadata"]["generation"] == 2


async def test_children_of_a_deleted_owner_go(client, namespace):
    owner = await client.create(CONFIG_MAP, config_map(namespace, "owner"))
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    body = {"metadata": {"name": "child", "namespace": namespace, "ownerReferences": [reference]}}
    await client.create(SECRET, body)
    await client.delete(CONFIG_MAP, "owner", namespace)

    async def gone():
        try:
            await client.get(SECRET, "child", namespace)
        except NotFound:
            return True
        return False

    await eventually(gone, timeout_s=60)
