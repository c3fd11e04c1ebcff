"""The daemon's HTTP interface on :4096.

    POST   /prompt                 200 RunRecord; with `Prefer: respond-async` 202 {"run": name}
    POST   /prompt/stream          200 server-sent events of the run
    POST   /steer                  200 {"ok": true}; 409 when no turn is going
    DELETE /abort                  200 {"ok": true, "aborted": bool}; with X-AgentOps-Run-Name only that run
    GET    /runs/{name}            200 RunRecord, 404; with `Prefer: wait=N` when it has ended, or after N seconds
    GET    /runs/{name}/events     200 server-sent events, replayed from `Last-Event-ID`, ending after session_idle
    GET    /events                 200 server-sent events of everything, never ending
    GET    /working-memory         200 [message];  DELETE forgets it
    POST   /memory/extract         200 {type, title, content, tags}; 400 when there is no conversation
    GET    /status                 200
    GET    /healthz /readyz /metrics   without a token

Errors are `{"error": text}`. `X-AgentOps-Run-Name` names the run (and is answered with the name used),
`X-AgentOps-Run-UID` tells objects of the same name apart on every route about a run, `Traceparent` and
`X-AgentOps-Parent-Agent` say where it came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import anyio
from attrs import asdict
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentops.api.codec import WireError, loads, to_wire
from agentops.api.runs import (
    PARENT_AGENT_HEADER,
    RUN_NAME_HEADER,
    RUN_UID_HEADER,
    AcceptedRun,
    ExtractRequest,
    PromptRequest,
    RunRecord,
    RunState,
    SteerRequest,
)
from agentops.net.auth import BearerAuth
from agentops.net.serve import Readiness, health_routes
from agentops.runtime.agent import Agent, Run, RunRequest
from agentops.runtime.errors import BusyFault, ProviderFault, RunConflict, StoreFault
from agentops.runtime.messages import to_wire as message_to_wire
from agentops.runtime.sse import event_stream
from agentops.telemetry.logging import get_logger
from agentops.telemetry.metrics import Registry
from agentops.values.names import is_dns1123_subdomain

log = get_logger("runtime.http")

MAX_BODY_BYTES = 4 << 20
MAX_WAIT_S = 60
CONTEXT_FIELDS = ("resource_name", "kind", "item_type")
"""What everything attached to a prompt says of itself; the rest depends on what it is."""
_WAIT = re.compile(r"\bwait=(\d{1,6})\b", re.IGNORECASE)


class _Refused(Exception):
    """Ends a request with a status and one sentence."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


def make_app(agent: Agent, *, token: Callable[[], str] | None, registry: Registry, ready: Readiness) -> Starlette:
    """The ASGI application. `token` None turns authentication off."""
    routes = _Routes(agent)
    return Starlette(
        routes=[
            Route("/prompt", routes.prompt, methods=["POST"]),
            Route("/prompt/stream", routes.prompt_stream, methods=["POST"]),
            Route("/steer", routes.steer, methods=["POST"]),
            Route("/abort", routes.abort, methods=["DELETE"]),
            Route("/runs/{name}", routes.run, methods=["GET"]),
            Route("/runs/{name}/events", routes.run_events, methods=["GET"]),
            Route("/events", routes.events, methods=["GET"]),
            Route("/working-memory", routes.working_memory, methods=["GET"]),
            Route("/working-memory", routes.clear_working_memory, methods=["DELETE"]),
            Route("/memory/extract", routes.extract, methods=["POST"]),
            Route("/status", routes.status, methods=["GET"]),
            *health_routes(registry, ready),
        ],
        middleware=[Middleware(BearerAuth, token=token)],
        exception_handlers={
            _Refused: _refused,
            StoreFault: _store_failed,
            404: _not_found,
            405: _not_allowed,
            500: _crashed,
        },
    )


class _Routes:
    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def prompt(self, request: Request) -> Response:
        run = await self._submit(request)
        name = run.record.name
        if "respond-async" in request.headers.get("prefer", "").lower():
            return JSONResponse(
                to_wire(AcceptedRun(run=name)),
                202,
                {RUN_NAME_HEADER: name, "Preference-Applied": "respond-async", "Location": f"/runs/{name}"},
            )
        await run.done.wait()
        body = _record_body(run.record)
        if run.record.state == RunState.FAILED:
            body["error"] = run.record.error or "the turn failed"
        return JSONResponse(body, 200 if run.record.state == RunState.SUCCEEDED else 500, {RUN_NAME_HEADER: name})

    async def prompt_stream(self, request: Request) -> Response:
        return await self._stream(request, await self._submit(request))

    async def steer(self, request: Request) -> Response:
        """What the user says into the running turn; the model reads it with its next call."""
        try:
            message = loads(SteerRequest, await _read_body(request)).message
        except WireError:
            message = ""
        if not message.strip():
            raise _Refused(400, "message is required")
        if not self._agent.steer(message):
            raise _Refused(409, "no turn is going; send a prompt")
        return JSONResponse({"ok": True})

    async def abort(self, request: Request) -> Response:
        """With a run name, only that run: a late abort must not hit the next one."""
        name = request.headers.get(RUN_NAME_HEADER, "").strip()
        return JSONResponse({"ok": True, "aborted": self._agent.abort(name, _uid(request))})

    async def run(self, request: Request) -> Response:
        """With `Prefer: wait=N`, the answer comes when the run has ended, at the latest after N seconds."""
        run = await self._find(request)
        asked = _WAIT.search(request.headers.get("prefer", ""))
        wait_s = min(MAX_WAIT_S, int(asked[1])) if asked else 0
        if wait_s:
            with anyio.move_on_after(wait_s):
                await run.done.wait()
        headers = {"Preference-Applied": f"wait={wait_s}"} if wait_s else None
        return JSONResponse(_record_body(run.record), headers=headers)

    async def run_events(self, request: Request) -> Response:
        return await self._stream(request, await self._find(request))

    async def events(self, request: Request) -> Response:
        return event_stream(self._agent.broadcast, _last_event_id(request, None))

    async def working_memory(self, _: Request) -> Response:
        return JSONResponse([message_to_wire(message) for message in self._agent.conversation])

    async def clear_working_memory(self, _: Request) -> Response:
        try:
            await self._agent.clear_conversation()
        except BusyFault as busy:
            raise _busy(busy) from None
        return JSONResponse({"ok": True})

    async def extract(self, request: Request) -> Response:
        """The body may be left out."""
        body = await _read_body(request)
        try:
            wanted = loads(ExtractRequest, body) if body.strip() else ExtractRequest()
        except WireError as error:
            raise _Refused(400, f"bad request: {error}") from None
        try:
            found = await self._agent.extract(wanted.focus, wanted.type)
        except ProviderFault as fault:
            raise _Refused(500, str(fault)) from None
        if found is None:
            raise _Refused(400, "no messages: there is no conversation to extract from")
        return JSONResponse(asdict(found))

    async def status(self, _: Request) -> Response:
        return JSONResponse(self._agent.status())

    async def _submit(self, request: Request) -> Run:
        body = await _read_prompt(request)
        name = request.headers.get(RUN_NAME_HEADER, "").strip()
        if name and not is_dns1123_subdomain(name):
            raise _Refused(
                400, f"{RUN_NAME_HEADER}: {name[:80]!r} is not an object name (lower-case letters, digits, -, .)"
            )
        try:
            return await self._agent.submit(
                RunRequest(
                    prompt=body.prompt,
                    name=name,
                    uid=_uid(request),
                    context=body.context,
                    traceparent=request.headers.get("traceparent"),
                    parent_agent=request.headers.get(PARENT_AGENT_HEADER, "").strip()[:253],
                )
            )
        except BusyFault as busy:
            raise _busy(busy) from None
        except RunConflict as conflict:
            raise _Refused(409, str(conflict)) from None

    async def _find(self, request: Request) -> Run:
        name = request.path_params["name"]
        run = await self._agent.find(name, _uid(request))
        if run is None:
            raise _Refused(404, f"run {name[:253]} is not known here")
        return run

    async def _stream(self, request: Request, run: Run) -> Response:
        name = run.record.name
        after = _last_event_id(request, 0)
        events = await self._agent.events_of(run)
        if events is None:
            raise _Refused(410, f"the events of run {name} are no longer kept; GET /runs/{name} has its result")
        return event_stream(events, after, {RUN_NAME_HEADER: name})


async def _read_body(request: Request) -> bytes:
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_BODY_BYTES:
                raise _Refused(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    except ClientDisconnect:
        raise _Refused(400, "the request ended early") from None
    return bytes(data)


async def _read_prompt(request: Request) -> PromptRequest:
    try:
        body = loads(PromptRequest, await _read_body(request))
    except WireError as error:
        detail = str(error)
        raise _Refused(400, f"bad request: {detail}" if "context" in detail else "prompt is required") from None
    if not body.prompt.strip():
        raise _Refused(400, "prompt is required")
    for index, item in enumerate(body.context):
        for name in CONTEXT_FIELDS:
            value = item.get(name)
            if not isinstance(value, str) or not value.strip():
                what = "is required" if value is None or isinstance(value, str) else "must be a string"
                raise _Refused(400, f"bad request: context[{index}].{name} {what}")
    return body


def _uid(request: Request) -> str:
    return request.headers.get(RUN_UID_HEADER, "").strip()[:253]


def _record_body(record: RunRecord) -> dict[str, object]:
    return {**to_wire(record), "run": record.name}


def _last_event_id(request: Request, default: int | None) -> int | None:
    """From the header, or `?after=` for clients that cannot set one."""
    text = request.headers.get("last-event-id") or request.query_params.get("after")
    if text is None:
        return default
    number = text.strip()
    if not number.isascii() or not number.isdigit() or len(number) > 18:
        raise _Refused(400, f"Last-Event-ID: {text[:40]!r} is not the number of an event")
    return int(number)


def _busy(busy: BusyFault) -> _Refused:
    return _Refused(429, str(busy), {"Retry-After": "5", **({"X-AgentOps-Busy-Run": busy.run} if busy.run else {})})


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, _Refused)
    return JSONResponse({"error": str(error)}, error.status, error.headers)


async def _store_failed(_: Request, error: Exception) -> Response:
    log.error("http.store_failed", error=str(error))
    return JSONResponse({"error": str(error)}, 500)


async def _not_found(request: Request, _: Exception) -> Response:
    return JSONResponse({"error": f"there is nothing at {request.url.path}"}, 404)


async def _not_allowed(request: Request, _: Exception) -> Response:
    return JSONResponse({"error": f"{request.method} is not allowed at {request.url.path}"}, 405)


async def _crashed(_: Request, error: Exception) -> Response:
    log.error("http.crashed", error=f"{type(error).__name__}: {error}")
    return JSONResponse({"error": "internal error"}, 500)
