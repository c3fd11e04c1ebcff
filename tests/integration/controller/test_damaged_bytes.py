"""Bytes that are JSON to a first look and not to a second, as a broken proxy sends them."""

import anyio
import pytest
from support.plane import eventually
from support.scripted_transport import Feed, ScriptedTransport, listing, pod

from agentops.controller import Manager, ManagerOptions
from agentops.controller.cache import CacheOptions
from agentops.kube.kinds import POD

pytestmark = pytest.mark.anyio


@pytest.mark.guarantee("WA11")
async def test_event_that_is_not_utf8_is_listed_again_and_does_not_end_the_manager():
    transport = ScriptedTransport()
    transport.on("GET", "/api/v1/pods", listing(1, pod("a", 1)), listing(3, pod("a", 3)))
    broken = Feed().event("MODIFIED", pod("a", 2))
    broken._items[0] = broken._items[0].replace(b'"n1"', b'"n\xe9"')
    transport.on_watch("/api/v1/pods", broken, Feed())
    manager = Manager(transport, ManagerOptions(cache=CacheOptions(streaming_lists="never")))
    manager.cache.informer(POD)
    manager.cache.add_index(POD, "node", lambda obj: [obj["spec"]["nodeName"]])
    async with anyio.create_task_group() as tasks:
        await tasks.start(manager.run)

        async def listed_again():
            return (await manager.client.get(POD, "a", "default"))["metadata"]["resourceVersion"] == "3"

        await eventually(listed_again)
        tasks.cancel_scope.cancel()
