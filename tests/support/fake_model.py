"""A chat completions server over a real socket that answers what a test tells it to, in order."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from attrs import define, field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agentops.net.listen import ListenAddress, bind
from agentops.net.serve import serve

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


@define
class Reply:
    """One answer. `chunks` are deltas; `gate` is waited for before the delta at `gate_at`; `breaks` cuts
    the connection, `ends_early` ends the stream without a finish, `raw` is sent instead of all this."""

    chunks: list[dict[str, Any]] = field(factory=list)
    finish: str = "stop"
    status: int = 200
    error: str = ""
    headers: dict[str, str] = field(factory=dict)
    gate: anyio.Event | None = None
    gate_at: int = 0
    breaks: bool = False
    ends_early: bool = False
    usage: dict[str, int] = field(factory=lambda: dict(USAGE))
    raw: bytes | None = None


def say(*pieces: str, **options: Any) -> Reply:
    """Text, one delta for each piece."""
    return Reply([{"content": piece} for piece in pieces], **options)


def call(*calls: tuple[str, str, Any], text: str = "", **options: Any) -> Reply:
    """Tool calls `(id, name, arguments)`; arguments that are no string are made JSON, and come in two pieces."""
    chunks: list[dict[str, Any]] = [{"content": text}] if text else []
    for index, (call_id, name, arguments) in enumerate(calls):
        data = arguments if isinstance(arguments, str) else json.dumps(arguments)
        half = len(data) // 2
        head = {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": data[:half]}}
        chunks.append({"tool_calls": [head]})
        chunks.append({"tool_calls": [{"index": index, "function": {"arguments": data[half:]}}]})
    return Reply(chunks, finish="tool_calls", **options)


def fail(status: int, message: str = "no", **options: Any) -> Reply:
    return Reply(status=status, error=message, **options)


class FakeModel:
    """`replies` are given out in order; when none is left the answer is a 500 that says so."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.asked = anyio.Event()
        self.url = ""

    def add(self, *replies: Reply) -> None:
        self.replies.extend(replies)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[FakeModel]:
        app = Starlette(routes=[Route("/v1/chat/completions", self._answer, methods=["POST"])])
        with bind(ListenAddress("127.0.0.1", 0)) as sock:
            self.url = f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
            async with anyio.create_task_group() as tasks:

                async def run(*, task_status: Any) -> None:
                    await serve(app, sock, grace_s=1, task_status=task_status)

                await tasks.start(run)
                yield self
                for reply in self.replies:
                    if reply.gate is not None:
                        reply.gate.set()
                tasks.cancel_scope.cancel()

    async def _answer(self, request: Request) -> Response:
        self.requests.append(await request.json())
        self.headers.append(dict(request.headers))
        self.asked.set()
        self.asked = anyio.Event()
        if not self.replies:
            return JSONResponse({"error": {"message": "the script has ended"}}, 500)
        reply = self.replies.pop(0)
        if reply.raw is not None:
            return Response(reply.raw, media_type="text/html")
        if reply.status != 200:
            return JSONResponse({"error": {"message": reply.error}}, reply.status, reply.headers)
        return StreamingResponse(_stream(reply), media_type="text/event-stream")


async def _stream(reply: Reply) -> AsyncIterator[bytes]:
    for index, delta in enumerate(reply.chunks):
        if reply.gate is not None and index == reply.gate_at:
            await reply.gate.wait()
        yield _chunk([{"index": 0, "delta": delta, "finish_reason": None}])
    if reply.gate is not None and reply.gate_at >= len(reply.chunks):
        await reply.gate.wait()
    if reply.breaks:
        raise ConnectionResetError("the test broke the stream")
    if reply.ends_early:
        return
    yield _chunk([{"index": 0, "delta": {}, "finish_reason": reply.finish}])
    yield _chunk([], usage=reply.usage)
    yield b"data: [DONE]\n\n"


def _chunk(choices: Iterable[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
    body = {
        "id": "chatcmpl-test",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "fake",
        "choices": list(choices),
        "usage": usage,
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"
