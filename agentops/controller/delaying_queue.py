"""A work queue whose items can become ready later (client-go `delaying_queue.go`).

One timer serves the whole heap, however many items wait.
"""

from __future__ import annotations

import heapq
from itertools import count
from threading import get_ident

import anyio
import anyio.abc

from agentops.controller.workqueue import QueueObserver, QueueStatistics, T, WorkQueue, _other_thread
from agentops.values.clock import Clock

_RECHECK_S = 10.0
"""The head is looked at this often at least: clocks jump and machines sleep."""


class DelayingQueue(WorkQueue[T]):
    """`add_after`. The timer runs in `run()`; without it nothing delayed becomes ready."""

    def __init__(self, *, clock: Clock | None = None, observer: QueueObserver | None = None) -> None:
        super().__init__(clock=clock, observer=observer)
        self._heap: list[tuple[float, int, T]] = []
        self._ready_at: dict[T, float] = {}
        self._order = count()
        self._head_changed = anyio.Event()

    def add_after(self, item: T, delay_s: float, priority: int | None = None) -> None:
        """Make `item` ready in `delay_s` seconds. Of several delays of one item the earliest counts."""
        if self._thread is not None and self._thread != get_ident():
            raise _other_thread()
        if self._shut_down:
            return
        if self._observer:
            self._observer.retried()
        if delay_s <= 0:
            self.add(item, priority)
            return
        at = self._clock.boottime() + delay_s
        known = self._ready_at.get(item)
        if known is not None and known <= at:
            return
        self._ready_at[item] = at
        heapq.heappush(self._heap, (at, next(self._order), item))
        if self._heap[0][2] == item:
            self._head_changed.set()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Move items that have become ready, until shut down."""
        task_status.started()
        while not self._shut_down:
            self._head_changed = anyio.Event()
            wait_s = self._move_ready()
            with anyio.move_on_after(wait_s):
                await self._head_changed.wait()

    def shutdown(self) -> None:
        """As the base; items that still wait are dropped."""
        super().shutdown()
        self._heap.clear()
        self._ready_at.clear()
        self._head_changed.set()

    def _queued(self, item: T) -> str:
        return super()._queued(item) or ("waiting" if item in self._ready_at else "")

    def statistics(self) -> QueueStatistics:
        return QueueStatistics(len(self._queue), len(self._processing), waiting=len(self._ready_at))

    def _move_ready(self) -> float:
        """Add what is due; seconds until it is worth looking again."""
        now = self._clock.boottime()
        while self._heap:
            at, _, item = self._heap[0]
            if self._ready_at.get(item) != at:
                heapq.heappop(self._heap)  # an earlier time has replaced it
                continue
            if at > now:
                return min(at - now, _RECHECK_S)
            heapq.heappop(self._heap)
            del self._ready_at[item]
            self.add(item)
        return _RECHECK_S
