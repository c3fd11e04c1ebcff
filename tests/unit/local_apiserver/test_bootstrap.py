"""What every cluster has comes back when somebody deletes it."""

from __future__ import annotations

import anyio
import pytest
import trio.testing
from support.apiserver import Api

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})]),
]

SERVICE = "/api/v1/namespaces/default/services/kubernetes"


async def test_the_service_of_the_api_server_comes_back_when_deleted(api: Api) -> None:
    api.server.bootstrap()
    before = (await api.get(SERVICE)).body
    async with anyio.create_task_group() as tasks:
        await tasks.start(api.server.run)
        await api.delete(SERVICE)
        await anyio.sleep(15)
        tasks.cancel_scope.cancel()
    after = (await api.get(SERVICE)).body
    assert after["spec"]["clusterIP"] == before["spec"]["clusterIP"]
    assert after["metadata"]["uid"] != before["metadata"]["uid"]


async def test_keeping_it_writes_nothing_when_nothing_is_missing(api: Api) -> None:
    api.server.bootstrap()
    before = api.server.store.revision
    async with anyio.create_task_group() as tasks:
        await tasks.start(api.server.run)
        await anyio.sleep(25)
        tasks.cancel_scope.cancel()
    assert api.server.store.revision == before
