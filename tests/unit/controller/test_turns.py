"""However much there is to do at once, others get their turn: leases are renewed, probes answered."""

import anyio
import anyio.lowlevel
import pytest
from support.scripted_transport import Feed, listing, pod

from agentops.controller import Controller, Request, ResourceNotCached
from agentops.controller.informer import Informer
from agentops.controller.store import Store
from agentops.controller.target import Target
from agentops.kube.client import ApiClient
from agentops.kube.kinds import POD
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"
MANY = 3000


async def turns(count):
    """So many turns of the loop. Who spins keeps virtual time where it is, so nobody may sleep beside it."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


class WorkingClock(LoopClock):
    """A machine that needs a millisecond between two looks at the clock."""

    worked_s = 0.0

    def boottime(self):
        self.worked_s += 0.001
        return super().boottime() + self.worked_s


class Turns:
    """The most that was done before somebody else had a turn."""

    def __init__(self):
        self.at_once = self.most = self.total = 0

    def did(self, *_):
        self.at_once += 1
        self.total += 1
        self.most = max(self.most, self.at_once)

    async def take(self):
        while True:
            await anyio.lowlevel.checkpoint()
            self.at_once = 0


@pytest.fixture
def informer(transport, rng):
    transport.on("GET", PODS, listing(10, *(pod(f"p{n}", 5) for n in range(MANY))))
    return Informer(ApiClient(transport), Target(POD), clock=WorkingClock(), rng=rng)


@pytest.mark.guarantee("IN26")
async def test_first_list_is_stored_and_told_in_turns(informer):
    told, indexed = Turns(), Turns()
    informer.add_handler(told.did)
    informer.store.add_index("x", lambda obj: indexed.did() or ["x"])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(told.take)
        tasks.start_soon(indexed.take)
        tasks.start_soon(informer.run)
        await informer.wait_for_sync()
        tasks.cancel_scope.cancel()
    assert (told.total, indexed.total) == (MANY, MANY)
    assert told.most <= 500
    assert indexed.most <= 500


@pytest.mark.guarantee("IN4", "LI9")
async def test_readers_see_the_old_content_until_all_of_the_new_is_there(informer, transport):
    transport.on("GET", PODS, listing(20, *(pod(f"q{n}", 15) for n in range(MANY))))
    feed = Feed().bookmark(11)
    transport.on_watch(PODS, feed)
    sizes = set()

    async def read():
        while True:
            keys = informer.store.keys()
            sizes.add((len(keys), *sorted({name[0] for _, name in keys})))
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(informer.run)
        await informer.wait_for_sync()
        tasks.start_soon(read)
        await turns(50)
        feed.error(410, "Expired")
        await turns(2000)
        tasks.cancel_scope.cancel()
    assert sizes == {(MANY, "p"), (MANY, "q")}


@pytest.mark.guarantee("IN10", "IN26")
async def test_late_handler_of_a_large_store_hears_of_everything_once_whatever_happens_meanwhile(informer, transport):
    feed = Feed()
    transport.on_watch(PODS, feed)
    heard = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(informer.run)
        await informer.wait_for_sync()
        told = Turns()
        tasks.start_soon(told.take)

        def handler(event):
            told.did()
            heard.append((event.type, event.entry.key[1], event.entry.rv, event.initial))

        registration = informer.add_handler(handler)
        assert not registration.has_synced
        assert not heard
        feed.event("DELETED", pod("p2999", 11)).event("MODIFIED", pod("p2998", 12)).event("ADDED", pod("new", 13))
        feed.event("ADDED", pod("p2999", 14, uid="another"))
        await registration.wait_for_sync()
        assert registration.has_synced
        await turns(100)
        feed.event("MODIFIED", pod("p0", 15))
        await turns(100)
        tasks.cancel_scope.cancel()
    assert told.most <= 500
    assert heard[-1] == ("update", "p0", 15, False)
    created = {name: rv for type, name, rv, _ in heard if type == "create"}
    assert len(heard) == MANY + 2, "each once, and one change"
    assert (created["p2998"], created["p2999"], created["new"]) == (12, 14, 13)


@pytest.mark.guarantee("IN10")
@pytest.mark.parametrize("count", [900, MANY], ids=["at-once", "in-slices"])
async def test_handler_that_is_added_while_a_list_is_told_hears_of_everything_once(transport, rng, count):
    transport.on("GET", PODS, listing(10, *(pod(f"p{n}", 5) for n in range(count))))
    transport.on("GET", PODS, listing(20, *(pod(f"p{n}", 15) for n in range(1, count + 1))))
    feed = Feed().bookmark(11)
    transport.on_watch(PODS, feed)
    informer = Informer(ApiClient(transport), Target(POD), clock=WorkingClock(), rng=rng)
    early, late = [], []

    def telling(event):
        early.append(event.type)
        if len(early) == count + count // 2:
            informer.add_handler(lambda e: late.append((e.type, e.entry.key[1], e.entry.rv)))

    informer.add_handler(telling)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(informer.run)
        await informer.wait_for_sync()
        feed.error(410, "Expired")
        await turns(2000)
        tasks.cancel_scope.cancel()
    assert (early.count("create"), early.count("update"), early.count("delete")) == (count + 1, count - 1, 1)
    assert sorted(late) == sorted(("create", f"p{n}", 15) for n in range(1, count + 1))


@pytest.mark.guarantee("IN11")
async def test_handler_that_is_removed_while_it_catches_up_hears_no_more(informer):
    heard = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(informer.run)
        await informer.wait_for_sync()
        registration = informer.add_handler(heard.append)
        await anyio.lowlevel.checkpoint()
        registration.remove()
        before = len(heard)
        await anyio.sleep(1)
        tasks.cancel_scope.cancel()
    assert len(heard) == before < MANY


@pytest.mark.guarantee("IN25")
async def test_who_waits_for_a_handler_to_catch_up_is_told_when_the_informer_is_removed(informer):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(informer.run)
        await informer.wait_for_sync()
        registration = informer.add_handler(lambda event: None)
        told = []

        async def wait():
            with pytest.raises(ResourceNotCached):
                await registration.wait_for_sync()
            told.append(True)

        tasks.start_soon(wait)
        await turns(2)
        informer.close()
        await turns(10)
        assert told
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("CT20")
async def test_reconciles_that_never_wait_give_way_to_others(rng):
    done = Turns()

    async def reconcile(request):
        done.did()

    controller = Controller("quick", reconcile, clock=WorkingClock())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(done.take)
        for n in range(MANY):
            controller.enqueue(Request("ns", str(n)))
        await tasks.start(controller.run)
        await turns(MANY)
        tasks.cancel_scope.cancel()
    assert done.total == MANY
    assert done.most <= 20


def test_index_that_is_added_while_a_list_is_stored_covers_it():
    from agentops.controller.store import Entry, Replacement
    from agentops.kube.watch import Meta

    def entry(name):
        meta = Meta(name=name, namespace="ns", resource_version="1")
        return Entry(POD, meta, b'{"metadata":{"name":"%s"}}' % name.encode(), 1)

    store = Store("pods")
    store.put(entry("old"))
    replacement = Replacement(store)
    replacement.add(entry("one"))
    store.add_index("name", lambda obj: [obj["metadata"]["name"]])
    replacement.add(entry("two"))
    assert list(replacement.commit()) == [("ns", "old")]
    assert sorted(store.index_values("name")) == ["one", "two"]
