"""The default queue: higher priority first (controller-runtime `pkg/controller/priorityqueue`).

What was there before the controller was, and periodic reminders, come with low priority, so that a
change made now does not wait behind ten thousand old objects. Unlike controller-runtime's, every
eighth item taken is the one that has been ready longest, so that low priority means later, not never.

| an equal item is | and is added…          | it becomes                                            |
|------------------|------------------------|-------------------------------------------------------|
| ready            | with whatever delay    | ready still; of a higher priority, at that one's tail |
| waiting          | with a delay           | waiting until the earlier of both times               |
| waiting          | without one            | ready                                                 |
| being processed  | without one            | ready, and handed out after `done`                    |
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from threading import get_ident
from typing import Generic

from attrs import define

from agentops.controller.rate_limiters import ItemExponential, RateLimiter
from agentops.controller.rate_limiting_queue import RateLimitingQueue
from agentops.controller.workqueue import QueueObserver, QueueStatistics, T, _other_thread
from agentops.values.clock import Clock

_RECHECK_S = 10.0


@define(slots=True, eq=False)
class _Place(Generic[T]):
    """Where an item is. Heap entries that do not name its current place are dead."""

    item: T
    priority: int
    order: int
    ready: bool
    since: float
    ready_at: float = 0.0


class PriorityQueue(RateLimitingQueue[T]):
    """`add_with_opts` is the whole interface; `add`, `add_after` and `add_rate_limited` are shorthands.

    `oldest_every` 0 turns the fairness off. `shutdown` is abrupt: what is ready is not handed out.
    """

    def __init__(
        self,
        limiter: RateLimiter | None = None,
        *,
        clock: Clock | None = None,
        observer: QueueObserver | None = None,
        oldest_every: int = 8,
    ) -> None:
        super().__init__(limiter or ItemExponential(), clock=clock, observer=observer)
        self._oldest_every = oldest_every
        self._places: dict[T, _Place[T]] = {}
        self._by_priority: list[tuple[int, int, _Place[T]]] = []
        self._by_age: deque[tuple[int, _Place[T]]] = deque()
        self._by_time: list[tuple[float, int, int, _Place[T]]] = []
        self._depths: dict[int, int] = {}
        self._ready = 0
        self._blocked = 0  # ready, but an equal item is being processed
        self._taken = 0

    def add(self, item: T, priority: int | None = None) -> None:
        """Make `item` ready."""
        self.add_with_opts((item,), priority=priority)

    def add_after(self, item: T, delay_s: float, priority: int | None = None) -> None:
        """Make `item` ready in `delay_s` seconds."""
        self.add_with_opts((item,), after_s=delay_s, priority=priority)

    def add_rate_limited(self, item: T, priority: int | None = None) -> None:
        """Make `item` ready after the limiter's wait."""
        self.add_with_opts((item,), rate_limited=True, priority=priority)

    def add_with_opts(
        self, items: Iterable[T], *, after_s: float = 0.0, rate_limited: bool = False, priority: int | None = None
    ) -> None:
        """Add with priority (default 0); of two delays the shorter counts. Ignored after `shutdown`."""
        if self._thread is not None and self._thread != get_ident():
            raise _other_thread()
        if self._shut_down:
            return
        for item in items:
            delay_s = after_s
            if rate_limited:
                limited_s = self.limiter.when(item)
                delay_s = min(after_s, limited_s) if after_s > 0 else limited_s
            if delay_s > 0 and self._observer:
                self._observer.retried()
            self._add(item, delay_s, priority or 0)

    def done(self, item: T) -> None:
        """Say that the work on `item` ended."""
        taken = self._processing.pop(item, None)
        if taken is None:
            return
        if self._observer:
            self._observer.finished(self._clock.boottime() - taken)
        place = self._places.get(item)
        if place is not None and place.ready:
            self._blocked -= 1
            self._offer(place)
        self._announce_quiet()

    def shutdown(self) -> None:
        """Every `get` raises QueueShutDown at once; nothing is drained."""
        super().shutdown()
        for priority, depth in list(self._depths.items()):
            self._count(priority, -depth)
        self._places.clear()
        self._by_priority.clear()
        self._by_age.clear()
        self._by_time.clear()
        self._ready = self._blocked = 0

    async def shutdown_with_drain(self, *, queued_too: bool = True) -> None:
        """`shutdown`, as in Go: who processes an item waits for that, not the queue."""
        self.shutdown()

    def _queued(self, item: T) -> str:
        place = self._places.get(item)
        return "" if place is None else "ready" if place.ready else "waiting"

    def statistics(self) -> QueueStatistics:
        waiting = len(self._places) - self._ready
        return QueueStatistics(self._ready, len(self._processing), waiting, self._failing())

    def __len__(self) -> int:
        return self._ready

    # places

    def _add(self, item: T, delay_s: float, priority: int) -> None:
        now = self._clock.boottime()
        place = self._places.get(item)
        if place is None:
            place = self._places[item] = _Place(item, priority, next(self._order), False, now, now + delay_s)
            if delay_s > 0:
                self._wait(place)
            else:
                self._make_ready(place, fresh=False)
            return
        raised = priority > place.priority
        if place.ready:
            if raised:
                self._count(place.priority, -1)
                place.priority, place.order = priority, next(self._order)
                self._count(priority, 1)
                if item not in self._processing:
                    self._offer(place)
            return
        place.priority = max(place.priority, priority)
        if delay_s <= 0:
            self._make_ready(place, fresh=True)
        elif now + delay_s < place.ready_at or raised:
            place.ready_at = min(place.ready_at, now + delay_s)
            self._wait(place)

    def _wait(self, place: _Place[T]) -> None:
        place.order = next(self._order)
        heapq.heappush(self._by_time, (place.ready_at, -place.priority, place.order, place))
        if self._by_time[0][3] is place:
            self._head_changed.set()

    def _make_ready(self, place: _Place[T], *, fresh: bool) -> None:
        if fresh:
            place.order = next(self._order)
        place.ready, place.since = True, self._clock.boottime()
        self._ready += 1
        if self._observer:
            self._observer.added()
        self._count(place.priority, 1)
        if place.item in self._processing:
            self._blocked += 1
        else:
            self._offer(place)

    def _offer(self, place: _Place[T]) -> None:
        heapq.heappush(self._by_priority, (-place.priority, place.order, place))
        self._by_age.append((place.order, place))
        self._wake()

    def _move_ready(self) -> float:
        now = self._clock.boottime()
        while self._by_time:
            at, _, order, place = self._by_time[0]
            if not self._waits(order, place):
                heapq.heappop(self._by_time)
                continue
            if at > now:
                return min(at - now, _RECHECK_S)
            heapq.heappop(self._by_time)
            self._make_ready(place, fresh=True)
        return _RECHECK_S

    def _takeable(self) -> bool:
        return self._ready > self._blocked and not self._shut_down

    def _ended(self) -> bool:
        return self._shut_down

    def _take(self) -> tuple[T, int]:
        self._taken += 1
        fair = self._oldest_every > 0 and self._taken % self._oldest_every == 0
        place = self._pop_oldest() if fair else self._pop_highest()
        item = place.item
        del self._places[item]
        self._ready -= 1
        self._count(place.priority, -1)
        now = self._clock.boottime()
        self._processing[item] = now
        if self._observer:
            self._observer.taken(now - place.since)
        self._bury()
        return item, place.priority

    def _bury(self) -> None:
        """Drop dead heap entries, so that memory follows what is queued."""
        if not self._ready:
            self._by_priority.clear()
            self._by_age.clear()
        elif max(len(self._by_priority), len(self._by_age)) > 2 * self._ready + 64:
            self._by_priority = [entry for entry in self._by_priority if self._alive(entry[1], entry[2])]
            heapq.heapify(self._by_priority)
            self._by_age = deque(entry for entry in self._by_age if self._alive(*entry))
        waiting = len(self._places) - self._ready
        if not waiting:
            self._by_time.clear()
        elif len(self._by_time) > 2 * waiting + 64:
            self._by_time = [entry for entry in self._by_time if self._waits(entry[2], entry[3])]
            heapq.heapify(self._by_time)

    def _pop_highest(self) -> _Place[T]:
        while True:
            _, order, place = heapq.heappop(self._by_priority)
            if self._alive(order, place):
                return place

    def _pop_oldest(self) -> _Place[T]:
        """By when an item was offered, which for all but raised and requeued ones is when it became ready."""
        while True:
            order, place = self._by_age.popleft()
            if self._alive(order, place):
                return place

    def _alive(self, order: int, place: _Place[T]) -> bool:
        return place.order == order and place.ready and self._places.get(place.item) is place

    def _waits(self, order: int, place: _Place[T]) -> bool:
        return place.order == order and not place.ready and self._places.get(place.item) is place

    def _count(self, priority: int, change: int) -> None:
        depth = self._depths[priority] = self._depths.get(priority, 0) + change
        if self._observer:
            self._observer.depth(depth, str(priority))
        if not depth:
            del self._depths[priority]
