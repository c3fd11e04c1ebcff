import pytest
from support.scripted_transport import pod

from agentops.controller import EnqueueForObject, EnqueueForOwner, EnqueueMapped, Entry, ObjectEvent, Request
from agentops.controller.predicates import (
    and_,
    annotations_changed,
    from_func,
    generation_changed,
    label_selector,
    labels_changed,
    not_,
    or_,
    resource_version_changed,
    spec_or_deletion_changed,
)
from agentops.kube.kinds import DEPLOYMENT, NODE, POD
from agentops.kube.watch import decode_meta, encode


def entry(version=1, name="a", **metadata):
    raw = encode(pod(name, version, **metadata))
    return Entry(POD, decode_meta(raw), raw, version)


def update(old, new):
    return ObjectEvent("update", old, new)


CREATED = ObjectEvent("create", None, entry())
DELETED = ObjectEvent("delete", entry(), None)


@pytest.mark.parametrize(
    "predicate",
    [generation_changed, resource_version_changed, labels_changed, annotations_changed, spec_or_deletion_changed],
)
@pytest.mark.guarantee("PR2")
def test_creations_and_deletions_pass(predicate):
    assert predicate(CREATED)
    assert predicate(DELETED)


@pytest.mark.guarantee("PR1")
def test_generation_changed_drops_status_and_metadata_updates_and_resyncs():
    assert not generation_changed(update(entry(1, generation=1), entry(2, generation=1, labels={"a": "b"})))
    assert generation_changed(update(entry(1, generation=1), entry(2, generation=2)))


@pytest.mark.guarantee("PR2")
def test_resource_version_changed_drops_resyncs():
    assert not resource_version_changed(update(entry(1), entry(1)))
    assert resource_version_changed(update(entry(1), entry(2)))


@pytest.mark.guarantee("PR2")
def test_labels_and_annotations_changed():
    assert labels_changed(update(entry(1), entry(2, labels={"a": "b"})))
    assert not labels_changed(update(entry(1), entry(2, labels={})))
    assert annotations_changed(update(entry(1), entry(2, annotations={"a": "b"})))
    assert not annotations_changed(update(entry(1, annotations={"a": "b"}), entry(2, annotations={"a": "b"})))


@pytest.mark.parametrize(
    "changed",
    [{"generation": 2}, {"deletionTimestamp": "2026-01-01T00:00:00Z"}, {"finalizers": ["x"]}, {"labels": {"a": "b"}}],
    ids=lambda c: next(iter(c)),
)
@pytest.mark.guarantee("PR3")
def test_spec_or_deletion_changed_passes_what_a_reconciler_acts_on(changed):
    assert spec_or_deletion_changed(update(entry(1, generation=1), entry(2, **{"generation": 1, **changed})))
    assert not spec_or_deletion_changed(update(entry(1, generation=1), entry(2, generation=1, annotations={"x": "y"})))


@pytest.mark.guarantee("PR3")
def test_combinations():
    yes, no = from_func(lambda obj: obj["metadata"]["name"] == "a"), from_func(lambda obj: False)
    assert and_(yes, yes)(CREATED)
    assert not and_(yes, no)(CREATED)
    assert or_(no, yes)(CREATED)
    assert not_(no)(CREATED)


@pytest.mark.guarantee("PR3")
def test_label_selector_passes_objects_that_stop_matching():
    matches = label_selector("app=x")
    assert matches(update(entry(1, labels={"app": "x"}), entry(2)))
    assert not matches(update(entry(1), entry(2)))


@pytest.mark.guarantee("HA1")
def test_for_object():
    assert list(EnqueueForObject().requests(DELETED)) == [Request("default", "a")]


def owner(name, kind="Deployment", api_version="apps/v1", controller=True):
    return {"apiVersion": api_version, "kind": kind, "name": name, "uid": f"u-{name}", "controller": controller}


@pytest.mark.guarantee("HA2")
def test_for_owner_matches_group_and_kind_whatever_the_version():
    handler = EnqueueForOwner(DEPLOYMENT)
    for api_version, found in (("apps/v1beta1", ["d"]), ("extensions/v1", [])):
        event = ObjectEvent("create", None, entry(ownerReferences=[owner("d", api_version=api_version)]))
        assert [request.name for request in handler.requests(event)] == found


@pytest.mark.guarantee("HA3")
def test_for_owner_takes_the_controller_or_everybody():
    references = [owner("c"), owner("o", controller=False)]
    event = ObjectEvent("create", None, entry(ownerReferences=references))
    assert [r.name for r in EnqueueForOwner(DEPLOYMENT).requests(event)] == ["c"]
    assert [r.name for r in EnqueueForOwner(DEPLOYMENT, only_controller=False).requests(event)] == ["c", "o"]


@pytest.mark.guarantee("HA5")
def test_object_that_changes_hands_wakes_both_owners():
    event = update(entry(1, ownerReferences=[owner("old")]), entry(2, ownerReferences=[owner("new")]))
    assert {r.name for r in EnqueueForOwner(DEPLOYMENT).requests(event)} == {"old", "new"}


@pytest.mark.guarantee("HA2", "HA5")
def test_deletion_wakes_the_last_known_owner_and_cluster_scoped_owners_have_no_namespace():
    event = ObjectEvent("delete", entry(ownerReferences=[owner("n", kind="Node", api_version="v1")]), None)
    assert list(EnqueueForOwner(NODE).requests(event)) == [Request("", "n")]


@pytest.mark.guarantee("HA4")
def test_mapped_is_the_union_of_both_states_without_duplicates():
    handler = EnqueueMapped(lambda obj: [Request("", v) for v in obj["metadata"].get("labels", {}).values()])
    event = update(entry(1, labels={"a": "x", "b": "y"}), entry(2, labels={"a": "y", "b": "z"}))
    assert sorted(r.name for r in handler.requests(event)) == ["x", "y", "z"]
    assert not handler.asynchronous


@pytest.mark.guarantee("HA6")
def test_async_map_functions_are_recognised():
    async def mapped(obj):
        return []

    class Callable:
        async def __call__(self, obj):
            return []

    assert EnqueueMapped(mapped).asynchronous
    assert EnqueueMapped(Callable()).asynchronous


@pytest.mark.anyio
@pytest.mark.guarantee("HA4")
async def test_mapping_that_returns_nothing_wakes_nobody():
    async def nobody(obj):
        return None

    assert EnqueueMapped(lambda obj: None).requests(update(entry(1), entry(2))) == []
    assert await EnqueueMapped(nobody).requests_async(update(entry(1), entry(2))) == []


@pytest.mark.guarantee("HA6")
def test_async_mapping_inside_a_plain_function_is_told_apart():
    async def mapped(obj):
        return []

    with pytest.raises(TypeError, match="give EnqueueMapped the async function itself"):
        EnqueueMapped(lambda obj: mapped(obj)).requests(update(entry(1), entry(2)))
