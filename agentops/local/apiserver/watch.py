"""Watches: what was, then what happens, one JSON object a line.

A watcher is registered before its past is read and before the answer starts, in one step of the
event loop, so nothing is missed or sent twice. It has a bounded queue; one that overflows ends
(never drops), and the client starts again from its last revision.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import AsyncIterator, Callable

import anyio
import orjson
from attrs import define, field

from agentops.local.apiserver import errors
from agentops.local.apiserver.http import Request, Stream
from agentops.local.apiserver.reads import Reader, Selection, integer, list_options_invalid, parse_revision
from agentops.local.apiserver.render import Form, Renderer
from agentops.local.apiserver.resources import Resource
from agentops.local.apiserver.store import Compacted, Entry, Event, Store
from agentops.local.apiserver.undecided import Undecided
from agentops.local.apiserver.writes import Writer
from agentops.values.clock import Clock

_BOOKMARK_S = 60.0
_QUEUE_BYTES = 8 * 1024 * 1024
"""What a watch nobody reads may hold, beside `queue_size` events: a few big objects are as bad as many small ones."""
_INITIAL_EVENTS_END = {"k8s.io/initial-events-end": "true"}


@define(eq=False)
class Watcher:
    """One open watch: events in, lines out."""

    resource: Resource
    namespace: str
    selection: Selection
    renderer: Renderer
    reader: Reader
    writer: Writer
    queue_size: int
    revision: int = 0
    overflowed: bool = False
    ended: bool = False
    _lines: deque[bytes | Event] = field(factory=deque)
    _wake: anyio.Event = field(factory=anyio.Event)
    _queued_bytes: int = 0

    def offer(self, event: Event) -> None:
        """Take one event of the store, if it is any of ours."""
        if self.ended or (self.namespace and event.entry.namespace != self.namespace):
            return
        line: bytes | Event | None
        try:
            line = self.line(event)
        except Undecided:
            line = event  # converted when it is taken, in its turn
        self.revision = event.revision
        if line is None:
            return
        size = len(line) if isinstance(line, bytes) else 0
        if len(self._lines) >= self.queue_size or (self._lines and self._queued_bytes + size > _QUEUE_BYTES):
            self.overflowed = True
            self._lines.clear()
            self.end()
            return
        self._lines.append(line)
        self._queued_bytes += size
        self._wake.set()

    def end(self) -> None:
        self.ended = True
        self._wake.set()

    def line(self, event: Event) -> bytes | None:
        """The watch event for `event`, after the selectors have looked at before and after."""
        entry, previous, selection = event.entry, event.previous, self.selection
        if selection.empty:
            if self.renderer.form.plain and self.reader.as_stored(self.resource, entry):
                return event.line
            return self._encode(event.type, entry)
        now = event.type != "DELETED" and selection.matches(entry)
        before = previous is not None and selection.matches(previous)
        if event.type == "DELETED":
            return self._encode("DELETED", entry) if before or (previous is None and selection.matches(entry)) else None
        if now:
            return self._encode("MODIFIED" if before else "ADDED", entry)
        if before and previous is not None:
            return self._encode("DELETED", self._renumbered(previous, entry.revision))
        return None

    def added(self, entry: Entry) -> bytes:
        return self._encode("ADDED", entry)

    def bookmark(self, revision: int, annotations: dict[str, str] | None = None) -> bytes:
        return b'{"type":"BOOKMARK","object":%b}\n' % self.renderer.bookmark(revision, annotations)

    async def take(self) -> bytes:
        """Everything queued, as one chunk."""
        chunk: list[bytes] = []
        while self._lines:
            item = self._lines.popleft()
            if isinstance(item, bytes):
                self._queued_bytes -= len(item)
            chunk.append(item if isinstance(item, bytes) else await self._decided(item))
        return b"".join(chunk)

    async def _decided(self, event: Event) -> bytes:
        """The line of an event that has to be converted first; an error ends the watch."""
        while True:
            try:
                return self.line(event) or b""
            except Undecided as undecided:
                try:
                    await undecided.decide()
                except errors.ApiFailure as failure:
                    self._lines.clear()
                    self.end()
                    return _error_line(failure)

    async def wait(self, seconds: float) -> None:
        """Until there is something to take, the watch ended, or time is up."""
        if not self._lines and not self.ended:
            self._wake = anyio.Event()
            with anyio.move_on_after(seconds):
                await self._wake.wait()

    def _renumbered(self, previous: Entry, revision: int) -> Entry:
        obj = previous.obj()
        obj["metadata"]["resourceVersion"] = str(revision)
        return Entry(previous.namespace, previous.name, revision, previous.create_revision, orjson.dumps(obj))

    def _encode(self, kind: str, entry: Entry) -> bytes:
        if self.renderer.form.plain:
            body = self.reader.served_bytes(self.resource, entry)
        else:
            body = self.renderer.event_object(self.writer.served(self.resource, entry))
        return b'{"type":"%b","object":%b}\n' % (kind.encode(), body)


class WatchHub:
    """Opens watches and can end them all (shutdown, a CRD that goes)."""

    def __init__(
        self,
        store: Store,
        reader: Reader,
        writer: Writer,
        clock: Clock,
        rng: random.Random,
        *,
        queue_size: int = 1000,
        timeout_cap_s: float | None = None,
    ) -> None:
        self._store = store
        self._reader = reader
        self._writer = writer
        self._clock = clock
        self._rng = rng
        self._queue_size = queue_size
        self._cap_s = timeout_cap_s
        self._watchers: set[Watcher] = set()

    @property
    def count(self) -> int:
        return len(self._watchers)

    def end_all(self, storage: str | None = None) -> None:
        """End every watch, or those of one resource."""
        for watcher in list(self._watchers):
            if storage is None or watcher.resource.storage == storage:
                watcher.end()

    def open(self, request: Request, resource: Resource, namespace: str, name: str, form: Form) -> Stream:
        """The answer to a watch request. Raises ApiFailure before the stream starts."""
        if name:
            extra = f"metadata.name={name}"
            fields = request.arg("fieldSelector")
            query = tuple((k, v) for k, v in request.query if k != "fieldSelector")
            request = Request(
                request.method, request.path, (*query, ("fieldSelector", f"{fields},{extra}" if fields else extra)),
                request.headers, b"", request.user, request.remote,
            )  # fmt: skip
        selection = Selection.of(request, resource)
        text = request.arg("resourceVersion")
        match = request.arg("resourceVersionMatch")
        send_initial = request.arg("sendInitialEvents")
        bookmarks = request.flag("allowWatchBookmarks")
        if match and not send_initial:
            raise list_options_invalid(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            )
        if send_initial and match != "NotOlderThan":
            raise list_options_invalid(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan", "resourceVersionMatch"
            )
        try:
            revision = parse_revision(text)
        except ValueError as error:
            raise errors.ApiFailure(500, "", str(error)) from error
        initial = send_initial.lower() in ("true", "1") if send_initial else revision == 0
        if send_initial and not initial and revision == 0:
            revision = self._store.revision
        timeout_s = self._timeout(request)
        watcher = Watcher(
            resource, namespace, selection, Renderer(resource, form, self._clock), self._reader, self._writer,
            self._queue_size,
        )  # fmt: skip
        past: list[bytes] = []
        if initial:
            watcher.revision = self._store.revision
            past = [
                watcher.added(entry)
                for entry in self._store.list(resource.storage, namespace)
                if selection.empty or selection.matches(entry)
            ]
            if send_initial and bookmarks:
                past.append(watcher.bookmark(self._store.revision, _INITIAL_EVENTS_END))
        else:
            watcher.revision = revision
            try:
                events = self._store.events_after(resource.storage, revision)
            except Compacted as error:
                return _expired(revision, error.oldest)
            for event in events:
                if not namespace or event.entry.namespace == namespace:
                    line = watcher.line(event)
                    if line is not None:
                        past.append(line)
                watcher.revision = event.revision
        floor = revision if not initial else 0

        def listener(event: Event) -> None:
            if event.revision > floor:
                watcher.offer(event)

        leave = self._store.subscribe(resource.storage, listener)
        self._watchers.add(watcher)

        def close() -> None:
            leave()
            watcher.end()
            self._watchers.discard(watcher)

        body = self._body(watcher, past, timeout_s, bookmarks, close)
        return Stream(lambda: _Closing(body, close), 200, {"content-type": "application/json"})

    def _timeout(self, request: Request) -> float:
        seconds: float = integer(request, "timeoutSeconds")
        if seconds <= 0:
            seconds = self._rng.uniform(1800, 3600)
        return min(seconds, self._cap_s) if self._cap_s else seconds

    async def _body(
        self, watcher: Watcher, past: list[bytes], timeout_s: float, bookmarks: bool, close: Callable[[], None]
    ) -> AsyncIterator[bytes]:
        try:
            deadline = anyio.current_time() + timeout_s
            farewell = deadline - 2.0 if bookmarks and timeout_s > 4 else math.inf
            next_bookmark = anyio.current_time() + _BOOKMARK_S if bookmarks else math.inf
            # An empty first slice tells the shell to send the headers now.
            yield b"".join(past)
            past.clear()
            while not watcher.ended:
                now = anyio.current_time()
                if now >= deadline:
                    break
                await watcher.wait(min(deadline, next_bookmark, farewell) - now)
                chunk = await watcher.take()
                if chunk:
                    yield chunk
                now = anyio.current_time()
                if now >= next_bookmark or now >= farewell:
                    yield watcher.bookmark(max(self._store.revision, watcher.revision))
                    next_bookmark = now + _BOOKMARK_S
                    farewell = math.inf if now >= farewell else farewell
            if not watcher.overflowed:
                chunk = await watcher.take()
                if chunk:
                    yield chunk
        finally:
            close()


class _Closing:
    """An iterator that leaves the hub even when it was never started."""

    def __init__(self, body: AsyncIterator[bytes], close: Callable[[], None]) -> None:
        self._body = body
        self._close = close

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await self._body.__anext__()

    async def aclose(self) -> None:
        self._close()
        await self._body.aclose()  # type: ignore[attr-defined]


def _error_line(failure: errors.ApiFailure) -> bytes:
    return b'{"type":"ERROR","object":%b}\n' % orjson.dumps(failure.status())


def _expired(revision: int, oldest: int) -> Stream:
    failure = errors.gone(f"too old resource version: {revision} ({oldest})")
    line = _error_line(failure)

    async def body() -> AsyncIterator[bytes]:
        yield line

    return Stream(body, 200, {"content-type": "application/json"})
