"""A transport that breaks: counts what it carries, cuts streams, loses answers, hides events."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from agentops.kube.errors import TransportError
from agentops.kube.transport import Query, Response, StreamResponse, Transport

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class FaultyTransport:
    """`cut` is the chance that a slice of a stream ends it; `fail` that a read is not answered."""

    host = "faulty"

    def __init__(self, inner: Transport, rng: random.Random | None = None) -> None:
        self._inner = inner
        self._rng = rng or random.Random(1)
        self.cut = 0.0
        self.fail = 0.0
        self.sent: list[tuple[str, str]] = []

    @property
    def writes(self) -> list[tuple[str, str]]:
        """(method, path) of every request that writes, Events and Leases left out."""
        return [(m, p) for m, p in self.sent if m in WRITES and "/events" not in p and "/leases" not in p]

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float | None = 30.0,
    ) -> Response:
        self.sent.append((method, path))
        if method == "GET" and self._rng.random() < self.fail:
            raise TransportError("injected: no answer")
        return await self._inner.request(method, path, query=query, headers=headers, body=body, timeout_s=timeout_s)

    @asynccontextmanager
    async def stream(self, method: str, path: str, **options: Any) -> AsyncIterator[Any]:
        self.sent.append(("WATCH", path))
        if self._rng.random() < self.fail:
            raise TransportError("injected: not opened")
        async with self._inner.stream(method, path, **options) as answer:
            yield _Cut(answer, self)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Cut:
    """A stream that may end in the middle of a slice."""

    def __init__(self, answer: StreamResponse, transport: FaultyTransport) -> None:
        self._answer = answer
        self._transport = transport
        self.status = answer.status
        self.headers = answer.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        rng = self._transport._rng
        async for chunk in self._answer.chunks():
            if rng.random() < self._transport.cut:
                yield chunk[: rng.randrange(len(chunk) + 1)]
                raise TransportError("injected: connection reset")
            yield chunk

    async def read(self) -> bytes:
        return await self._answer.read()
