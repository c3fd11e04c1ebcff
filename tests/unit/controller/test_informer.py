import itertools

import anyio
import orjson
import pytest
from support.scripted_transport import Feed, listing, pod, status

from agentops.controller.informer import Informer
from agentops.controller.target import Target
from agentops.kube.client import ApiClient
from agentops.kube.kinds import POD

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"


@pytest.fixture
def informer(transport, clock, rng):
    return Informer(ApiClient(transport, clock=clock), Target(POD), clock=clock, rng=rng)


class Heard:
    """Remembers events, and what the store showed when they came."""

    def __init__(self, informer):
        self.events = []
        self.informer = informer

    def __call__(self, event):
        key = event.entry.key
        stored = self.informer.store.get(key)
        if event.type == "delete":
            assert stored is None or stored.meta.uid != event.entry.meta.uid
        else:
            assert stored.rv >= event.entry.rv
        self.events.append((event.type, key[1], event.entry.meta.resource_version))


async def running(informer, body):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(informer.run)
        await informer.wait_for_sync()
        await body()
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("IN1", "IN2", "IN9")
async def test_tells_of_every_object_then_of_every_change_after_storing_it(informer, transport):
    feed = Feed()
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    transport.on_watch(PODS, feed)
    heard = Heard(informer)
    registration = informer.add_handler(heard)
    synced_while_told = []
    informer.add_handler(lambda event: synced_while_told.append(informer.has_synced))
    assert not registration.has_synced

    async def body():
        assert registration.has_synced
        assert synced_while_told == [False], "not before the handlers have heard of the list"
        feed.event("MODIFIED", pod("a", 11)).event("ADDED", pod("b", 12)).event("DELETED", pod("a", 13))
        await anyio.sleep(1)

    await running(informer, body)
    assert heard.events == [("create", "a", "5"), ("update", "a", "11"), ("create", "b", "12"), ("delete", "a", "13")]
    assert informer.statistics().objects == 1
    assert informer.seen_version == 13


@pytest.mark.guarantee("IN3")
async def test_created_or_updated_is_decided_by_the_store(informer, transport):
    feed = Feed().event("MODIFIED", pod("new", 11)).event("ADDED", pod("a", 12))
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    transport.on_watch(PODS, feed)
    heard = Heard(informer)
    informer.add_handler(heard)
    await running(informer, lambda: anyio.sleep(1))
    assert heard.events[1:] == [("create", "new", "11"), ("update", "a", "12")]


@pytest.mark.guarantee("IN4", "IN6", "LI9")
async def test_deletes_missed_during_an_outage_are_told_and_unindexed(informer, transport):
    informer.store.add_index("node", lambda obj: [obj["spec"]["nodeName"]])
    gone = [pod(name, 5) for name in ("a", "b", "c")]
    transport.on("GET", PODS, listing(10, pod("keep", 4), *gone), status(410, "Expired"), listing(50, pod("keep", 4)))
    transport.on_watch(PODS, Feed().bookmark(11).error(410, "Expired"))
    heard = Heard(informer)
    informer.add_handler(heard)
    await running(informer, lambda: anyio.sleep(1))
    assert sorted(heard.events[4:]) == [("delete", name, "5") for name in ("a", "b", "c")]
    assert [entry.meta.name for entry in informer.store.by_index("node", "n1")] == ["keep"]


@pytest.mark.guarantee("IN5", "WA19")
async def test_relist_of_unchanged_objects_tells_nothing(informer, transport):
    pods = [pod(f"p{i}", i + 1) for i in range(100)]
    transport.on("GET", PODS, listing(200, *pods), listing(300, *pods))
    transport.on_watch(PODS, Feed().bookmark(201).error(410, "Expired"))
    heard = Heard(informer)
    informer.add_handler(heard)
    await running(informer, lambda: anyio.sleep(1))
    assert len(heard.events) == 100
    assert informer.statistics().reflector.lists == 2


@pytest.mark.guarantee("WA19")
async def test_event_that_comes_twice_is_told_once(informer, transport):
    feed = Feed().event("MODIFIED", pod("a", 11)).event("MODIFIED", pod("a", 11)).event("ADDED", pod("a", 11))
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    transport.on_watch(PODS, feed)
    heard = Heard(informer)
    informer.add_handler(heard)
    await running(informer, lambda: anyio.sleep(1))
    assert heard.events == [("create", "a", "5"), ("update", "a", "11")]


@pytest.mark.guarantee("IN8")
async def test_another_uid_under_the_same_name_is_a_deletion_and_a_creation(informer, transport):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    transport.on_watch(PODS, Feed().event("MODIFIED", pod("a", 11, uid="other")))
    heard = Heard(informer)
    informer.add_handler(heard)
    await running(informer, lambda: anyio.sleep(1))
    assert heard.events[1:] == [("delete", "a", "5"), ("create", "a", "11")]


@pytest.mark.guarantee("IN10", "IN11")
async def test_late_handler_starts_with_everything_and_a_removed_one_hears_nothing(informer, transport):
    feed = Feed()
    transport.on("GET", PODS, listing(10, pod("a", 5), pod("b", 6)))
    transport.on_watch(PODS, feed)
    late = []

    async def body():
        registration = informer.add_handler(lambda event: late.append((event.entry.key[1], event.initial)))
        feed.event("MODIFIED", pod("a", 11))
        await anyio.sleep(1)
        registration.remove()
        feed.event("MODIFIED", pod("a", 12))
        await anyio.sleep(1)

    await running(informer, body)
    assert late == [("a", True), ("b", True), ("a", False)]


@pytest.mark.guarantee("IN12")
async def test_handler_that_raises_harms_nobody(informer, transport, caplog):
    transport.on("GET", PODS, listing(10, pod("a", 5)))

    def broken(event):
        raise RuntimeError("boom")

    heard = Heard(informer)
    informer.add_handler(broken)
    informer.add_handler(heard)
    await running(informer, lambda: anyio.sleep(0))
    assert heard.events == [("create", "a", "5")]
    assert "handler.failed" in caplog.text


@pytest.mark.guarantee("IN13")
async def test_resync_reminds_of_every_object_without_asking_the_server(transport, clock, rng):
    informer = Informer(ApiClient(transport), Target(POD), clock=clock, rng=rng, resync_s=60)
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    resyncs, times = [], []
    informer.add_handler(lambda event: (resyncs.append(event.resync), times.append(anyio.current_time())))
    await running(informer, lambda: anyio.sleep(130))
    assert resyncs == [False, True, True]
    assert len(transport.requests) == 2
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(54 <= wait < 66 for wait in waits)
    assert waits[0] != waits[1], "informers that start together do not remind together"


@pytest.mark.guarantee("LI11", "IN23")
async def test_reads_are_private_copies_with_their_kind(informer, transport):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    await running(informer, lambda: anyio.sleep(0))
    entry = informer.store.get(("default", "a"))
    entry.object()["spec"]["nodeName"] = "changed"
    assert entry.object()["spec"]["nodeName"] == "n1"
    assert (entry.object()["apiVersion"], entry.object()["kind"]) == ("v1", "Pod")


@pytest.mark.guarantee("IN15")
async def test_managed_fields_are_not_kept_unless_asked_for(transport, clock, rng):
    managed = pod("a", 5, managedFields=[{"manager": "m"}])
    for keep in (False, True):
        transport.on("GET", PODS, listing(10, managed))
        informer = Informer(ApiClient(transport), Target(POD), clock=clock, rng=rng, keep_managed_fields=keep)
        await running(informer, lambda: anyio.sleep(0))
        assert ("managedFields" in informer.store.get(("default", "a")).object()["metadata"]) is keep


@pytest.mark.guarantee("IN15")
async def test_transform_runs_before_storing_and_its_failure_keeps_the_object(transport, clock, rng, caplog):
    def transform(obj):
        if obj["metadata"]["name"] == "bad":
            raise ValueError("no")
        obj["spec"] = {}
        return obj

    transport.on("GET", PODS, listing(10, pod("a", 5), pod("bad", 6)))
    informer = Informer(ApiClient(transport), Target(POD), clock=clock, rng=rng, transform=transform)
    await running(informer, lambda: anyio.sleep(0))
    assert orjson.loads(informer.store.get(("default", "a")).raw)["spec"] == {}
    assert orjson.loads(informer.store.get(("default", "bad")).raw)["spec"] == {"nodeName": "n1"}


@pytest.mark.guarantee("CA8")
async def test_metadata_only_is_enforced_when_the_server_ignores_it(transport, clock, rng):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    informer = Informer(ApiClient(transport), Target(POD, metadata_only=True), clock=clock, rng=rng)
    await running(informer, lambda: anyio.sleep(0))
    obj = informer.store.get(("default", "a")).object()
    assert "spec" not in obj
    assert obj["kind"] == "Pod"
