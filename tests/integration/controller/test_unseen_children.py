"""A child that was made and taken away again while its watch was down."""

import anyio
import pytest
import trio.testing
from support.plane import eventually

from agentops.controller import Builder, EnqueueForObject, Manager, ManagerOptions
from agentops.controller.cache import CacheOptions
from agentops.kube.client import ApiClient
from agentops.kube.kinds import CONFIG_MAP, SECRET
from agentops.local.apiserver import ADMIN, ApiServer, InProcessTransport, ServerOptions, User
from agentops.local.apiserver.chaos import Chaos, Fault, Rule
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.mark.xfail(
    strict=True, reason="the cache never showed the child, so nobody is told that it is gone (Go neither)"
)
async def test_child_that_nobody_saw_is_made_again():
    with ApiServer(ServerOptions(require_service_account=False), clock=LoopClock()) as server:
        server.bootstrap()
        writer = ApiClient(InProcessTransport(server, ADMIN), clock=LoopClock())
        await writer.create(CONFIG_MAP, {"metadata": {"name": "c", "namespace": "default"}})
        manager = Manager(
            InProcessTransport(server, User("subject", ADMIN.groups)),
            ManagerOptions(clock=LoopClock(), cache=CacheOptions(streaming_lists="never")),
        )

        async def reconcile(request):
            if await manager.client.try_get(SECRET, request.name, request.namespace) is None:
                metadata = {"name": request.name, "namespace": request.namespace}
                await manager.client.create(SECRET, {"metadata": metadata})

        Builder(manager).named("c").for_(CONFIG_MAP).watches(SECRET, EnqueueForObject()).build(reconcile)
        with Chaos(server, [Rule(Fault.HALF_OPEN, verb="watch", resource="secrets", after=0)], clock=LoopClock()):
            async with anyio.create_task_group() as tasks:
                await tasks.start(manager.run)
                await eventually(lambda: server.store.count("secrets"))
                await writer.delete(SECRET, "c", "default")
                server.store.compact(server.store.revision)  # the watch cannot be resumed: it is listed again
                await eventually(lambda: server.store.count("secrets"), timeout_s=3600)
                tasks.cancel_scope.cancel()
