"""Growing waits with jitter, that forget after a calm time."""

from __future__ import annotations

import random

from agentops.values.clock import Clock


class Backoff:
    """0.8 s, doubling to 30 s, each lengthened by up to 100 %; starts over after 120 s without a call.

    The numbers are client-go's reflector backoff. One object per thing that fails, not per kind of failure.
    """

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        *,
        first_s: float = 0.8,
        max_s: float = 30.0,
        factor: float = 2.0,
        jitter: float = 1.0,
        calm_s: float = 120.0,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._first_s = first_s
        self._max_s = max_s
        self._factor = factor
        self._jitter = jitter
        self._calm_s = calm_s
        self._next_s = first_s
        self._last: float | None = None

    def next_s(self, floor_s: float = 0.0) -> float:
        """Seconds to wait now, at least `floor_s` (a server's Retry-After)."""
        now = self._clock.boottime()
        if self._last is not None and now - self._last > self._calm_s:
            self._next_s = self._first_s
        delay_s = self._next_s
        self._next_s = min(delay_s * self._factor, self._max_s)
        waited_s = max(delay_s * (1 + self._jitter * self._rng.random()), floor_s)
        self._last = now + waited_s
        return waited_s

    def reset(self) -> None:
        """Forget all failures."""
        self._next_s, self._last = self._first_s, None
