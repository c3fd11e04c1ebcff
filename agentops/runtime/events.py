"""FEP events on their way out: numbered, encoded once, kept for replay.

The numbering is one for the whole process and never goes back, also across restarts (see
`Numbering`), so a client that reconnects with `Last-Event-ID` is never shown another turn's event
under a number it has seen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import anyio
import orjson
from attrs import frozen

from agentops.api.fep import Event
from agentops.values.clock import Clock

BROADCAST_CAPACITY = 4096
RUN_CAPACITY = 200_000
BROADCAST_BYTES = 16 << 20
RUN_BYTES = 64 << 20


@frozen(slots=True)
class Encoded:
    """An event as it goes on the wire. `body` is the flat JSON object."""

    seq: int
    type: str
    body: bytes

    @property
    def frame(self) -> bytes:
        """The server-sent event: `id:` and one `data:` line."""
        return b"id: %d\ndata: %s\n\n" % (self.seq, self.body)


class Numbering:
    """Gives out `seq`. `first` is the first number; numbers below it belong to earlier processes."""

    def __init__(self, first: int = 1) -> None:
        self.next = first

    def take(self) -> int:
        number = self.next
        self.next += 1
        return number


class EventLog:
    """Events in order, followed by any number of readers, none of which can hold up the writer.

    Keeps at least the newest `capacity`, but no more than `most_bytes` of them (the newest event whatever its size);
    a reader that falls further behind has `lost` some.
    """

    def __init__(self, capacity: int, most_bytes: int = RUN_BYTES) -> None:
        self._capacity = capacity
        self._most_bytes = most_bytes
        self._events: list[Encoded] = []
        self._bytes = 0
        self._dropped = 0
        self._closed = False
        self._changed: anyio.Event | None = None
        """Made by the first who waits: most events find nobody waiting."""

    def append(self, event: Encoded) -> None:
        self._events.append(event)
        self._bytes += len(event.body)
        if len(self._events) > 2 * self._capacity:
            self._drop(len(self._events) - self._capacity)
        if self._bytes > self._most_bytes:
            self._drop(self._too_many())
        self._wake()

    def close(self) -> None:
        """No more events: readers end after the last one."""
        self._closed = True
        self._wake()

    @property
    def events(self) -> tuple[Encoded, ...]:
        return tuple(self._events)

    async def follow(self, after: int | None = 0) -> AsyncIterator[Encoded]:
        """Events with `seq` greater than `after`, then new ones as they come. None: only new ones."""
        reader = self.reader(after)
        while True:
            for event in reader.take():
                yield event
            if reader.ended:
                return
            await reader.wait()

    def reader(self, after: int | None = 0) -> Reader:
        """The same for who wants to do something else while waiting."""
        return Reader(self, after)

    def _too_many(self) -> int:
        """How many of the oldest must go: down to three quarters of the limit, so that not every event drops one."""
        left, count = self._bytes, 0
        while left > self._most_bytes * 3 // 4 and count < len(self._events) - 1:
            left -= len(self._events[count].body)
            count += 1
        return count

    def _drop(self, count: int) -> None:
        self._bytes -= sum(len(event.body) for event in self._events[:count])
        self._dropped += count
        del self._events[:count]

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None


class Reader:
    """One follower's place in a log."""

    def __init__(self, log: EventLog, after: int | None) -> None:
        self._log = log
        kept = log._events
        self._position = log._dropped + (len(kept) if after is None else _first_after(kept, after))

    def take(self, most: int | None = None) -> list[Encoded]:
        """What came since the last `take`, at most `most`."""
        log = self._log
        start = max(self._position, log._dropped) - log._dropped
        taken = log._events[start:] if most is None else log._events[start : start + most]
        self._position = log._dropped + start + len(taken)
        return taken

    @property
    def lost(self) -> int:
        """How many events were dropped before this reader took them; `take` goes on after them."""
        return max(0, self._log._dropped - self._position)

    @property
    def ended(self) -> bool:
        """The log is closed and everything was taken."""
        return self._log._closed and self._position >= self._log._dropped + len(self._log._events)

    async def wait(self) -> None:
        """Until there is something to take, or the log ends."""
        log = self._log
        if not log._closed and self._position >= log._dropped + len(log._events):
            if log._changed is None:
                log._changed = anyio.Event()
            await log._changed.wait()


def _first_after(events: list[Encoded], seq: int) -> int:
    low, high = 0, len(events)
    while low < high:
        middle = (low + high) // 2
        if events[middle].seq <= seq:
            low = middle + 1
        else:
            high = middle
    return low


class Emitter:
    """Where a turn's events go: its own log and the broadcast."""

    def __init__(
        self, *, session_id: str, run: str, clock: Clock, numbering: Numbering, broadcast: EventLog, log: EventLog
    ) -> None:
        self._session_id = session_id
        self._run = run
        self._clock = clock
        self._numbering = numbering
        self._broadcast = broadcast
        self.log = log

    def emit(self, kind: str, **data: Any) -> None:
        """One event of the run, to its followers and to everybody."""
        self.publish(self.make(kind, **data))

    def make(self, kind: str, **data: Any) -> Encoded:
        """Number and encode an event without showing it yet."""
        event = Event(
            type=kind,
            session_id=self._session_id,
            seq=self._numbering.take(),
            timestamp=self._clock.now(),
            run=self._run,
            data={key: value for key, value in data.items() if value is not None},
        )
        # A copy: orjson's own buffer keeps the room it was made with, some 4 KiB an event.
        return Encoded(event.seq, kind, bytes(memoryview(orjson.dumps(event.to_wire()))))

    def publish(self, event: Encoded) -> None:
        self.log.append(event)
        self._broadcast.append(event)

    def announce(self, kind: str, **data: Any) -> None:
        """An event about the agent rather than the run: to the broadcast only."""
        self._broadcast.append(self.make(kind, **data))


def pack(events: Iterable[Encoded]) -> bytes:
    """Events as JSON lines, for the store."""
    return b"\n".join(event.body for event in events)


def unpack(data: bytes) -> list[Encoded]:
    """The inverse of `pack`."""
    out = []
    for line in data.splitlines():
        raw = orjson.loads(line)
        out.append(Encoded(int(raw.get("seq", 0)), str(raw.get("type", "")), line))
    return out
