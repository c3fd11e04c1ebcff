"""What the garbage collector does while caches fill, and how long it stops the process.

Filling a cache allocates many objects that all stay: passes over them are wasted. While anybody fills,
thresholds are high; once the process's first manager has synced, what exists is collected once and then
left out of every later pass. All of this is process-wide, so it happens once per process, not per manager.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from agentops.telemetry.metrics import Registry

_FILLING = (50_000, 50, 1000)
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class _Process:
    """The collector is the process's, so this is the one place with state outside an object of somebody's."""

    filling = 0
    before: tuple[int, int, int] = (700, 10, 10)
    frozen = False


@contextmanager
def filling() -> Iterator[None]:
    """High thresholds while inside; several at once share them, the last one out restores."""
    if _Process.filling == 0:
        _Process.before = gc.get_threshold()
        gc.set_threshold(*_FILLING)
    _Process.filling += 1
    try:
        yield
    finally:
        _Process.filling -= 1
        if _Process.filling == 0:
            gc.set_threshold(*_Process.before)


def settle() -> bool:
    """Collect, then take everything that is left out of later passes. Once per process; whether it was now."""
    if _Process.frozen:
        return False
    _Process.frozen = True
    gc.collect()
    gc.freeze()
    return True


class GcPauses:
    """Fills `python_gc_pause_seconds`. `start` and `stop` it; `drain` now and then.

    The collector's callback may run inside anything, so it only notes the pause; counting is for `drain`.
    """

    def __init__(self, registry: Registry) -> None:
        self._histogram = registry.histogram(
            "python_gc_pause_seconds", "Length of passes of the garbage collector.", buckets=_BUCKETS
        )
        self._pauses: deque[float] = deque(maxlen=10_000)
        self._started = 0.0

    def start(self) -> None:
        """Begin to listen."""
        gc.callbacks.append(self._note)

    def stop(self) -> None:
        """Stop listening; twice is fine."""
        if self._note in gc.callbacks:
            gc.callbacks.remove(self._note)
        self.drain()

    def drain(self) -> None:
        """Count what was noted."""
        while self._pauses:
            self._histogram.observe(self._pauses.popleft())

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._started = time.perf_counter()
        else:
            self._pauses.append(time.perf_counter() - self._started)
