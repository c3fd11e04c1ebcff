import gc
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest
from support.scripted_transport import Feed, ScriptedTransport, listing, ok, pod, status

from agentops.controller import (
    Builder,
    ChannelSource,
    Cluster,
    ControllerError,
    EnqueueForObject,
    FuncSource,
    LeaderElectionOptions,
    Manager,
    ManagerOptions,
    Request,
    object_reconciler,
)
from agentops.controller.gcpolicy import GcPauses, filling
from agentops.kube.kinds import NODE, POD
from agentops.telemetry.metrics import Registry

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/op"


@pytest.fixture
def options(clock, rng):
    def make(**more):
        return ManagerOptions(clock=clock, rng=rng, **more)

    return make


async def run_for(manager, seconds, during=None):
    async with anyio.create_task_group() as tasks:
        await tasks.start(manager.run)
        if during:
            await during()
        await anyio.sleep(seconds)
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("HM2", "LI13")
async def test_readiness_ends_when_a_watch_has_not_been_current_for_five_minutes(transport, options):
    manager = Manager(transport, options())
    transport.on("GET", PODS, listing(10, pod("a", 5)), status(403, "Forbidden", "pods is forbidden"))
    transport.on_watch(PODS, Feed().bookmark(11).error(410, "Expired"))
    manager.cache.informer(POD)

    async def during():
        await anyio.sleep(280)
        assert manager._ready.run()["freshness"] is None
        await anyio.sleep(40)
        why = manager._ready.run()["freshness"]
        assert "pods has not been current for" in why
        assert "pods is forbidden" in why
        assert manager._alive.run() == {"ping": None}
        labels = {"group": "", "version": "v1", "resource": "pods"}
        assert manager.registry.value("informer_unfresh_seconds", **labels) > 300

    await run_for(manager, 0, during)


@pytest.mark.guarantee("HM2")
async def test_freshness_can_be_left_out_of_readiness(transport, options):
    assert "freshness" not in Manager(transport, options(unfresh_after_s=None))._ready.run()


@pytest.mark.guarantee("CT14")
@pytest.mark.parametrize("warmup", [True, False])
async def test_warm_controller_has_its_queue_full_before_it_leads(transport, options, clock, warmup):
    held = {"metadata": {"name": "op", "namespace": "ns", "resourceVersion": "1"}}
    other = {**held, "spec": {"holderIdentity": "other", "leaseDurationSeconds": 15}}
    transport.on("GET", LEASE, ok(other))
    transport.on("PUT", LEASE, lambda request: ok(request.body))
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    manager = Manager(transport, options(leader_election=LeaderElectionOptions("op", "ns", fence=False)))
    seen = []

    async def reconcile(request):
        seen.append(anyio.current_time())

    controller = Builder(manager).for_(POD).with_options(warmup=warmup).build(reconcile)

    async def during():
        await anyio.sleep(5)
        assert seen == []
        assert len(controller.queue) == (1 if warmup else 0)
        await manager.elected.wait()
        await anyio.sleep(0.01)
        assert len(seen) == 1

    await run_for(manager, 1, during)


@pytest.mark.guarantee("CT14")
async def test_warmup_without_leader_election_changes_nothing(transport, options):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    manager = Manager(transport, options())
    seen = []

    async def reconcile(request):
        seen.append(request)

    Builder(manager).for_(POD).with_options(warmup=True).build(reconcile)
    await run_for(manager, 1)
    assert seen == [Request("default", "a")]


@pytest.mark.guarantee("CT17")
async def test_object_reconciler_is_given_the_object_and_not_called_for_absent_ones(transport, options):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    manager = Manager(transport, options())
    seen = []

    async def reconcile(obj):
        seen.append(obj["metadata"]["name"])

    controller = Builder(manager).for_(POD).build(object_reconciler(manager.client, POD, reconcile))

    async def during():
        controller.enqueue(Request("default", "gone"))
        await anyio.sleep(1)
        assert controller.statistics().reconciles == 2
        assert controller.statistics().errors == 0

    await run_for(manager, 0, during)
    assert seen == ["a"]


@pytest.mark.guarantee("SR2")
async def test_functions_and_channels_feed_a_controller(transport, options):
    manager = Manager(transport, options())
    channel = ChannelSource(POD, EnqueueForObject())
    seen = []

    async def every_minute(enqueue):
        while True:
            enqueue(Request("", "tick"), 0)
            await anyio.sleep(60)

    async def reconcile(request):
        seen.append(request.name)

    Builder(manager).named("other").source(FuncSource(every_minute)).source(channel).build(reconcile)

    async def during():
        channel.send(pod("a", 1))
        await anyio.sleep(1)
        channel.close()
        channel.send(pod("b", 1))

    await run_for(manager, 90, during)
    assert sorted(seen) == ["a", "tick", "tick"]


@pytest.mark.guarantee("MG11")
async def test_controller_watches_two_clusters(transport, options, clock):
    far = ScriptedTransport()
    far.on("GET", "/api/v1/nodes", listing(10, {"metadata": {"name": "n", "resourceVersion": "1"}}, kind="NodeList"))
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    manager = Manager(transport, options())
    other = Cluster(far, registry=manager.registry, clock=clock, name="far")
    manager.add_cluster(other)
    seen = []

    async def reconcile(request):
        seen.append(request.name)

    Builder(manager).for_(POD).watches(NODE, EnqueueForObject(), cluster=other).build(reconcile)

    async def during():
        assert (await other.client.get(NODE, "n"))["metadata"]["name"] == "n"
        labels = {"group": "", "version": "v1", "resource": "nodes"}
        assert manager.registry.value("informer_objects", **labels) == 1
        with pytest.raises(ControllerError, match="before the manager runs"):
            manager.add_cluster(other)

    await run_for(manager, 1, during)
    assert sorted(seen) == ["a", "n"]


@pytest.mark.guarantee("CL14", "MX1")
async def test_client_side_limit_and_request_metrics_are_opt_in(transport, options):
    transport.on("GET", PODS + "/x", status(404, "NotFound"))
    transport.on("GET", "/thing", status(429, "TooManyRequests", headers={"retry-after": "1"}), ok({}))
    limited = Manager(transport, options(qps=2, burst=3, rest_metrics=True))
    started = anyio.current_time()
    for _ in range(5):
        await _ignore(limited)
    assert anyio.current_time() - started == pytest.approx(1.0)
    await limited.client.live.raw("GET", "/thing")
    labels = {"verb": "GET", "host": "scripted"}
    assert limited.registry.value("rest_client_request_duration_seconds_count", **labels) == 7
    assert limited.registry.value("rest_client_rate_limiter_duration_seconds_sum", **labels) >= 1
    assert limited.registry.value("rest_client_request_retries_total", code="200", **labels) == 1
    plain = Manager(transport, options())
    await _ignore(plain)
    assert plain.registry.value("rest_client_request_duration_seconds_count", **labels) is None
    assert plain.registry.value("rest_client_requests_total", code="404", method="GET", host="scripted") == 1


async def _ignore(manager):
    with pytest.raises(Exception, match="NotFound"):
        await manager.client.live.raw("GET", PODS + "/x")


@pytest.mark.guarantee("PQ13", "PQ14")
async def test_priority_of_the_first_list_and_fairness_can_be_set_as_in_go(transport, options):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    manager = Manager(transport, options())

    async def reconcile(request):
        pass

    controller = Builder(manager).for_(POD).with_options(initial_list_priority=7, oldest_every=0).build(reconcile)
    added = []
    controller.queue.add = lambda item, priority=None: added.append((item.name, priority))
    await run_for(manager, 1)
    assert added == [("a", 7)]
    assert controller.queue._oldest_every == 0


@pytest.mark.guarantee("HA8")
async def test_urgency_of_an_event_raises_or_lowers_the_priority_of_its_keys(transport, options):
    transport.on("GET", PODS, listing(10, pod("a", 5), pod("b", 6), pod("c", 7)))
    manager = Manager(transport, options())

    async def reconcile(request):
        pass

    urgency = {"a": 1, "b": -2}
    controller = Builder(manager).for_(POD, urgency=lambda event: urgency[event.object["metadata"]["name"]])
    controller = controller.build(reconcile)
    added = []
    controller.queue.add = lambda item, priority=None: added.append((item.name, priority))
    await run_for(manager, 1)
    assert added == [("a", -99), ("b", -102), ("c", -100)]  # no urgency for c: that raises


@pytest.mark.guarantee("PY1")
def test_thresholds_are_high_while_anybody_fills_and_restored_after():
    before = gc.get_threshold()
    with filling():
        with filling():
            assert gc.get_threshold()[0] == 50_000
        assert gc.get_threshold()[0] == 50_000
    assert gc.get_threshold() == before


_FREEZES = """
import anyio, gc
from agentops.controller import Manager, ManagerOptions
from support.scripted_transport import ScriptedTransport

async def main(tune):
    manager = Manager(ScriptedTransport(), ManagerOptions(tune_gc=tune, watchdog=False))
    async with anyio.create_task_group() as tasks:
        await tasks.start(manager.run)
        tasks.cancel_scope.cancel()

thresholds = gc.get_threshold()
anyio.run(main, False)
untuned = gc.get_freeze_count()
anyio.run(main, True)
once = gc.get_freeze_count()
anyio.run(main, True)
assert untuned == 0 < 1000 < once, (untuned, once)
assert gc.get_freeze_count() <= once, "frozen twice"
assert gc.get_threshold() == thresholds
"""


@pytest.mark.guarantee("PY1")
def test_process_that_asks_for_it_is_frozen_once_after_the_first_sync():
    tests = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", _FREEZES],
        check=True,
        cwd=tests,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(tests)},
    )


@pytest.mark.guarantee("PY1")
def test_pauses_of_the_collector_are_counted_and_the_callback_goes():
    registry = Registry()
    pauses = GcPauses(registry)
    pauses.start()
    gc.collect()
    pauses.stop()
    pauses.stop()
    assert registry.value("python_gc_pause_seconds_count") >= 1
    assert pauses._note not in gc.callbacks


@pytest.mark.guarantee("CT18", "PY9")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_blocked_event_loop_is_reported_with_key_and_stack(transport, caplog):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    manager = Manager(transport, ManagerOptions(rng=random.Random(1)))
    done = anyio.Event()

    async def reconcile(request):
        time.sleep(1.0)
        done.set()

    Builder(manager).for_(POD).build(reconcile)
    async with anyio.create_task_group() as tasks:
        await tasks.start(manager.run)
        with anyio.fail_after(10):
            await done.wait()
            while not manager.registry.value("event_loop_lag_seconds_count"):
                await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()
    (record,) = [record for record in caplog.records if record.getMessage() == "loop.stalled"]
    told = str(record.__dict__)
    assert "default/a" in told
    assert "time.sleep(1.0)" in told
