"""A network between a client and a server that the test can cut: every byte goes through here.

Cutting resets open connections and refuses new ones, as a machine does whose process was killed; the
server behind it lives on and can be written to by others.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_RESET = struct.pack("ii", 1, 0)


class Link:
    """Listens on `port` of loopback and forwards to `target`, another port there."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.connections = 0
        """How many were ever made."""
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def up(self) -> None:
        """Connect both sides; on the port it had before."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self.port))
        self._server = await asyncio.start_server(self._carry, sock=sock)
        self.port = sock.getsockname()[1]

    async def down(self) -> None:
        """Reset what is open and refuse what comes."""
        if self._server is not None:
            self._server.close()
            self._server = None
        carried = list(self._open)
        for task in carried:
            task.cancel()
        await asyncio.gather(*carried, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        there: asyncio.StreamWriter | None = None
        try:
            answers, there = await asyncio.open_connection("127.0.0.1", self.target)
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, there))
                both.create_task(_pump(answers, writer))
        except* OSError:
            pass
        except* asyncio.CancelledError:
            pass  # cut: nobody waits for this task's result
        finally:
            self._open.discard(task)
            for end in (writer, there):
                if end is not None:
                    _reset(end)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(64 * 1024):
        writer.write(data)
        await writer.drain()
    writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@asynccontextmanager
async def link(target: int) -> AsyncIterator[Link]:
    """A link that is up, and gone at the end."""
    carried = Link(target)
    await carried.up()
    try:
        yield carried
    finally:
        await carried.down()
