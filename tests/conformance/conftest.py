"""The rules of the API that the framework relies on, judged on whatever KUBECONFIG names, else on the local plane.

    KUBECONFIG=~/.kube/config python -m pytest tests/conformance

Without KUBECONFIG the plane's API server and controllers run in this process and are asked over a socket. Every
test has a namespace of its own, deleted at the end. KNOWN_DIFFS says where the local plane is known not
to do as a real server does; such a test must fail there, and only there.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from support.leaks import _loop_gate, leak_gate  # noqa: F401  fixtures
from support.plane import api_plane, eventually

from agentops.kube.aiohttp_transport import AiohttpTransport
from agentops.kube.client import ApiClient
from agentops.kube.config import ClusterConfig, load_config
from agentops.kube.errors import NotFound
from agentops.kube.kinds import NAMESPACE, SERVICE_ACCOUNT
from agentops.local.apiserver.shell import serve_tls

KNOWN_DIFFS: dict[str, str] = {
    "test_list_has_a_version_and_its_items_no_kind": "items of built-in lists carry apiVersion and kind",
}
"""Test name to why the local plane does otherwise."""
TOKEN = "conformance"


def on_the_local_plane() -> bool:
    return not os.environ.get("KUBECONFIG")


@asynccontextmanager
async def local_cluster(directory: Path) -> AsyncIterator[ClusterConfig]:
    """The plane behind a socket, without TLS."""
    async with api_plane(directory, admin_token=TOKEN) as plane, anyio.create_task_group() as tasks:
        sock = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        await tasks.start(partial(serve_tls, plane.server, sock, None, grace_s=0.2))
        yield ClusterConfig(server=url, token=TOKEN)
        tasks.cancel_scope.cancel()


@pytest.fixture
async def config(tmp_path: Path) -> AsyncIterator[ClusterConfig]:
    if on_the_local_plane():
        async with local_cluster(tmp_path) as config:
            yield config
    else:
        yield await load_config()


@pytest.fixture
async def transport(config: ClusterConfig) -> AsyncIterator[AiohttpTransport]:
    async with AiohttpTransport(config) as transport:
        yield transport


@pytest.fixture
async def client(transport: AiohttpTransport, request: pytest.FixtureRequest) -> ApiClient:
    client = ApiClient(transport, user_agent="conformance", field_manager="conformance")
    why = KNOWN_DIFFS.get(request.node.originalname)
    if why and b"agentops-local" in (await client.raw("GET", "/version")).body:
        request.applymarker(pytest.mark.xfail(strict=True, reason=why))
    return client


@pytest.fixture
async def namespace(client: ApiClient) -> AsyncIterator[str]:
    """A namespace for the test alone, usable: its default ServiceAccount is there."""
    name = f"conformance-{uuid.uuid4().hex[:8]}"
    await client.create(NAMESPACE, {"metadata": {"name": name}})
    try:
        await eventually(lambda: client.get(SERVICE_ACCOUNT, "default", name), timeout_s=30)
        yield name
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(10):
            try:
                await client.delete(NAMESPACE, name)
            except NotFound:
                pass
