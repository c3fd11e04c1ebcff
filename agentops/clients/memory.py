"""HTTP client of the memory service.

Every call raises `MemoryUnavailable` when the service cannot be reached, refuses or talks nonsense;
`context` alone swallows it, because an agent without memory still answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
from opentelemetry.trace import SpanKind

from agentops.api.codec import WireError, dumps, loads
from agentops.api.memory import (
    EndSession,
    MemoryContext,
    NewObservation,
    NewSession,
    SavedObservation,
    SearchHit,
    Session,
    SessionMessage,
    SessionSummary,
)
from agentops.api.runs import RUN_NAME_HEADER
from agentops.net.errors import UsageError
from agentops.net.resolve import http_client
from agentops.telemetry import tracing
from agentops.telemetry.logging import bound, get_logger

log = get_logger("clients.memory")

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 2 << 20

_T = TypeVar("_T")


class MemoryUnavailable(Exception):
    """The call had no effect that is known of. `status` is the HTTP status, or None when no answer came."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class MemoryClient:
    """Talks to one memory service. An async context manager; inert until entered.

    `token` gives the current bearer (a `net.auth.TokenFile`), None sends none. `transport` is for tests.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: Callable[[], str] | None = None,
        timeout_s: float = TIMEOUT_S,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._server = urlsplit(self._base_url).hostname or ""
        self._token = token
        self._timeout_s = timeout_s
        self._transport = transport
        self._http: httpx2.AsyncClient | None = None
        self._tracer = tracing.tracer("clients.memory")

    async def __aenter__(self) -> MemoryClient:
        self._http = http_client(
            timeout=httpx2.Timeout(self._timeout_s, connect=min(5.0, self._timeout_s)), transport=self._transport
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def start_session(self, session_id: str, project: str) -> Session:
        """Idempotent: the same id again gives the existing session."""
        body = NewSession(id=session_id, project=project)
        return await self._call(Session, "init_session", "POST", "/sessions", body=body)

    async def end_session(self, session_id: str, messages: Sequence[Mapping[str, str]]) -> SessionSummary:
        """`messages` are `{role, content}`; the service summarises them."""
        body = EndSession(messages=tuple(SessionMessage(role=m["role"], content=m["content"]) for m in messages))
        return await self._call(SessionSummary, "end_session", "POST", f"/sessions/{session_id}/end", body=body)

    async def save(self, observation: NewObservation) -> SavedObservation:
        return await self._call(SavedObservation, "save_observation", "POST", "/observations", body=observation)

    async def search(self, query: str, project: str, limit: int = 10) -> tuple[SearchHit, ...]:
        """Best first."""
        params = {"q": query, "project": project, "limit": limit}
        return await self._call(tuple[SearchHit, ...], "search", "GET", "/search", params=params)

    async def context(self, project: str, query: str, limit: int) -> MemoryContext:
        """What is worth knowing before a turn; empty, and a log line, when the service does not answer."""
        params = {"project": project, "query": query, "limit": limit}
        try:
            return await self._call(MemoryContext, "fetch_context", "GET", "/context", params=params)
        except MemoryUnavailable as error:
            log.warning("memory.context_unavailable", project=project, error=str(error))
            return MemoryContext()

    async def _call(
        self,
        shape: type[_T],
        operation: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
    ) -> _T:
        assert self._http is not None, "enter the client first"
        with self._tracer.start_as_current_span(
            f"memory.{operation}",
            kind=SpanKind.CLIENT,
            attributes={"memory.operation": operation, "server.address": self._server},
        ):
            headers = {"Content-Type": "application/json"}
            run = str(bound().get("run", ""))
            if run:
                headers[RUN_NAME_HEADER] = run
            tracing.inject(headers)
            try:
                if self._token is not None:
                    headers["Authorization"] = f"Bearer {self._token()}"
                async with self._http.stream(
                    method,
                    self._base_url + path,
                    params=params,
                    content=dumps(body) if body is not None else None,
                    headers=headers,
                ) as response:
                    data = await _read(response)
            except UsageError as error:
                raise MemoryUnavailable(str(error)) from error
            except httpx2.HTTPError as error:
                why = str(error) or type(error).__name__
                raise MemoryUnavailable(f"memory service {self._base_url}: {why}") from error
            except httpx2.InvalidURL as error:
                raise MemoryUnavailable(f"memory service {self._base_url}: not a valid URL") from error
            if response.status_code >= 400:  # inside, so that the span is one that failed
                hint = "; check MEMORY_TOKEN_FILE" if response.status_code in (401, 403) else ""
                raise MemoryUnavailable(
                    f"memory service {self._base_url}: HTTP {response.status_code}: {_error_text(data)}{hint}",
                    response.status_code,
                )
        try:
            return loads(shape, data)
        except WireError as error:
            raise MemoryUnavailable(f"memory service {self._base_url}: unexpected answer: {error}") from error


async def _read(response: httpx2.Response) -> bytes:
    data = bytearray()
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > MAX_ANSWER_BYTES:
            raise MemoryUnavailable(f"the memory service answered more than {MAX_ANSWER_BYTES} bytes")
    return bytes(data)


def _error_text(data: bytes) -> str:
    try:
        return str(loads(dict[str, Any], data).get("error", ""))[:300]
    except WireError:
        return data[:300].decode("utf-8", "replace")
