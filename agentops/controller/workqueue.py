"""The queue of keys at the heart of every controller (client-go `util/workqueue`).

An item is a unit of work, not a message: adding an equal item twice is one unit, and an item that is
added while it is being worked on is worked on once more afterwards. The per-item path uses no
primitives of the event loop; only a worker that finds the queue empty parks on an event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from threading import get_ident
from typing import Generic, Protocol, TypeVar

import anyio
from attrs import frozen

from agentops.values.clock import Clock, SystemClock

T = TypeVar("T", bound=Hashable)
ItemT = TypeVar("ItemT", bound=Hashable, contravariant=True)


class QueueShutDown(Exception):
    """The queue is shut down and empty."""


@frozen(slots=True)
class QueueStatistics:
    """Counts of items: `waiting` are delayed, `ready` can be taken, `processing` are handed out."""

    ready: int
    processing: int
    waiting: int = 0
    failing: int = 0


class QueueObserver(Protocol):
    """What metrics need to know. All calls are synchronous and must not raise."""

    def added(self) -> None: ...
    def depth(self, ready: int, priority: str = "") -> None: ...
    def taken(self, waited_s: float) -> None: ...
    def finished(self, worked_s: float) -> None: ...
    def retried(self) -> None: ...


class WorkQueue(Generic[T]):
    """Deduplicating FIFO.

    Invariant: every queued item is in `dirty` and not in `processing`. Belongs to one event loop: adding from another
    thread than that of the workers raises RuntimeError, since nothing would wake them.
    """

    def __init__(self, *, clock: Clock | None = None, observer: QueueObserver | None = None) -> None:
        self._clock = clock or SystemClock()
        self._observer = observer
        self._queue: deque[T] = deque()
        self._dirty: dict[T, float] = {}  # item -> when it was added
        self._processing: dict[T, float] = {}  # item -> when it was taken
        self._parked: deque[anyio.Event] = deque()
        self._waking = False  # a worker was woken and has not come yet; it wakes the next one if there is more to do
        self._quiet: list[anyio.Event] = []
        self._shut_down = False
        self._thread: int | None = None  # of the workers, once there are any

    def add(self, item: T, priority: int | None = None) -> None:
        """Make `item` ready. Ignored after `shutdown`. `priority` means something to priority queues only."""
        if self._thread is not None and self._thread != get_ident():
            raise _other_thread()
        if self._shut_down or item in self._dirty:
            return
        self._dirty[item] = self._clock.boottime()
        if self._observer:
            self._observer.added()
        if item not in self._processing:
            self._push(item)

    async def get(self) -> T:
        """The oldest item, marked as being processed until `done`. Raises QueueShutDown."""
        return (await self.get_with_priority())[0]

    async def get_with_priority(self) -> tuple[T, int]:
        """`get` with the item's priority, always 0 here."""
        self._thread = get_ident()
        while not self._takeable():
            if self._ended():
                raise QueueShutDown
            parked = anyio.Event()
            self._parked.append(parked)
            try:
                await parked.wait()
            except BaseException:
                if parked.is_set():
                    self._waking = False
                    self._wake()  # the wake-up came with the cancellation: pass it on, the item is still queued
                else:
                    self._parked.remove(parked)
                raise
            self._waking = False
        taken = self._take()
        self._wake()
        return taken

    def done(self, item: T) -> None:
        """Say that the work on `item` ended; it is ready again if it was added meanwhile."""
        taken = self._processing.pop(item, None)
        if taken is None:
            return
        if self._observer:
            self._observer.finished(self._clock.boottime() - taken)
        if item in self._dirty:
            self._push(item)
        elif self._shut_down:
            self._wake_all()
        self._announce_quiet()

    def shutdown(self) -> None:
        """Take no more items. What is queued is still handed out, then `get` raises QueueShutDown."""
        self._shut_down = True
        self._wake_all()
        self._announce_quiet()

    async def shutdown_with_drain(self, *, queued_too: bool = True) -> None:
        """`shutdown`, then wait until nothing is being processed and, with `queued_too`, nothing is queued."""
        self.shutdown()
        while self._processing or (queued_too and self._queue):
            quiet = anyio.Event()
            self._quiet.append(quiet)
            await quiet.wait()

    @property
    def shutting_down(self) -> bool:
        return self._shut_down

    def longest_running_s(self) -> float:
        """Seconds since the oldest item being processed was taken."""
        now = self._clock.boottime()
        return now - min(self._processing.values(), default=now)

    def unfinished_s(self) -> float:
        """Seconds of work in progress, summed over items."""
        now = self._clock.boottime()
        return sum(now - taken for taken in self._processing.values())

    def where(self, item: T) -> str:
        """`processing`, `ready`, `waiting` (delayed), or empty for an item that is not here.

        One that is processed and will be once more is `processing, ready` or `processing, waiting`.
        """
        return ", ".join(filter(None, ("processing" * (item in self._processing), self._queued(item))))

    def _queued(self, item: T) -> str:
        return "ready" if item in self._dirty else ""

    def statistics(self) -> QueueStatistics:
        return QueueStatistics(ready=len(self._queue), processing=len(self._processing))

    def __len__(self) -> int:
        """Items that are ready."""
        return len(self._queue)

    def _takeable(self) -> bool:
        return bool(self._queue)

    def _ended(self) -> bool:
        """Whether waiting is in vain: shut down, and nothing will be put back."""
        return self._shut_down and not (self._dirty and self._processing)

    def _take(self) -> tuple[T, int]:
        item = self._queue.popleft()
        now = self._clock.boottime()
        self._processing[item] = now
        added = self._dirty.pop(item)
        if self._observer:
            self._observer.taken(now - added)
            self._observer.depth(len(self._queue))
        return item, 0

    def _push(self, item: T) -> None:
        self._queue.append(item)
        if self._observer:
            self._observer.depth(len(self._queue))
        self._wake()

    def _wake(self) -> None:
        if self._parked and not self._waking and (self._takeable() or self._shut_down):
            self._waking = True
            self._parked.popleft().set()

    def _wake_all(self) -> None:
        while self._parked:
            self._parked.popleft().set()

    def _announce_quiet(self) -> None:
        if self._quiet and not self._processing:
            for quiet in self._quiet:
                quiet.set()
            self._quiet.clear()


def _other_thread() -> RuntimeError:
    return RuntimeError(
        "a queue was added to from another thread than its workers': use anyio.from_thread.run_sync, "
        "or asyncio's loop.call_soon_threadsafe"
    )
