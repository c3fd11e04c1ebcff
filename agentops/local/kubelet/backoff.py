"""How long a crashed container waits: Kubernetes' crash loop, with a scale for tests. Pure.

The first restart is immediate, then 10 s doubling to 300 s; a run of ten minutes forgives the past.
"""

from __future__ import annotations

INITIAL_S = 10.0
MAX_S = 300.0
RESET_S = 2 * MAX_S


class CrashLoop:
    """The delays of one container. `scale` multiplies every figure."""

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale
        self._delay_s = 0.0

    def next_delay_s(self, ran_s: float) -> float:
        """Seconds to wait before the next start of a container that has just ended after `ran_s` seconds."""
        if ran_s > RESET_S * self._scale:
            self._delay_s = 0.0
        delay_s = self._delay_s
        self._delay_s = min(max(delay_s * 2, INITIAL_S * self._scale), MAX_S * self._scale)
        return delay_s


class PullBackOff:
    """The delays between looks for an image: 10 s doubling to 300 s."""

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale
        self._delay_s = INITIAL_S * scale

    def next_delay_s(self) -> float:
        delay_s = self._delay_s
        self._delay_s = min(delay_s * 2, MAX_S * self._scale)
        return delay_s
