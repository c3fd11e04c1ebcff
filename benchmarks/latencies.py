"""What a contender of `benchmarks.latency` notes: when an object came to be handled, less when the source sent it.

Source and contender are on one machine and read one clock, so the difference needs no agreement about time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

SENT = "sent"
"""Label with the source's monotonic time in nanoseconds."""


class Latencies:
    """Seconds per event, in a file of a line each. Without a file nothing is noted."""

    def __init__(self, file: str = "") -> None:
        self._file = file
        self._seconds: list[float] = []

    @property
    def wanted(self) -> bool:
        return bool(self._file)

    def note(self, labels: Mapping[str, str] | None, now_ns: int | None = None) -> None:
        """An object is handled now, or was at `now_ns`. One of the first list has no such label."""
        sent = (labels or {}).get(SENT)
        if self._file and sent:
            self._seconds.append(((now_ns or time.monotonic_ns()) - int(sent)) / 1e9)

    def write(self) -> None:
        """Hand in what there is, once there is something."""
        if self._file and self._seconds:
            Path(self._file).write_text("\n".join(map(str, self._seconds)))
