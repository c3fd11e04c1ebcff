"""pods/portforward: TCP connections to a pod through one WebSocket.

    kubectl         SPDY/3.1+portforward.k8s.io   two streams per connection, `data` and `error`, paired by requestid
    Python client   v4/v5.channel.k8s.io          ?ports=80,81: channel 2i carries port i, channel 2i+1 its errors

A connection that cannot be made is told on its error stream; the others go on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from attrs import define, field

from agentops.local.apiserver import spdy
from agentops.local.apiserver.errors import ApiFailure
from agentops.local.apiserver.http import WebSocket
from agentops.telemetry.logging import get_logger

log = get_logger("apiserver.portforward")

SPDY = "SPDY/3.1+portforward.k8s.io"
PROTOCOLS = (SPDY, "v5.channel.k8s.io", "v4.channel.k8s.io")

Dial = Callable[[int], tuple[str, int]]
"""From a port of the pod to the host and port to connect to. Raises ApiFailure."""

_CONNECT_S = 10.0
_SLICE = 32 * 1024
_QUEUED = 64
"""Messages a connection may lag behind before the whole tunnel waits for it."""
_MAX_STREAMS = 1024


@define(slots=True, eq=False)
class _Connection:
    """What the client sends goes into `inward`; `deliver` and `fail` take what the pod says."""

    port: int
    deliver: Callable[[bytes], Awaitable[None]]
    finish: Callable[[str], Awaitable[None]]
    """Ends both directions towards the client; with a text when the connection failed."""
    inward: MemoryObjectSendStream[bytes] = field(init=False)
    _queue: MemoryObjectReceiveStream[bytes] = field(init=False)
    scope: anyio.CancelScope = field(init=False, factory=anyio.CancelScope)

    def __attrs_post_init__(self) -> None:
        self.inward, self._queue = anyio.create_memory_object_stream[bytes](_QUEUED)

    async def take(self, payload: bytes) -> None:
        """Hand over what the client sent; dropped when the pod has already hung up."""
        if payload:
            try:
                await self.inward.send(payload)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return

    async def run(self, dial: Dial) -> None:
        with self._queue, self.inward, self.scope:
            try:
                host, port = dial(self.port)
                with anyio.fail_after(_CONNECT_S):
                    stream = await anyio.connect_tcp(host, port)
            except (OSError, TimeoutError, ApiFailure) as error:
                reason = error.message if isinstance(error, ApiFailure) else _cause(error, self.port)
                await self.finish(f"error forwarding port {self.port} to pod: {reason}")
                return
            async with stream, anyio.create_task_group() as tasks:

                async def outward() -> None:
                    try:
                        async for payload in self._queue:
                            await stream.send(payload)
                        await stream.send_eof()
                    except (anyio.BrokenResourceError, OSError):
                        return

                tasks.start_soon(outward)
                try:
                    while True:
                        await self.deliver(await stream.receive(_SLICE))
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    pass
                tasks.cancel_scope.cancel()
            await self.finish("")


def _cause(error: BaseException, port: int) -> str:
    """anyio wraps what really happened."""
    inner = error.__cause__
    if isinstance(error, ConnectionRefusedError) or isinstance(inner, ConnectionRefusedError):
        return f"connection refused: nothing in the pod listens on port {port}"
    return str(inner or error) or "timed out"


async def serve(socket: WebSocket, dial: Dial, ports: list[int]) -> None:
    """Until the client goes. `ports` matter for the channel protocols only."""
    async with anyio.create_task_group() as tasks:
        try:
            if socket.protocol == SPDY:
                await _Tunnel(socket, dial, tasks).run()
            else:
                await _serve_channels(socket, dial, ports, tasks)
        except spdy.SpdyError as error:
            log.info("portforward.broken", error=str(error))
        tasks.cancel_scope.cancel()
    await socket.close()


class _Tunnel:
    """One SPDY connection inside the WebSocket."""

    def __init__(self, socket: WebSocket, dial: Dial, tasks: TaskGroup) -> None:
        self._socket = socket
        self._dial = dial
        self._tasks = tasks
        self._codec = spdy.HeaderCodec()
        self._reader = spdy.FrameReader()
        self._lock = anyio.Lock()
        self._streams: dict[int, _Connection | None] = {}
        """Of data streams their connection; error streams, which the client never writes to, have None."""
        self._halves: dict[str, dict[str, int]] = {}

    async def run(self) -> None:
        while (message := await self._socket.receive()) is not None:
            for frame in self._reader.feed(message):
                if frame.kind == spdy.GOAWAY:
                    return
                await self._take(frame)

    async def _take(self, frame: spdy.Frame) -> None:
        match frame.kind:
            case 0:
                connection = self._streams.get(frame.stream)
                if connection is not None:
                    await connection.take(frame.payload)
                    if frame.fin:
                        connection.inward.close()
            case spdy.SYN_STREAM:
                await self._open(frame)
            case spdy.RST_STREAM:
                connection = self._streams.pop(frame.stream, None)
                if connection is not None:
                    connection.scope.cancel()
            case spdy.PING:
                await self._send(spdy.control(spdy.PING, frame.payload))

    async def _open(self, frame: spdy.Frame) -> None:
        headers = self._codec.decode(frame.payload)
        kind, port, request = headers.get("streamtype"), headers.get("port", ""), headers.get("requestid", "")
        known = kind in ("error", "data") and _is_port(port)
        if not known or len(self._streams) >= _MAX_STREAMS or frame.stream in self._streams:
            await self._send(spdy.control(spdy.RST_STREAM, frame.stream.to_bytes(4) + (3).to_bytes(4)))
            return
        assert kind is not None
        self._streams[frame.stream] = None
        async with self._lock:
            # Compressed where it is sent: the blocks of a connection are one zlib stream.
            reply = spdy.control(spdy.SYN_REPLY, frame.stream.to_bytes(4) + self._codec.encode({}))
            await self._socket.send(reply)
        halves = self._halves.setdefault(request, {})
        halves[kind] = frame.stream
        if len(halves) == 2:
            del self._halves[request]
            self._start(int(port), halves["data"], halves["error"])

    def _start(self, port: int, data_id: int, error_id: int) -> None:
        async def deliver(payload: bytes) -> None:
            await self._send(spdy.data(data_id, payload))

        async def finish(text: str) -> None:
            await self._send(spdy.data(error_id, text.encode(), fin=True))
            await self._send(spdy.data(data_id, b"", fin=True))

        connection = self._streams[data_id] = _Connection(port, deliver, finish)

        async def run() -> None:
            try:
                await connection.run(self._dial)
            finally:
                self._streams.pop(data_id, None)
                self._streams.pop(error_id, None)

        self._tasks.start_soon(run)

    async def _send(self, data: bytes) -> None:
        async with self._lock:
            await self._socket.send(data)


async def _serve_channels(socket: WebSocket, dial: Dial, ports: list[int], tasks: TaskGroup) -> None:
    """Until the last connection has ended: these protocols know no other way to say so."""
    lock = anyio.Lock()

    async def send(channel: int, payload: bytes) -> None:
        async with lock:
            await socket.send(bytes([channel]) + payload)

    connections = {2 * index: _channel(2 * index, port, send) for index, port in enumerate(ports)}

    async def receive() -> None:
        while (message := await socket.receive()) is not None:
            closing = message[:1] == b"\xff"
            connection = connections.get(message[1 if closing else 0]) if len(message) > closing else None
            if connection is not None and closing:
                connection.inward.close()
            elif connection is not None:
                await connection.take(message[1:])
        tasks.cancel_scope.cancel()

    for channel, connection in connections.items():
        for number in (channel, channel + 1):
            await send(number, connection.port.to_bytes(2, "little"))
    tasks.start_soon(receive)
    async with anyio.create_task_group() as running:
        for connection in connections.values():
            running.start_soon(connection.run, dial)


def _channel(channel: int, port: int, send: Callable[[int, bytes], Awaitable[None]]) -> _Connection:
    async def deliver(payload: bytes) -> None:
        await send(channel, payload)

    async def finish(text: str) -> None:
        if text:
            await send(channel + 1, text.encode())

    return _Connection(port, deliver, finish)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65536


def parse_ports(values: list[str]) -> list[int] | None:
    """The `ports` of a query (`80,81`, also repeated); None when one is no port."""
    texts = [text.strip() for value in values for text in value.split(",") if text.strip()]
    return [int(text) for text in texts] if len(texts) <= 127 and all(map(_is_port, texts)) else None
