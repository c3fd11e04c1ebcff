"""Container logs: files in the CRI format, and reading them as `kubectl logs` does.

A line is `2026-11-21T04:51:00.123456789Z stdout F text`; P instead of F marks a part without its
newline. One file per run of the container (`0.log`, `1.log`, …); at 10 MiB the file is renamed to
`0.log.<time>` and a new one begun.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import anyio
from attrs import frozen

from agentops.values.clock import Clock

MAX_FILE_BYTES = 10 * 1024 * 1024
MAX_LINE_BYTES = 16 * 1024
_KEPT_ROTATIONS = 4
_ROTATED = re.compile(r"\.log\.\d{8}-\d{6}\.\d{9}$")


@frozen(slots=True)
class LogEntry:
    """One line of a file. `text` has its newline when the container wrote one."""

    time: datetime
    stamp: str
    stream: str
    text: bytes


def encode(stamp: str, stream: str, text: bytes, *, partial: bool) -> bytes:
    """One line of a file. `text` carries no newline."""
    return f"{stamp} {stream} {'P' if partial else 'F'} ".encode() + text + b"\n"


def decode(line: bytes) -> LogEntry | None:
    """The entry of a line, None for one that is damaged."""
    parts = line.rstrip(b"\n").split(b" ", 3)
    if len(parts) < 4:
        return None
    stamp, stream, tag, text = parts
    try:
        moment = parse_nano(stamp.decode("ascii"))
    except ValueError:
        return None
    return LogEntry(moment, stamp.decode(), stream.decode(), text if tag == b"P" else text + b"\n")


def nano(moment: datetime) -> str:
    """RFC 3339 with nine digits, as the CRI wants."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def parse_nano(text: str) -> datetime:
    """From RFC 3339 with up to nine fractional digits. Raises ValueError."""
    match = re.fullmatch(r"(.*?)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", text)
    if match is None:
        raise ValueError(f"{text!r} is not an RFC 3339 time")
    base, fraction, zone = match.groups()
    moment = datetime.fromisoformat(base + zone.replace("Z", "+00:00"))
    return moment + timedelta(microseconds=int(((fraction or "") + "000000")[:6]))


class LogWriter:
    """Writes one run's log. Readers wait on `changed`."""

    def __init__(self, path: Path, clock: Clock, *, max_bytes: int = MAX_FILE_BYTES) -> None:
        self.path = path
        self._clock = clock
        self._max_bytes = max_bytes
        self._pending = {"stdout": b"", "stderr": b""}
        self._changed = anyio.Event()
        self._closed = False
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file: BinaryIO = path.open("ab", buffering=0)
        self._size = path.stat().st_size

    @property
    def closed(self) -> bool:
        return self._closed

    def write(self, stream: str, data: bytes) -> None:
        """Take output as it comes; whole lines are written at once, parts wait for their end or 16 KiB."""
        stamp = nano(self._clock.now())
        *lines, rest = (self._pending[stream] + data).split(b"\n")
        out = bytearray()
        for line in lines:
            while len(line) > MAX_LINE_BYTES:
                out += encode(stamp, stream, line[:MAX_LINE_BYTES], partial=True)
                line = line[MAX_LINE_BYTES:]
            out += encode(stamp, stream, line, partial=False)
        while len(rest) >= MAX_LINE_BYTES:
            out += encode(stamp, stream, rest[:MAX_LINE_BYTES], partial=True)
            rest = rest[MAX_LINE_BYTES:]
        self._pending[stream] = rest
        if out:
            self._append(bytes(out))

    def close(self) -> None:
        """Write what has no newline yet and end the log; followers finish."""
        if self._closed:
            return
        stamp = nano(self._clock.now())
        try:
            for stream, rest in self._pending.items():
                if rest:
                    self._append(encode(stamp, stream, rest, partial=True))
        finally:
            self._closed = True
            self._file.close()
            self._changed.set()

    async def wait_for_more(self) -> None:
        """Until something was written or the log was closed."""
        if not self._closed:
            await self._changed.wait()

    def _append(self, data: bytes) -> None:
        if self._size and self._size + len(data) > self._max_bytes:
            self._rotate()
        self._file.write(data)
        self._size += len(data)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _rotate(self) -> None:
        self._file.close()
        suffix = self._clock.now().strftime("%Y%m%d-%H%M%S.%f") + "000"
        self.path.rename(self.path.with_name(f"{self.path.name}.{suffix}"))
        for old in rotated(self.path)[:-_KEPT_ROTATIONS]:
            old.unlink(missing_ok=True)
        self._file = self.path.open("ab", buffering=0)
        self._size = 0


def rotated(path: Path) -> list[Path]:
    """Earlier files of a log, oldest first."""
    return sorted(p for p in path.parent.glob(f"{path.name}.*") if _ROTATED.search(p.name))


def since(found: Iterable[LogEntry], start: datetime | None) -> Iterator[LogEntry]:
    return (entry for entry in found if start is None or entry.time >= start)


def tail(found: Iterable[LogEntry], lines: int) -> list[LogEntry]:
    """The last `lines` whole lines (a line cut in parts counts once)."""
    if lines <= 0:
        return []
    groups: deque[list[LogEntry]] = deque(maxlen=lines)
    open_parts: dict[str, list[LogEntry]] = {}
    for entry in found:
        group = open_parts.get(entry.stream)
        if group is None:
            group = []
            groups.append(group)
        group.append(entry)
        if entry.text.endswith(b"\n"):
            open_parts.pop(entry.stream, None)
        else:
            open_parts[entry.stream] = group
    return [entry for group in groups for entry in group]


class Follower:
    """Reads new entries of a log that is being written, across rotations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""

    def read_new(self) -> list[LogEntry]:
        """Entries written since the last call."""
        found: list[LogEntry] = []
        self._open()
        while self._file is not None:
            found += self._drain()
            if not self._was_rotated():
                break
            found += self._drain()
            self._file.close()
            self._file = None
            self._open()
        return found

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        if self._file is None:
            try:
                self._file = self._path.open("rb")
            except FileNotFoundError:
                return

    def _was_rotated(self) -> bool:
        assert self._file is not None
        try:
            return self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False

    def _drain(self) -> list[LogEntry]:
        assert self._file is not None
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [entry for entry in map(decode, lines) if entry is not None]


async def read_log(
    path: Path,
    writer: Callable[[], LogWriter | None],
    *,
    follow: bool = False,
    tail_lines: int | None = None,
    start: datetime | None = None,
    timestamps: bool = False,
    limit_bytes: int | None = None,
) -> AsyncIterator[bytes]:
    """The bytes `kubectl logs` prints. With `follow`, until the run ends (`writer()` closed or gone)."""
    budget = limit_bytes
    line_open = {"stdout": False, "stderr": False}
    follower = Follower(path)
    try:
        for batch in _history(path, follower, tail_lines, start):
            chunk = _render(batch, timestamps, line_open)
            if budget is not None:
                chunk, budget = chunk[:budget], budget - len(chunk[:budget])
            if chunk:
                yield chunk
            if budget == 0:
                return
        while follow:
            live = writer()
            found = list(since(follower.read_new(), start))
            chunk = _render(found, timestamps, line_open)
            if budget is not None:
                chunk, budget = chunk[:budget], budget - len(chunk[:budget])
            if chunk:
                yield chunk
            if budget == 0:
                return
            if live is None or live.closed:
                if not found:
                    return
            elif not found:
                await live.wait_for_more()
    finally:
        follower.close()


def _history(
    path: Path, follower: Follower, tail_lines: int | None, start: datetime | None
) -> Iterator[list[LogEntry]]:
    """What is in the files now, in batches, leaving `follower` behind it."""
    old = [entry for file in rotated(path) for entry in entries_of(file)]
    current = follower.read_new()
    found = since([*old, *current], start)
    selected = list(found) if tail_lines is None else tail(found, tail_lines)
    for index in range(0, len(selected), 1000):
        yield selected[index : index + 1000]


def entries_of(file: Path) -> Iterator[LogEntry]:
    """The entries of one file."""
    with file.open("rb") as lines:
        for line in lines:
            entry = decode(line)
            if entry is not None:
                yield entry


def _render(found: Iterable[LogEntry], timestamps: bool, line_open: dict[str, bool]) -> bytes:
    out = bytearray()
    for entry in found:
        if timestamps and not line_open[entry.stream]:
            out += entry.stamp.encode() + b" "
        out += entry.text
        line_open[entry.stream] = not entry.text.endswith(b"\n")
    return bytes(out)
