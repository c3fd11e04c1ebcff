"""A Transport straight into the server: no sockets, no TLS, no JSON copied twice.

The plane's own controllers and every test speak through it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from agentops.kube.errors import TransportError
from agentops.kube.transport import Query, Response
from agentops.local.apiserver.http import Request, Stream, User

if TYPE_CHECKING:
    from agentops.local.apiserver.server import ApiServer


class InProcessTransport:
    """Implements `agentops.kube.transport.Transport` as `user`."""

    def __init__(self, server: ApiServer, user: User, *, user_agent: str = "agentops-inprocess") -> None:
        self._server = server
        self._user = user
        self._agent = user_agent

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
        request = self._request(method, path, query, headers, body)
        try:
            with anyio.fail_after(timeout_s):
                answer = await self._server.handle(request)
                if isinstance(answer, Response):
                    # Callers await every request; let others run as a network round trip would.
                    await anyio.lowlevel.checkpoint()
                    return answer
                if isinstance(answer, Stream):
                    iterator = answer.open()
                    try:
                        body_bytes = b"".join([chunk async for chunk in iterator])
                    finally:
                        await _close(iterator)
                    return Response(answer.status, body_bytes, answer.headers)
        except TimeoutError as error:
            raise TransportError(f"{method} {path}: no answer within {timeout_s} s") from error
        raise TransportError(f"{method} {path} wants a WebSocket, which this transport does not have")

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        idle_s: float | None = None,
        total_s: float | None = None,
    ) -> AsyncIterator[_Streaming]:
        answer = await self._server.handle(self._request(method, path, query, headers, None))
        if isinstance(answer, Response):
            yield _Streaming(answer.status, answer.headers, _once(answer.body), idle_s, None)
            return
        if not isinstance(answer, Stream):
            raise TransportError(f"{method} {path} wants a WebSocket, which this transport does not have")
        iterator = answer.open()
        try:
            deadline = anyio.current_time() + total_s if total_s is not None else None
            yield _Streaming(answer.status, answer.headers, iterator, idle_s, deadline)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await _close(iterator)

    async def aclose(self) -> None:
        """Nothing to close."""

    def _request(
        self, method: str, path: str, query: Query, headers: Mapping[str, str] | None, body: bytes | None
    ) -> Request:
        if not self._server.store.is_open:
            raise TransportError("the API server is closed")
        sent = {"user-agent": self._agent, **{k.lower(): v for k, v in (headers or {}).items()}}
        return Request(method, path, tuple(query), sent, body or b"", self._user)


class _Streaming:
    """A StreamResponse over a body iterator."""

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: AsyncIterator[bytes],
        idle_s: float | None,
        deadline: float | None,
    ) -> None:
        self.status = status
        self.headers = headers
        self._body = body
        self._idle_s = idle_s
        self._deadline = deadline

    def chunks(self) -> AsyncIterator[bytes]:
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            limit = self._idle_s
            if self._deadline is not None:
                left = self._deadline - anyio.current_time()
                limit = left if limit is None else min(limit, left)
            try:
                with anyio.fail_after(limit):
                    chunk = await anext(self._body)
            except TimeoutError as error:
                raise TransportError(f"the stream was silent for {limit} s") from error
            if chunk:
                return chunk

    async def aclose(self) -> None:
        """Readers close what `chunks` gave them, as they would an async generator."""
        await _close(self._body)

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _close(iterator: AsyncIterator[bytes]) -> None:
    close = getattr(iterator, "aclose", None)
    if close is not None:
        await close()
