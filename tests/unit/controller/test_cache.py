from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from support.scripted_transport import Feed, listing, pod, status

from agentops.controller import (
    ALL_NAMESPACES,
    CacheOptions,
    Client,
    ControllerError,
    Manager,
    ManagerOptions,
    ResourceNotCached,
    Scope,
)
from agentops.controller.cache import Cache
from agentops.kube.client import ApiClient
from agentops.kube.discovery import NoKindMatch
from agentops.kube.kinds import NODE, POD, SECRET
from agentops.kube.watch import INITIAL_EVENTS_END

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"


def in_namespace(namespace):
    return f"/api/v1/namespaces/{namespace}/pods"


@pytest.fixture
def live(transport, clock):
    return ApiClient(transport, clock=clock)


@pytest.fixture
def cached(transport, live, clock, rng):
    """Run a body against a cache of pods with these options."""

    async def run(body, **options):
        cache = Cache(live, CacheOptions(streaming_lists="never", **options), clock=clock, rng=rng)
        cache.informer(POD)
        client = Client(live, cache, uncached=[NODE])
        async with anyio.create_task_group() as tasks:
            await tasks.start(cache.run)
            with anyio.move_on_after(5):
                await cache.wait_for_sync()
            await body(client)
            tasks.cancel_scope.cancel()

    return run


def on_node(name, version, node, phase="Running"):
    return {**pod(name, version), "spec": {"nodeName": node}, "status": {"phase": phase}}


@pytest.fixture
def four(transport):
    objects = [on_node("a", 1, "n1"), on_node("b", 2, "n1", "Failed"), on_node("c", 3, "n2"), on_node("d", 4, "n1")]
    transport.on("GET", PODS, listing(10, *objects))
    feed = Feed()
    transport.on_watch(PODS, feed)
    return feed


def names(objects):
    return [obj["metadata"]["name"] for obj in objects]


@pytest.mark.guarantee("IN20")
async def test_field_selectors_are_answered_from_their_indices(cached, four):
    async def body(client):
        client.cache.add_field_index(POD, "spec.nodeName")
        client.cache.add_field_index(POD, "status.phase")
        assert names(await client.list(POD, fields="spec.nodeName=n1")) == ["a", "b", "d"]
        assert names(await client.list(POD, fields="spec.nodeName==n1,status.phase=Running")) == ["a", "d"]
        assert names(await client.list(POD, "other", fields="spec.nodeName=n1")) == []
        four.event("MODIFIED", on_node("c", 11, "n1"))
        await anyio.sleep(1)
        assert names(await client.list(POD, fields="status.phase=Running,spec.nodeName=n1")) == ["a", "c", "d"]
        with pytest.raises(ValueError, match="only = and =="):
            await client.list(POD, fields="spec.nodeName!=n1")
        with pytest.raises(KeyError, match=r"add_field_index\(kind, 'spec.hostname'\)"):
            await client.list(POD, fields="spec.hostname=x")

    await cached(body)


@pytest.mark.guarantee("IN22")
async def test_cached_lists_can_be_cut_off_but_not_continued(cached, four):
    async def body(client):
        assert names(await client.list(POD, limit=2)) == ["a", "b"]
        with pytest.raises(ValueError, match="no pages to continue"):
            await client.list(POD, limit=2, continue_token="x")

    await cached(body)


@pytest.mark.guarantee("IN23")
async def test_reads_are_private_unless_asked_to_be_shared(cached, four):
    async def body(client):
        client.cache.add_field_index(POD, "spec.nodeName")
        mine = await client.get(POD, "a", "default")
        mine["spec"]["nodeName"] = "spoiled"
        mine["metadata"]["labels"] = {"x": "y"}
        for obj in await client.list(POD):
            obj["spec"].clear()
        assert (await client.get(POD, "a", "default"))["spec"] == {"nodeName": "n1"}
        assert names(await client.list(POD, fields="spec.nodeName=n1")) == ["a", "b", "d"]
        shared = await client.get(POD, "a", "default", read_only=True)
        assert await client.get(POD, "a", "default", read_only=True) is shared
        assert (await client.list(POD, read_only=True))[0] is shared
        four.event("MODIFIED", on_node("a", 11, "n3"))
        await anyio.sleep(1)
        assert (await client.get(POD, "a", "default", read_only=True))["spec"] == {"nodeName": "n3"}

    await cached(body)


@pytest.mark.guarantee("IN24")
async def test_kind_that_goes_and_comes_back_recovers_without_a_restart(cached, transport):
    transport.on("GET", PODS, listing(10, pod("a", 5)), status(404, "NotFound"), status(404, "NotFound"))
    transport.on("GET", PODS, listing(20, pod("b", 15)))
    transport.on_watch(PODS, Feed().bookmark(11).error(410, "Expired"))

    async def body(client):
        await anyio.sleep(0.5)
        assert names(await client.list(POD)) == ["a"]
        await anyio.sleep(60)
        assert names(await client.list(POD)) == ["b"]

    await cached(body)


@pytest.mark.guarantee("IN24")
async def test_readers_can_ask_to_hear_that_the_kind_is_gone(cached, transport):
    transport.on("GET", PODS, listing(10, pod("a", 5)), status(404, "NotFound"))
    transport.on_watch(PODS, Feed().bookmark(11).error(410, "Expired"))

    async def body(client):
        await anyio.sleep(0.5)
        with pytest.raises(NoKindMatch, match="does not serve pods any more"):
            await client.get(POD, "a", "default")
        with pytest.raises(NoKindMatch):
            await client.list(POD)

    await cached(body, raise_when_kind_is_gone=True)


@pytest.mark.guarantee("IN25")
async def test_removed_informer_stops_its_watch_frees_its_store_and_wakes_readers(cached, transport, four):
    transport.on("GET", in_namespace("default") + "/a", status(404, "NotFound"))

    async def body(client):
        informer = client.cache.lookup(POD)
        heard = []
        informer.add_handler(lambda event: heard.append(event.type) if not event.initial else None)
        informer.parts[0].fence.wrote(("default", "a"), 99)
        woken = []

        async def reader():
            with pytest.raises(ResourceNotCached, match="informer was removed"):
                await client.get(POD, "a", "default")
            woken.append(anyio.current_time())

        started = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader)
            await anyio.sleep(1)
            client.cache.remove_informer(POD)
        assert woken == [started + 1]
        assert len(informer.parts[0].store) == 0
        assert heard == []
        with pytest.raises(ResourceNotCached, match="watch it with a controller"):
            await client.get(POD, "a", "default")

    await cached(body)


class Counted:
    """The transport with the number of requests and streams that are open."""

    host = "counted"

    def __init__(self, inner):
        self.inner = inner
        self.open = 0

    async def request(self, *args, **options):
        self.open += 1
        try:
            await anyio.lowlevel.checkpoint()
            return await self.inner.request(*args, **options)
        finally:
            self.open -= 1

    @asynccontextmanager
    async def stream(self, *args, **options):
        self.open += 1
        try:
            async with self.inner.stream(*args, **options) as answer:
                yield answer
        finally:
            self.open -= 1


@pytest.mark.guarantee("IN25", "WA17")
@pytest.mark.parametrize("mode", ["never", "always"])
async def test_informer_that_is_removed_at_any_moment_leaves_nothing_behind(transport, clock, rng, mode):
    """Only one kind may list at a time, so that a turn that is not given back is missed."""
    mark = {"annotations": {INITIAL_EVENTS_END: "true"}}
    many = [pod(f"p{number}", number + 1) for number in range(300)]
    counted = Counted(transport)
    options = CacheOptions(streaming_lists=mode, max_concurrent_lists=1)
    cache = Cache(ApiClient(counted, clock=clock), options, clock=clock, rng=rng)
    transport.on("GET", PODS, lambda request: listing(10, *many, token="" if request.query.get("continue") else "t"))
    transport.on("GET", "/api/v1/secrets", listing(10, kind="SecretList"))
    async with anyio.create_task_group() as tasks:
        await tasks.start(cache.run)
        for moment in range(40):
            streamed = Feed()
            for obj in many if mode == "always" else ():
                streamed.event("ADDED", obj)
            transport.on_watch(PODS, streamed.bookmark(10, **mark).event("ADDED", pod("late", 400)))
            transport.on_watch("/api/v1/secrets", Feed().bookmark(10, **mark))
            informer = cache.informer(POD)
            for _ in range(moment):
                await anyio.lowlevel.checkpoint()
            cache.informer(SECRET)
            cache.remove_informer(POD)
            with anyio.fail_after(60):
                await cache.lookup(SECRET).wait_for_sync()
            cache.remove_informer(SECRET)
            await anyio.wait_all_tasks_blocked()
            assert counted.open == 0, moment
            assert len(informer.parts[0].store) == 0, moment
            transport._feeds.clear()
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("IN25")
async def test_waiting_for_the_first_list_of_a_removed_informer_ends(cached, transport):
    transport.on("GET", PODS, status(403, "Forbidden"))

    async def body(client):
        async def reader():
            with pytest.raises(ResourceNotCached, match="removed"):
                await client.get(POD, "a", "default")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader)
            await anyio.sleep(1)
            client.cache.remove_informer(POD)

    await cached(body)


@pytest.mark.guarantee("CA2", "CA3")
async def test_reading_an_unwatched_kind_starts_watching_it_only_when_allowed(cached, transport, four):
    transport.on("GET", "/api/v1/secrets", listing(10, pod("s", 5), kind="SecretList"))

    async def refused(client):
        with pytest.raises(ResourceNotCached, match="secrets is not cached: watch it"):
            await client.get(SECRET, "s", "default")

    async def started(client):
        assert (await client.get(SECRET, "s", "default"))["metadata"]["name"] == "s"
        assert names(await client.list(SECRET)) == ["s"]

    await cached(refused)
    await cached(started, start_on_read=True)


@pytest.mark.guarantee("CA4")
def test_what_is_kept_of_a_namespace_is_decided_by_the_nearest_scope(live):
    def strip(obj):
        return obj

    options = CacheOptions(
        namespaces={"a": Scope(labels="default=a", fields="spec.x=a"), "b": Scope()},
        default=Scope(labels="default=all", transform=strip),
        scopes={
            POD: Scope(labels="kind=pod", namespaces={"a": Scope(labels="pod=a"), "c": Scope()}),
            SECRET: Scope(fields="type=Opaque"),
        },
    )
    cache = Cache(live, options)
    pods = {part.target.namespace: part for part in cache.informer(POD).parts}
    secrets = {part.target.namespace: part for part in cache.informer(SECRET).parts}
    assert {ns: (p.target.labels, p.target.fields) for ns, p in pods.items()} == {
        "a": ("pod=a", "spec.x=a"),
        "c": ("kind=pod", ""),
    }
    assert {ns: (p.target.labels, p.target.fields) for ns, p in secrets.items()} == {
        "a": ("default=a", "type=Opaque"),
        "b": ("default=all", "type=Opaque"),
    }
    assert all(part._transform is strip for part in (*pods.values(), *secrets.values()))
    everywhere = Cache(live, CacheOptions(namespaces=("a",), scopes={POD: Scope(namespaces=())})).informer(POD)
    assert [part.target.namespace for part in everywhere.parts] == [""]


@pytest.mark.guarantee("CA5")
async def test_catch_all_leaves_out_the_namespaces_that_are_named(transport, clock, rng):
    transport.on("GET", PODS, listing(10, pod("z", 5, "z")))
    transport.on("GET", in_namespace("a"), listing(10, pod("x", 5, "a")))
    scopes = {POD: Scope(namespaces={"a": Scope(labels="app=x"), ALL_NAMESPACES: Scope()})}
    manager = Manager(transport, ManagerOptions(scopes=scopes, clock=clock, rng=rng))
    heard = []
    manager.cache.informer(POD).add_handler(lambda event: heard.append(event.entry.key))
    async with anyio.create_task_group() as tasks:
        await tasks.start(manager.run)
        assert sorted(heard) == [("a", "x"), ("z", "z")]
        assert names(await manager.client.list(POD)) == ["x", "z"]
        assert names(await manager.client.list(POD, "z")) == ["z"]
        assert (await manager.client.get(POD, "x", "a"))["metadata"]["namespace"] == "a"
        tasks.cancel_scope.cancel()
    (everywhere,) = transport.sent("GET", PODS)
    (named,) = transport.sent("GET", in_namespace("a"))
    assert everywhere.query["fieldSelector"] == "metadata.namespace!=a"
    assert "fieldSelector" not in named.query
    assert named.query["labelSelector"] == "app=x"


@pytest.mark.guarantee("CA6")
def test_cluster_scoped_kinds_have_no_namespaces_and_a_namespace_field_is_an_url(live):
    with pytest.raises(ControllerError, match="nodes has namespaces, but the kind has none"):
        Cache(live, CacheOptions(scopes={NODE: Scope(namespaces=("a",))}))
    with pytest.raises(ControllerError, match="leave it empty for all"):
        Cache(live, CacheOptions(namespaces=("a", "")))
    informer = Cache(live).informer(POD, fields="metadata.namespace=a")
    assert [part.target.namespace for part in informer.parts] == ["a"]


@pytest.mark.guarantee("RY7")
async def test_reads_that_wait_in_vain_are_counted(transport, clock, rng):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    manager = Manager(transport, ManagerOptions(clock=clock, rng=rng))
    informer = manager.cache.informer(POD)
    async with anyio.create_task_group() as tasks:
        await tasks.start(manager.run)
        informer.parts[0].fence.wrote(("default", "a"), 99)
        with pytest.raises(ControllerError, match="has not seen an own write within 10 s"):
            await manager.client.get(POD, "a", "default")
        tasks.cancel_scope.cancel()
    labels = {"group": "", "version": "v1", "resource": "pods"}
    assert manager.registry.value("informer_stale_reads_total", **labels) == 1
