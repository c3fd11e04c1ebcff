"""How httpx2 clients dial: to the address that `resolve` has for a name."""

from __future__ import annotations

from typing import Any

import httpcore2
import httpx2

from agentops.net.resolve import resolve


def client(**options: Any) -> httpx2.AsyncClient:
    """See `resolve.http_client`."""
    transport = options.pop("transport", None)
    if transport is None:
        transport = httpx2.AsyncHTTPTransport(
            verify=options.pop("verify", True), limits=options.pop("limits", httpx2.Limits(max_connections=100))
        )
        pool = transport._pool
        pool._network_backend = _Backend(pool._network_backend)
    return httpx2.AsyncClient(transport=transport, **options)


class _Backend(httpcore2.AsyncNetworkBackend):
    """Dials the resolved address; TLS still verifies the name, since httpcore passes it separately."""

    def __init__(self, inner: httpcore2.AsyncNetworkBackend) -> None:
        self._inner = inner

    async def connect_tcp(self, host: str, *args: Any, **kwargs: Any) -> httpcore2.AsyncNetworkStream:
        return await self._inner.connect_tcp(resolve(host), *args, **kwargs)

    async def connect_unix_socket(self, *args: Any, **kwargs: Any) -> httpcore2.AsyncNetworkStream:
        return await self._inner.connect_unix_socket(*args, **kwargs)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)
