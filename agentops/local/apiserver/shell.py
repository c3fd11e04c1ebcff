"""aiohttp around the core: TLS, client certificates, chunked streams with backpressure, WebSockets.

Everything else is the core's business. One catch-all route; the raw path goes through as it came.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
from aiohttp import WSMsgType, web
from aiohttp.http import HttpProcessingError
from anyio.abc import TaskStatus
from attrs import evolve

from agentops.local.apiserver.chaos import Disconnected
from agentops.local.apiserver.errors import bad_request, too_large
from agentops.local.apiserver.http import Answer, Request, Response, Stream, User, WebSocketUpgrade
from agentops.local.apiserver.server import BODY_LIMIT, ApiServer, failure_response
from agentops.telemetry.logging import get_logger

log = get_logger("apiserver.shell")

_REPEATED = ("impersonate-group", "impersonate-extra-")
_PROXIED_LIMIT = 64 * 1024 * 1024
"""Of a body on its way to a pod or Service."""

EARLY_BODY_BYTES = 64 * 1024
"""A body longer than this, or of a length not told, is read only from those who may do what they ask."""

_HEAD_LIMIT = 1024 * 1024
"""Bytes of a URL or of one header, as in Go: kubectl exec sends a whole script as a query."""

_MESSAGE_LIMIT = 16 * 1024 * 1024
"""Of one WebSocket message; kubectl's have 32 KiB."""


class _NoFaultOfOurs(logging.Filter):
    """Drops what clients got wrong: aiohttp logs a traceback, as an error, for each request it cannot read."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


_http_log = logging.getLogger("aiohttp.server.apiserver")
_http_log.addFilter(_NoFaultOfOurs())


def server_ssl_context(cert_path: Path, key_path: Path, client_ca_pem: bytes) -> ssl.SSLContext:
    """TLS that asks for a client certificate of our CA and takes those who have none too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_path, key_path)
    context.load_verify_locations(cadata=client_ca_pem.decode())
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context


async def serve_tls(
    server: ApiServer,
    sock: socket.socket,
    context: ssl.SSLContext | None,
    *,
    grace_s: float = 2.0,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `sock` until cancelled, then end watches and give requests `grace_s` to finish.

    `context` None is plain HTTP (curl, debugging: client-go sends no credentials over it).
    """

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return await _handle(server, request)

    loop = asyncio.get_running_loop()

    def make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        limit = _PROXIED_LIMIT if "/proxy" in message.path else BODY_LIMIT
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=limit)

    web_server = web.Server(
        handle,
        request_factory=make_request,
        access_log=None,
        logger=_http_log,
        keepalive_timeout=75.0,
        handler_cancellation=True,
        max_line_size=_HEAD_LIMIT,
        max_field_size=_HEAD_LIMIT,
    )
    runner = web.ServerRunner(web_server, handle_signals=False, shutdown_timeout=grace_s)
    await runner.setup()
    try:
        site = web.SockSite(runner, sock, ssl_context=context)
        await site.start()
        log.info("apiserver.listening", address=sock.getsockname()[0], port=sock.getsockname()[1])
        task_status.started()
        await anyio.sleep_forever()
    finally:
        server.watches.end_all()
        with anyio.CancelScope(shield=True), anyio.move_on_after(grace_s + 1):
            await runner.cleanup()


async def _handle(server: ApiServer, incoming: web.BaseRequest) -> web.StreamResponse:
    request = _head(incoming)
    try:
        if incoming.can_read_body:
            if _to_be_refused(server, request, incoming):
                return await _without_body(server, request, incoming)
            if incoming.headers.get("expect", "").lower() == "100-continue":
                await incoming.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request = evolve(request, body=await _body(incoming))
        return await _answer(server, request, incoming)
    except web.HTTPRequestEntityTooLarge:
        return _closing(incoming, failure_response(too_large()))
    except web.RequestPayloadError as error:
        return _closing(incoming, failure_response(bad_request(f"the request body cannot be read: {error}")))
    except Disconnected:
        return _reset(incoming)


def _head(incoming: web.BaseRequest) -> Request:
    """The request without its body."""
    raw_path = incoming.raw_path.partition("?")[0]
    headers: dict[str, str] = {}
    for name, value in incoming.headers.items():
        lower = name.lower()
        # Repeated headers matter for impersonation only.
        headers[lower] = f"{headers[lower]}\n{value}" if lower.startswith(_REPEATED) and lower in headers else value
    return Request(
        incoming.method,
        raw_path,
        tuple(incoming.rel_url.query.items()),
        headers,
        b"",
        _certificate_user(incoming),
        incoming.remote or "",
    )


def _to_be_refused(server: ApiServer, request: Request, incoming: web.BaseRequest) -> bool:
    length = incoming.content_length
    small = length is not None and length <= EARLY_BODY_BYTES and "expect" not in request.headers
    return not small and not server.admits(request)


async def _body(incoming: web.BaseRequest) -> bytes:
    """Raises HTTPRequestEntityTooLarge, at once when the length says so."""
    length, limit = incoming.content_length, incoming.client_max_size
    if length is not None and length > limit:
        raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=length)
    return await incoming.read()


async def _without_body(server: ApiServer, request: Request, incoming: web.BaseRequest) -> web.StreamResponse:
    """The refusal of a request whose body nobody has read: the connection cannot be used again."""
    answer = await server.handle(request)
    assert isinstance(answer, Response)
    return _closing(incoming, answer)


def _closing(incoming: web.BaseRequest, answer: Response) -> web.StreamResponse:
    response = web.Response(status=answer.status, body=answer.body, headers=dict(answer.headers))
    response.force_close()
    return response


async def _answer(server: ApiServer, request: Request, incoming: web.BaseRequest) -> web.StreamResponse:
    answer: Answer = await server.handle(request)
    if isinstance(answer, Response):
        return web.Response(status=answer.status, body=answer.body, headers=dict(answer.headers))
    if isinstance(answer, Stream):
        return await _stream(incoming, answer)
    return await _upgrade(incoming, answer)


def _reset(incoming: web.BaseRequest) -> web.StreamResponse:
    """Break the connection as a dying peer does: what was not sent yet is lost, and the client gets a RST."""
    transport = incoming.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()  # goes nowhere


def _certificate_user(incoming: web.BaseRequest) -> User | None:
    """CN is the user, O the groups, of a certificate TLS has already verified."""
    transport = incoming.transport
    peer = transport.get_extra_info("peercert") if transport is not None else None
    if not peer:
        return None
    names = [(key, value) for part in peer.get("subject", ()) for key, value in part]
    user = next((value for key, value in names if key == "commonName"), "")
    if not user:
        return None
    groups = tuple(value for key, value in names if key == "organizationName")
    return User(user, (*groups, "system:authenticated"))


async def _stream(incoming: web.BaseRequest, answer: Stream) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=dict(answer.headers))
    if "content-length" not in {name.lower() for name in answer.headers}:
        response.enable_chunked_encoding()
    body: AsyncIterator[bytes] = answer.open()
    try:
        await response.prepare(incoming)
        async for chunk in body:
            if chunk:
                await response.write(chunk)
        await response.write_eof()
    except (ConnectionError, TimeoutError):
        log.debug("stream.client_gone", path=incoming.path)
    finally:
        close = getattr(body, "aclose", None)
        if close is not None:
            with anyio.CancelScope(shield=True), anyio.move_on_after(2):
                await close()
    return response


class _Socket:
    """The core's view of an aiohttp WebSocket."""

    def __init__(self, inner: web.WebSocketResponse) -> None:
        self._inner = inner

    @property
    def protocol(self) -> str:
        return self._inner.ws_protocol or ""

    async def receive(self) -> bytes | None:
        while True:
            try:
                message = await self._inner.receive()
            except ConnectionError:  # of a ping's answer
                return None
            if message.type is WSMsgType.BINARY:
                return bytes(message.data)
            if message.type is WSMsgType.TEXT:
                return str(message.data).encode()
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING, WSMsgType.ERROR):
                return None

    async def send(self, data: bytes) -> None:
        if not self._inner.closed:
            # `receive` says that the peer is gone; what was still on its way there is nobody's error.
            with suppress(ConnectionError):
                await self._inner.send_bytes(data)

    async def close(self) -> None:
        await self._inner.close()


async def _upgrade(incoming: web.BaseRequest, answer: WebSocketUpgrade) -> web.StreamResponse:
    response = web.WebSocketResponse(
        protocols=answer.protocols, max_msg_size=_MESSAGE_LIMIT, autoping=True, compress=False
    )
    await response.prepare(incoming)
    try:
        await answer.serve(_Socket(response))
    except (ConnectionError, TimeoutError):
        log.debug("websocket.client_gone", path=incoming.path)
    finally:
        if not response.closed:
            with anyio.CancelScope(shield=True), anyio.move_on_after(2):
                await response.close()
    return response
