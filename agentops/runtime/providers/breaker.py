"""Which models are not worth asking just now."""

from __future__ import annotations

from agentops.values.clock import Clock

FAILURES = 3
PAUSE_S = 30.0


class Breaker:
    """After `FAILURES` calls in a row that failed, with all their retries, a model is passed over for `PAUSE_S`.

    Then one call is let through, and its failure begins the next pause. Per model and not per account,
    because a vendor overloads one of its models at a time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def pause_s(self, model: str) -> float:
        """For how long `model` is still passed over; 0 when it may be asked."""
        return max(0.0, self._until.get(model, 0.0) - self._clock.boottime())

    def answered(self, model: str) -> None:
        self._failures.pop(model, None)
        self._until.pop(model, None)

    def failed(self, model: str) -> None:
        self._failures[model] = self._failures.get(model, 0) + 1
        if self._failures[model] >= FAILURES:
            self._until[model] = self._clock.boottime() + PAUSE_S
