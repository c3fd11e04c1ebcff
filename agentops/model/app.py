"""The HTTP face of a model: two wire shapes, the record of requests, probes.

An answer is produced while its client listens and no longer: a disconnect cancels the backend at once, also when it
hangs on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import anyio
import anyio.lowlevel
import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from agentops.model import wire_anthropic, wire_openai
from agentops.model.backend import Answer, Backend, ChatRequest, Finish, Part
from agentops.model.errors import AnswerBroken, BadRequest, Refused, StreamCut, StreamEnded, StreamFailed, Verbatim
from agentops.model.journal import Journal
from agentops.net.serve import health_routes
from agentops.telemetry.logging import get_logger
from agentops.telemetry.metrics import Registry
from agentops.values.clock import Clock

log = get_logger("model.http")

MAX_BODY_BYTES = 32 << 20


def build_app(backend: Backend, journal: Journal, *, registry: Registry, clock: Clock) -> ASGIApp:
    """The service as an ASGI app."""
    requests = registry.counter(
        "agentops_model_requests_total", "Requests answered, by route and status code.", ("route", "code")
    )
    tokens = registry.counter("agentops_model_tokens_total", "Tokens read and written.", ("kind",))

    def chat(path: str, wire: ModuleType) -> Route:
        async def endpoint(request: Request) -> Response:
            number = journal.next_number()

            def answered(status: int, finish: Finish | None) -> None:
                requests.labels(path, str(status)).inc()
                if finish is not None:
                    tokens.labels("input").inc(finish.usage.input_tokens)
                    tokens.labels("output").inc(finish.usage.output_tokens)

            async def refuse(status: int, message: str, body: Any = None) -> Response:
                journal.add(number, path, request.headers, body, "refused")
                answered(status, None)
                return JSONResponse(wire.error_body(status, message), status)

            try:
                body = await _read(request)
                asked = wire.parse(number, body)
            except BadRequest as error:
                return await refuse(400, str(error))
            except ClientDisconnect:
                return Response(status_code=499)
            reason = backend.not_ready()
            if reason is not None:
                response = await refuse(503, f"the model is not ready: {reason}", body)
                response.headers["retry-after"] = "2"
                return response
            answer = backend.answer(asked)
            journal.add(number, path, request.headers, body, answer.label)
            log.info("request", number=number, model=asked.model, stream=asked.stream, answered_by=answer.label)
            return _Reply(wire, asked, answer, int(clock.now().timestamp()), answered)

        return Route(path, endpoint, methods=["POST"])

    async def models(_: Request) -> Response:
        entries = [
            {"id": name, "object": "model", "created": 0, "owned_by": "agentops"} for name in backend.model_names
        ]
        return JSONResponse({"object": "list", "data": entries})

    async def read_requests(_: Request) -> Response:
        return Response(journal.lines(), media_type="application/x-ndjson")

    async def clear_requests(_: Request) -> Response:
        journal.clear()
        return Response(status_code=204)

    async def error(request: Request, failure: Exception) -> Response:
        status = failure.status_code if isinstance(failure, HTTPException) else 500
        return JSONResponse(wire_openai.error_body(status, f"{request.method} {request.url.path}: {failure}"), status)

    return Starlette(
        routes=[
            chat("/v1/chat/completions", wire_openai),
            chat("/v1/messages", wire_anthropic),
            Route("/v1/models", models),
            Route("/requests", read_requests),
            Route("/requests", clear_requests, methods=["DELETE"]),
            *health_routes(registry, lambda: {"model": backend.not_ready()}),
        ],
        exception_handlers={HTTPException: error},
    )


class _Reply(Response):
    """Runs an answer and sends it, whole or streamed, until it ends, breaks, or the client leaves."""

    def __init__(
        self,
        wire: ModuleType,
        request: ChatRequest,
        answer: Answer,
        created: int,
        answered: Callable[[int, Finish | None], None],
    ) -> None:
        self.background = None
        self._wire = wire
        self._request = request
        self._parts = answer.parts
        self._created = created
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        done = False
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                if done:
                    return
                log.info("request.abandoned", number=self._request.number)
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            try:
                await (self._stream(send) if self._request.stream else self._whole(send))
            except Refused as refused:
                await self._refuse(refused, send)
            except Verbatim as verbatim:
                await self._send_as_it_is(verbatim, send)
            done = True
            tasks.cancel_scope.cancel()

    async def _whole(self, send: Send) -> None:
        parts: list[Part] = []
        broken: AnswerBroken | None = None
        try:
            parts += [part async for part in self._parts]
        except StreamFailed as failed:
            raise Refused(500, str(failed), body=failed.body) from failed
        except AnswerBroken as error:
            broken = error
        body = orjson.dumps(self._wire.whole(self._request, self._created, parts))
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        if isinstance(broken, StreamEnded):
            headers.pop("content-length")
        if broken is not None:
            body = body[: len(body) // 2]
        await _start(send, 200, headers)
        self._answered(200, _finish(parts))
        await send({"type": "http.response.body", "body": body, "more_body": isinstance(broken, StreamCut)})

    async def _stream(self, send: Send) -> None:
        stream = self._wire.Stream(self._request, self._created)
        finish: Finish | None = None
        started = False

        async def write(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        async def begin() -> None:
            await _start(send, 200, {"content-type": "text/event-stream", "cache-control": "no-cache"})
            await write(stream.begin())

        try:
            async for part in self._parts:
                if not started:
                    started = True
                    await begin()
                if isinstance(part, Finish):
                    finish = part
                await write(stream.part(part))
        except AnswerBroken as broken:
            if not started:
                await begin()
            self._answered(200, None)
            if isinstance(broken, StreamCut):
                return
            tail = stream.failed(str(broken), broken.body) if isinstance(broken, StreamFailed) else b""
            await send({"type": "http.response.body", "body": tail})
            return
        self._answered(200, finish)
        await send({"type": "http.response.body", "body": stream.end()})

    async def _send_as_it_is(self, verbatim: Verbatim, send: Send) -> None:
        await _start(send, 200, {"content-type": "text/event-stream"})
        for start in range(0, len(verbatim.body), verbatim.slice_bytes):
            piece = verbatim.body[start : start + verbatim.slice_bytes]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await anyio.lowlevel.checkpoint()  # so that each piece is a write of its own
        self._answered(200, None)
        await send({"type": "http.response.body", "body": b""})

    async def _refuse(self, refused: Refused, send: Send) -> None:
        body = self._wire.error_body(refused.status, str(refused)) if refused.body is None else refused.body
        data = body.encode() if isinstance(body, str) else orjson.dumps(body)
        kind = "text/plain; charset=utf-8" if isinstance(body, str) else "application/json"
        headers = {"content-type": kind, **{name.lower(): value for name, value in refused.headers.items()}}
        await _start(send, refused.status, headers)
        self._answered(refused.status, None)
        await send({"type": "http.response.body", "body": data})


async def _start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


def _finish(parts: Sequence[Part]) -> Finish | None:
    return next((part for part in reversed(parts) if isinstance(part, Finish)), None)


async def _read(request: Request) -> Mapping[str, Any]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise BadRequest(f"the body is over {MAX_BODY_BYTES} bytes")
    try:
        data = orjson.loads(bytes(body))
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise BadRequest("the body must be a JSON object")
    return data
