"""Services: a TCP proxy per address and port, as kube-proxy's userspace mode was.

`backends` decides purely which endpoints stand behind a port. `ServiceProxy` listens only while there is one,
so that a client of an empty Service is refused as on a cluster. Open connections outlive changes.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import anyio
from anyio.abc import Listener, SocketAttribute, SocketStream, TaskGroup
from attrs import define, field, frozen

from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock

log = get_logger("kubelet.proxy")

Object = Mapping[str, Any]
Address = tuple[str, int]

_CONNECT_S = 5.0
_BIND_RETRY_S = 5.0
_CHUNK = 65536


@frozen(slots=True)
class Frontend:
    """A Service's address and port, and whom it leads to."""

    service: str
    """`namespace/name`, for logs and events."""
    address: Address
    backends: tuple[Address, ...]


def frontends(service: Object, slices: Iterable[Object], endpoints: Object | None = None) -> list[Frontend]:
    """One per TCP port of a Service with an address. `endpoints` counts where there is no EndpointSlice."""
    spec, meta = service.get("spec") or {}, service["metadata"]
    ip = spec.get("clusterIP")
    if not ip or ip == "None":
        return []
    slices = list(slices)
    found = []
    for port in spec.get("ports") or ():
        if (port.get("protocol") or "TCP") != "TCP":
            continue
        name = port.get("name") or ""
        targets = _from_slices(slices, name) if slices else _from_endpoints(endpoints or {}, name)
        found.append(Frontend(f"{meta.get('namespace', '')}/{meta['name']}", (ip, int(port["port"])), tuple(targets)))
    return found


def _from_slices(slices: Iterable[Object], name: str) -> list[Address]:
    found: set[Address] = set()
    for piece in slices:
        ports = [p["port"] for p in piece.get("ports") or () if (p.get("name") or "") == name and p.get("port")]
        for endpoint in piece.get("endpoints") or ():
            # Absent means ready, so says the API.
            if (endpoint.get("conditions") or {}).get("ready") is not False:
                found |= {(address, int(port)) for address in endpoint.get("addresses") or () for port in ports}
    return sorted(found)


def _from_endpoints(endpoints: Object, name: str) -> list[Address]:
    found: set[Address] = set()
    for subset in endpoints.get("subsets") or ():
        ports = [p["port"] for p in subset.get("ports") or () if (p.get("name") or "") == name]
        found |= {(address["ip"], int(port)) for address in subset.get("addresses") or () for port in ports}
    return sorted(found)


@define(slots=True, eq=False)
class _Listening:
    frontend: Frontend
    scope: anyio.CancelScope = field(factory=anyio.CancelScope)
    turn: int = 0

    def order(self) -> list[Address]:
        """All backends, beginning with the one whose turn it is."""
        backends = self.frontend.backends
        start, self.turn = self.turn % len(backends), self.turn + 1
        return [*backends[start:], *backends[:start]]


class ServiceProxy:
    """Listens for Services. Inert until `run`; `update` may be called at any time.

    `on_error(service, message)` hears of addresses that cannot be listened on; they are tried again.
    """

    def __init__(self, clock: Clock, on_error: Callable[[str, str], None]) -> None:
        self._clock = clock
        self._on_error = on_error
        self._wanted: dict[str, list[Frontend]] = {}
        self._listening: dict[Address, _Listening] = {}
        self._changed = anyio.Event()

    def update(self, service: str, wanted: Iterable[Frontend]) -> None:
        """What a Service looks like now; nothing when it is gone."""
        found = [f for f in wanted if f.backends]
        if found:
            self._wanted[service] = found
        else:
            self._wanted.pop(service, None)
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled. Connections end with it."""
        async with anyio.create_task_group() as tg:
            while True:
                self._changed = anyio.Event()
                failed = await self._apply(tg)
                if failed:
                    with anyio.move_on_after(_BIND_RETRY_S):
                        await self._changed.wait()
                else:
                    await self._changed.wait()

    async def _apply(self, tg: TaskGroup) -> bool:
        wanted = {f.address: f for found in self._wanted.values() for f in found}
        for address, listening in list(self._listening.items()):
            if address not in wanted:
                listening.scope.cancel()
                del self._listening[address]
        failed = False
        for address, frontend in wanted.items():
            if address in self._listening:
                self._listening[address].frontend = frontend
                continue
            try:
                listener = await anyio.create_tcp_listener(local_host=address[0], local_port=address[1])
            except OSError as error:
                failed = True
                reason = {errno.EACCES: "not permitted", errno.EADDRINUSE: "taken by another process"}
                text = reason.get(error.errno or 0, error.strerror or str(error))
                self._on_error(frontend.service, f"cannot listen on {address[0]}:{address[1]}: {text}")
                continue
            self._listening[address] = listening = _Listening(frontend)
            tg.start_soon(self._serve, listener, listening, tg)
        return failed

    async def _serve(self, listener: Listener[SocketStream], listening: _Listening, tg: TaskGroup) -> None:
        async def handle(client: SocketStream) -> None:
            async with client:
                await self._forward(client, listening)

        try:
            with listening.scope:
                async with listener:
                    await listener.serve(handle, tg)
        except* OSError as errors:
            # Such as too many open files: tried again rather than taking the kubelet down.
            frontend = listening.frontend
            self._listening.pop(frontend.address, None)
            self._on_error(frontend.service, f"stopped listening on {frontend.address}: {errors.exceptions[0]}")
            await self._clock.sleep(_BIND_RETRY_S)
            self._changed.set()

    async def _forward(self, client: SocketStream, listening: _Listening) -> None:
        for host, port in listening.order():
            try:
                with anyio.fail_after(_CONNECT_S):
                    server = await anyio.connect_tcp(host, port)
            except (OSError, TimeoutError):
                continue
            async with server:
                await _splice(client, server)
            return
        log.warning("kubelet.proxy.no_answer", service=listening.frontend.service)
        _reset(client)


async def _splice(left: SocketStream, right: SocketStream) -> None:
    """Copy both ways; the end of one direction is passed on, the other goes on."""
    async with anyio.create_task_group() as tg:
        tg.start_soon(_copy, left, right, tg.cancel_scope)
        tg.start_soon(_copy, right, left, tg.cancel_scope)


async def _copy(source: SocketStream, sink: SocketStream, both: anyio.CancelScope) -> None:
    try:
        while True:
            await sink.send(await source.receive(_CHUNK))
    except anyio.EndOfStream:
        try:
            await sink.send_eof()
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            both.cancel()
    except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        both.cancel()


def _reset(client: SocketStream) -> None:
    """The client shall see a refused connection, not an empty answer."""
    with contextlib.suppress(OSError):
        linger = struct.pack("ii", 1, 0)
        client.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
