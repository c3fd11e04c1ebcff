"""The manager's own HTTP servers, on real sockets."""

import socket

import anyio
import httpx2
import pytest
from support.scripted_transport import ScriptedTransport, listing, status

from agentops.controller import Builder, Manager, ManagerOptions
from agentops.kube.kinds import POD
from agentops.net.errors import ListenError

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"


async def get(manager, server, path):
    async with httpx2.AsyncClient() as client:
        return await client.get(f"http://{manager.bound[server]}{path}")


async def reconcile(request):
    pass


async def until_bound(manager):
    with anyio.fail_after(5):
        while not manager.bound:
            await anyio.sleep(0.01)


@pytest.mark.guarantee("HM1", "HM3")
async def test_metrics_and_probes_answer_while_it_runs():
    transport = ScriptedTransport()
    transport.on("GET", PODS, listing(10))
    manager = Manager(transport, ManagerOptions(metrics_bind="127.0.0.1:0", probes_bind="127.0.0.1:0"))
    manager.add_ready_check("webhooks", lambda: "not listening")
    Builder(manager).for_(POD).build(reconcile)
    async with anyio.create_task_group() as tasks:
        await tasks.start(manager.run)
        (server,) = manager.bound
        assert server == "metrics+probes", "equal addresses share a socket"
        metrics = (await get(manager, server, "/metrics")).text
        for name in (
            'controller_runtime_reconcile_total{controller="pod",result="success"}',
            'workqueue_depth{controller="pod",name="pod",priority=""}',
            'rest_client_requests_total{code="200",host="scripted",method="GET"}',
            'informer_objects{group="",resource="pods",version="v1"}',
            'informer_store_resource_version{group="",resource="pods",version="v1"} 10.0',
        ):
            assert name in metrics
        assert (await get(manager, server, "/healthz")).status_code == 200
        ready = await get(manager, server, "/readyz?verbose")
        assert ready.status_code == 500
        assert "[+]caches ok" in ready.text
        assert "[-]webhooks failed: not listening" in ready.text
        assert (await get(manager, server, "/readyz?exclude=webhooks")).status_code == 200
        assert (await get(manager, server, "/readyz/caches")).status_code == 200
        assert (await get(manager, server, "/readyz/nope")).status_code == 404
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("HM2")
async def test_not_ready_names_the_kind_that_does_not_sync():
    transport = ScriptedTransport()
    transport.on("GET", PODS, status(403, "Forbidden", "pods is forbidden"))
    manager = Manager(transport, ManagerOptions(probes_bind="127.0.0.1:0"))
    Builder(manager).for_(POD).build(reconcile)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(manager.run)
        await until_bound(manager)
        with anyio.fail_after(5):
            while "pods is forbidden" not in (answer := await get(manager, "probes", "/readyz?verbose")).text:
                await anyio.sleep(0.01)
        assert answer.status_code == 500
        assert (await get(manager, "probes", "/healthz")).status_code == 200
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("MG9")
async def test_taken_port_is_one_line_before_anything_else_starts():
    transport = ScriptedTransport()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        manager = Manager(transport, ManagerOptions(metrics_bind="127.0.0.1:0", probes_bind=f"127.0.0.1:{port}"))
        with pytest.raises(ListenError, match=f"127.0.0.1:{port}: the port is taken"):
            await manager.run()
    assert not transport.requests


@pytest.mark.guarantee("MG10")
async def test_ports_are_free_again_after_stopping():
    manager = Manager(ScriptedTransport(), ManagerOptions(probes_bind="127.0.0.1:0"))
    async with anyio.create_task_group() as tasks:
        await tasks.start(manager.run)
        port = int(manager.bound["probes"].rpartition(":")[2])
        tasks.cancel_scope.cancel()
    with socket.create_server(("127.0.0.1", port)):
        pass
