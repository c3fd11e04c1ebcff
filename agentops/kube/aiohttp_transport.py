"""The network side of `transport`, by aiohttp.

Three connection pools, so that a hundred watches can never keep a lease renewal waiting: watches
(unlimited, each pins a connection), requests (bounded) and leases (one). Dead peers are found by TCP
keepalive and TCP_USER_TIMEOUT below the bounds that the callers set; HTTP/1.1 has no pings.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
import anyio
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from agentops.kube.config import ClusterConfig
from agentops.kube.errors import TransportError
from agentops.kube.transport import Query, Response, StreamResponse
from agentops.net.resolve import aiohttp_resolver

_CONNECT_S = 10.0
_TOKEN_MAX_AGE_S = 60.0
_LEASES = "/apis/coordination.k8s.io/"
_NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError, ValueError)
"""ValueError is a header that cannot be sent: a token file of something else than a token."""


class AiohttpTransport:
    """Talks to one API server. Inert until entered; leaving closes every connection.

    A 401 refreshes the credentials once and repeats the request once.
    """

    def __init__(
        self, config: ClusterConfig, *, max_connections: int = 64, resolver: AbstractResolver | None = None
    ) -> None:
        self.config = config
        self._max_connections = max_connections
        self._resolver = resolver
        self.observe_dns: Callable[[str, float], None] | None = None
        """Called with (host, seconds) for every name that was looked up, also when it was not found."""
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._ssl: Any = None
        self._authorization: str | None = None
        self._read_at = float("-inf")
        self._refreshing = asyncio.Lock()

    @property
    def host(self) -> str:
        return self.config.host

    async def __aenter__(self) -> Self:
        if self._sessions:
            raise RuntimeError("this transport is open already")
        context = self.config.ssl_context()
        self._ssl = context if context is not None else False
        resolver = _TimedResolver(self._resolver or aiohttp_resolver(), self)
        for pool, limit in (("watch", 0), ("request", self._max_connections), ("lease", 1)):
            connector = aiohttp.TCPConnector(
                limit=limit, resolver=resolver, ssl=self._ssl, socket_factory=_socket, keepalive_timeout=60
            )
            self._sessions[pool] = aiohttp.ClientSession(
                connector=connector,
                headers=[("Accept-Encoding", "identity"), *self.config.impersonate],
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Content-Type"),
                read_bufsize=256 * 1024,
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections, whoever cancels. Requests in flight end with TransportError."""
        sessions, self._sessions = list(self._sessions.values()), {}
        with anyio.CancelScope(shield=True):
            for session in sessions:
                await session.close()

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
        """One whole answer, whatever its status. Raises TransportError."""
        pool = "lease" if path.startswith(_LEASES) else "request"
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_S)
        sent = self._headers(headers)
        answer = await self._request(pool, method, path, query, sent, body, timeout)
        if answer.status == 401 and await self._renew_credentials(sent):
            answer = await self._request(pool, method, path, query, self._headers(headers), body, timeout)
        return answer

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
    ) -> AsyncIterator[StreamResponse]:
        """A streaming answer; a long-lived one keeps the token it began with."""
        timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=_CONNECT_S, sock_read=idle_s)
        for attempt in (1, 2):
            sent = self._headers(headers)
            try:
                answer = await self._session("watch").request(
                    method, self._url(path, query), headers=sent, **self._options(timeout)
                )
            except _NO_ANSWER as error:
                raise _transport_error(method, path, error) from _root(error)
            if answer.status == 401 and attempt == 1 and await self._renew_credentials(sent):
                answer.close()
                continue
            break
        try:
            yield _Stream(answer, f"{method} {path}")
        finally:
            _abort(answer)

    async def _request(
        self,
        pool: str,
        method: str,
        path: str,
        query: Query,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: aiohttp.ClientTimeout,
    ) -> Response:
        try:
            async with self._session(pool).request(
                method,
                self._url(path, query),
                data=body,
                headers=headers,
                **self._options(timeout),
            ) as answer:
                return Response(answer.status, await answer.read(), _lower(answer.headers))
        except _NO_ANSWER as error:
            raise _transport_error(method, path, error) from _root(error)

    def _session(self, pool: str) -> aiohttp.ClientSession:
        try:
            return self._sessions[pool]
        except KeyError:
            raise TransportError("the transport is not open; use it inside `async with`") from None

    def _url(self, path: str, query: Query) -> URL:
        url = self.config.server.rstrip("/") + path
        return URL(f"{url}?{urlencode(query)}" if query else url, encoded=True)

    def _options(self, timeout: aiohttp.ClientTimeout) -> dict[str, Any]:
        options: dict[str, Any] = {"timeout": timeout, "allow_redirects": False}
        if self.config.tls_server_name:
            options["server_hostname"] = self.config.tls_server_name
        if self.config.proxy:
            options["proxy"] = self.config.proxy
        return options

    def _headers(self, headers: Mapping[str, str] | None) -> dict[str, str]:
        sent = dict(headers or {})
        if time.monotonic() - self._read_at > _TOKEN_MAX_AGE_S:
            self._read_credentials()
        if self._authorization and "authorization" not in sent:
            sent["authorization"] = self._authorization
        return sent

    def _read_credentials(self) -> None:
        config = self.config
        first = self._read_at == float("-inf")
        self._read_at = time.monotonic()
        if config.token_file:
            try:
                self._authorization = f"Bearer {Path(config.token_file).read_text().strip()}"
            except (OSError, UnicodeDecodeError) as error:
                if self._authorization is None and not config.token:
                    why = error.strerror if isinstance(error, OSError) else "it is no text"
                    raise TransportError(f"cannot read the token file {config.token_file}: {why}") from error
                self._authorization = self._authorization or f"Bearer {config.token}"
        elif first:
            self._authorization = config.authorization or (f"Bearer {config.token}" if config.token else None)

    async def _renew_credentials(self, refused: Mapping[str, str]) -> bool:
        """Whether there is now something else to try than what was refused."""
        before = refused.get("authorization")
        async with self._refreshing:
            if self._authorization != before:
                return True  # another request has done it
            if self.config.refresh is not None:
                self._authorization = await self.config.refresh() or before
            elif self.config.token_file:
                self._read_credentials()
            return self._authorization != before


class _TimedResolver(AbstractResolver):
    def __init__(self, inner: AbstractResolver, transport: AiohttpTransport) -> None:
        self._inner = inner
        self._transport = transport

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        began = time.monotonic()
        try:
            return await self._inner.resolve(host, port, family)
        finally:
            if self._transport.observe_dns is not None:
                self._transport.observe_dns(host, time.monotonic() - began)

    async def close(self) -> None:
        await self._inner.close()


class _Stream:
    """A `StreamResponse` on an aiohttp answer."""

    def __init__(self, answer: aiohttp.ClientResponse, what: str) -> None:
        self._answer = answer
        self._what = what
        self.status = answer.status
        self.headers: Mapping[str, str] = _lower(answer.headers)

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._answer.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TransportError(f"{self._what}: the stream broke: {_text(error)}") from _root(error)

    async def read(self) -> bytes:
        try:
            return await self._answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TransportError(f"{self._what}: the answer broke: {_text(error)}") from _root(error)


def _abort(answer: aiohttp.ClientResponse) -> None:
    """End a half-read stream at once: of TLS's goodbye, a closing event loop would not wait for the peer's half."""
    connection = answer.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    answer.close()


def _socket(addr_info: Any) -> socket.socket:
    """A socket that notices a vanished peer within about 45 s."""
    family, type_, proto, _, _ = addr_info
    sock = socket.socket(family, type_, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", 30),
            ("TCP_KEEPINTVL", 10),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", 45_000),
        ):
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    except OSError:
        sock.close()
        raise
    return sock


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    """With lower-case names. What comes several times, as warnings do, is joined by commas."""
    lower: dict[str, str] = {}
    for key, value in headers.items():
        name = key.lower()
        lower[name] = f"{lower[name]}, {value}" if name in lower else value
    return lower


def _root(error: BaseException) -> BaseException:
    """The OS error inside aiohttp's, so that callers can tell a refused connection without aiohttp."""
    inner = getattr(error, "os_error", None)
    if isinstance(error, ConnectionRefusedError) or not isinstance(inner, OSError):
        return error
    return ConnectionRefusedError(*inner.args) if _refused(inner) else inner


def _refused(error: OSError) -> bool:
    """asyncio joins the refusals of several addresses into one plain OSError."""
    return isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error)


def _transport_error(method: str, path: str, error: BaseException) -> TransportError:
    return TransportError(f"{method} {path}: {_text(error)}")


def _text(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return str(error) or "no answer within the time allowed"
    return str(error) or type(error).__name__
