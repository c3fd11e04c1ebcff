"""Where a controller's events come from: a watched kind, or anything else in the process."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

import anyio
from attrs import evolve

from agentops.controller.cache import SharedInformer, SharedRegistration
from agentops.controller.handlers import AsyncHandler, Handler, is_async
from agentops.controller.informer import ObjectEvent
from agentops.controller.predicates import Predicate
from agentops.controller.reconcile import Request
from agentops.controller.store import Entry, Key, version_number
from agentops.kube.watch import decode_meta, encode
from agentops.telemetry.logging import get_logger
from agentops.values.kinds import Kind

log = get_logger("controller.source")

LOW_PRIORITY = -100
"""Of objects that were there before the controller was, and of resyncs."""

Enqueue = Callable[[Request, int], None]
"""Puts (request, priority) into the controller's queue."""


class Source(Protocol):
    """Feeds a controller's queue. `start` is synchronous, `run` lasts as long as the controller."""

    name: str

    def start(self, enqueue: Enqueue) -> None: ...
    async def run(self) -> None: ...
    async def wait_for_sync(self) -> None: ...
    def stop(self) -> None: ...
    def why_not_synced(self) -> str: ...


class _Filtered:
    """Predicates and handler, shared by the sources."""

    def __init__(self, handler: Handler | AsyncHandler, predicates: Sequence[Predicate], low: int) -> None:
        self._handler = handler
        self._predicates = tuple(predicates)
        self._low = low
        self._async = is_async(handler)
        self._enqueue: Enqueue | None = None
        self._waiting: dict[Key, ObjectEvent] = {}
        self._arrived = anyio.Event()

    def _on_event(self, event: ObjectEvent) -> None:
        if not self._passes(event):
            return
        if self._async:
            self._defer(event)
            return
        self._put(cast(Handler, self._handler).requests(event), event)

    def _passes(self, event: ObjectEvent) -> bool:
        for predicate in self._predicates:
            try:
                if not predicate(event):
                    return False
            except Exception:
                log.exception("predicate.failed", namespace=event.entry.key[0], name=event.entry.key[1])
        return True

    def _put(self, requests: Iterable[Request], event: ObjectEvent) -> None:
        assert self._enqueue is not None
        priority = self._low if event.initial or event.resync else 0
        for request in requests:
            self._enqueue(request, priority)

    def _defer(self, event: ObjectEvent) -> None:
        """Joined per object, so the informer never waits and memory is bounded by the number of objects."""
        key = event.entry.key
        waiting = self._waiting.pop(key, None)
        if waiting is not None and event.old is None:
            event = evolve(event, type="update", old=waiting.entry, initial=False)
        elif waiting is not None:
            event = evolve(event, old=waiting.old or event.old, initial=False)
        self._waiting[key] = event
        self._arrived.set()

    async def run(self) -> None:
        if not self._async:
            return
        while True:
            while self._waiting:
                key = next(iter(self._waiting))
                event = self._waiting.pop(key)
                try:
                    requests = await cast(AsyncHandler, self._handler).requests_async(event)
                except Exception:
                    log.exception("map.failed", namespace=key[0], name=key[1])
                else:
                    self._put(requests, event)
            self._arrived = anyio.Event()
            if not self._waiting:
                await self._arrived.wait()


class KindSource(_Filtered):
    """The changes of a watched kind."""

    def __init__(
        self,
        informer: SharedInformer,
        handler: Handler | AsyncHandler,
        predicates: Sequence[Predicate] = (),
        *,
        initial_priority: int = LOW_PRIORITY,
    ) -> None:
        super().__init__(handler, predicates, initial_priority)
        self.name = informer.kind.resource
        self._informer = informer
        self._registration: SharedRegistration | None = None

    def start(self, enqueue: Enqueue) -> None:
        self._enqueue = enqueue
        self._registration = self._informer.add_handler(self._on_event)

    async def wait_for_sync(self) -> None:
        await self._informer.wait_for_sync()
        if self._registration is not None:
            await self._registration.wait_for_sync()

    def stop(self) -> None:
        if self._registration is not None:
            self._registration.remove()
            self._registration = None

    def why_not_synced(self) -> str:
        return self._informer.last_error or "the first list has not been answered"


class FuncSource:
    """Anything else: `function(enqueue)` runs as long as the controller and calls `enqueue(request, priority)`."""

    def __init__(self, function: Callable[[Enqueue], Awaitable[None]], name: str = "") -> None:
        self.name = name or f"func:{getattr(function, '__name__', type(function).__name__)}"
        self._function = function
        self._enqueue: Enqueue | None = None

    def start(self, enqueue: Enqueue) -> None:
        self._enqueue = enqueue

    async def run(self) -> None:
        assert self._enqueue is not None
        await self._function(self._enqueue)

    async def wait_for_sync(self) -> None:
        """There is nothing to wait for."""

    def stop(self) -> None:
        """`run` is cancelled by the controller."""

    def why_not_synced(self) -> str:
        return ""


class ChannelSource(_Filtered):
    """Events from elsewhere in the process: `send(obj)` is a generic event for that object."""

    def __init__(
        self, kind: Kind, handler: Handler | AsyncHandler, predicates: Sequence[Predicate] = (), *, buffer: int = 1024
    ) -> None:
        super().__init__(handler, predicates, LOW_PRIORITY)
        self.name = f"channel:{kind.resource}"
        self._kind = kind
        self._early: deque[ObjectEvent] = deque(maxlen=buffer)
        self._closed = False

    def send(self, obj: Mapping[str, Any]) -> None:
        """From the controller's own event loop. Before the controller runs, the last `buffer` are kept."""
        if self._closed:
            return
        raw = encode(obj)
        meta = decode_meta(raw)
        event = ObjectEvent("generic", None, Entry(self._kind, meta, raw, version_number(meta.resource_version)))
        if self._enqueue is None:
            self._early.append(event)
        else:
            self._on_event(event)

    def close(self) -> None:
        """There will be no more events; later ones are ignored."""
        self._closed = True

    def start(self, enqueue: Enqueue) -> None:
        self._enqueue = enqueue
        while self._early:
            self._on_event(self._early.popleft())

    async def wait_for_sync(self) -> None:
        """There is nothing to wait for."""

    def stop(self) -> None:
        self._enqueue = None

    def why_not_synced(self) -> str:
        return ""
