"""Each switch of docs/deviations.md does what the page says."""

import anyio
import pytest
from support.scripted_transport import Feed, listing, ok, pod

from agentops.controller import CacheOptions, CacheSyncTimeout, Manager, ManagerOptions, WatchOptions
from agentops.controller.priority_queue import PriorityQueue
from agentops.controller.workqueue import WorkQueue
from agentops.kube.kinds import POD

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"


@pytest.fixture
def heard(transport, clock, rng):
    """What a handler of pods is told under these options, and the manager, after a minute."""

    async def run(**options):
        manager = Manager(transport, ManagerOptions(clock=clock, rng=rng, cache=CacheOptions(**options)))
        events = []
        manager.cache.informer(POD).add_handler(lambda e: events.append((e.type, e.entry.meta.name, e.entry.rv)))
        async with anyio.create_task_group() as tasks:
            await tasks.start(manager.run)
            await anyio.sleep(60)
            tasks.cancel_scope.cancel()
        return events

    return run


@pytest.mark.guarantee("WA12")
@pytest.mark.parametrize(("rewatch", "lists"), [(True, 1), (False, 2)])
async def test_broken_watch_is_listed_again_as_in_go(heard, transport, rewatch, lists):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    transport.on_watch(PODS, Feed().event("MODIFIED", pod("a", 11)).fail())
    await heard(watch=WatchOptions(rewatch_after_break=rewatch))
    assert len(transport.sent("GET", PODS)) == lists


@pytest.mark.guarantee("WA13")
@pytest.mark.parametrize(("skip", "lists"), [(False, 2), (True, 1)])
async def test_malformed_object_is_skipped_as_in_go(heard, transport, skip, lists):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    nameless = {"kind": "Pod", "metadata": {"resourceVersion": "11"}}
    transport.on_watch(PODS, Feed().event("MODIFIED", nameless))
    await heard(watch=WatchOptions(skip_malformed=skip))
    assert len(transport.sent("GET", PODS)) == lists


@pytest.mark.guarantee("WL6")
async def test_marker_is_waited_for_as_long_as_wanted(heard, transport):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    with pytest.RaisesGroup(
        pytest.RaisesExc(CacheSyncTimeout, match="not synced within 120 s"), flatten_subgroups=True
    ):
        await heard(streaming_lists="always", watch=WatchOptions(marker_deadline_s=float("inf")))


@pytest.mark.guarantee("IN5")
@pytest.mark.parametrize("tell", [False, True])
async def test_relist_tells_of_unchanged_objects_as_in_go(heard, transport, tell):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    transport.on_watch(PODS, Feed().bookmark(11).error(410, "Expired"))
    events = await heard(watch=WatchOptions(tell_unchanged=tell))
    assert events == [("create", "a", 5)] + [("update", "a", 5)] * tell


@pytest.mark.guarantee("IN8")
@pytest.mark.parametrize("split", [True, False])
async def test_recreated_object_is_an_update_as_in_go(heard, transport, split):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    transport.on_watch(PODS, Feed().event("ADDED", pod("a", 11, uid="another")))
    events = await heard(watch=WatchOptions(split_recreated=split))
    assert events[1:] == ([("delete", "a", 5), ("create", "a", 11)] if split else [("update", "a", 11)])


@pytest.mark.guarantee("RY11")
async def test_reads_of_a_manager_can_be_classic_throughout(transport, clock, rng):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    manager = Manager(transport, ManagerOptions(clock=clock, rng=rng, consistency="none"))
    informer = manager.cache.informer(POD)
    async with anyio.create_task_group() as tasks:
        await tasks.start(manager.run)
        informer.parts[0].fence.wrote(("default", "a"), 99)
        before = anyio.current_time()
        await manager.client.get(POD, "a", "default")
        assert anyio.current_time() == before
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("WQ14")
async def test_drain_can_ignore_what_is_queued_as_in_go(clock):
    queue = WorkQueue(clock=clock)
    queue.add("a")
    queue.add("b")
    item = await queue.get()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: queue.shutdown_with_drain(queued_too=False))
        await anyio.sleep(1)
        queue.done(item)
    assert len(queue) == 1


@pytest.mark.guarantee("PQ13")
async def test_fairness_can_be_turned_off(clock):
    queue = PriorityQueue(clock=clock, oldest_every=0)
    queue.add("old", priority=-100)
    for number in range(50):
        queue.add(number)
        assert await queue.get() == number
        queue.done(number)
    assert await queue.get() == "old"


@pytest.mark.guarantee("CL6")
async def test_empty_patch_is_sent_by_the_live_client_only(transport, clock, rng):
    one = "/api/v1/namespaces/default/pods/a"
    transport.on("GET", one, ok(pod("a", 5)))
    transport.on("PATCH", one, ok(pod("a", 5)))
    manager = Manager(transport, ManagerOptions(clock=clock, rng=rng, uncached=[POD]))
    await manager.client.patch(POD, "a", {}, "default")
    assert transport.sent("PATCH") == []
    await manager.client.live.patch(POD, "a", {}, "default")
    assert len(transport.sent("PATCH")) == 1
