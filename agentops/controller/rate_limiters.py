"""How long a failed item waits (client-go `default_rate_limiters.go`). Events are never limited, only retries."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

from agentops.values.clock import Clock


class RateLimiter(Protocol):
    """Decides the wait before the next try of an item."""

    def when(self, item: Hashable) -> float:
        """Seconds to wait now; counts as one failure of `item`."""
        ...

    def forget(self, item: Hashable) -> None:
        """The item succeeded, or will not be tried again."""
        ...

    def num_requeues(self, item: Hashable) -> int:
        """Failures since the last `forget`."""
        ...


class ItemExponential:
    """`base * 2**failures` per item, at most `max_s`. Defaults: 5 ms, 1000 s (reached at the 19th failure)."""

    def __init__(self, base_s: float = 0.005, max_s: float = 1000.0) -> None:
        self._base_s = base_s
        self._max_s = max_s
        self._failures: dict[Hashable, int] = {}

    def when(self, item: Hashable) -> float:
        failures = self._failures.get(item, 0)
        self._failures[item] = failures + 1
        return min(self._base_s * float(1 << min(failures, 64)), self._max_s)

    def forget(self, item: Hashable) -> None:
        self._failures.pop(item, None)

    def num_requeues(self, item: Hashable) -> int:
        return self._failures.get(item, 0)

    def __len__(self) -> int:
        return len(self._failures)


class TokenBucket:
    """`per_s` tokens a second, `burst` at once, shared by all items. Defaults: 10/s, 100."""

    def __init__(self, clock: Clock, per_s: float = 10.0, burst: int = 100) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._tokens = float(burst)
        self._last: float | None = None

    def when(self, item: Hashable) -> float:
        now = self._clock.boottime()
        if self._last is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._last) * self._per_s)
        self._last = now
        self._tokens -= 1
        return 0.0 if self._tokens >= 0 else -self._tokens / self._per_s

    def forget(self, item: Hashable) -> None:
        """Tokens are not given back."""

    def num_requeues(self, item: Hashable) -> int:
        return 0


class FastSlow:
    """`fast_s` for the first `fast_tries` failures of an item, `slow_s` after."""

    def __init__(self, fast_s: float, slow_s: float, fast_tries: int) -> None:
        self._fast_s, self._slow_s, self._fast_tries = fast_s, slow_s, fast_tries
        self._failures: dict[Hashable, int] = {}

    def when(self, item: Hashable) -> float:
        failures = self._failures[item] = self._failures.get(item, 0) + 1
        return self._fast_s if failures <= self._fast_tries else self._slow_s

    def forget(self, item: Hashable) -> None:
        self._failures.pop(item, None)

    def num_requeues(self, item: Hashable) -> int:
        return self._failures.get(item, 0)


class MaxOf:
    """The longest wait of several limiters; each of them is asked every time."""

    def __init__(self, *limiters: RateLimiter) -> None:
        self._limiters = limiters

    def when(self, item: Hashable) -> float:
        return max([limiter.when(item) for limiter in self._limiters])

    def forget(self, item: Hashable) -> None:
        for limiter in self._limiters:
            limiter.forget(item)

    def num_requeues(self, item: Hashable) -> int:
        return max(limiter.num_requeues(item) for limiter in self._limiters)


class WithMaxWait:
    """Another limiter's waits, cut at `max_s`."""

    def __init__(self, limiter: RateLimiter, max_s: float) -> None:
        self._limiter = limiter
        self._max_s = max_s

    def when(self, item: Hashable) -> float:
        return min(self._limiter.when(item), self._max_s)

    def forget(self, item: Hashable) -> None:
        self._limiter.forget(item)

    def num_requeues(self, item: Hashable) -> int:
        return self._limiter.num_requeues(item)


LimiterFactory = Callable[[Clock], RateLimiter]


def default_controller_rate_limiter(clock: Clock) -> RateLimiter:
    """The classic queue's: per item exponential, and 10 retries a second over all items."""
    return MaxOf(ItemExponential(), TokenBucket(clock))
