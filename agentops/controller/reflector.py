"""Keeps a copy of one collection current by list and watch (client-go `reflector.go`).

    start ──► LIST ── whole list stored ──► WATCH ◄─┐
               ▲                              │     │ ended cleanly: at once
               │                              ├─────┤ refused, 429, or broke and then unanswered: wait
               │                              │     │ broke or fell silent, once: at once
               │   410: at once, then waits   │     └──────────────────────
               ├──────────────────────────────┤
               │   anything else: wait        │
               └──────────────────────────────┘

One `step` is one list or one watch; between steps there is nothing but a wait, and one backoff
serves both. Where the server streams lists, LIST opens a watch that begins with the whole collection
(`sendInitialEvents`); at the bookmark that ends it the sink gets the list, and the same stream is the
WATCH. A stream that ends or falls silent before that bookmark is thrown away, and the next list is a
plain one.

### Expected flow
The first list takes any cached state (`resourceVersion=0`), later ones nothing older than what was
seen. A list that the server cannot serve at that version is repeated at once without one. A watch
goes on from the last version seen, bookmarks included.

### Guarantees
The sink gets whole lists and then every change after them, in order; a list that is not complete
never reaches it. The same version is never
watched again after a 410. A dead connection is noticed: 90 s after the last byte once a bookmark was
seen, else 15 s after the watch should have ended.

### Assumptions
Versions only move forward; the server ends a watch at `timeoutSeconds`.

### Caveats
Between a break and the next list or event the copy is old, and nothing tells but `failing_s`.

### Errors
None are raised: everything is retried with backoff, logged once per change, and kept in `last_error`.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from enum import Enum
from typing import Any, cast

import anyio
import anyio.lowlevel
from attrs import frozen

from agentops.controller.backoff import Backoff
from agentops.controller.store import version_number
from agentops.controller.streaming import StreamingLists
from agentops.controller.target import Observer, Sink, Target, WatchOptions
from agentops.kube.client import METADATA_ONLY, METADATA_ONLY_LIST, ApiClient, list_query, throttled_s
from agentops.kube.errors import (
    ApiError,
    BadRequest,
    Expired,
    Invalid,
    ServerTimeout,
    TooManyRequests,
    TransportError,
    error_from_status,
)
from agentops.kube.watch import LineSplitter, ListPage, MalformedObject, WatchEvent, decode_event, decode_list
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock

log = get_logger("controller.reflector")

_WATCH_S = (300, 600)
_GRACE_S = 15.0
_IDLE_S = 90.0
_SHORT_WATCH_S = 1.0
_LIST_TIMEOUT_S = 60.0
_PATIENCE_S = 600.0
"""The most that a server's Retry-After delays: nobody is told for how long a cache is to be old."""
_CALM_S = 60.0
"""After as long without a failure of a sort, the next one is a first one again."""
_YIELD_EVERY = 256
_YIELD_S = 0.005
_CLOCK_EVERY = 16


class Phase(Enum):
    LIST = "list"
    WATCH = "watch"


@frozen(slots=True)
class _Next:
    """Where a step leads. `floor_s` is what the server asked to wait."""

    phase: Phase
    reason: str
    wait: bool = False
    floor_s: float = 0.0


@frozen(slots=True)
class ReflectorStatistics:
    phase: str
    resource_version: str
    lists: int
    streamed_lists: int
    watches: int
    failures: int
    last_error: str
    last_contact_s: float | None
    """Seconds since the server was last heard; None before the first time."""


class Reflector:
    """One list and watch loop. `run` until cancelled."""

    def __init__(
        self,
        client: ApiClient,
        target: Target,
        sink: Sink,
        *,
        clock: Clock,
        rng: random.Random | None = None,
        page_size: int = 500,
        observer: Observer | None = None,
        streaming: StreamingLists | None = None,
        gate: anyio.Semaphore | None = None,
        options: WatchOptions | None = None,
    ) -> None:
        self.target = target
        self.keep_managed_fields = True
        """Whether objects reach the sink with `metadata.managedFields`, from the next page or event on."""
        self._streaming = streaming
        self._gate = gate
        self._inside = False
        self._plain_next = False
        self._initial: dict[tuple[str, str], Any] | None = None  # objects of a streamed list that is not complete
        self._options = options or WatchOptions()
        self._internal_errors: tuple[float, float] | None = None  # first and last of a run of ERROR 500 events
        self._broke_quietly = False  # the last watch broke without having brought an event
        self._expired_at: float | None = None
        self._client = client
        self._sink = sink
        self._clock = clock
        self._rng = rng or random.Random()
        self._backoff = Backoff(clock, self._rng)
        self._page_size = page_size
        self._observer = observer
        self._phase = Phase.LIST
        self._reason = "start"
        self._version = ""
        self._version_unavailable = False
        self._always_page = False
        self._events = 0
        self._lists = self._streamed = self._watches = self._failures = 0
        self._error_code = 0
        self._last_error = ""
        self._last_contact: float | None = None
        self._failing_since: float | None = None
        self._complaint = ""

    async def run(self) -> None:
        """Keep the sink current until cancelled."""
        while True:
            await self.step()

    async def step(self) -> None:
        """One list or one watch, and the wait after it."""
        if self._phase is Phase.WATCH:
            after = await self._watch_step()
        else:
            try:
                await self._enter()
                if not self._plain_next and self._streaming and await self._streaming.wanted(self.target.kind):
                    after = await self._streamed_list_step(self._streaming)
                else:
                    self._plain_next = False
                    after = await self._list_step()
            finally:
                self._leave()
        self._phase, self._reason = after.phase, after.reason
        if after.wait:
            await self._clock.sleep(self._backoff.next_s(after.floor_s))
        else:
            await anyio.lowlevel.checkpoint()

    @property
    def last_error(self) -> str:
        """Why the copy is not current, empty when it is."""
        return self._last_error

    @property
    def kind_is_gone(self) -> bool:
        """Whether the server does not know the kind now: its CRD was deleted, or is not there yet."""
        return self._error_code == 404

    def failing_s(self) -> float:
        """Seconds since the copy stopped being kept current; 0 when it is."""
        return 0.0 if self._failing_since is None else self._clock.boottime() - self._failing_since

    def last_contact_s(self) -> float | None:
        """Seconds since the server was last heard."""
        return None if self._last_contact is None else self._clock.boottime() - self._last_contact

    def statistics(self) -> ReflectorStatistics:
        return ReflectorStatistics(
            phase=self._phase.value,
            resource_version=self._version,
            lists=self._lists,
            streamed_lists=self._streamed,
            watches=self._watches,
            failures=self._failures,
            last_error=self._last_error,
            last_contact_s=self.last_contact_s(),
        )

    async def _enter(self) -> None:
        """Wait for a turn to list: a server is not asked for everything at once."""
        if self._gate is not None:
            await self._gate.acquire()
            self._inside = True

    def _leave(self) -> None:
        if self._gate is not None and self._inside:
            self._inside = False
            self._gate.release()

    # list

    async def _list_step(self) -> _Next:
        self._lists += 1
        if self._observer:
            self._observer.relisted(self._reason)
        try:
            items, version = await self._list()
        except (ApiError, TransportError, MalformedObject) as error:
            return self._failed(Phase.LIST, "list_failed", error)
        self._version, self._version_unavailable = version, False
        self._healthy(Phase.LIST)
        await self._sink.replaced(items, version)
        return _Next(Phase.WATCH, "listed")

    async def _list(self) -> tuple[list[Any], str]:
        version = "" if self._version_unavailable else self._version or "0"
        try:
            return await self._pages(version)
        except (Expired, ServerTimeout) as error:
            if not version or not _version_gone(error):
                raise
            self._version_unavailable = True
            return await self._pages("")

    async def _pages(self, version: str) -> tuple[list[Any], str]:
        """Every page of the list. A token that expires on the way means one list in a single piece."""
        paged = version in ("", "0") or self._always_page
        items: list[Any] = []
        token, listed_at = "", ""
        while True:
            limit = self._page_size if paged else None
            try:
                page = await self._page(self._query(limit, token, version))
            except Expired:
                if not token:
                    raise
                page = await self._page(self._query(None, "", version))
                items, listed_at = [], ""
            listed_at = listed_at or page.resource_version
            await self._prepare(page, items)
            token = page.continue_token
            if token and version == "0":
                self._always_page = True  # this server has no watch cache to answer from
            if not token:
                break
        if not listed_at:
            raise MalformedObject(
                f"the list of {self.target.kind.resource} has no resourceVersion: it cannot be watched"
            )
        return items, listed_at

    async def _prepare(self, page: ListPage, items: list[Any]) -> None:
        """Hand objects to the sink in slices, so that a huge list does not hold up the loop."""
        prepare = self._sink.prepare
        for start in range(0, len(page), _YIELD_EVERY):
            items += [prepare(meta, raw) for meta, raw in page.slice(start, start + _YIELD_EVERY)]
            await anyio.lowlevel.checkpoint()

    async def _page(self, query: list[tuple[str, str]]) -> ListPage:
        answer = await self._client.raw(
            "GET",
            self.target.kind.path(self.target.namespace),
            query=query,
            headers={"accept": METADATA_ONLY_LIST} if self.target.metadata_only else {},
            timeout_s=_LIST_TIMEOUT_S,
            retry=False,
        )
        self._last_contact = self._clock.boottime()
        return decode_list(answer.body, managed_fields=self.keep_managed_fields)

    # watch

    async def _watch_step(self) -> _Next:
        self._watches += 1
        seconds = self._rng.randrange(*_WATCH_S)
        started = self._clock.boottime()
        after, error, opened = await self._stream(self._watch_query(seconds), seconds, None)
        lasted_s = self._clock.boottime() - started
        if error is None and after is None and lasted_s < _SHORT_WATCH_S and not self._events:
            error = TransportError(f"the watch of {self.target.kind.resource} ended at once and without events")
        if error is not None:
            after = self._watch_failed(error, opened, lasted_s)
        else:
            self._broke_quietly = False
        return self._restart(after)

    async def _streamed_list_step(self, streaming: StreamingLists) -> _Next:
        """A list and the watch after it as one stream. Before the list is complete nothing is stored."""
        self._lists += 1
        self._streamed += 1
        if self._observer:
            self._observer.relisted(self._reason)
        seconds = self._rng.randrange(*_WATCH_S)
        started = self._clock.boottime()
        self._initial = {}
        try:
            after, error, opened = await self._stream(
                self._streaming_query(seconds), seconds, self._options.marker_deadline_s
            )
            complete = self._initial is None
        finally:
            self._initial = None
        if complete:
            if error is not None:
                after = self._watch_failed(error, opened, self._clock.boottime() - started)
            return self._restart(after)
        return self._list_not_complete(streaming, after, error, opened)

    def _list_not_complete(
        self, streaming: StreamingLists, after: _Next | None, error: Exception | None, opened: bool
    ) -> _Next:
        kind = self.target.kind
        if after is not None and after.reason == "throttled":
            return _Next(Phase.LIST, "throttled", wait=True, floor_s=after.floor_s)
        if isinstance(error, TooManyRequests) or (
            not opened and error is not None and isinstance(error.__cause__, ConnectionRefusedError)
        ):
            return self._failed(Phase.LIST, "list_failed", error)
        gone = (after is not None and after.reason == "expired") or (
            isinstance(error, Expired | ServerTimeout) and _version_gone(error)
        )
        if gone and self._version and not self._version_unavailable:
            self._version_unavailable = True
            return _Next(Phase.LIST, "expired")
        if isinstance(error, BadRequest | Invalid) and _refuses_streaming(error):
            streaming.refuse(kind, error.message)
        elif isinstance(error, _NoMarker):
            streaming.refuse(kind, str(error))
        write = log.debug if self._complaint else log.info  # that the kind cannot be listed has been said
        write("watch.list_not_complete", resource=kind.resource, error=str(error or "the stream ended early"))
        self._plain_next = True
        return _Next(Phase.LIST, self._reason)

    def _restart(self, after: _Next | None) -> _Next:
        after = after or _Next(Phase.WATCH, "ended")
        if self._observer and after.phase is Phase.WATCH:
            self._observer.restarted(after.reason)
        return after

    async def _stream(
        self, query: list[tuple[str, str]], seconds: int, marker_s: float | None
    ) -> tuple[_Next | None, Exception | None, bool]:
        """Follow one stream: where it leads when it said so, what broke it, and whether it was opened."""
        self._events = 0
        opened = False
        resource = self.target.kind.resource
        ends_at = anyio.current_time() + seconds + _GRACE_S
        try:
            with anyio.CancelScope(deadline=ends_at if marker_s is None else anyio.current_time() + marker_s) as bound:
                async with self._client.stream(
                    "GET",
                    self.target.kind.path(self.target.namespace),
                    query=query,
                    headers={"accept": METADATA_ONLY} if self.target.metadata_only else {},
                    total_s=seconds + 2 * _GRACE_S,
                ) as answer:
                    opened = True
                    if marker_s is None:
                        self._healthy(Phase.WATCH)
                    return await self._follow(answer.chunks(), bound, ends_at), None, True
            if self._initial is not None and opened:
                raise _NoMarker(f"no end of the initial events of {resource}, and nothing new for {marker_s:g} s")
            raise TransportError(f"the watch of {resource} fell silent")
        except (ApiError, TransportError, MalformedObject) as error:
            return None, error, opened

    async def _follow(self, chunks: AsyncIterator[bytes], bound: anyio.CancelScope, ends_at: float) -> _Next | None:
        """Apply events until the stream ends (None) or says that it cannot go on."""
        splitter = LineSplitter()
        boottime = self._clock.boottime
        bookmarked = False
        caught_up = False  # in a streamed list: it has come to changes, so its mark is due
        since_yield = 0
        yielded_at = boottime()
        async with aclosing(cast(Any, chunks)):
            async for chunk in chunks:
                self._last_contact = boottime()  # a chunk that was there already came without giving the loop away
                for line in splitter.feed(chunk):
                    event = decode_event(line, managed_fields=self.keep_managed_fields)
                    if event.type == "BOOKMARK":
                        bookmarked = True
                        if self._initial is not None and event.ends_initial_events:
                            await self._complete(event)
                            continue
                    elif event.type == "ERROR":
                        return self._error_event(event)
                    caught_up = caught_up or event.type in ("MODIFIED", "DELETED")
                    self._apply(event)
                    since_yield += 1
                    if since_yield % _CLOCK_EVERY == 0 and (
                        since_yield >= _YIELD_EVERY or boottime() - yielded_at > _YIELD_S
                    ):
                        since_yield = 0
                        await anyio.lowlevel.checkpoint()
                        yielded_at = boottime()
                if self._initial is not None:
                    if not caught_up:
                        bound.deadline = anyio.current_time() + self._options.marker_deadline_s
                else:
                    bound.deadline = anyio.current_time() + _IDLE_S if bookmarked else ends_at
        if splitter.pending_bytes:
            raise TransportError(f"the watch of {self.target.kind.resource} was cut in the middle of an event")
        return None

    async def _complete(self, marker: WatchEvent) -> None:
        """The streamed list is whole: store it, and go on with the same stream."""
        assert self._initial is not None
        version = marker.meta.resource_version
        if not version:
            raise MalformedObject(f"the bookmark that ends the list of {self.target.kind.resource} has no version")
        items, self._initial = list(self._initial.values()), None
        self._leave()
        self._version, self._version_unavailable = version, False
        self._events += 1
        self._healthy(Phase.WATCH)
        await self._sink.replaced(items, version)

    def _query(self, limit: int | None, token: str, version: str) -> list[tuple[str, str]]:
        shard = [("shardSelector", self.target.shard)] if self.target.shard else []
        return [*list_query(self.target.labels, self.target.fields, limit, token, version), *shard]

    def _watch_query(self, seconds: int) -> list[tuple[str, str]]:
        return [
            *self._query(None, "", self._version),
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(seconds)),
        ]

    def _streaming_query(self, seconds: int) -> list[tuple[str, str]]:
        version = "" if self._version_unavailable else self._version
        return [
            *self._query(None, "", version),
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            ("sendInitialEvents", "true"),
            ("resourceVersionMatch", "NotOlderThan"),
            ("timeoutSeconds", str(seconds)),
        ]

    def _apply(self, event: WatchEvent) -> None:
        version = event.meta.resource_version
        if event.type in ("ADDED", "MODIFIED", "DELETED"):
            if not version or not event.meta.name:
                if self._options.skip_malformed:
                    log.warning("watch.malformed", resource=self.target.kind.resource, type=event.type)
                    return
                raise MalformedObject(f"a {event.type} event of {self.target.kind.resource} has no name or version")
            if event.kind not in (self.target.kind.kind, "PartialObjectMetadata", ""):
                log.warning("watch.unexpected_kind", resource=self.target.kind.resource, kind=event.kind)
                return
            self._events += 1
            if self._initial is not None:  # synthetic events: their versions are in no order
                key = event.meta.namespace, event.meta.name
                if event.type == "DELETED":
                    self._initial.pop(key, None)
                else:
                    self._initial[key] = self._sink.prepare(event.meta, event.raw)
                return
            self._version = version
            self._sink.changed(event.type, event.meta, event.raw)
        elif event.type == "BOOKMARK":
            if self._initial is not None:
                return
            if not version:
                raise MalformedObject(f"a bookmark of {self.target.kind.resource} has no version")
            self._events += 1
            if 0 <= version_number(version) < version_number(self._version):
                log.warning("watch.bookmark_goes_back", resource=self.target.kind.resource, version=version)
                return
            self._version = version
            self._sink.advanced(version)
        else:
            log.warning("watch.unknown_event", resource=self.target.kind.resource, type=event.type)

    def _error_event(self, event: WatchEvent) -> _Next:
        error = error_from_status(event.decode())
        if error.code == 410 or error.reason in ("Expired", "Gone"):
            return _Next(Phase.LIST, "expired", wait=self._expires_again())
        if isinstance(error, TooManyRequests):
            return self._failed(Phase.WATCH, "throttled", error)
        if error.code == 500 and self._may_rewatch():
            return self._failed(Phase.WATCH, "internal_error", error)
        return self._failed(Phase.LIST, "error_event", error)

    def _expires_again(self) -> bool:
        """Whether versions expire as fast as they are listed: a server that does that is not to be hammered."""
        now = self._clock.boottime()
        before, self._expired_at = self._expired_at, now
        return before is not None and now - before < _CALM_S

    def _may_rewatch(self) -> bool:
        """Whether an internal error may be answered by watching again; a calm minute begins a new window."""
        now = self._clock.boottime()
        if self._internal_errors is None or now - self._internal_errors[1] > _CALM_S:
            self._internal_errors = now, now
        self._internal_errors = self._internal_errors[0], now
        return now - self._internal_errors[0] < self._options.max_internal_error_retry_s

    def _watch_failed(self, error: Exception, opened: bool, lasted_s: float) -> _Next:
        if isinstance(error, TransportError):
            if not opened and isinstance(error.__cause__, ConnectionRefusedError):
                return self._failed(Phase.WATCH, "refused", error)
            if not opened and self._reason == "broke":
                return self._failed(Phase.WATCH, "unanswered", error)  # a server that dies lets one in, and resets it
            worked = self._events > 0 or (opened and lasted_s >= _SHORT_WATCH_S and not self._broke_quietly)
            if worked and self._options.rewatch_after_break:
                self._broke_quietly = not self._events
                log.info("watch.broke", resource=self.target.kind.resource, error=str(error), events=self._events)
                return _Next(Phase.WATCH, "broke", wait=lasted_s < _SHORT_WATCH_S)
        if isinstance(error, TooManyRequests):
            return self._failed(Phase.WATCH, "throttled", error)
        self._broke_quietly = False
        return self._failed(Phase.LIST, "watch_failed", error)

    # health

    def _healthy(self, phase: Phase) -> None:
        """A phase works. Who may list and not watch has a copy that is listed now and then, and is told why."""
        self._last_contact = self._clock.boottime()
        self._error_code = 0
        if phase is Phase.LIST and self._complaint.startswith(Phase.WATCH.value):
            return
        self._failures, self._last_error, self._failing_since = 0, "", None
        if self._complaint:
            self._complaint = ""
            log.info("reflector.recovered", **self._names())

    def _failed(self, phase: Phase, reason: str, error: Exception) -> _Next:
        self._failures += 1
        self._last_error = f"{self._phase.value} of {self.target.kind.resource} failed: {error}"
        if self._failing_since is None:
            self._failing_since = self._clock.boottime()
        self._error_code = error.code if isinstance(error, ApiError) else 0
        code = str(error.code) if isinstance(error, ApiError) else type(error).__name__
        complaint = f"{self._phase.value}:{code}"
        if complaint != self._complaint:  # once per change: a missing CRD is retried for days
            self._complaint = complaint
            log.warning("reflector.failed", verb=self._phase.value, code=code, error=str(error), **self._names())
        floor_s = throttled_s(error) if isinstance(error, ApiError) else None
        return _Next(phase, reason, wait=True, floor_s=min(floor_s or 0.0, _PATIENCE_S))

    def _names(self) -> dict[str, str]:
        return {"resource": self.target.kind.resource, "namespace": self.target.namespace}


class _NoMarker(TransportError):
    """The initial events did not end."""


def _refuses_streaming(error: ApiError) -> bool:
    """Whether a 4xx is about the parameters of a streaming list."""
    return any(word in error.message for word in ("sendInitialEvents", "resourceVersionMatch")) or any(
        cause.get("field") in ("sendInitialEvents", "resourceVersionMatch") for cause in error.causes
    )


def _version_gone(error: ApiError) -> bool:
    """Whether the server cannot serve the version that was asked for, now or any more."""
    if isinstance(error, Expired):
        return True
    if any(cause.get("reason") == "ResourceVersionTooLarge" for cause in error.causes):
        return True
    return "Too large resource version" in error.message
