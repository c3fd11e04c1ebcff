import itertools

import anyio
import pytest
from support.scripted_transport import Feed, listing, ok, pod, status

from agentops.controller import CacheNotStarted, Client, ResourceNotCached, Scope, StaleCache
from agentops.controller.cache import Cache, CacheOptions
from agentops.kube.client import ApiClient
from agentops.kube.errors import NotFound
from agentops.kube.kinds import NODE, POD, SECRET

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"
ONE = "/api/v1/namespaces/default/pods/a"


class World:
    def __init__(self, transport, clock, rng, **options):
        self.transport = transport
        self.live = ApiClient(transport, clock=clock)
        self.stale = []
        self.cache = Cache(
            self.live, CacheOptions(**options), clock=clock, rng=rng, on_stale=lambda _: self.stale.append(1)
        )
        self.client = Client(self.live, self.cache, uncached=[NODE])
        self.feed = Feed()
        transport.on("GET", PODS, listing(10, pod("a", 5), pod("b", 6)))
        transport.on_watch(PODS, self.feed)

    async def run(self, body):
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.cache.run)
            await self.cache.wait_for_sync()
            await body()
            tasks.cancel_scope.cancel()

    @property
    def fence(self):
        return self.cache.lookup(POD, started=False).parts[0].fence


@pytest.fixture
def world(transport, clock, rng):
    world = World(transport, clock, rng)
    world.cache.informer(POD)
    return world


@pytest.mark.guarantee("CL1", "CL3")
async def test_reads_come_from_the_cache_and_absent_objects_are_not_found(world, transport):
    async def body():
        before = len(transport.requests)
        assert (await world.client.get(POD, "a", "default"))["kind"] == "Pod"
        assert [p["metadata"]["name"] for p in await world.client.list(POD)] == ["a", "b"]
        assert await world.client.try_get(POD, "zz", "default") is None
        with pytest.raises(NotFound, match='pods "zz" not found'):
            await world.client.get(POD, "zz", "default")
        assert len(transport.requests) == before

    await world.run(body)


@pytest.mark.guarantee("CA3")
async def test_reading_what_nobody_watches_names_the_two_fixes(world):
    async def body():
        with pytest.raises(
            ResourceNotCached, match=r"secrets is not cached: watch it with .*, or name it in ManagerOptions.uncached"
        ):
            await world.client.get(SECRET, "s", "default")

    await world.run(body)


@pytest.mark.guarantee("CA1")
async def test_reading_before_the_start_is_no_not_found(world):
    with pytest.raises(CacheNotStarted):
        await world.client.get(POD, "a", "default")


@pytest.mark.guarantee("CL1")
async def test_uncached_kinds_are_read_live(world, transport):
    transport.on("GET", "/api/v1/nodes/n1", ok({"kind": "Node", "metadata": {"name": "n1"}}))
    assert (await world.client.get(NODE, "n1"))["metadata"]["name"] == "n1"


@pytest.mark.guarantee("CA8")
async def test_metadata_only_kinds_say_so_when_read_whole(transport, clock, rng):
    world = World(transport, clock, rng)
    world.cache.informer(POD, metadata_only=True)

    async def body():
        assert "spec" not in await world.client.get(POD, "a", "default", metadata_only=True)
        with pytest.raises(ResourceNotCached, match="metadata only"):
            await world.client.get(POD, "a", "default")

    await world.run(body)


@pytest.mark.guarantee("RY1", "RY2", "RY3", "RY9", "RY10")
async def test_read_after_own_write_waits_for_the_cache_to_see_it(world, transport):
    transport.on("PUT", ONE, ok(pod("a", 20, labels={"new": "yes"})))

    async def body():
        await world.client.update(POD, pod("a", 5))
        times = {}

        async def read(name):
            obj = await world.client.get(POD, name, "default")
            times[name] = (anyio.current_time(), obj["metadata"]["resourceVersion"])

        start = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, "a")
            tasks.start_soon(read, "b")
            await anyio.sleep(3)
            world.feed.event("MODIFIED", pod("a", 20, labels={"new": "yes"}))
        assert times["b"] == (start, "6"), "other keys are not held up"
        assert times["a"] == (start + 3, "20")
        assert len(world.fence) == 0

    await world.run(body)


@pytest.mark.guarantee("RY3")
async def test_list_waits_for_writes_of_its_namespace_only(world, transport):
    transport.on("PUT", ONE, ok(pod("a", 20)))

    async def body():
        await world.client.update(POD, pod("a", 5))
        with anyio.fail_after(1):
            await world.client.list(POD, "elsewhere")
            await world.client.list(POD, consistency="none")
        with pytest.raises(StaleCache):
            await world.client.list(POD, "default")

    await world.run(body)


@pytest.mark.guarantee("RY4")
async def test_bookmark_releases_a_waiting_read(world, transport):
    transport.on("PUT", ONE, ok(pod("a", 20)))

    async def body():
        await world.client.update(POD, pod("a", 5))
        world.feed.bookmark(25)
        await world.client.get(POD, "a", "default")
        assert len(world.fence) == 0

    await world.run(body)


@pytest.mark.guarantee("RY7")
async def test_wait_is_bounded_and_then_says_stale(world, transport):
    transport.on("PUT", ONE, ok(pod("a", 20)))

    async def body():
        await world.client.update(POD, pod("a", 5))
        start = anyio.current_time()
        with pytest.raises(StaleCache, match="pods default/a"):
            await world.client.get(POD, "a", "default")
        assert anyio.current_time() - start == pytest.approx(10)
        assert world.stale == [1]

    await world.run(body)


@pytest.mark.guarantee("RY6")
async def test_read_waits_while_a_write_to_the_key_is_in_flight(world, transport):
    async def body():
        order = []

        async def slow(*args, **kwargs):
            await anyio.sleep(2)
            order.append("answered")
            return pod("a", 5)

        world.live.update = slow

        async def write():
            await world.client.update(POD, pod("a", 5))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await anyio.sleep(1)
            await world.client.get(POD, "a", "default")
            order.append("read")
        assert order == ["answered", "read"]

    await world.run(body)


@pytest.mark.guarantee("RY5", "RY9")
async def test_failed_write_leaves_nothing_to_wait_for(world, transport):
    transport.on("PUT", ONE, status(409, "Conflict"))

    async def body():
        with pytest.raises(Exception, match="Conflict"):
            await world.client.update(POD, pod("a", 5))
        assert len(world.fence) == 0

    await world.run(body)


@pytest.mark.guarantee("RY5")
async def test_read_after_own_delete_waits_until_the_object_is_gone(world, transport):
    transport.on("DELETE", ONE, ok({"kind": "Status", "status": "Success", "details": {"uid": "uid-a"}}))

    async def body():
        await world.client.delete(POD, "a", "default")

        async def later():
            await anyio.sleep(2)
            world.feed.event("DELETED", pod("a", 21))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(later)
            assert await world.client.try_get(POD, "a", "default") is None
        assert len(world.fence) == 0

    await world.run(body)


@pytest.mark.guarantee("RY3", "RY10")
async def test_list_waits_for_the_writes_before_it_and_not_for_those_that_go_on(world, transport):
    other = "/api/v1/namespaces/default/pods/b"
    transport.on("PUT", ONE, ok(pod("a", 20)))
    versions = itertools.count(30, 10)

    async def keep_writing():
        while True:
            version = next(versions)
            transport.on("PUT", other, ok(pod("b", version)))
            await world.client.update(POD, pod("b", 6))
            await anyio.sleep(0.1)
            world.feed.event("MODIFIED", pod("b", version - 10))  # the watch is always a write behind

    async def body():
        await world.client.update(POD, pod("a", 5))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_writing)
            await anyio.sleep(0.05)
            with anyio.fail_after(1):
                found = await world.client.list(POD, "default")
            tasks.cancel_scope.cancel()
        assert len(found) == 2
        assert world.stale == []

    await world.run(body)


async def create_and_delete_at_once(world):
    """Neither is shown by the cache yet."""
    world.transport.on("POST", "/api/v1/namespaces/default/pods", ok(pod("new", 20)))
    gone = {"kind": "Status", "status": "Success", "details": {"uid": "uid-new"}}
    world.transport.on("DELETE", "/api/v1/namespaces/default/pods/new", ok(gone))
    created = pod("new", 0)
    del created["metadata"]["resourceVersion"]
    await world.client.create(POD, created)
    await world.client.delete(POD, "new", "default")


@pytest.mark.guarantee("RY5", "RY9")
async def test_read_after_creating_and_deleting_at_once_does_not_show_the_object_in_between(world):
    async def body():
        await create_and_delete_at_once(world)

        async def later():
            await anyio.sleep(1)
            world.feed.event("ADDED", pod("new", 20))
            await anyio.sleep(1)
            world.feed.event("DELETED", pod("new", 21))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(later)
            assert await world.client.try_get(POD, "new", "default") is None
        assert len(world.fence) == 0

    await world.run(body)


@pytest.mark.guarantee("RY5", "RY9")
async def test_what_came_and_went_between_two_lists_is_not_waited_for(world, transport):
    async def body():
        await create_and_delete_at_once(world)
        transport.on("GET", PODS, listing(30, pod("a", 5), pod("b", 6)))
        transport.on_watch(PODS, Feed().error(410, "Expired"))  # the first list is answered again
        world.feed.error(410, "Expired")
        with anyio.fail_after(5):
            assert await world.client.try_get(POD, "new", "default") is None
        assert len(world.fence) == 0

    await world.run(body)


@pytest.mark.guarantee("RY5")
async def test_list_from_before_a_creation_does_not_end_the_wait_for_its_deletion(world, transport):
    async def body():
        await create_and_delete_at_once(world)
        feed = Feed()
        transport.on("GET", PODS, listing(15, pod("a", 5), pod("b", 6)))
        transport.on_watch(PODS, Feed().error(410, "Expired"), feed)
        world.feed.error(410, "Expired")

        async def later():
            await feed.opened.wait()
            feed.event("ADDED", pod("new", 20))
            await anyio.sleep(1)
            feed.event("DELETED", pod("new", 21))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(later)
            assert await world.client.try_get(POD, "new", "default") is None

    await world.run(body)


@pytest.mark.guarantee("CL3")
async def test_half_a_key_is_an_error_and_not_an_absent_object(world):
    async def body():
        with pytest.raises(ValueError, match="pods 'a': the object's namespace is empty"):
            await world.client.try_get(POD, "a")
        for read in (world.client.get, world.live.get):
            with pytest.raises(ValueError, match="pods: the object's name is empty"):
                await read(POD, "", "default")

    await world.run(body)


@pytest.mark.guarantee("CL6")
async def test_empty_patch_of_a_kind_that_is_not_cached_is_read_from_the_server(world, transport):
    transport.on("GET", "/api/v1/namespaces/default/secrets/s", ok({"kind": "Secret", "metadata": {"name": "s"}}))

    async def body():
        assert (await world.client.patch(SECRET, "s", {}, "default"))["kind"] == "Secret"

    await world.run(body)


@pytest.mark.guarantee("RY8")
async def test_write_that_the_selector_hides_is_not_waited_for(transport, clock, rng):
    world = World(transport, clock, rng, scopes={POD: Scope(labels="app=x")})
    world.cache.informer(POD)
    transport.on("PUT", ONE, ok(pod("a", 20, labels={"app": "y"})))

    async def body():
        await world.client.update(POD, pod("a", 5))
        with anyio.fail_after(1):
            await world.client.get(POD, "a", "default")

    await world.run(body)


@pytest.mark.guarantee("CA7")
async def test_one_watch_per_configured_namespace_and_a_clear_error_outside(transport, clock, rng):
    world = World(transport, clock, rng, namespaces=("x", "y"))
    for namespace in "xy":
        path = f"/api/v1/namespaces/{namespace}/pods"
        transport.on("GET", path, listing(10, pod("p", 5, namespace)))
    world.cache.informer(POD)

    async def body():
        assert [p["metadata"]["namespace"] for p in await world.client.list(POD)] == ["x", "y"]
        assert (await world.client.get(POD, "p", "y"))["metadata"]["namespace"] == "y"
        with pytest.raises(ResourceNotCached, match="'z' is not cached; the cache covers x, y"):
            await world.client.get(POD, "p", "z")

    await world.run(body)


@pytest.mark.guarantee("IN16")
async def test_index_finds_by_value(world):
    world.cache.add_index(POD, "node", lambda obj: [obj["spec"]["nodeName"]])

    async def body():
        assert len(await world.client.list(POD, index=("node", "n1"))) == 2
        assert await world.client.list(POD, index=("node", "n2")) == []
        with pytest.raises(KeyError):
            await world.client.list(POD, index=("nope", "x"))

    await world.run(body)


@pytest.mark.guarantee("IN25")
async def test_removed_informer_ends_its_watch_and_later_reads_say_so(world, transport):
    async def body():
        world.cache.remove_informer(POD)
        await anyio.sleep(1)
        with pytest.raises(ResourceNotCached):
            await world.client.get(POD, "a", "default")

    await world.run(body)


@pytest.mark.guarantee("K5")
async def test_equal_requests_share_one_informer_and_added_ones_start_at_once(world, transport):
    async def body():
        assert world.cache.informer(POD) is world.cache.informer(POD)
        transport.on("GET", "/api/v1/nodes", listing(10, kind="NodeList"))
        with anyio.fail_after(1):
            await world.cache.informer(NODE).wait_for_sync()

    await world.run(body)


async def test_unreachable_kind_is_named_as_the_problem(world, transport):
    async def body():
        transport.on("GET", "/api/v1/secrets", status(403, "Forbidden", "secrets is forbidden"))
        world.cache.informer(SECRET)
        await anyio.sleep(1)
        assert not world.cache.is_fresh()
        assert "secrets is forbidden" in world.cache.problems()[0]

    await world.run(body)
