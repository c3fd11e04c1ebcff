import json

import pytest
from attrs import evolve, frozen
from support.scripted_transport import ok, pod, status

from agentops.controller import Cache, ChangedMeanwhile, Client
from agentops.controller.finalizers import Finalizers
from agentops.controller.mutate import create_or_patch, create_or_update
from agentops.controller.spamfilter import SpamFilter
from agentops.controller.typed import TypedClient
from agentops.kube.client import ApiClient
from agentops.kube.errors import Conflict
from agentops.kube.kinds import POD
from agentops.kube.merge import merge_from

pytestmark = pytest.mark.anyio

ONE = "/api/v1/namespaces/default/pods/a"
ALL = "/api/v1/namespaces/default/pods"


@pytest.fixture
def client(transport, clock):
    live = ApiClient(transport, clock=clock)
    return Client(live, Cache(live, clock=clock), uncached=[POD])


@pytest.mark.guarantee("CL6")
def test_patch_between_two_states_names_what_differs_and_can_carry_the_version():
    base = pod("a", 5, labels={"x": "1", "y": "2"})
    changed = json.loads(json.dumps(base))
    changed["metadata"]["labels"] = {"x": "1", "z": "3"}
    assert merge_from(base, base, optimistic_lock=True) == {}
    assert merge_from(base, changed) == {"metadata": {"labels": {"y": None, "z": "3"}}}
    locked = merge_from(base, changed, optimistic_lock=True)
    assert locked == {"metadata": {"labels": {"y": None, "z": "3"}, "resourceVersion": "5"}}
    with pytest.raises(ValueError, match="needs the resourceVersion"):
        merge_from({"a": 1}, {"a": 2}, optimistic_lock=True)


@pytest.mark.guarantee("CL12")
async def test_field_manager_and_dry_run_are_defaults_that_a_call_can_override(client, transport):
    transport.on("PATCH", ONE, ok(pod("a", 6)))
    transport.on("DELETE", ONE, ok({"kind": "Status", "details": {"uid": "uid-a"}}))
    trying = client.with_defaults(field_manager="me", dry_run=True)
    await trying.patch(POD, "a", {"x": 1}, "default")
    await trying.patch(POD, "a", {"x": 1}, "default", dry_run=False, field_manager="you")
    await trying.delete(POD, "a", "default")
    await client.patch(POD, "a", {"x": 1}, "default")
    queries = [request.query for request in transport.sent("PATCH")]
    assert queries == [
        {"fieldManager": "me", "dryRun": "All"},
        {"fieldManager": "you"},
        {"fieldManager": "agentops"},
    ]
    assert transport.sent("DELETE")[0].body["dryRun"] == ["All"]


@frozen
class Small:
    node: str
    ports: tuple[int, ...] = ()


def decode(obj):
    ports = tuple(port["containerPort"] for port in obj["spec"].get("ports") or ())
    return Small(obj["spec"].get("nodeName", ""), ports)


def encode(value):
    return {"spec": {"nodeName": value.node, "ports": [{"containerPort": port} for port in value.ports]}}


@pytest.mark.guarantee("CL2", "CL18")
async def test_typed_changes_keep_the_fields_that_the_type_does_not_know(client, transport):
    held = pod("a", 5, labels={"app": "x"})
    held["spec"] = {"nodeName": "n1", "new": {"er": True}, "ports": [{"containerPort": 1, "name": "web"}]}
    transport.on("GET", ONE, ok(held))
    transport.on("PUT", ONE, lambda request: ok(request.body))
    transport.on("PATCH", ONE, ok(held))
    pods = TypedClient(client, POD, decode, encode)
    read = await pods.get("a", "default")
    assert read.value == Small("n1", (1,))
    assert await pods.update(read, read.value) is read
    written = await pods.update(read, evolve(read.value, node="n2", ports=(2,)))
    assert written.value == Small("n2", (2,))
    (put,) = transport.sent("PUT")
    assert put.body["spec"] == {"nodeName": "n2", "new": {"er": True}, "ports": [{"containerPort": 2, "name": "web"}]}
    assert put.body["metadata"] == held["metadata"]
    await pods.patch(read, evolve(read.value, node="n3"), lock=True)
    assert transport.sent("PATCH")[0].body == {"spec": {"nodeName": "n3"}, "metadata": {"resourceVersion": "5"}}


@pytest.fixture
def finalizers():
    registry = Finalizers()
    registry.cleaned = []

    async def good(obj):
        registry.cleaned.append(obj["metadata"]["name"])

    async def bad(obj):
        raise ValueError("no")

    registry.register("example.org/good", good)
    registry.register("example.org/bad", bad)
    return registry


@pytest.mark.guarantee("FU2", "FU5")
async def test_registered_finalizers_are_written_together_before_anything_else(finalizers, client, transport):
    transport.on("PATCH", ONE, ok(pod("a", 6)))
    result = await finalizers.finalize(client, POD, pod("a", 5, finalizers=["other/x"]))
    assert result.updated
    (patch,) = transport.sent("PATCH")
    assert patch.body["metadata"] == {
        "resourceVersion": "5",
        "finalizers": ["other/x", "example.org/good", "example.org/bad"],
    }
    there = pod("a", 6, finalizers=patch.body["metadata"]["finalizers"])
    assert not (await finalizers.finalize(client, POD, there)).updated
    assert finalizers.cleaned == []


@pytest.mark.guarantee("FU2", "FU3")
async def test_finalizer_that_fails_stays_and_the_others_go(finalizers, client, transport):
    transport.on("PATCH", ONE, ok(pod("a", 6)))
    keys = ["example.org/good", "other/x", "example.org/bad"]
    with pytest.raises(ExceptionGroup) as raised:
        await finalizers.finalize(client, POD, pod("a", 5, finalizers=keys, deletionTimestamp="2026-01-01T00:00:00Z"))
    assert [str(error) for error in raised.value.exceptions] == ["no"]
    assert transport.sent("PATCH")[0].body["metadata"]["finalizers"] == ["other/x", "example.org/bad"]
    assert finalizers.cleaned == ["a"]
    nothing = pod("a", 5, deletionTimestamp="2026-01-01T00:00:00Z")
    assert not (await finalizers.finalize(client, POD, nothing)).updated


@pytest.mark.guarantee("FU2")
def test_finalizer_keys_are_unique_and_have_a_domain(finalizers):
    async def nothing(obj):
        pass

    with pytest.raises(ValueError, match="registered already"):
        finalizers.register("example.org/good", nothing)
    with pytest.raises(ValueError, match="needs a domain"):
        finalizers.register("good", nothing)


def set_node(name):
    return lambda obj: obj.setdefault("spec", {}).update(nodeName=name)


@pytest.mark.guarantee("FU8")
async def test_create_or_update_writes_only_what_differs_in_meaning(client, transport):
    held = pod("a", 5)
    held["spec"]["resources"] = {"limits": {"cpu": "1"}}
    transport.on("GET", ONE, status(404, "NotFound"), ok(held))
    transport.on("POST", ALL, lambda request: ok(request.body, 201))
    transport.on("PUT", ONE, lambda request: ok(request.body))
    bare = {"metadata": {"name": "a", "namespace": "default"}}
    assert (await create_or_update(client, POD, bare, set_node("n9"))).action == "created"
    assert (await create_or_update(client, POD, bare, set_node("n1"))).action == "unchanged"

    def equal_in_meaning(obj):
        obj["spec"]["resources"]["limits"]["cpu"] = "1000m"
        obj["spec"]["empty"] = None

    assert (await create_or_update(client, POD, bare, equal_in_meaning)).action == "unchanged"
    assert (await create_or_update(client, POD, bare, set_node("n2"))).action == "updated"
    assert len(transport.sent("PUT")) == 1
    with pytest.raises(ValueError, match="must not rename"):
        await create_or_update(client, POD, bare, lambda obj: obj["metadata"].update(name="b"))


@pytest.mark.guarantee("FU9")
async def test_create_or_patch_sends_the_status_apart(client, transport):
    held = {**pod("a", 5), "status": {"phase": "Pending"}}
    transport.on("GET", ONE, ok(held))
    transport.on("PATCH", ONE, ok(held))
    transport.on("PATCH", ONE + "/status", ok(held))

    def both(obj):
        set_node("n2")(obj)
        obj["status"]["phase"] = "Running"

    def only_status(obj):
        obj["status"]["phase"] = "Running"

    assert (await create_or_patch(client, POD, held, lambda obj: None)).action == "unchanged"
    assert (await create_or_patch(client, POD, held, set_node("n2"))).action == "updated"
    assert (await create_or_patch(client, POD, held, only_status)).action == "updated_status_only"
    assert (await create_or_patch(client, POD, held, both)).action == "updated_status"
    assert [request.body for request in transport.sent("PATCH", ONE)] == [
        {"spec": {"nodeName": "n2"}, "metadata": {"resourceVersion": "5"}}
    ] * 2
    assert [r.body for r in transport.sent("PATCH", ONE + "/status")] == [{"status": {"phase": "Running"}}] * 2


@pytest.mark.guarantee("FU10")
async def test_object_that_appears_meanwhile_is_tried_again_not_an_error_of_the_spec(client, transport):
    transport.on("GET", ONE, status(404, "NotFound"))
    transport.on("POST", ALL, status(409, "AlreadyExists"))
    with pytest.raises(ChangedMeanwhile, match="pods default/a was created meanwhile"):
        await create_or_update(client, POD, {"metadata": {"name": "a", "namespace": "default"}}, set_node("n"))


@pytest.mark.guarantee("CL5")
async def test_conflicts_of_a_locked_patch_reach_the_caller(client, transport):
    transport.on("PATCH", ONE, status(409, "Conflict"))
    with pytest.raises(Conflict):
        await client.patch(POD, "a", merge_from(pod("a", 5), pod("a", 5, x=1), optimistic_lock=True), "default")


@pytest.mark.guarantee("EV7")
def test_noisy_object_is_limited_and_similar_notes_are_combined():
    spam = SpamFilter(size=2)
    said = [spam.judge("c", ("a",), "Failed", f"note {n}", 0) for n in range(30)]
    assert said[:10] == [f"note {n}" for n in range(10)]
    assert said[10] == "(combined from similar events): note 10"
    assert said[25:] == [None] * 5
    assert spam.judge("c", ("a",), "Failed", "note 1", 299) is None
    assert spam.judge("c", ("a",), "Failed", "note 1", 601) == "note 1"
    assert spam.judge("c", ("b",), "Failed", "x", 601) == "x"
    spam.judge("c", ("d",), "Failed", "x", 601)
    assert len(spam) == 2
