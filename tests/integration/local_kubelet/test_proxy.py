"""The Service proxy on real sockets."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from agentops.local.kubelet.proxy import Frontend, ServiceProxy
from agentops.values.clock import SystemClock

pytestmark = pytest.mark.anyio

CLUSTER_IP = "127.96.77.1"


def free_port() -> int:
    with socket.create_server((CLUSTER_IP, 0)) as sock:
        return int(sock.getsockname()[1])


@asynccontextmanager
async def echo(name: str) -> AsyncIterator[tuple[str, int]]:
    """Answers what it was sent, behind its name, when the client has finished sending."""

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            data = b""
            try:
                while True:
                    data += await stream.receive()
            except anyio.EndOfStream:
                await stream.send(name.encode() + b":" + data)

    listener = await anyio.create_tcp_listener(local_host="127.64.77.1", local_port=0)
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, handle)
        yield listener.extra(anyio.abc.SocketAttribute.local_address)
        tg.cancel_scope.cancel()


@asynccontextmanager
async def running() -> AsyncIterator[ServiceProxy]:
    proxy = ServiceProxy(SystemClock(), lambda service, message: None)
    async with anyio.create_task_group() as tg:
        tg.start_soon(proxy.run)
        yield proxy
        tg.cancel_scope.cancel()


async def ask(port: int, text: bytes = b"hi") -> bytes:
    async with await anyio.connect_tcp(CLUSTER_IP, port) as stream:
        await stream.send(text)
        await stream.send_eof()
        found = b""
        with anyio.fail_after(10):
            while True:
                try:
                    found += await stream.receive()
                except anyio.EndOfStream:
                    return found


async def eventually(port: int) -> bytes:
    with anyio.fail_after(10):
        while True:
            try:
                return await ask(port)
            except OSError:
                await anyio.sleep(0.02)


async def test_connections_take_turns_between_the_endpoints() -> None:
    port = free_port()
    async with echo("a") as a, echo("b") as b, running() as proxy:
        proxy.update("ns/s", [Frontend("ns/s", (CLUSTER_IP, port), (a[:2], b[:2]))])
        found = [await eventually(port) for _ in range(4)]
        assert sorted(found) == [b"a:hi", b"a:hi", b"b:hi", b"b:hi"]
        assert found[0] != found[1]


async def test_without_endpoints_a_connection_is_refused_and_comes_back_with_one() -> None:
    port = free_port()
    async with echo("a") as a, running() as proxy:
        proxy.update("ns/s", [Frontend("ns/s", (CLUSTER_IP, port), ())])
        await anyio.sleep(0.05)
        with pytest.raises(OSError):
            await ask(port)
        proxy.update("ns/s", [Frontend("ns/s", (CLUSTER_IP, port), (a[:2],))])
        assert await eventually(port) == b"a:hi"
        proxy.update("ns/s", [])
        with anyio.fail_after(10):
            while True:
                try:
                    await ask(port)
                except (OSError, anyio.BrokenResourceError):
                    break


async def test_a_dead_endpoint_is_passed_over() -> None:
    port = free_port()
    async with echo("a") as a, running() as proxy:
        dead = ("127.64.77.2", 9)
        proxy.update("ns/s", [Frontend("ns/s", (CLUSTER_IP, port), (dead, a[:2]))])
        assert [await eventually(port) for _ in range(3)] == [b"a:hi"] * 3


async def test_an_open_connection_outlives_the_service() -> None:
    port = free_port()
    async with echo("a") as a, running() as proxy:
        proxy.update("ns/s", [Frontend("ns/s", (CLUSTER_IP, port), (a[:2],))])
        await eventually(port)
        async with await anyio.connect_tcp(CLUSTER_IP, port) as stream:
            await stream.send(b"x" * 1_000_000)
            proxy.update("ns/s", [])
            await anyio.sleep(0.1)
            await stream.send(b"y")
            await stream.send_eof()
            size = 0
            with anyio.fail_after(10):
                while True:
                    try:
                        size += len(await stream.receive())
                    except anyio.EndOfStream:
                        break
            assert size == len(b"a:") + 1_000_001


async def test_an_address_that_is_taken_is_reported_and_tried_again() -> None:
    errors: list[str] = []
    with socket.create_server((CLUSTER_IP, 0)) as taken:
        port = taken.getsockname()[1]
        proxy = ServiceProxy(SystemClock(), lambda service, message: errors.append(message))
        async with anyio.create_task_group() as tg:
            tg.start_soon(proxy.run)
            proxy.update("ns/s", [Frontend("ns/s", (CLUSTER_IP, port), (("127.64.77.1", 1),))])
            with anyio.fail_after(5):
                while not errors:
                    await anyio.sleep(0.01)
            tg.cancel_scope.cancel()
    assert errors == [f"cannot listen on {CLUSTER_IP}:{port}: taken by another process"]
