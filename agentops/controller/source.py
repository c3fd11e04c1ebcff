"""Where a controller's events come from: a watched kind, or anything else in the process."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

import anyio
import anyio.lowlevel

from agentops.controller.cache import SharedInformer, SharedRegistration
from agentops.controller.handlers import AsyncHandler, Handler, Urgency, is_async
from agentops.controller.informer import ObjectEvent
from agentops.controller.predicates import Predicate
from agentops.controller.reconcile import Request
from agentops.controller.store import Entry, Key, version_number
from agentops.kube.watch import decode_meta, encode
from agentops.telemetry.logging import get_logger
from agentops.values.kinds import Kind

log = get_logger("controller.source")

_IN_ORDER = 1000
_RETRY_MAX_S = 60.0

LOW_PRIORITY = -100
"""Of objects that were there before the controller was, and of resyncs."""


class Enqueue(Protocol):
    """Puts a key into the controller's queue. `event` is why, for those who ask."""

    def __call__(self, request: Request, priority: int, event: ObjectEvent | None = None, /) -> None: ...


class Source(Protocol):
    """Feeds a controller's queue. `start` is synchronous, `run` lasts as long as the controller."""

    name: str

    def start(self, enqueue: Enqueue) -> None: ...
    async def run(self) -> None: ...
    async def wait_for_sync(self) -> None: ...
    def stop(self) -> None: ...
    def why_not_synced(self) -> str: ...


class _Filtered:
    """Predicates and handler, shared by the sources.

    Asynchronous handlers run in the source's own task, and so does what has to be mapped again because it
    raised: no key is lost for an API server that did not answer a mapping. Events wait there in order; beyond a
    thousand they are joined per object, of which the first and the last state are then mapped.
    """

    def __init__(self, handler: Handler | AsyncHandler, predicates: Sequence[Predicate], low: int) -> None:
        self._handler = handler
        self._predicates = tuple(predicates)
        self._low = low
        self._async = is_async(handler)
        self._urgency: Urgency | None = getattr(handler, "urgency", None)
        self._enqueue: Enqueue | None = None
        self._waiting: deque[tuple[ObjectEvent, int]] = deque()  # with how often each has failed
        self._joined: dict[Key, ObjectEvent] = {}
        self._again: dict[Key, tuple[float, ObjectEvent, int]] = {}
        self._again_at = float("inf")
        self._arrived = anyio.Event()

    def _on_event(self, event: ObjectEvent) -> None:
        if not self._passes(event):
            return
        if self._async:
            self._defer(event)
            return
        try:
            requests = cast(Handler, self._handler).requests(event)
        except Exception as error:
            self._retry(event, 0, error)
        else:
            self._put(requests, event)

    def _passes(self, event: ObjectEvent) -> bool:
        for predicate in self._predicates:
            try:
                if not predicate(event):
                    return False
            except Exception:
                self._count_failure("predicate")
                log.exception("predicate.failed", namespace=event.entry.key[0], name=event.entry.key[1])
        return True

    def _put(self, requests: Iterable[Request], event: ObjectEvent) -> None:
        if self._enqueue is None:
            return  # stopped meanwhile
        priority = (self._low if event.initial or event.resync else 0) + self._how_urgent(event)
        for request in requests:
            self._enqueue(request, priority, event)

    def _how_urgent(self, event: ObjectEvent) -> int:
        if self._urgency is None:
            return 0
        try:
            return self._urgency(event)
        except Exception:
            self._count_failure("urgency")
            log.exception("urgency.failed", namespace=event.entry.key[0], name=event.entry.key[1])
            return 0

    def _count_failure(self, callback: str) -> None:
        """For metrics, where there are any."""

    # in the source's task

    def _defer(self, event: ObjectEvent) -> None:
        if len(self._waiting) < _IN_ORDER and not self._joined:
            self._waiting.append((event, 0))
        else:
            key = event.entry.key
            self._joined[key] = _join(self._joined.pop(key, None), event)
        self._arrived.set()

    def _retry(self, event: ObjectEvent, failed: int, error: Exception) -> None:
        self._count_failure("map")
        key = event.entry.key
        delay_s = min(2.0**failed, _RETRY_MAX_S)
        write = log.warning if failed else log.exception
        text = f"{type(error).__name__}: {error}"
        write("map.failed", namespace=key[0], name=key[1], error=text, retry_s=delay_s)
        known = self._again.pop(key, None)
        at = anyio.current_time() + delay_s
        self._again[key] = at, _join(known[1] if known else None, event), failed + 1
        self._again_at = min(self._again_at, at)
        self._arrived.set()

    async def run(self) -> None:
        """Map what waits, until cancelled."""
        while True:
            if anyio.current_time() >= self._again_at:
                self._take_due()
            if not self._waiting and self._joined:
                key = next(iter(self._joined))
                self._waiting.append((self._joined.pop(key), 0))
            if self._waiting:
                await self._map(*self._waiting.popleft())
                continue
            self._arrived = anyio.Event()
            with anyio.CancelScope(deadline=self._again_at):
                await self._arrived.wait()

    def _take_due(self) -> None:
        now = anyio.current_time()
        for key in [key for key, (at, _, _) in self._again.items() if at <= now]:
            _, event, failed = self._again.pop(key)
            self._waiting.append((event, failed))
        self._again_at = min((at for at, _, _ in self._again.values()), default=float("inf"))

    async def _map(self, event: ObjectEvent, failed: int) -> None:
        try:
            if self._async:
                requests = await cast(AsyncHandler, self._handler).requests_async(event)
            else:
                requests = cast(Handler, self._handler).requests(event)
                await anyio.lowlevel.checkpoint()
        except Exception as error:
            self._retry(event, failed, error)
        else:
            self._put(requests, event)


def _join(first: ObjectEvent | None, then: ObjectEvent) -> ObjectEvent:
    """One event of both, from the first state to the last; also of a deletion, whose last state is mapped too."""
    if first is None:
        return then
    return ObjectEvent("update", first.old or first.new, then.entry)


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

    def _count_failure(self, callback: str) -> None:
        self._informer.count_failure(callback)


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
