"""Every watch ends sooner or later; a cache on the plane's own transport must not notice."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from support.plane import api_plane, eventually

from agentops.controller import Manager, ManagerOptions
from agentops.kube.kinds import CONFIG_MAP
from agentops.local.apiserver import ADMIN, InProcessTransport

pytestmark = pytest.mark.anyio


async def test_a_cache_goes_on_after_the_server_ended_its_watch(tmp_path: Path) -> None:
    async with api_plane(tmp_path, controllers=False, watch_timeout_s=1.1) as plane:
        manager = Manager(InProcessTransport(plane.server, ADMIN), ManagerOptions(name="test", grace_s=1))
        manager.cache.informer(CONFIG_MAP)
        async with anyio.create_task_group() as tasks:
            await tasks.start(manager.run)
            # two watches end meanwhile; the server measures that on the system's clock
            await anyio.sleep(2.5)
            await plane.client.create(
                CONFIG_MAP,
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late", "namespace": "default"}},
            )

            async def seen() -> bool:
                return bool(await manager.client.try_get(CONFIG_MAP, "late", "default"))

            await eventually(seen, timeout_s=5)
            tasks.cancel_scope.cancel()
