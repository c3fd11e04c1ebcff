"""What a list holds on to, and that nothing stands between a watch and the store."""

import anyio
import pytest
from attrs import evolve
from support.scripted_transport import Feed, listing, pod

from agentops.controller import Builder, Manager, ManagerOptions, ResourceNotCached
from agentops.controller.informer import Informer
from agentops.controller.target import Target
from agentops.kube.client import ApiClient
from agentops.kube.kinds import POD, SECRET

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"


class Body(bytes):
    """An answer's bytes that say when nobody holds them any more."""

    held = 0

    def __new__(cls, data):
        Body.held += 1
        return super().__new__(cls, data)

    def __del__(self):
        Body.held -= 1


@pytest.mark.guarantee("LI10")
async def test_pages_of_a_list_are_not_held_together(transport, clock, rng):
    held = []

    def page(number):
        def answer(request):
            held.append(Body.held)
            token = f"page-{number + 1}" if number < 9 else ""
            found = listing(10, *(pod(f"p{number}-{i}", 5) for i in range(50)), token=token)
            return evolve(found, body=Body(found.body))

        return answer

    transport.on("GET", PODS, *(page(number) for number in range(10)))
    informer = Informer(ApiClient(transport, clock=clock), Target(POD), clock=clock, rng=rng)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(informer.run)
        await informer.wait_for_sync()
        assert len(informer.store) == 500
        assert max(held) <= 1, "while a page is asked for, at most the one before it is there"
        assert Body.held <= 1, "the store holds copies, not the page"
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("IN7")
async def test_event_before_a_list_is_told_before_the_list_is(transport, clock, rng):
    transport.on("GET", PODS, listing(10, pod("a", 5)), listing(20, pod("a", 11)))
    feed = Feed().event("MODIFIED", pod("a", 11)).event("ADDED", pod("b", 12)).error(410, "Expired")
    transport.on_watch(PODS, feed)
    informer = Informer(ApiClient(transport, clock=clock), Target(POD), clock=clock, rng=rng)
    heard = []
    informer.add_handler(lambda event: heard.append((event.type, event.entry.key[1], event.entry.rv)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(informer.run)
        await anyio.sleep(10)
        tasks.cancel_scope.cancel()
    assert heard == [("create", "a", 5), ("update", "a", 11), ("create", "b", 12), ("delete", "b", 12)]


@pytest.mark.guarantee("BD6")
async def test_full_read_of_a_kind_that_is_watched_as_metadata_names_the_fix(transport, clock, rng):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    transport.on("GET", "/api/v1/secrets", listing(10, kind="SecretList"))
    manager = Manager(transport, ManagerOptions(clock=clock, rng=rng))
    found = []

    async def reconcile(request):
        found.append(await manager.client.get(POD, "a", "default", metadata_only=True))
        with pytest.raises(ResourceNotCached, match=r"metadata_only=True.*client.live.get"):
            await manager.client.get(POD, "a", "default")

    Builder(manager).named("b").for_(SECRET).owns(POD, metadata_only=True).build(reconcile).enqueue("anything")
    async with anyio.create_task_group() as tasks:
        await tasks.start(manager.run)
        await anyio.sleep(1)
        tasks.cancel_scope.cancel()
    assert len(found) == 1
    assert manager.registry.value("controller_runtime_reconcile_total", controller="b", result="success") == 1
