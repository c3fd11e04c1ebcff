"""The HTTP face of a memory store.

Bodies are JSON objects of at most 1 MiB, errors `{"error": "…"}` naming everything wrong at once. Every route is
counted in `agentops_memory_requests_total{route,code}` by its template, refused and unknown requests included.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentops.api.codec import dumps
from agentops.api.memory import MAX_BODY_BYTES, MAX_SCOPE, MAX_TYPE
from agentops.memory import transfer, validation
from agentops.memory.errors import InvalidRequest, MemoryServiceError, PayloadTooLarge
from agentops.memory.store import MemoryStore
from agentops.net.auth import OPEN_PATHS, BearerAuth
from agentops.net.serve import Readiness, health_routes
from agentops.telemetry.logging import get_logger
from agentops.telemetry.metrics import Registry
from agentops.telemetry.tracing import extract, tracer
from agentops.values.clock import Clock, SystemClock

log = get_logger("memory.http")

BODY_TIMEOUT_S = 15.0
"""How long a client may take to send one JSON body."""

Handler = Callable[[Request, Span], Awaitable[Response]]


class MemoryApi:
    """The handlers, one per route of the table at the bottom of the class."""

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def create_session(self, request: Request, span: Span) -> Response:
        session = await self._store.create_session(validation.new_session(await _object(request)))
        span.set_attributes({"memory.project": session.project, "memory.session.id": session.id})
        return _json(session, 201)

    async def end_session(self, request: Request, span: Span) -> Response:
        messages = validation.end_session(await _object(request)).messages
        ended = await self._store.end_session(request.path_params["id"], messages)
        span.set_attributes({"memory.session.id": ended.session_id, "memory.session.message_count": len(messages)})
        return _json(ended)

    async def recent_sessions(self, request: Request, span: Span) -> Response:
        query = request.query_params
        return _json(await self._store.recent_sessions(validation.project(query), validation.limit(query, 5)))

    async def add_observation(self, request: Request, span: Span) -> Response:
        new = validation.new_observation(await _object(request))
        saved = await self._store.save(new)
        span.set_attributes(
            {
                "memory.project": new.project,
                "memory.observation.id": saved.id,
                "memory.observation.type": new.type,
                "memory.observation.action": saved.action,
            }
        )
        log.info("observation.saved", id=saved.id, action=saved.action, project=new.project, type=new.type)
        return _json(saved, 201)

    async def recent_observations(self, request: Request, span: Span) -> Response:
        query = request.query_params
        return _json(
            await self._store.recent_observations(
                validation.project(query), _word(request, "type"), _word(request, "scope"), validation.limit(query, 20)
            )
        )

    async def get_observation(self, request: Request, span: Span) -> Response:
        return _json(await self._store.observation(_id(request, span)))

    async def update_observation(self, request: Request, span: Span) -> Response:
        row = _id(request, span)
        return _json(await self._store.patch(row, validation.observation_patch(await _object(request))))

    async def delete_observation(self, request: Request, span: Span) -> Response:
        row, hard = _id(request, span), validation.flag(request.query_params, "hard")
        span.set_attribute("memory.observation.hard_delete", hard)
        if await self._store.delete(row, hard=hard):
            log.info("observation.deleted", id=row, hard=hard)
        return Response(status_code=204)

    async def search(self, request: Request, span: Span) -> Response:
        query = request.query_params
        if "q" not in query:
            raise InvalidRequest(["q is required"])
        hits = await self._store.search(
            query["q"],
            validation.project(query),
            _word(request, "type"),
            _word(request, "scope"),
            validation.limit(query, 10),
        )
        for hit in hits:
            span.add_event(
                "search.result",
                {
                    "memory.injected.observation_id": hit.id,
                    "memory.injected.type": hit.type,
                    "memory.injected.title": hit.title,
                    "memory.injected.rank": hit.rank,
                },
            )
        return _json(hits)

    async def fetch_context(self, request: Request, span: Span) -> Response:
        query = request.query_params
        project, words = validation.project(query, required=True), query.get("query", "")
        context = await self._store.context(
            project,
            _word(request, "scope"),
            words,
            validation.limit(query, 5),
            validation.max_tokens(query),
        )
        span.set_attributes(
            {
                "memory.project": project,
                "memory.context.query_used": bool(words.strip()),
                "memory.context.result_count": len(context.recent_observations),
            }
        )
        for row in context.recent_observations:
            span.add_event(
                "context.injected",
                {
                    "memory.injected.observation_id": row.id,
                    "memory.injected.type": row.type,
                    "memory.injected.title": row.title,
                    "memory.injected.method": row.method,
                },
            )
        return _json(context)

    async def timeline(self, request: Request, span: Span) -> Response:
        query = request.query_params
        row = validation.observation_id(query.get("observation_id"), "observation_id")
        return _json(
            await self._store.timeline(
                row, validation.neighbours(query, "before"), validation.neighbours(query, "after")
            )
        )

    async def stats(self, request: Request, span: Span) -> Response:
        return _json(await self._store.stats(validation.project(request.query_params)))

    async def export(self, request: Request, span: Span) -> Response:
        project, now = validation.project(request.query_params), self._clock.now().isoformat(timespec="milliseconds")
        stamp = now.replace("+00:00", "Z")
        if request.query_params.get("format") == "ndjson" or transfer.NDJSON in request.headers.get("accept", ""):
            return StreamingResponse(transfer.export_lines(self._store, project, stamp), media_type=transfer.NDJSON)
        document = transfer.export_document(self._store, project, stamp)
        return StreamingResponse(document, media_type="application/json")

    async def import_(self, request: Request, span: Span) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() == transfer.NDJSON:
            done = await transfer.import_lines(self._store, request.stream())
        else:
            done = await transfer.import_document(self._store, await _body(request, transfer.MAX_DOCUMENT_BYTES, None))
        log.info("memory.imported", sessions=done.imported_sessions, observations=done.imported_observations)
        return _json(done)

    def routes(self) -> list[Route]:
        table: list[tuple[str, str, str, Handler]] = [
            ("POST", "/sessions", "create_session", self.create_session),
            ("POST", "/sessions/{id}/end", "end_session", self.end_session),
            ("GET", "/sessions/recent", "recent_sessions", self.recent_sessions),
            ("POST", "/observations", "add_observation", self.add_observation),
            ("GET", "/observations/recent", "recent_observations", self.recent_observations),
            ("GET", "/observations/{id}", "get_observation", self.get_observation),
            ("PATCH", "/observations/{id}", "update_observation", self.update_observation),
            ("DELETE", "/observations/{id}", "delete_observation", self.delete_observation),
            ("GET", "/search", "search", self.search),
            ("GET", "/context", "fetch_context", self.fetch_context),
            ("GET", "/timeline", "timeline", self.timeline),
            ("GET", "/stats", "stats", self.stats),
            ("GET", "/export", "export", self.export),
            ("POST", "/import", "import", self.import_),
        ]
        return [
            Route(path, _traced(operation, handler), methods=[method]) for method, path, operation, handler in table
        ]


def build_app(
    store: MemoryStore,
    *,
    registry: Registry,
    token: Callable[[], str] | None,
    ready: Readiness = dict,
    clock: Clock | None = None,
) -> ASGIApp:
    """The service as an ASGI app. `token` gives the bearer every route but probes and metrics asks for; None: none."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    api_routes = MemoryApi(store, clock or SystemClock()).routes()
    routes = [Route("/health", health), *health_routes(registry, ready), *api_routes]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error, Exception: _crash})
    return _Counted(BearerAuth(app, token, OPEN_PATHS | {"/health"}), routes, registry)


class _Counted:
    """Counts every answer by route template and status code."""

    def __init__(self, app: ASGIApp, routes: list[Route], registry: Registry) -> None:
        self._app = app
        self._routes = routes
        self._requests = registry.counter(
            "agentops_memory_requests_total", "Requests answered, by route template and status code.", ("route", "code")
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._requests.labels(self._route(scope), str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counting)

    def _route(self, scope: Scope) -> str:
        for wanted in (Match.FULL, Match.PARTIAL):
            for route in self._routes:
                if route.matches(scope)[0] is wanted:
                    return route.path
        return "other"


def _traced(operation: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """The handler inside its span, its errors as answers."""

    async def endpoint(request: Request) -> Response:
        with tracer("memory").start_as_current_span(
            f"memory.{operation}",
            context=extract(request.headers.get("traceparent")),
            kind=SpanKind.SERVER,
            attributes={"memory.operation": operation},
        ) as span:
            try:
                return await handler(request, span)
            except MemoryServiceError as error:
                span.set_attribute("error.type", error.kind)
                span.set_status(Status(StatusCode.ERROR, str(error)))
                if error.status >= 500:
                    log.error("request.failed", operation=operation, error=str(error))
                return JSONResponse({"error": str(error)}, error.status)
            except ClientDisconnect:
                return Response(status_code=499)

    return endpoint


async def _object(request: Request) -> dict[str, object]:
    return dict(validation.parse_object(await _body(request, MAX_BODY_BYTES, BODY_TIMEOUT_S)))


async def _body(request: Request, most: int, timeout_s: float | None) -> bytes:
    too_large = PayloadTooLarge(f"body is over {most} bytes; send less, or import as {transfer.NDJSON}")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise too_large
    body = bytearray()
    with anyio.move_on_after(timeout_s) as reading:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise too_large
    if reading.cancelled_caught:
        raise InvalidRequest([f"body did not arrive within {timeout_s:g} s"])
    return bytes(body)


def _id(request: Request, span: Span) -> int:
    row = validation.observation_id(request.path_params["id"])
    span.set_attribute("memory.observation.id", row)
    return row


def _word(request: Request, name: str) -> str:
    value = request.query_params.get(name, "").strip()
    most = {"type": MAX_TYPE, "scope": MAX_SCOPE}[name]
    if len(value) > most:
        raise InvalidRequest([f"{name} has {len(value)} characters, at most {most} are allowed"])
    return value.lower() if name == "scope" else value


def _json(value: object, status: int = 200) -> Response:
    return Response(dumps(value), status, media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    message = {
        404: f"no such route: {request.url.path}",
        405: f"{request.method} is not allowed on {request.url.path}",
    }.get(status, getattr(error, "detail", "error"))
    return JSONResponse({"error": message}, status, headers)


async def _crash(request: Request, error: Exception) -> Response:
    log.error("request.crashed", path=request.url.path, error=repr(error))
    return JSONResponse({"error": "internal error; see the service's log"}, 500)
