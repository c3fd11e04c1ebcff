"""The one source of time.

Every object that waits or stamps takes a `Clock` in its constructor, so tests run hours of backoff
in milliseconds: under trio's MockClock with `LoopClock`, or by hand with a clock of their own.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

import anyio


class Clock(Protocol):
    """Wall time for stamps, boot time for durations, and sleeping."""

    def now(self) -> datetime:
        """The wall clock, aware, UTC. For timestamps that people and other machines read."""
        ...

    def boottime(self) -> float:
        """Seconds that only go forward and include suspend. For leases, deadlines and durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task; zero or less is a checkpoint."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def boottime(self) -> float:
        if hasattr(time, "CLOCK_BOOTTIME"):
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(max(0.0, seconds))


class LoopClock:
    """The event loop's clock: virtual under trio's MockClock, so the wall clock follows it."""

    def __init__(self, epoch: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._epoch = epoch

    def now(self) -> datetime:
        return self._epoch + timedelta(seconds=anyio.current_time())

    def boottime(self) -> float:
        return anyio.current_time()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(max(0.0, seconds))


def rfc3339(moment: datetime, *, micro: bool = False) -> str:
    """`2026-11-21T04:45:00Z`; with `micro`, Kubernetes' MicroTime (`…00.000000Z`)."""
    moment = moment.astimezone(UTC)
    if micro:
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_rfc3339(text: str) -> datetime:
    """The inverse of `rfc3339`, accepting offsets. Raises ValueError on anything else."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00").replace("z", "+00:00"))
    if moment.tzinfo is None:
        raise ValueError(f"timestamp {text!r} has no time zone")
    return moment.astimezone(UTC)
