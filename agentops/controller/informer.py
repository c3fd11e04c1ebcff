"""A collection kept in memory, and whoever wants to hear of its changes (client-go `shared_informer.go`).

### Expected flow
`run` lists, stores, tells the handlers of every object (`initial=True`), then follows the watch.
Handlers are called in the same task, after the store shows the change.

### Guarantees
A handler sees every object once as created, then each change in order, and the deletion, also of
objects that vanished while the watch was down (`final_state_unknown`). Created or updated is decided
by what the store held, not by what the server called it. Another uid under the same name is a
deletion and a creation. A relist tells of nothing that did not change. A handler added late starts
with one creation per stored object, without gap or double.

### Assumptions
Handlers are quick and synchronous: they put keys into queues. They may add and remove handlers.

### Caveats
States between two changes can be skipped. What a handler hears is not newer than what the server
has: it is a hint to go and look.

### Errors
An exception in a handler is logged; the others, and the informer, go on.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
from attrs import define, frozen

from agentops.controller.consistency import WriteFence
from agentops.controller.errors import ResourceNotCached
from agentops.controller.reflector import Reflector, ReflectorStatistics
from agentops.controller.store import Entry, Key, Replacement, Store, version_number
from agentops.controller.streaming import StreamingLists
from agentops.controller.target import Observer, Target, WatchOptions
from agentops.kube.client import ApiClient
from agentops.kube.watch import Meta, decode_meta, decode_object, encode
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock, SystemClock

log = get_logger("controller.informer")

T = TypeVar("T")

Transform = Callable[[dict[str, Any]], dict[str, Any]]
"""Called once per object before it is stored; must be idempotent, keep what the object is, and not raise."""

_RESYNC_S = 10 * 3600.0
_RESYNC_CHUNK = 1000
_SLICE = 32
_SLICE_S = 0.005
_AT_ONCE = 1000


@define(slots=True)
class ObjectEvent:
    """One change of one object. `type` is create, update, delete, or generic (from outside the cluster).

    `old` is None for creations, `new` for deletions. `initial` marks the objects that were there
    before the handler was; `final_state_unknown` a deletion that nobody saw happen.
    """

    type: str
    old: Entry | None
    new: Entry | None
    initial: bool = False
    final_state_unknown: bool = False
    _decoded: dict[str, Any] | None = None
    _decoded_old: dict[str, Any] | None = None

    @property
    def entry(self) -> Entry:
        """The newest state known."""
        entry = self.new if self.new is not None else self.old
        assert entry is not None
        return entry

    @property
    def object(self) -> dict[str, Any]:
        """The newest state, decoded once per event: shared by its handlers, so do not change it."""
        if self._decoded is None:
            self._decoded = self.entry.object()
        return self._decoded

    @property
    def old_object(self) -> dict[str, Any] | None:
        """The state before an update, decoded once per event."""
        if self._decoded_old is None and self.type == "update" and self.old is not None:
            self._decoded_old = self.old.object()
        return self._decoded_old

    @property
    def resync(self) -> bool:
        """An update that changed nothing: the periodic reminder."""
        if self.type != "update" or self.old is None:
            return False
        return self.old.meta.resource_version == self.entry.meta.resource_version


EventHandler = Callable[[ObjectEvent], None]


class Registration:
    """One handler's place at one informer."""

    __slots__ = ("_caught_up", "_informer", "_untold", "handler", "removed")

    def __init__(self, informer: Informer, handler: EventHandler, untold: Iterable[Key] = ()) -> None:
        self._informer = informer
        self.handler = handler
        self.removed = False
        self._untold = dict.fromkeys(untold)
        self._caught_up = anyio.Event()

    @property
    def has_synced(self) -> bool:
        """Whether the handler has heard of every object of the first list."""
        return self._informer.has_synced and not self._untold

    async def wait_for_sync(self) -> None:
        """Until `has_synced`. Raises ResourceNotCached when the informer is removed."""
        await self._informer.wait_for_sync()
        if self._untold:
            await self._caught_up.wait()
            await self._informer.wait_for_sync()

    def give_up(self) -> None:
        """What it has not heard of it never will."""
        self._untold.clear()
        self._caught_up.set()

    def wants(self, event: ObjectEvent) -> bool:
        """Whether to tell this event: what happens to an object that is still to be told of is told with it."""
        if self.removed:
            return False
        if not self._untold:
            return True
        key = event.entry.key
        if key not in self._untold:
            return True
        if event.type == "delete":
            self._told(key)
        return False

    def _told(self, key: Key) -> None:
        self._untold.pop(key, None)
        if not self._untold:
            self._caught_up.set()

    def remove(self) -> None:
        """No call starts after this returns."""
        self.removed = True
        self._informer._registrations = [r for r in self._informer._registrations if r is not self]


@frozen(slots=True)
class InformerStatistics:
    resource: str
    objects: int
    handlers: int
    synced: bool
    seen_version: int
    unseen_writes: int
    reflector: ReflectorStatistics


class Informer:
    """One watch of one collection. Inert until `run`."""

    def __init__(
        self,
        client: ApiClient,
        target: Target,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        transform: Transform | None = None,
        keep_managed_fields: bool = False,
        resync_s: float = _RESYNC_S,
        page_size: int = 500,
        observer: Observer | None = None,
        streaming: StreamingLists | None = None,
        gate: anyio.Semaphore | None = None,
        options: WatchOptions | None = None,
    ) -> None:
        self.target = target
        clock = clock or SystemClock()
        rng = rng or random.Random()
        self._observer = observer
        self.store = Store(target.kind.resource, on_failure=lambda: self.count_failure("index"))
        self.fence = WriteFence()
        self._clock = clock
        self._rng = rng
        self._transform = transform
        self._resync_s = resync_s
        self._options = options or WatchOptions()
        self._reflector = Reflector(
            client,
            target,
            _Sink(self),
            clock=clock,
            rng=rng,
            page_size=page_size,
            observer=observer,
            streaming=streaming,
            gate=gate,
            options=self._options,
        )
        self.keep_managed_fields = keep_managed_fields
        self._registrations: list[Registration] = []
        self._told: list[Registration] | None = None  # who hears of a list that is being told, else None
        self._telling = anyio.Lock(fast_acquire=True)
        self._tasks: anyio.abc.TaskGroup | None = None
        self._synced = anyio.Event()
        self._has_synced = False
        self._seen_version = -1
        self.closed = False
        """Whether nobody keeps the store current any more, and reads of it raise."""

    @property
    def keep_managed_fields(self) -> bool:
        """Whether `metadata.managedFields` is stored; setting it counts for what arrives from then on."""
        return self._reflector.keep_managed_fields

    @keep_managed_fields.setter
    def keep_managed_fields(self, keep: bool) -> None:
        self._reflector.keep_managed_fields = keep

    @property
    def has_synced(self) -> bool:
        """Whether the first list is stored and the handlers have heard of it. Never becomes false again."""
        return self._has_synced

    @property
    def seen_version(self) -> int:
        """The store shows everything up to this resource version; -1 before the first list."""
        return self._seen_version

    @property
    def last_error(self) -> str:
        """Why the store is not current, empty when it is."""
        return self._reflector.last_error

    @property
    def kind_is_gone(self) -> bool:
        """Whether the server does not know the kind now; the store keeps what it had."""
        return self._reflector.kind_is_gone

    def stale_s(self) -> float:
        """Seconds since the store stopped being kept current; 0 when it is."""
        return self._reflector.failing_s()

    def last_contact_s(self) -> float | None:
        """Seconds since the server was last heard; None before the first time."""
        return self._reflector.last_contact_s()

    async def wait_for_sync(self) -> None:
        """Until `has_synced`; bound it with a scope of your own. Raises ResourceNotCached when it is removed."""
        await self._synced.wait()
        if self.closed:
            raise ResourceNotCached(f"{self.target.kind.resource} is no longer cached: its informer was removed")

    def add_handler(self, handler: EventHandler) -> Registration:
        """Tell `handler` of the objects there are, and of every change from here on.

        Of up to a thousand objects at once, of more in slices by a task of the informer.
        """
        in_slices = self._tasks is not None and len(self.store) > _AT_ONCE
        registration = Registration(self, handler, self.store.keys() if in_slices else ())
        if self._tasks is not None and in_slices:
            self._tasks.start_soon(self._catch_up, registration)
        else:
            for entry in list(self.store.list()):
                self._call(registration, ObjectEvent("create", None, entry, initial=True))
        self._registrations = [*self._registrations, registration]
        return registration

    async def _catch_up(self, registration: Registration) -> None:
        async for key in _in_slices(list(registration._untold), self._clock):
            async with self._telling:
                entry = self.store.get(key)
                if entry is not None and key in registration._untold:
                    registration._told(key)
                    self._call(registration, ObjectEvent("create", None, entry, initial=True))

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """List and watch until cancelled."""
        task_status.started()
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            if self._resync_s > 0:
                tasks.start_soon(self._resync)
            try:
                await self._reflector.run()
            finally:
                self._tasks = None

    def close(self) -> None:
        """Free the store and wake whoever waits for it. Handlers are told nothing."""
        self.closed = True
        for registration in self._registrations:
            registration.give_up()
        self._registrations = []
        self.store.replace(())
        self._synced.set()
        self.fence.reached(self._seen_version)

    def count_failure(self, callback: str) -> None:
        """Somebody's function raised: a handler, transform, index, predicate or map."""
        if self._observer is not None:
            self._observer.failed(callback)

    def statistics(self) -> InformerStatistics:
        return InformerStatistics(
            resource=self.target.kind.resource,
            objects=len(self.store),
            handlers=len(self._registrations),
            synced=self._has_synced,
            seen_version=self._seen_version,
            unseen_writes=len(self.fence),
            reflector=self._reflector.statistics(),
        )

    # what the reflector brings

    async def _replaced(self, entries: list[Entry], resource_version: str) -> None:
        """Store in one step, tell in many: others get to run. Handlers that come meanwhile find all of it stored."""
        replacement = Replacement(self.store)
        async for entry in _in_slices(entries, self._clock):
            replacement.add(entry)
        async with self._telling:
            if self.closed:
                return
            self._told = self._registrations
            old = replacement.commit()
            self._saw(version_number(resource_version), replaced=True)
            self.fence.listed(self._holds)
            initial = not self._has_synced
            async for key, gone in _in_slices(old.items(), self._clock):
                if key not in self.store:
                    self._tell(ObjectEvent("delete", gone, None, final_state_unknown=True))
            async for entry in _in_slices(entries, self._clock):
                self._tell_change(old.get(entry.key), entry, initial, relisted=True)
            self._told = None
        if initial:
            self._has_synced = True
            self._synced.set()

    def _holds(self, key: Key, uid: str) -> bool:
        entry = self.store.get(key)
        return entry is not None and entry.meta.uid == uid

    def _changed(self, type: str, meta: Meta, raw: bytes) -> None:
        entry = self._entry(meta, raw)
        if type == "DELETED":
            old = self.store.remove(entry.key)
            self._saw(entry.rv)
            self.fence.removed(entry.key, meta.uid)
            if old is not None:
                # the event's object is the last state, newer than the stored one
                self._tell(ObjectEvent("delete", entry if old.meta.uid == meta.uid else old, None))
            return
        old = self.store.put(entry)
        self._saw(entry.rv)
        self._tell_change(old, entry, initial=False)

    def _tell_change(self, old: Entry | None, entry: Entry, initial: bool, *, relisted: bool = False) -> None:
        if old is None:
            self._tell(ObjectEvent("create", None, entry, initial=initial))
        elif old.meta.uid != entry.meta.uid and self._options.split_recreated:
            self.fence.removed(entry.key, old.meta.uid)
            self._tell(ObjectEvent("delete", old, None))
            self._tell(ObjectEvent("create", None, entry))
        elif old.meta.resource_version != entry.meta.resource_version or (relisted and self._options.tell_unchanged):
            self._tell(ObjectEvent("update", old, entry))

    def _saw(self, version: int, *, replaced: bool = False) -> None:
        if replaced or version > self._seen_version:
            self._seen_version = version
        self.fence.reached(version)

    def _entry(self, meta: Meta, raw: bytes) -> Entry:
        kind = self.target.kind
        try:
            if self.target.metadata_only and b'"PartialObjectMetadata"' not in raw:
                raw = encode({"metadata": decode_object(raw)["metadata"]})  # the server ignored the Accept header
            if self._transform is not None:
                changed = encode(self._transform(decode_object(raw)))
                meta, raw = _still(meta, decode_meta(changed)), changed
        except Exception:
            self.count_failure("transform")
            log.exception("transform.failed", resource=kind.resource, namespace=meta.namespace, name=meta.name)
        return Entry(kind, meta, raw, version_number(meta.resource_version))

    # telling

    def _tell(self, event: ObjectEvent) -> None:
        for registration in self._registrations if self._told is None else self._told:
            self._call(registration, event)

    def _call(self, registration: Registration, event: ObjectEvent) -> None:
        if not registration.wants(event):
            return
        try:
            registration.handler(event)
        except Exception:
            self.count_failure("handler")
            key: Key = event.entry.key
            log.exception(
                "handler.failed", resource=self.target.kind.resource, type=event.type, namespace=key[0], name=key[1]
            )

    async def _resync(self) -> None:
        await self._synced.wait()
        while True:
            await self._clock.sleep(max(1.0, self._resync_s * self._rng.uniform(0.9, 1.1)))
            for number, key in enumerate(self.store.keys()):
                async with self._telling:
                    entry = self.store.get(key)
                    if entry is not None:
                        self._tell(ObjectEvent("update", entry, entry))
                if number % _RESYNC_CHUNK == _RESYNC_CHUNK - 1:
                    await anyio.lowlevel.checkpoint()


def _still(before: Meta, after: Meta) -> Meta:
    """`after`, if it is the same object in the same state. Raises ValueError."""
    for name in ("namespace", "name", "uid", "resource_version"):
        if getattr(before, name) != getattr(after, name):
            raise ValueError(f"the transform changed metadata.{name}: return the object that it was given")
    return after


async def _in_slices(items: Iterable[T], clock: Clock) -> AsyncIterator[T]:
    """`items`, with the event loop given away every five milliseconds."""
    began = clock.boottime()
    for number, item in enumerate(items):
        yield item
        if number % _SLICE == _SLICE - 1 and clock.boottime() - began > _SLICE_S:
            await anyio.lowlevel.checkpoint()
            began = clock.boottime()


class _Sink:
    """The informer as the reflector sees it; keeps these calls off the public class."""

    __slots__ = ("_informer",)

    def __init__(self, informer: Informer) -> None:
        self._informer = informer

    def prepare(self, meta: Meta, raw: bytes) -> Entry:
        """What a list repeats is kept as it is, so that listing again takes memory for what has changed only."""
        entry = self._informer._entry(meta, raw)
        known = self._informer.store.get(entry.key)
        return known if known is not None and known.raw == entry.raw else entry

    async def replaced(self, items: list[Entry], resource_version: str) -> None:
        await self._informer._replaced(items, resource_version)

    def changed(self, type: str, meta: Meta, raw: bytes) -> None:
        self._informer._changed(type, meta, raw)

    def advanced(self, resource_version: str) -> None:
        self._informer._saw(version_number(resource_version))
