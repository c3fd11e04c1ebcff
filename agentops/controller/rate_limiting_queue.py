"""A delaying queue that knows how long a failed item has to wait (client-go `rate_limiting_queue.go`)."""

from __future__ import annotations

from agentops.controller.delaying_queue import DelayingQueue
from agentops.controller.rate_limiters import RateLimiter, default_controller_rate_limiter
from agentops.controller.workqueue import QueueObserver, QueueStatistics, T
from agentops.values.clock import Clock, SystemClock


class RateLimitingQueue(DelayingQueue[T]):
    """`add_rate_limited` after a failure, `forget` after a success: without it the next failure waits long."""

    def __init__(
        self,
        limiter: RateLimiter | None = None,
        *,
        clock: Clock | None = None,
        observer: QueueObserver | None = None,
    ) -> None:
        clock = clock or SystemClock()
        super().__init__(clock=clock, observer=observer)
        self.limiter = limiter or default_controller_rate_limiter(clock)

    def add_rate_limited(self, item: T, priority: int | None = None) -> None:
        """Make `item` ready again after the limiter's wait."""
        self.add_after(item, self.limiter.when(item), priority)

    def forget(self, item: T) -> None:
        """Reset the item's failures. Does not touch the queue."""
        self.limiter.forget(item)

    def num_requeues(self, item: T) -> int:
        """Failures since the last `forget`."""
        return self.limiter.num_requeues(item)

    def statistics(self) -> QueueStatistics:
        return QueueStatistics(len(self._queue), len(self._processing), len(self._ready_at), self._failing())

    def _failing(self) -> int:
        count: int = getattr(self.limiter, "__len__", int)()
        return count
