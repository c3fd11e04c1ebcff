"""Notices when something keeps the event loop from running, and says what.

A reconciler that computes or blocks for long delays every other one, the watches, the lease and the
webhooks. A thread, which is not held up, looks at the loop: while it waits for something to happen its lag is
nothing, else the thread has it run a callback and measures how late that comes. What holds up the loop is logged:
the stack, and the key if it is in a reconcile. An idle loop is never woken for this.
"""

from __future__ import annotations

import socket
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
_QUIET = 3
"""How many times longer than the interval it looks away from a loop that waits."""
_WAITING = {("select", "_run_once"), ("get_events", "unrolled_run")}
"""The two innermost functions of a loop of asyncio and of trio that waits. Others are asked every time."""


class LoopWatchdog:
    """Fills `event_loop_lag_seconds`, and `python_gc_pause_seconds` beside it. `run` in the loop it watches.

    Looks every `interval_s`, at a waiting loop a third as often; a lag of `limit_s` is logged once, while it
    lasts. `reconcile_code` is the code of the coroutine whose locals `self.name` and `request` say what is being
    reconciled.
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
        self._answered: float | None = None
        self._stopped = threading.Event()
        self.stalls = 0
        """How often the limit was exceeded."""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled."""
        asks, asked = socket.socketpair()
        with asks, asked:
            asks.setblocking(False)
            asked.setblocking(False)
            arguments = threading.get_ident(), asks
            thread = threading.Thread(target=self._watch, args=arguments, name="loop-watchdog", daemon=True)
            self._pauses.start()
            thread.start()
            task_status.started()
            try:
                while True:
                    await anyio.wait_readable(asked)
                    self._answered = time.monotonic()
                    asked.recv(16)
            finally:
                self._stopped.set()
                thread.join(1.0)
                self._pauses.stop()

    def _watch(self, loop_thread: int, asks: socket.socket) -> None:
        asked: float | None = None
        quiet = reported = False
        while not self._stopped.wait(self._interval_s * (_QUIET if quiet else 1)):
            self._pauses.drain()
            frame = sys._current_frames().get(loop_thread)
            if frame is None:
                return
            quiet = asked is None and _waits(frame)
            if quiet:
                self._histogram.observe(0.0)
            elif asked is None:
                asked, self._answered, reported = time.monotonic(), None, False
                asks.send(b".")
            elif self._answered is not None:
                self._histogram.observe(self._answered - asked)
                asked = None
            elif not reported and time.monotonic() - asked >= self._limit_s:
                reported = True
                self.stalls += 1
                late_s = round(time.monotonic() - asked, 3)
                stack = "".join(traceback.format_stack(frame)[-_FRAMES:])
                log.warning("loop.stalled", late_s=late_s, stack=stack, **self._key(frame))

    def _key(self, frame: FrameType | None) -> dict[str, str]:
        """What the loop is reconciling, found in the locals of the frame that does it."""
        while frame is not None and self._code is not None:
            if frame.f_code is self._code:
                controller, request = frame.f_locals.get("self"), frame.f_locals.get("request")
                return {"controller": str(getattr(controller, "name", "")), "key": str(request)}
            frame = frame.f_back
        return {}


def _waits(frame: FrameType) -> bool:
    """Whether the loop has nothing to do. A reconciler that waits in a selector of its own holds it up."""
    caller = frame.f_back
    return caller is not None and (frame.f_code.co_name, caller.f_code.co_name) in _WAITING
