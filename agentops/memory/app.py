"""The HTTP face of a memory store.

Bodies are JSON objects of at most 1 MiB, errors `{"error": "…"}` naming everything wrong at once. Every route is
counted in `agentops_memory_requests_total{route,code}` by its template, refused and unknown requests included.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import anyio
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentops.api.codec import dumps, to_wire
from agentops.api.memory import MAX_BODY_BYTES, ContextObservation, SearchHit
from agentops.api.memory_access import bearer_project
from agentops.api.runs import RUN_NAME_HEADER
from agentops.memory import transfer, validation
from agentops.memory.errors import Forbidden, MemoryServiceError, PayloadTooLarge, RequestTimeout
from agentops.memory.listing import Page
from agentops.memory.ranking import TOPIC_RANK
from agentops.memory.retention import Retention
from agentops.memory.store import MemoryStore
from agentops.net.auth import OPEN_PATHS, BearerAuth
from agentops.net.serve import Readiness, health_routes
from agentops.telemetry.logging import bind, get_logger
from agentops.telemetry.metrics import Registry
from agentops.telemetry.tracing import extract, tracer
from agentops.values.clock import Clock, SystemClock

log = get_logger("memory.http")

BODY_TIMEOUT_S = 15.0
"""How long a client may take to send one JSON body, or the next piece of an import."""

MAX_RUN_NAME = 253

Handler = Callable[[Request, Span], Awaitable[Response]]


class MemoryApi:
    """The handlers, one per route of the table at the bottom of the class."""

    def __init__(self, store: MemoryStore, clock: Clock, retention: Retention) -> None:
        self._store = store
        self._clock = clock
        self._retention = retention

    async def create_session(self, request: Request, span: Span) -> Response:
        new = validation.new_session(await _object(request))
        _may_write(request, new.project)
        session = await self._store.create_session(new, _holder(request))
        span.set_attributes({"memory.project": session.project, "memory.session.id": session.id})
        return _json(session, 201)

    async def end_session(self, request: Request, span: Span) -> Response:
        messages = validation.end_session(await _object(request)).messages
        session = validation.session_id(request.path_params["id"])
        ended = await self._store.end_session(session, messages, _reader(request))
        span.set_attributes({"memory.session.id": ended.session_id, "memory.session.message_count": len(messages)})
        return _json(ended)

    async def recent_sessions(self, request: Request, span: Span) -> Response:
        query = request.query_params
        page = await self._store.recent_sessions(_reader(request), validation.limit(query, 5), validation.cursor(query))
        return _page(request, page)

    async def add_observation(self, request: Request, span: Span) -> Response:
        new = validation.new_observation(await _object(request))
        _may_write(request, new.project)
        saved = await self._store.save(new, _holder(request))
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
        where = validation.row_filter(query, _reader(request))
        page = await self._store.recent_observations(where, validation.limit(query, 20), validation.cursor(query))
        return _page(request, page)

    async def get_observation(self, request: Request, span: Span) -> Response:
        return _json(await self._store.observation(_id(request, span), _reader(request)))

    async def revisions(self, request: Request, span: Span) -> Response:
        return _json(await self._store.revisions(_id(request, span), _reader(request)))

    async def update_observation(self, request: Request, span: Span) -> Response:
        row = _id(request, span)
        patch = validation.observation_patch(await _object(request))
        return _json(await self._store.patch(row, patch, _reader(request)))

    async def delete_observation(self, request: Request, span: Span) -> Response:
        row, hard = _id(request, span), validation.flag(request.query_params, "hard")
        span.set_attribute("memory.observation.hard_delete", hard)
        if await self._store.delete(row, hard=hard, reader=_reader(request)):
            log.info("observation.deleted", id=row, hard=hard)
        return Response(status_code=204)

    async def trash(self, request: Request, span: Span) -> Response:
        query = request.query_params
        page = await self._store.trash(_reader(request), validation.limit(query, 20), validation.cursor(query))
        items = [to_wire(row.observation) | {"deleted_at": to_wire(row)["deleted_at"]} for row in page.items]
        return _page(request, Page(items=items, after=page.after))

    async def restore(self, request: Request, span: Span) -> Response:
        return _json(await self._store.restore(_id(request, span), _reader(request)))

    async def prune(self, request: Request, span: Span) -> Response:
        done = await self._store.prune(self._retention, _reader(request))
        log.info("memory.pruned", expired=done.expired, over_limit=done.over_limit, purged=done.purged)
        return _json(done)

    async def vacuum(self, request: Request, span: Span) -> Response:
        if _holder(request):
            raise Forbidden("this bearer is of one project; the whole database is vacuumed with the service's own")
        before, after = await self._store.vacuum()
        return _json({"bytes_before": before, "bytes_after": after})

    async def search(self, request: Request, span: Span) -> Response:
        query = request.query_params
        text = validation.search_text(query, "q", required=True)
        where = validation.row_filter(query, _reader(request))
        hits = await self._store.search(text, where, validation.limit(query, 10))
        for hit in hits:
            attributes = _injected(hit, "topic_key" if hit.rank == TOPIC_RANK else "fts5_bm25")
            span.add_event("search.result", {**attributes, "memory.injected.rank": hit.rank})
        return _json(hits)

    async def fetch_context(self, request: Request, span: Span) -> Response:
        query = request.query_params
        project, words = _reader(request, required=True), validation.search_text(query, "query")
        scope = validation.row_filter(query, project).scope
        context = await self._store.context(
            project, scope, words, validation.limit(query, 5), validation.max_tokens(query)
        )
        span.set_attributes(
            {
                "memory.project": project,
                "memory.context.query_used": bool(words.strip()),
                "memory.context.result_count": len(context.recent_observations),
            }
        )
        for row in context.recent_observations:
            span.add_event("context.injected", _injected(row, row.method))
        return _json(context)

    async def timeline(self, request: Request, span: Span) -> Response:
        query = request.query_params
        row = validation.observation_id(query.get("observation_id"), "observation_id")
        before, after = validation.neighbours(query, "before"), validation.neighbours(query, "after")
        return _json(await self._store.timeline(row, before, after, _reader(request)))

    async def stats(self, request: Request, span: Span) -> Response:
        return _json(await self._store.stats(_reader(request)))

    async def export(self, request: Request, span: Span) -> Response:
        project, now = _reader(request), self._clock.now().isoformat(timespec="milliseconds")
        stamp = now.replace("+00:00", "Z")
        if request.query_params.get("format") == "ndjson" or transfer.NDJSON in request.headers.get("accept", ""):
            return StreamingResponse(transfer.export_lines(self._store, project, stamp), media_type=transfer.NDJSON)
        document = transfer.export_document(self._store, project, stamp)
        return StreamingResponse(document, media_type="application/json")

    async def import_(self, request: Request, span: Span) -> Response:
        holder, chunks = _holder(request), _chunks(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() == transfer.NDJSON:
            done = await transfer.import_lines(self._store, chunks, holder)
        else:
            body = await _collect(request, chunks, transfer.MAX_DOCUMENT_BYTES)
            done = await transfer.import_document(self._store, body, holder)
        log.info("memory.imported", sessions=done.imported_sessions, observations=done.imported_observations)
        return _json(done)

    def routes(self) -> list[Route]:
        table: list[tuple[str, str, str, Handler]] = [
            ("POST", "/sessions", "create_session", self.create_session),
            ("POST", "/sessions/{id:path}/end", "end_session", self.end_session),
            ("GET", "/sessions/recent", "recent_sessions", self.recent_sessions),
            ("POST", "/observations", "add_observation", self.add_observation),
            ("GET", "/observations/recent", "recent_observations", self.recent_observations),
            ("GET", "/observations/trash", "trash", self.trash),
            ("GET", "/observations/{id}", "get_observation", self.get_observation),
            ("PATCH", "/observations/{id}", "update_observation", self.update_observation),
            ("DELETE", "/observations/{id}", "delete_observation", self.delete_observation),
            ("GET", "/observations/{id}/revisions", "revisions", self.revisions),
            ("POST", "/observations/{id}/restore", "restore", self.restore),
            ("GET", "/search", "search", self.search),
            ("GET", "/context", "fetch_context", self.fetch_context),
            ("GET", "/timeline", "timeline", self.timeline),
            ("GET", "/stats", "stats", self.stats),
            ("GET", "/export", "export", self.export),
            ("POST", "/import", "import", self.import_),
            ("POST", "/prune", "prune", self.prune),
            ("POST", "/vacuum", "vacuum", self.vacuum),
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
    retention: Retention | None = None,
) -> ASGIApp:
    """The service as an ASGI app.

    `token` gives the bearer every route but probes and metrics asks for, None: none. A bearer of one project, made from
    it by `api.memory_access`, reaches that project's rows and the global ones.
    """

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    api_routes = MemoryApi(store, clock or SystemClock(), retention or Retention()).routes()
    routes = [Route("/health", health), *health_routes(registry, ready), *api_routes]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error, Exception: _crash})
    guarded = BearerAuth(app, token, OPEN_PATHS | {"/health"}, holder_of=bearer_project)
    return _Counted(guarded, routes, registry)


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
                    return route.path_format
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
                with _of_run(request):
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


def _holder(request: Request) -> str:
    """The project the bearer is of; empty for the service's own."""
    return str(getattr(request.state, "holder", ""))


def _reader(request: Request, *, required: bool = False) -> str:
    """The project the request speaks for: its `project`, else its bearer's; empty for all of them.

    Raises InvalidRequest and Forbidden.
    """
    holder = _holder(request)
    asked = validation.project(request.query_params, required=required and not holder)
    if asked:
        _may_write(request, asked)
    return asked or holder


def _may_write(request: Request, project: str) -> None:
    holder = _holder(request)
    if holder and project != holder:
        raise Forbidden(f"this bearer is of project {holder!r}, not of {project!r}")


def _of_run(request: Request) -> AbstractContextManager[None]:
    """The run a request was made for, in every line logged meanwhile."""
    run = request.headers.get(RUN_NAME_HEADER, "")[:MAX_RUN_NAME]
    return bind(run=run) if run else nullcontext()


async def _object(request: Request) -> dict[str, object]:
    with anyio.move_on_after(BODY_TIMEOUT_S):
        return dict(validation.parse_object(await _collect(request, request.stream(), MAX_BODY_BYTES)))
    raise RequestTimeout(f"body did not arrive within {BODY_TIMEOUT_S:g} s")


async def _collect(request: Request, chunks: AsyncIterator[bytes], most: int) -> bytes:
    too_large = PayloadTooLarge(f"body is over {most} bytes; send less, or import as {transfer.NDJSON}")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise too_large
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > most:
            raise too_large
    return bytes(body)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """The body of an import, which may take as long as it likes while something arrives."""
    stream = aiter(request.stream())
    while True:
        try:
            with anyio.fail_after(BODY_TIMEOUT_S):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise RequestTimeout(f"nothing of the body arrived for {BODY_TIMEOUT_S:g} s") from None
        yield chunk


def _id(request: Request, span: Span) -> int:
    row = validation.observation_id(request.path_params["id"])
    span.set_attribute("memory.observation.id", row)
    return row


def _injected(row: SearchHit | ContextObservation, method: str) -> dict[str, str | int | float]:
    return {
        "memory.injected.observation_id": row.id,
        "memory.injected.type": row.type,
        "memory.injected.title": row.title,
        "memory.injected.method": method,
    }


def _json(value: object, status: int = 200) -> Response:
    return Response(dumps(value), status, media_type="application/json")


def _page(request: Request, page: Page[Any]) -> Response:
    """The rows, and where the next ones are in a `Link` header."""
    answer = _json(page.items)
    if page.after is not None:
        url = request.url.include_query_params(cursor=page.after.encode())
        answer.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
    return answer


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
