"""What the rest of the suite takes for granted, said once: keys, order, precedence, limits."""

import itertools
import random
import time

import anyio
import pytest
from support.lease import Lease
from support.scripted_transport import Feed, listing, ok, pod, status

from agentops.controller import (
    Builder,
    Cache,
    CacheOptions,
    ChannelSource,
    Client,
    Controller,
    ControllerError,
    EnqueueForObject,
    LeaderElectionOptions,
    LeaderElector,
    Manager,
    ManagerOptions,
    Request,
    Result,
    Scope,
)
from agentops.controller.delaying_queue import DelayingQueue
from agentops.controller.informer import Informer
from agentops.controller.mutate import create_or_patch, create_or_update
from agentops.controller.priority_queue import PriorityQueue
from agentops.controller.rate_limiting_queue import RateLimitingQueue
from agentops.controller.store import Store
from agentops.controller.target import Target
from agentops.kube.client import ApiClient
from agentops.kube.errors import TransportError, UnsupportedMediaType
from agentops.kube.kinds import CONFIG_MAP, NODE, POD, SECRET
from agentops.telemetry.metrics import Registry
from agentops.values.clock import LoopClock, SystemClock

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"
NODES = "/api/v1/nodes"


@pytest.fixture
def manager(transport, clock, rng):
    return Manager(transport, ManagerOptions(clock=clock, rng=rng))


async def run_for(manager, seconds, during=None):
    async with anyio.create_task_group() as tasks:
        await tasks.start(manager.run)
        if during:
            await during()
        await anyio.sleep(seconds)
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("K1", "K2")
def test_requests_are_values_and_show_their_namespace_only_when_they_have_one():
    assert {Request("ns", "a"), Request("ns", "a"), Request("", "a")} == {Request("", "a"), Request("ns", "a")}
    assert str(Request("ns", "a")) == "ns/a"
    assert str(Request("", "a")) == "a"
    with pytest.raises(AttributeError):
        Request("ns", "a").name = "b"


@pytest.mark.guarantee("K1")
async def test_any_hashable_can_be_queued(clock):
    queue = PriorityQueue(clock=clock)
    queue.add(("provider", 7))
    assert await queue.get() == ("provider", 7)


@pytest.mark.guarantee("DQ5", "DQ6")
async def test_one_timer_serves_all_that_wait_and_looks_again_every_ten_seconds(clock):
    sleeps = []

    class Queue(DelayingQueue):
        def _move_ready(self):
            wait_s = super()._move_ready()
            sleeps.append(wait_s)
            return wait_s

    queue = Queue(clock=clock)
    for number in range(1000):
        queue.add_after(number, 3600 + number)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(queue.run)
        await anyio.sleep(95)
        tasks.cancel_scope.cancel()
    assert len(sleeps) == 10
    assert max(sleeps) == 10


class Counting:
    def __init__(self):
        self.retries = 0

    def added(self):
        pass

    def depth(self, ready, priority=""):
        pass

    def taken(self, waited_s):
        pass

    def finished(self, worked_s):
        pass

    def retried(self):
        self.retries += 1


@pytest.mark.guarantee("DQ7")
@pytest.mark.parametrize("queue_type", [RateLimitingQueue, PriorityQueue])
def test_each_delayed_add_counts_as_one_retry(clock, queue_type):
    counting = Counting()
    queue = queue_type(clock=clock, observer=counting)

    async def main():
        queue.add_after("a", 5)
        queue.add_rate_limited("b")
        queue.add("c")

    anyio.run(main, backend="trio")
    assert counting.retries == 2


@pytest.mark.guarantee("RL8")
async def test_events_are_never_rate_limited(clock):
    queue = PriorityQueue(clock=clock)
    for _ in range(30):
        queue.add_rate_limited("a")
    queue.add("a")
    with anyio.fail_after(0.001):
        assert await queue.get() == "a"


@pytest.mark.guarantee("PQ9", "CT5")
async def test_requeues_keep_their_priority_unless_the_result_names_another(manager, transport):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    seen = []

    async def reconcile(request):
        seen.append(anyio.current_time())
        if len(seen) == 1:
            raise ValueError("no")
        return Result(requeue_after=1, priority=5 if len(seen) == 3 else None)

    controller = Builder(manager).for_(POD).build(reconcile)
    taken = []
    original = controller.queue.get_with_priority

    async def get():
        item, priority = await original()
        taken.append(priority)
        return item, priority

    controller.queue.get_with_priority = get
    await run_for(manager, 3.5)
    assert taken[:4] == [-100, -100, -100, 5]


@pytest.mark.guarantee("PQ10")
async def test_what_was_there_before_and_reminders_have_low_priority_and_changes_do_not(transport, clock, rng):
    manager = Manager(transport, ManagerOptions(clock=clock, rng=rng, resync_s=100))
    feed = Feed()
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    transport.on_watch(PODS, feed)
    added = []

    async def reconcile(request):
        pass

    controller = Builder(manager).for_(POD).build(reconcile)
    controller.queue.add = lambda item, priority=None: added.append(priority)

    async def during():
        await anyio.sleep(1)
        feed.event("MODIFIED", pod("a", 11))
        await anyio.sleep(120)

    await run_for(manager, 0, during)
    assert added == [-100, 0, -100]


@pytest.mark.guarantee("WA17")
async def test_lists_take_turns(transport, clock, rng):
    running, most = 0, 0

    class Slow:
        host = "slow"

        async def request(self, method, path, **options):
            nonlocal running, most
            running += 1
            most = max(most, running)
            await anyio.sleep(1)
            running -= 1
            return listing(10, kind="List")

        def stream(self, *args, **options):
            return transport.stream(*args, **options)

    cache = Cache(
        ApiClient(Slow(), clock=clock), CacheOptions(max_concurrent_lists=2, streaming_lists="never"), clock=clock
    )
    for kind in (POD, NODE, SECRET, CONFIG_MAP):
        cache.informer(kind)
    async with anyio.create_task_group() as tasks:
        await tasks.start(cache.run)
        await cache.wait_for_sync()
        tasks.cancel_scope.cancel()
    assert most == 2
    assert anyio.current_time() == pytest.approx(2, abs=0.1)
    assert CacheOptions().max_concurrent_lists == 8


@pytest.mark.guarantee("WA4")
async def test_no_watch_starts_at_version_zero_or_nowhere(transport, clock, rng):
    informer = Informer(ApiClient(transport, clock=clock), Target(POD), clock=clock, rng=rng)
    transport.on("GET", PODS, listing(10), listing(0), listing(12))
    transport.on_watch(PODS, Feed().error(410, "Expired"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(informer.run)
        await anyio.sleep(30)
        tasks.cancel_scope.cancel()
    assert transport.sent("GET", watch=True)[0].query["resourceVersion"] == "10"


@pytest.mark.guarantee("IN14")
async def test_reminders_let_others_run_every_thousand(transport, clock, rng):
    transport.on("GET", PODS, listing(10, *[pod(f"p{n}", n + 1) for n in range(2500)]))
    informer = Informer(ApiClient(transport, clock=clock), Target(POD), clock=clock, rng=rng, resync_s=50)
    told = at_once = most = 0

    def reminded(event):
        nonlocal told, at_once, most
        if event.resync:
            told, at_once = told + 1, at_once + 1
            most = max(most, at_once)
            turn.set()

    async def others():
        nonlocal at_once, turn
        while told < 2500:
            await turn.wait()
            turn, at_once = anyio.Event(), 0

    turn = anyio.Event()
    informer.add_handler(reminded)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(informer.run)
        with anyio.fail_after(60):
            await others()
        tasks.cancel_scope.cancel()
    assert most <= 2000, "one turn of each, whoever comes first in it"


@pytest.mark.guarantee("CA10", "SR3", "BD4")
async def test_predicates_reduce_work_but_not_the_cache_and_a_broken_one_lets_everything_through(manager, transport):
    transport.on("GET", PODS, listing(10, pod("a", 5), pod("b", 6)))
    seen, asked = [], []

    def only_b(event):
        asked.append("global")
        return event.entry.meta.name == "b"

    def broken(event):
        asked.append("own")
        raise RuntimeError("oops")

    async def reconcile(request):
        seen.append(request.name)

    channel = ChannelSource(POD, EnqueueForObject())
    Builder(manager).for_(POD, predicates=(broken,)).predicates(only_b).source(channel).build(reconcile)

    async def during():
        channel.send(pod("raw", 1))
        assert len(await manager.client.list(POD)) == 2

    await run_for(manager, 1, during)
    assert sorted(seen) == ["b", "raw"]
    assert asked == ["global", "global", "own"]


@pytest.mark.guarantee("CA11")
async def test_shard_selector_is_passed_on(transport, clock, rng):
    transport.on("GET", PODS, listing(10))
    manager = Manager(transport, ManagerOptions(clock=clock, rng=rng, scopes={POD: Scope(shard="x in (1, 2)")}))
    manager.cache.informer(POD)
    await run_for(manager, 1)
    assert {request.query.get("shardSelector") for request in transport.requests if request.path == PODS} == {
        "x in (1, 2)"
    }


@pytest.mark.guarantee("RY11")
async def test_a_read_can_ask_not_to_wait_for_own_writes(transport, clock, rng):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    live = ApiClient(transport, clock=clock)
    cache = Cache(live, clock=clock, rng=rng)
    cache.informer(POD).parts[0].fence.wrote(("default", "a"), 99)
    client = Client(live, cache)
    async with anyio.create_task_group() as tasks:
        await tasks.start(cache.run)
        await cache.wait_for_sync()
        before = anyio.current_time()
        assert await client.get(POD, "a", "default", consistency="none")
        assert await client.list(POD, consistency="none")
        assert anyio.current_time() == before
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("CL16")
async def test_what_is_passed_to_a_write_is_never_changed(transport, clock):
    obj = pod("a", 5)
    before = repr(obj)
    transport.on("PUT", "/api/v1/namespaces/default/pods/a", ok(pod("a", 6)))
    live = ApiClient(transport, clock=clock)
    answer = await Client(live, Cache(live, clock=clock)).update(POD, obj)
    assert answer["metadata"]["resourceVersion"] == "6"
    assert repr(obj) == before


@pytest.mark.guarantee("CL16", "FU8")
@pytest.mark.parametrize("make", [create_or_update, create_or_patch])
async def test_what_is_passed_to_be_mutated_is_never_changed(transport, clock, make):
    path = "/api/v1/namespaces/default/pods"
    transport.on("POST", path, lambda request: ok(request.body))
    live = ApiClient(transport, clock=clock)
    client = Client(live, Cache(live, clock=clock), uncached=[POD])
    wanted = pod("a", 5)
    before = repr(wanted)
    made = await make(client, POD, wanted, lambda obj: obj["metadata"].setdefault("labels", {}).update(a="b"))
    assert made.object["metadata"]["labels"] == {"a": "b"}
    assert repr(wanted) == before


@pytest.mark.guarantee("BD3")
def test_number_of_workers_comes_from_the_controller_else_the_manager_else_is_one(transport, clock):
    async def reconcile(request):
        pass

    default = Manager(transport, ManagerOptions(clock=clock))
    wide = Manager(transport, ManagerOptions(clock=clock, max_concurrent=3))
    assert Builder(default).for_(POD).build(reconcile).options.max_concurrent == 1
    assert Builder(wide).for_(POD).build(reconcile).options.max_concurrent == 3
    assert Builder(wide).for_(NODE).with_options(max_concurrent=5).build(reconcile).options.max_concurrent == 5


@pytest.mark.guarantee("CT8")
async def test_source_added_to_a_running_controller_starts_at_once(manager, transport):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    seen = []

    async def reconcile(request):
        seen.append(request.name)

    controller = Builder(manager).for_(POD).build(reconcile)
    channel = ChannelSource(POD, EnqueueForObject())

    async def during():
        await anyio.sleep(1)
        controller.watch(channel)
        channel.send(pod("late", 1))

    await run_for(manager, 1, during)
    assert seen == ["a", "late"]


@pytest.mark.guarantee("CT15")
async def test_controller_that_needs_no_leader_runs_on_every_replica(transport, clock, rng):
    lease = {
        "metadata": {"name": "op", "namespace": "ns", "resourceVersion": "1"},
        "spec": {"holderIdentity": "other", "leaseDurationSeconds": 3600},
    }
    transport.on("GET", "/apis/coordination.k8s.io/v1/namespaces/ns/leases/op", ok(lease))
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    election = LeaderElectionOptions("op", "ns", fence=False)
    manager = Manager(transport, ManagerOptions(clock=clock, rng=rng, leader_election=election))
    seen = []

    async def everywhere(request):
        seen.append("everywhere")

    async def leader(request):
        seen.append("leader")

    Builder(manager).named("everywhere").for_(POD).with_options(leader_only=False).build(everywhere)
    Builder(manager).named("leader").for_(POD).build(leader)
    await run_for(manager, 10)
    assert seen == ["everywhere"]


@pytest.mark.guarantee("CT19", "K3")
async def test_reconciler_is_told_the_key_and_nothing_of_what_happened(manager, transport):
    feed = Feed()
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    transport.on_watch(PODS, feed)
    seen, go_on = [], anyio.Event()

    async def reconcile(*args, **kwargs):
        seen.append((args, kwargs))
        if len(seen) == 1:
            await go_on.wait()

    Builder(manager).for_(POD).build(reconcile)

    async def during():
        await anyio.sleep(1)
        for version in range(11, 16):
            feed.event("MODIFIED", pod("a", version))
        feed.event("DELETED", pod("a", 16))
        await anyio.sleep(1)
        go_on.set()

    await run_for(manager, 1, during)
    assert seen == [((Request("default", "a"),), {})] * 2


@pytest.mark.guarantee("LE2")
def test_identity_is_new_with_every_start(transport, clock):
    def identity():
        return LeaderElector(ApiClient(transport), LeaderElectionOptions("op", "ns", fence=False), clock=clock).identity

    one, two = identity(), identity()
    assert one != two
    assert one.rpartition("_")[0] == two.rpartition("_")[0]


@pytest.fixture
def elector(clock):
    def make(lease, name="a"):
        options = LeaderElectionOptions("op", "ns", identity=name, fence=False)
        return LeaderElector(ApiClient(lease.transport(name)), options, clock=clock, rng=random.Random(1))

    return make


@pytest.mark.guarantee("LE11")
async def test_candidate_that_loses_the_race_keeps_waiting(elector):
    lease = Lease()
    lease.store({"kind": "Lease", "metadata": {"name": "op"}, "spec": {"holderIdentity": ""}})
    won = []

    async def run(name):
        await elector(lease, name).acquire()
        won.append(name)

    async with anyio.create_task_group() as tasks:
        for name in "abcd":
            tasks.start_soon(run, name)
        await anyio.sleep(12)
        tasks.cancel_scope.cancel()
    assert len(won) == 1
    assert len([holder for _, holder in lease.history if holder]) == 1


@pytest.mark.guarantee("LE13")
@pytest.mark.parametrize(
    "broken",
    [TransportError("reset"), status(500, "InternalError"), status(403, "Forbidden"), ok({"kind": "Pod"}), ok([])],
)
async def test_nothing_a_server_answers_ends_the_elector(transport, clock, broken):
    path = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/op"
    free = {"kind": "Lease", "metadata": {"name": "op", "resourceVersion": "1"}, "spec": {}}
    transport.on("GET", path, broken, broken, ok(free))
    transport.on("PUT", path, lambda request: ok(request.body))
    options = LeaderElectionOptions("op", "ns", fence=False)
    elector = LeaderElector(ApiClient(transport), options, clock=clock, rng=random.Random(1))
    with anyio.fail_after(15):
        await elector.acquire()
    assert elector.statistics().failures == 2


@pytest.mark.guarantee("LE15", "LE16")
async def test_leader_that_has_not_renewed_for_lease_and_tolerance_is_not_healthy(elector):
    leader = elector(Lease())
    assert leader.healthy() is None
    await leader.acquire()
    await anyio.sleep(34)
    assert leader.healthy() is None
    await anyio.sleep(2)
    assert leader.healthy() == "the lease was last renewed 36 s ago"


@pytest.mark.guarantee("LE16")
async def test_leader_that_was_suspended_reads_the_lease_before_it_renews(transport):
    class Suspended(LoopClock):
        for_s = 0.0

        def boottime(self):
            return super().boottime() + self.for_s

    clock = Suspended()
    stored = []

    def store(request):
        stored.append({**request.body, "metadata": {**request.body["metadata"], "resourceVersion": str(len(stored))}})
        return ok(stored[-1])

    path = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"
    transport.on("GET", f"{path}/op", status(404, "NotFound"), lambda request: ok(stored[-1]))
    transport.on("POST", path, store)
    transport.on("PUT", f"{path}/op", store)
    options = LeaderElectionOptions("op", "ns", identity="me", fence=False)
    leader = LeaderElector(ApiClient(transport, clock=clock), options, clock=clock)
    await leader.acquire()
    for suspended_s, asks in ((0, ["PUT"]), (60, ["GET", "PUT"])):
        before = len(transport.requests)
        clock.for_s += suspended_s
        with anyio.move_on_after(2.5):
            await leader.hold()
        assert [request.method for request in transport.requests[before:]] == asks


@pytest.mark.guarantee("LE16")
@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="a clock of Linux")
def test_durations_are_counted_on_the_clock_that_counts_suspend():
    assert SystemClock().boottime() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=60)


@pytest.mark.guarantee("CL9")
async def test_scale_is_read_and_written_below_its_object(transport, clock):
    path = "/api/v1/namespaces/default/pods/a/scale"
    scale = {"kind": "Scale", "metadata": {"name": "a", "namespace": "default"}, "spec": {"replicas": 2}}
    transport.on("GET", path, ok(scale))
    transport.on("PUT", path, lambda request: ok(request.body))
    live = ApiClient(transport, clock=clock)
    client = Client(live, Cache(live, clock=clock))
    read = await client.get(POD, "a", "default", subresource="scale")
    written = await client.update(POD, {**read, "spec": {"replicas": 3}}, subresource="scale")
    assert written["spec"]["replicas"] == 3


@pytest.mark.guarantee("CL6")
async def test_strategic_merge_that_a_kind_does_not_know_says_what_to_use(transport, clock):
    transport.on("PATCH", "/api/v1/namespaces/default/pods/a", status(415, "UnsupportedMediaType"))
    with pytest.raises(UnsupportedMediaType) as raised:
        await ApiClient(transport, clock=clock).patch(POD, "a", {"spec": {}}, "default", type="strategic")
    assert "use type='merge' or 'apply'" in raised.value.__notes__[0]


@pytest.mark.guarantee("CL10")
async def test_collection_is_deleted_by_label_and_with_its_children(transport, clock):
    transport.on("DELETE", "/api/v1/namespaces/default/pods", ok({"kind": "Status", "status": "Success"}))
    live = ApiClient(transport, clock=clock)
    await Client(live, Cache(live, clock=clock)).delete_collection(POD, "default", labels={"app": "x"})
    (request,) = transport.sent("DELETE")
    assert request.query == {"labelSelector": "app=x", "propagationPolicy": "Background"}


@pytest.mark.guarantee("CT8")
async def test_controller_is_not_started_twice(clock):
    async def reconcile(request):
        pass

    controller = Controller("twice", reconcile, clock=clock)
    async with anyio.create_task_group() as tasks:
        await tasks.start(controller.run)
        with pytest.raises(ControllerError, match="was started before; build a new one"):
            await controller.run()
        controller.stop()


@pytest.mark.guarantee("EV1")
@pytest.mark.parametrize("component", ["", "c" * 64])
def test_component_that_the_server_would_refuse_is_refused_at_once(transport, clock, component):
    with pytest.raises(ValueError, match="must have 1 to 63 characters"):
        Manager(transport, ManagerOptions(clock=clock)).recorder(component)


@pytest.mark.guarantee("MX2")
def test_labels_are_looked_up_once_per_controller(monkeypatch):
    from agentops.controller.metrics import ControllerMetrics

    registry = Registry()
    metrics = ControllerMetrics(registry, "x")
    counter = registry.counter("controller_runtime_reconcile_total", "", ("controller", "result"))
    monkeypatch.setattr(type(counter), "labels", lambda *_: pytest.fail("labels are looked up per reconcile"))
    metrics.finished("success", 0.1)
    assert registry.value("controller_runtime_reconcile_total", controller="x", result="success") == 1


@pytest.mark.guarantee("IN17")
def test_objects_are_decoded_for_indices_only_and_once_per_change(monkeypatch):
    from agentops.controller.store import Entry
    from agentops.kube.watch import Meta

    decoded = itertools.count()
    original = Entry.object
    monkeypatch.setattr(Entry, "object", lambda self: (next(decoded), original(self))[1])

    def entry(version):
        return Entry(POD, Meta(name="a", namespace="n", resource_version=str(version)), b'{"v":%d}' % version, version)

    store = Store()
    store.put(entry(1))
    assert next(decoded) == 0
    store.add_index("one", lambda obj: ["x"])
    store.add_index("two", lambda obj: ["y"])
    before = next(decoded)
    store.put(entry(2))
    assert next(decoded) == before + 2
    store.put(entry(2))
    store.replace([entry(2)])
    assert next(decoded) == before + 3
