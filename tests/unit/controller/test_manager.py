import itertools

import anyio
import pytest
from support.scripted_transport import Feed, listing, ok, pod, status

from agentops.controller import (
    Builder,
    BuildError,
    CacheSyncTimeout,
    ControllerError,
    EnqueueMapped,
    GraceExceeded,
    LeaderElectionLost,
    LeaderElectionOptions,
    Manager,
    ManagerOptions,
    Request,
    Result,
)
from agentops.controller.predicates import from_func, generation_changed
from agentops.kube.kinds import NODE, POD, SECRET

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


@pytest.mark.guarantee("CT1", "CT7")
async def test_reconciles_every_object_there_is_and_every_change(manager, transport):
    feed = Feed()
    transport.on("GET", PODS, listing(10, pod("a", 5), pod("b", 6)))
    transport.on_watch(PODS, feed)
    seen = []

    async def reconcile(request):
        seen.append(request)

    Builder(manager).for_(POD).build(reconcile)

    async def during():
        await anyio.sleep(1)
        assert seen == [Request("default", "a"), Request("default", "b")]
        feed.event("MODIFIED", pod("a", 11))

    await run_for(manager, 1, during)
    assert seen[2:] == [Request("default", "a")]


@pytest.mark.guarantee("BD5", "HA6")
async def test_owned_and_mapped_objects_wake_the_object_that_is_reconciled(manager, transport):
    owner = {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u", "controller": True}
    transport.on("GET", NODES, listing(10, {"metadata": {"name": "n0", "resourceVersion": "1"}}, kind="NodeList"))
    transport.on("GET", PODS, listing(10, pod("a", 5, ownerReferences=[owner])))
    transport.on("GET", "/api/v1/secrets", listing(10, pod("s", 5), kind="SecretList"))
    seen = set()

    async def reconcile(request):
        seen.add(request.name)

    async def mapped(obj):
        await anyio.sleep(0)
        return [Request("", f"for-{obj['metadata']['name']}")]

    Builder(manager).for_(NODE).owns(POD).watches(SECRET, EnqueueMapped(mapped)).build(reconcile)
    await run_for(manager, 1)
    assert seen == {"n0", "n1", "for-s"}


@pytest.mark.guarantee("BD5")
@pytest.mark.parametrize(("asked", "woken"), [({}, {"n1"}), ({"only_controller": False}, {"n1", "n2"})])
async def test_owner_that_does_not_control_is_woken_only_when_asked_for(manager, transport, asked, woken):
    owner = {"apiVersion": "v1", "kind": "Node", "uid": "u"}
    owners = [{**owner, "name": "n1", "controller": True}, {**owner, "name": "n2"}]
    transport.on("GET", NODES, listing(10, kind="NodeList"))
    transport.on("GET", PODS, listing(10, pod("a", 5, ownerReferences=owners)))
    seen = set()

    async def reconcile(request):
        seen.add(request.name)

    Builder(manager).for_(NODE).owns(POD, **asked).build(reconcile)
    await run_for(manager, 1)
    assert seen == woken


@pytest.mark.guarantee("CT2", "CT12")
async def test_failed_reconcile_is_tried_again_after_growing_waits_and_forgotten_on_success(manager, transport):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    times = []

    async def reconcile(request):
        times.append(anyio.current_time())
        if len(times) < 5:
            raise ValueError("not yet")

    controller = Builder(manager).for_(POD).build(reconcile)
    await run_for(manager, 10)
    waits = [round(b - a, 4) for a, b in itertools.pairwise(times)]
    assert waits == pytest.approx([0.005, 0.01, 0.02, 0.04])
    assert controller.statistics().errors == 4
    assert controller.queue.num_requeues(Request("default", "a")) == 0
    assert manager.registry.value("controller_runtime_reconcile_total", controller="pod", result="error") == 4
    assert manager.registry.value("controller_runtime_reconcile_total", controller="pod", result="success") == 1


@pytest.mark.guarantee("CT2")
async def test_requeue_after_comes_back_then(manager, transport):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    times = []

    async def reconcile(request):
        times.append(anyio.current_time())
        return Result(requeue_after=60)

    Builder(manager).for_(POD).build(reconcile)
    await run_for(manager, 150)
    assert [round(t - times[0]) for t in times] == [0, 60, 120]


@pytest.mark.guarantee("MG6", "CT13")
async def test_running_reconcile_may_finish_within_the_grace_period(manager, transport):
    transport.on("GET", PODS, listing(10, pod("a", 5), pod("b", 5)))
    done = []

    async def reconcile(request):
        await anyio.sleep(20)
        done.append(request.name)

    Builder(manager).for_(POD).build(reconcile)
    await run_for(manager, 5)
    assert done == ["a"]


@pytest.mark.guarantee("MG6")
async def test_what_does_not_stop_in_time_is_named(manager, transport):
    transport.on("GET", PODS, listing(10, pod("a", 5)))

    async def reconcile(request):
        await anyio.sleep(1000)

    Builder(manager).for_(POD).named("slow").build(reconcile)
    with pytest.raises(GraceExceeded, match="controller slow"):
        with anyio.move_on_after(5):
            await manager.run()


@pytest.mark.guarantee("MG6")
async def test_what_does_not_end_although_it_is_cancelled_is_named_meanwhile(transport, clock, rng, caplog):
    manager = Manager(transport, ManagerOptions(clock=clock, rng=rng, grace_s=5))
    named = []

    async def stubborn(*, task_status):
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1000)
                named.extend(
                    r.agentops_fields["runnables"] for r in caplog.records if r.message == "manager.not_stopped"
                )

    manager.add(stubborn, name="stubborn")
    with pytest.raises(GraceExceeded, match=r"not stopped within 5 s: stubborn$"):  # and not the caches after it
        with anyio.move_on_after(1):
            await manager.run()
    assert named == [["stubborn"]]


@pytest.mark.guarantee("MG6")
async def test_without_grace_everything_is_cancelled_and_nothing_is_complained_of(transport, clock):
    manager = Manager(transport, ManagerOptions(clock=clock, grace_s=0))
    ended = []

    async def slow(*, task_status):
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(3)
            ended.append("slow")

    manager.add(slow)
    with anyio.move_on_after(5):
        await manager.run()
    assert ended == ["slow"]


@pytest.mark.guarantee("MG4")
async def test_first_failure_of_a_runnable_stops_the_manager_and_is_raised(manager):
    stopped = []

    async def fails(*, task_status):
        await anyio.sleep(3)
        raise RuntimeError("the disk is full")

    async def other(*, task_status):
        try:
            await anyio.sleep_forever()
        finally:
            stopped.append("other")

    manager.add(fails)
    manager.add(other)
    with pytest.raises(RuntimeError, match="the disk is full"):
        await manager.run()
    assert stopped == ["other"]


@pytest.mark.guarantee("MG4")
async def test_what_fails_while_stopping_is_told_with_the_first_failure(manager):
    async def first(*, task_status):
        raise RuntimeError("the disk is full")

    async def second(*, task_status):
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("and the light is off")

    manager.add(second)
    manager.add(first)
    with pytest.raises(RuntimeError, match="the disk is full") as raised:
        await manager.run()
    assert raised.value.__notes__ == ["while stopping: ValueError: and the light is off"]


@pytest.mark.guarantee("MG3")
async def test_runnable_added_later_starts_at_once(manager):
    ran = anyio.Event()

    async def late(*, task_status):
        ran.set()

    async def during():
        manager.add(late)
        with anyio.fail_after(1):
            await ran.wait()

    await run_for(manager, 0, during)


@pytest.mark.guarantee("MG10")
async def test_manager_runs_once(manager):
    await run_for(manager, 0)
    with pytest.raises(ControllerError, match="once"):
        await manager.run()
    with pytest.raises(ControllerError, match="stopping"):
        manager.add(lambda: None)


@pytest.mark.guarantee("CT7", "SR1")
async def test_kind_that_cannot_be_listed_is_named_when_the_sync_times_out(transport, clock, rng):
    manager = Manager(transport, ManagerOptions(clock=clock, rng=rng, cache_sync_timeout_s=30))
    transport.on("GET", PODS, status(403, "Forbidden", "pods is forbidden"))

    async def reconcile(request):
        pass

    Builder(manager).for_(POD).build(reconcile)
    with pytest.raises(CacheSyncTimeout, match="pods is forbidden"):
        await manager.run()


@pytest.mark.guarantee("CT7")
async def test_cancel_during_sync_is_no_error(manager, transport):
    transport.on("GET", PODS, status(403, "Forbidden"))

    async def reconcile(request):
        pass

    Builder(manager).for_(POD).build(reconcile)
    with anyio.move_on_after(5) as scope:
        await manager.run()
    assert scope.cancelled_caught


@pytest.mark.guarantee("MG5")
async def test_stops_in_reverse_order(transport, clock, rng):
    manager = Manager(transport, ManagerOptions(clock=clock, rng=rng))
    order = []

    def runnable(name):
        async def run(*, task_status):
            try:
                await anyio.sleep_forever()
            finally:
                order.append(name)

        return run

    manager.add(runnable("leader"))
    manager.add(runnable("other"), leader_only=False)
    await run_for(manager, 1)
    assert order == ["other", "leader"]


@pytest.mark.guarantee("MG5")
@pytest.mark.parametrize("leader_only", [True, False])
async def test_work_that_ends_can_still_read_the_cache(manager, transport, leader_only):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    manager.cache.informer(POD)
    read = []

    async def work(*, task_status):
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.1)
                read.append(await manager.client.get(POD, "a", "default"))

    manager.add(work, leader_only=leader_only)
    await run_for(manager, 1)
    assert len(read) == 1


LEASE = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"


def leading(transport, clock, rng):
    options = LeaderElectionOptions("op", "ns", identity="me", fence=False)
    return Manager(transport, ManagerOptions(clock=clock, rng=rng, leader_election=options))


@pytest.mark.guarantee("MG1", "LE12")
async def test_leaders_work_starts_after_election_and_ends_before_the_release(transport, clock, rng):
    order = []

    def stored(request):
        order.append((request.method, request.body["spec"]["holderIdentity"]))
        return ok({**request.body, "metadata": {**request.body["metadata"], "resourceVersion": "2"}})

    transport.on("POST", LEASE, stored)
    transport.on("PUT", LEASE + "/op", stored)
    manager = leading(transport, clock, rng)

    async def work(*, task_status):
        order.append("work starts")
        try:
            await anyio.sleep_forever()
        finally:
            order.append("work ends")

    manager.add(work)
    await run_for(manager, 3)
    assert order == [("POST", "me"), "work starts", ("PUT", "me"), "work ends", ("PUT", "")]


@pytest.mark.guarantee("LE9", "MG7")
async def test_lost_lease_ends_the_manager_without_grace(transport, clock, rng):
    transport.on("POST", LEASE, lambda r: ok(r.body))
    transport.on("GET", LEASE + "/op", status(404, "NotFound"), status(500, "InternalError"))
    transport.on("PUT", LEASE + "/op", status(500, "InternalError"))
    manager = leading(transport, clock, rng)
    ended = []

    async def work(*, task_status):
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(anyio.current_time())

    async def reconcile(request):
        await work(task_status=None)

    transport.on("GET", PODS, listing(10, pod("a", 5)))
    Builder(manager).for_(POD).build(reconcile)  # which could finish within the grace period, if there was one
    manager.add(work)
    start = anyio.current_time()
    with pytest.raises(LeaderElectionLost, match="ns/op could not be renewed within 10 s"):
        await manager.run()
    assert len(ended) == 2
    assert all(10 <= at - start <= 12.1 for at in ended)


@pytest.mark.guarantee("BD1", "BD2")
async def test_mistakes_surface_when_building(manager):
    async def reconcile(request):
        pass

    with pytest.raises(BuildError, match="owns needs for_"):
        Builder(manager).owns(POD).build(reconcile)
    with pytest.raises(BuildError, match="given twice"):
        Builder(manager).for_(POD).for_(NODE)
    with pytest.raises(BuildError, match="nothing to watch"):
        Builder(manager).named("x").build(reconcile)
    with pytest.raises(BuildError, match="must match"):
        Builder(manager).for_(POD).named("Not OK").build(reconcile)
    Builder(manager).for_(POD).build(reconcile)
    with pytest.raises(BuildError, match="already"):
        Builder(manager).for_(POD).build(reconcile)
    with pytest.raises(BuildError, match="at least one worker"):
        Builder(manager).for_(POD).with_options(max_concurrent=0)
    with pytest.raises(BuildError, match="which is no handler; try EnqueueMapped"):
        Builder(manager).for_(POD).watches(NODE, lambda obj: [])
    with pytest.raises(BuildError, match=r"given as a tuple: \(generation_changed,\)"):
        Builder(manager).for_(POD, generation_changed)


@pytest.mark.guarantee("BD4")
async def test_predicates_that_are_given_twice_all_count(manager, transport):
    transport.on("GET", PODS, listing(10, *(pod(name, 5) for name in "abc")))
    transport.on_watch(PODS, Feed())
    seen = []

    async def reconcile(request):
        seen.append(request.name)

    builder = Builder(manager).for_(POD).predicates(from_func(lambda obj: obj["metadata"]["name"] != "a"))
    builder.predicates(from_func(lambda obj: obj["metadata"]["name"] != "b")).build(reconcile)
    await run_for(manager, 1)
    assert seen == ["c"]
