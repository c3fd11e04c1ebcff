"""The transport that needs no socket, under the client everybody uses."""

from __future__ import annotations

import pytest
from support.apiserver import Api, config_map

from agentops.kube.client import ApiClient
from agentops.kube.errors import NotFound, TransportError
from agentops.kube.kinds import CONFIG_MAP
from agentops.local.apiserver import ADMIN, InProcessTransport

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_the_client_reads_and_writes_through_it(api: Api) -> None:
    client = ApiClient(InProcessTransport(api.server, ADMIN))
    body = config_map("a", k="1")
    body["metadata"]["namespace"] = "default"
    created = await client.create(CONFIG_MAP, body)
    assert created["metadata"]["managedFields"][0]["manager"] == "agentops"
    assert (await client.get(CONFIG_MAP, "a", "default"))["data"] == {"k": "1"}
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAP, "b", "default")


async def test_watches_stream_and_leave_nothing_behind(api: Api) -> None:
    transport = InProcessTransport(api.server, ADMIN)
    path = CONFIG_MAP.path("default")
    async with transport.stream("GET", path, query=[("watch", "true")]) as answer:
        assert answer.status == 200
        await api.post(path, config_map("a"))
        chunk = await anext(answer.chunks())
        assert b'"type":"ADDED"' in chunk
        assert api.server.watches.count == 1
    assert api.server.watches.count == 0


async def test_silence_beyond_the_bound_is_a_transport_error(api: Api) -> None:
    transport = InProcessTransport(api.server, ADMIN)
    query = [("watch", "true")]
    async with transport.stream("GET", CONFIG_MAP.path("default"), query=query, idle_s=0.02) as answer:
        with pytest.raises(TransportError, match="silent"):
            await anext(answer.chunks())


async def test_a_closed_server_is_a_transport_error(api: Api) -> None:
    api.server.close()
    with pytest.raises(TransportError, match="closed"):
        await InProcessTransport(api.server, ADMIN).request("GET", "/api")
