"""Notices when something keeps the event loop from running, and says what.

A reconciler that computes or blocks for long delays every other one, the watches, the lease and the
webhooks. A task measures how late it wakes; a thread, which is not held up, logs what the loop was
doing: the stack, and the key if it was in a reconcile.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from types import CodeType, FrameType

import anyio
import anyio.abc

from agentops.controller.gcpolicy import GcPauses
from agentops.telemetry.logging import get_logger
from agentops.telemetry.metrics import Registry

log = get_logger("controller.watchdog")

_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_FRAMES = 12


class LoopWatchdog:
    """Fills `event_loop_lag_seconds`, and `python_gc_pause_seconds` beside it. `run` in the loop it watches.

    Looks every `interval_s`; a lag above `limit_s` is logged once, while it lasts. `reconcile_code` is the
    code of the coroutine whose locals `self.name` and `request` say what is being reconciled.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        interval_s: float = 0.1,
        limit_s: float = 0.1,
        reconcile_code: CodeType | None = None,
    ) -> None:
        self._interval_s = interval_s
        self._limit_s = limit_s
        self._code = reconcile_code
        self._histogram = registry.histogram(
            "event_loop_lag_seconds", "How late the event loop wakes a task.", buckets=_BUCKETS
        )
        self._pauses = GcPauses(registry)
        self._beat = 0.0
        self._stopped = threading.Event()
        self.stalls = 0
        """How often the limit was exceeded."""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled."""
        self._beat = time.monotonic()
        thread = threading.Thread(target=self._watch, args=(threading.get_ident(),), name="loop-watchdog", daemon=True)
        self._pauses.start()
        thread.start()
        task_status.started()
        try:
            while True:
                expected = time.monotonic() + self._interval_s
                await anyio.sleep(self._interval_s)
                self._beat = time.monotonic()
                self._histogram.observe(max(0.0, self._beat - expected))
                self._pauses.drain()
        finally:
            self._stopped.set()
            self._pauses.stop()
            thread.join(1.0)

    def _watch(self, loop_thread: int) -> None:
        reported = 0.0
        while not self._stopped.wait(self._interval_s):
            beat = self._beat
            late_s = time.monotonic() - beat - self._interval_s
            if late_s > self._limit_s and beat != reported:
                frame = sys._current_frames().get(loop_thread)
                if frame is not None and beat == self._beat:
                    reported = beat
                    self.stalls += 1
                    stack = traceback.format_stack(frame)[-_FRAMES:]
                    log.warning("loop.stalled", late_s=round(late_s, 3), stack="".join(stack), **self._key(frame))

    def _key(self, frame: FrameType | None) -> dict[str, str]:
        """What the loop is reconciling, found in the locals of the frame that does it."""
        while frame is not None and self._code is not None:
            if frame.f_code is self._code:
                controller, request = frame.f_locals.get("self"), frame.f_locals.get("request")
                return {"controller": str(getattr(controller, "name", "")), "key": str(request)}
            frame = frame.f_back
        return {}
