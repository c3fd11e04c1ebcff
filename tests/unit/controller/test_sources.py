"""Between watch and queue: mappings that are slow, that fail, and what is counted when users' functions raise."""

import itertools

import anyio
import pytest
from support.scripted_transport import Feed, listing, pod

from agentops.controller import Builder, EnqueueMapped, Manager, ManagerOptions, Request, Scope
from agentops.controller import source as sources
from agentops.kube.kinds import POD, SECRET

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"


class World:
    """A controller on Secrets, of which there are none, that Pods wake through a mapping by `spec.nodeName`."""

    def __init__(self, transport, clock, rng, mapping, **watch):
        self.feed = Feed()
        transport.on("GET", "/api/v1/secrets", listing(10, kind="SecretList"))
        transport.on("GET", PODS, listing(10, node("a", 5, "one")))
        transport.on_watch(PODS, self.feed)
        self.woken = []
        self.manager = Manager(
            transport, ManagerOptions(clock=clock, rng=rng, scopes={POD: watch.pop("scope", Scope())})
        )
        builder = Builder(self.manager).named("w").for_(SECRET).watches(POD, EnqueueMapped(mapping), **watch)
        self.controller = builder.build(self.reconcile)

    async def reconcile(self, request):
        self.woken.append(request.name)

    def failures(self, callback):
        labels = {"group": "", "version": "v1", "resource": "pods", "callback": callback}
        return self.manager.registry.value("informer_callback_failures_total", **labels)

    async def run(self, during):
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.manager.run)
            await anyio.sleep(0.5)
            await during()
            tasks.cancel_scope.cancel()


def node(name, version, node_name, **metadata):
    return {**pod(name, version, **metadata), "spec": {"nodeName": node_name}}


def of(obj):
    return [Request("", obj["spec"]["nodeName"])]


@pytest.mark.guarantee("HA4", "HA6")
async def test_slow_mapping_misses_no_state_in_between(transport, clock, rng):
    async def slow(obj):
        await anyio.sleep(1)
        return of(obj)

    world = World(transport, clock, rng, slow)

    async def during():
        world.feed.event("MODIFIED", node("a", 11, "two")).event("MODIFIED", node("a", 12, "three"))
        world.feed.event("DELETED", node("a", 13, "four"))
        await anyio.sleep(20)
        assert set(world.woken) == {"one", "two", "three", "four"}

    await world.run(during)


@pytest.mark.guarantee("HA5", "HA6")
async def test_mapping_that_cannot_keep_up_still_gets_the_first_and_the_last_state(transport, clock, rng, monkeypatch):
    monkeypatch.setattr(sources, "_IN_ORDER", 1)
    calls = []

    async def slow(obj):
        calls.append(obj)
        await anyio.sleep(1)
        return of(obj)

    world = World(transport, clock, rng, slow)

    async def during():
        for version in range(11, 60):
            world.feed.event("MODIFIED", node("a", version, f"n{version}"))
        world.feed.event("DELETED", node("a", 60, "last"))
        await anyio.sleep(60)
        assert {"one", "last"} <= set(world.woken)
        assert len(calls) < 10, "joined meanwhile"

    await world.run(during)


@pytest.mark.guarantee("HA7")
@pytest.mark.parametrize("asynchronous", [True, False])
async def test_mapping_that_fails_is_asked_again(transport, clock, rng, asynchronous, caplog):
    tries = []

    def flaky(obj):
        tries.append(anyio.current_time())
        if len(tries) < 4:
            raise ConnectionError("no answer")
        return of(obj)

    async def flaky_async(obj):
        return flaky(obj)

    world = World(transport, clock, rng, flaky_async if asynchronous else flaky)

    async def during():
        await anyio.sleep(10)
        assert world.woken == ["one"]
        assert [round(b - a) for a, b in itertools.pairwise(tries)] == [1, 2, 4]
        assert world.failures("map") == 3
        assert caplog.text.count("Traceback") == 1, "in full once, then a line"

    await world.run(during)


@pytest.mark.guarantee("IN12", "IN15", "SR3")
async def test_what_users_functions_raise_is_counted(transport, clock, rng):
    def broken(*_):
        raise ValueError("broken")

    world = World(transport, clock, rng, of, predicates=(broken,), scope=Scope(transform=broken))
    world.manager.cache.add_index(POD, "x", broken)
    world.manager.cache.informer(POD).add_handler(broken)

    async def during():
        assert world.woken == ["one"], "and harms nobody"
        counted = {name: world.failures(name) for name in ("handler", "transform", "index", "predicate")}
        assert counted == {"handler": 1, "transform": 1, "index": 1, "predicate": 1}

    await world.run(during)


@pytest.mark.guarantee("BD3")
def test_number_of_workers_is_the_controllers_the_kinds_the_managers_or_one(transport):
    async def reconcile(request):
        pass

    manager = Manager(transport, ManagerOptions(max_concurrent=3, max_concurrent_of={POD: 5}))
    for name, kind, options, workers in (
        ("a", POD, {}, 5),
        ("b", POD, {"max_concurrent": 7}, 7),
        ("c", SECRET, {}, 3),
        ("d", POD, {"warmup": True}, 5),
    ):
        controller = Builder(manager).named(name).for_(kind).with_options(**options).build(reconcile)
        assert controller.options.max_concurrent == workers
    default = Builder(Manager(transport)).for_(POD).build(reconcile)
    assert default.options.max_concurrent == 1
