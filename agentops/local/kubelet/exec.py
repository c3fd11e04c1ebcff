"""Streams into a container: `exec` runs something beside its program, `attach` joins the program itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from agentops.local.kubelet.process import Process, Spawner
from agentops.local.kubelet.starting import Command

_CHANNELS = {"stdout": 1, "stderr": 2}
_MAX_PROBE_OUTPUT = 10 * 1024

Chunk = tuple[int, bytes]


class ExecSession:
    """One `kubectl exec`; satisfies the API server's ExecProcess. Its tasks live in the kubelet's group."""

    def __init__(self, process: Process, tasks: TaskGroup) -> None:
        self._process = process
        self._send, self._receive = anyio.create_memory_object_stream[Chunk](16)
        tasks.start_soon(self._pump)

    async def _pump(self) -> None:
        async def sink(name: str, data: bytes) -> None:
            try:
                await self._send.send((_CHANNELS[name], data))
            except anyio.BrokenResourceError:
                # Nobody reads any more; the program must not block on a full pipe.
                return

        try:
            await self._process.pump(sink)
        finally:
            self._send.close()
            self._process.close()

    async def output(self) -> AsyncIterator[Chunk]:
        with self._receive:
            async for chunk in self._receive:
                yield chunk

    async def write_stdin(self, data: bytes) -> None:
        await self._process.write_stdin(data)

    async def close_stdin(self) -> None:
        await self._process.close_stdin()

    async def resize(self, width: int, height: int) -> None:
        self._process.resize(width, height)

    async def wait(self) -> int:
        return await self._process.wait()

    async def kill(self) -> None:
        self._receive.close()
        self._process.kill_tree()


class AttachSession:
    """One `kubectl attach`: output from now on, and input if the container has any. Ending it ends nothing else."""

    def __init__(
        self,
        process: Process,
        receive: MemoryObjectReceiveStream[Chunk],
        on_close: Callable[[], None],
        *,
        stdin: bool,
        stdin_once: bool,
    ) -> None:
        self._process = process
        self._receive = receive
        self._on_close = on_close
        self._stdin = stdin
        self._stdin_once = stdin_once

    async def output(self) -> AsyncIterator[Chunk]:
        with self._receive:
            async for chunk in self._receive:
                yield chunk

    async def write_stdin(self, data: bytes) -> None:
        if self._stdin:
            await self._process.write_stdin(data)

    async def close_stdin(self) -> None:
        if self._stdin and self._stdin_once:
            await self._process.close_stdin()

    async def resize(self, width: int, height: int) -> None:
        self._process.resize(width, height)

    async def wait(self) -> int:
        return await self._process.wait()

    async def kill(self) -> None:
        self._receive.close()
        self._on_close()


class Broadcast:
    """Live output of a container, to whoever is attached. A slow reader loses its session, never stalls the program."""

    def __init__(self) -> None:
        self._sinks: set[MemoryObjectSendStream[Chunk]] = set()

    def send(self, name: str, data: bytes) -> None:
        for sink in list(self._sinks):
            try:
                sink.send_nowait((_CHANNELS[name], data))
            except (anyio.WouldBlock, anyio.BrokenResourceError):
                self._drop(sink)

    def subscribe(self) -> tuple[MemoryObjectReceiveStream[Chunk], Callable[[], None]]:
        send, receive = anyio.create_memory_object_stream[Chunk](1024)
        self._sinks.add(send)
        return receive, lambda: self._drop(send)

    def close(self) -> None:
        for sink in list(self._sinks):
            self._drop(sink)

    def _drop(self, sink: MemoryObjectSendStream[Chunk]) -> None:
        self._sinks.discard(sink)
        sink.close()


async def run_command(spawner: Spawner, command: Command, root: str) -> tuple[int, str]:
    """Exit code and (shortened) output of a command that is not expected to run long. Cancelling ends it."""
    process = await spawner.spawn(command, root=root)
    output = bytearray()

    async def sink(_: str, data: bytes) -> None:
        output.extend(data[: _MAX_PROBE_OUTPUT - len(output)])

    try:
        await process.pump(sink)
    finally:
        process.kill_tree()
        process.close()
    return await process.wait(), bytes(output).decode("utf-8", "replace")
