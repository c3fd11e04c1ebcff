"""A limit of requests a second on the client's side, for servers that do not protect themselves."""

from __future__ import annotations

from collections.abc import Callable

from agentops.values.clock import Clock


class RequestLimiter:
    """A token bucket: `burst` requests at once, then `qps` a second, in the order of asking.

    `observe` is called with (method, seconds waited) for every request.
    """

    def __init__(
        self, qps: float, burst: int, clock: Clock, *, observe: Callable[[str, float], None] | None = None
    ) -> None:
        if qps <= 0 or burst < 1:
            raise ValueError(f"a limit needs a positive qps and burst, not {qps} and {burst}")
        self._qps = qps
        self._burst = burst
        self._clock = clock
        self._observe = observe
        self._tokens = float(burst)
        self._last: float | None = None

    async def wait(self, method: str) -> None:
        """Until one more request may be sent."""
        now = self._clock.boottime()
        if self._last is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._last) * self._qps)
        self._last = now
        self._tokens -= 1
        delay_s = max(0.0, -self._tokens / self._qps)
        if self._observe is not None:
            self._observe(method, delay_s)
        if delay_s > 0:
            await self._clock.sleep(delay_s)
