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
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.lowlevel
from attrs import frozen

from agentops.values.clock import Clock

MAX_FILE_BYTES = 10 * 1024 * 1024
MAX_LINE_BYTES = 16 * 1024
_KEPT_ROTATIONS = 4
_BLOCK_BYTES, _BLOCK_LINES = 64 * 1024, 1000
"""How much of a log is read before others get their turn."""
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


def _encode_long(stamp: str, stream: str, line: bytes) -> bytes:
    """A line of any length, cut into parts."""
    out = bytearray()
    while len(line) > MAX_LINE_BYTES:
        out += encode(stamp, stream, line[:MAX_LINE_BYTES], partial=True)
        line = line[MAX_LINE_BYTES:]
    return bytes(out) + encode(stamp, stream, line, partial=False)


def decode(line: bytes) -> LogEntry | None:
    """The entry of a line, None for one that is damaged."""
    parts = line.rstrip(b"\n").split(b" ", 3)
    if len(parts) < 4:
        return None
    stamp, stream, tag, text = parts
    try:
        moment = _moment(stamp)
    except ValueError:
        return None
    return LogEntry(moment, stamp.decode(), stream.decode(), text if tag == b"P" else text + b"\n")


@lru_cache(maxsize=64)
def _moment(stamp: bytes) -> datetime:
    """Lines that were read at once share their time."""
    return parse_nano(stamp.decode("ascii"))


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
        whole, newline, rest = (self._pending[stream] + data).rpartition(b"\n")
        out = bytearray()
        if newline:
            lines = whole.split(b"\n")
            if max(map(len, lines)) <= MAX_LINE_BYTES:
                # All lines at once: a program that floods its output has tens of thousands in one read.
                prefix = encode(stamp, stream, b"", partial=False)[:-1]
                out += prefix + whole.replace(b"\n", b"\n" + prefix) + b"\n"
            else:
                for line in lines:
                    out += _encode_long(stamp, stream, line)
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


class Follower:
    """Reads a log from its oldest kept file on, block by block, across rotations.

    With `bounded` it ends where the log ended when it was opened: a program that prints without pause has no end.
    """

    def __init__(self, path: Path, *, bounded: bool = False) -> None:
        self._path = path
        self._files: deque[BinaryIO] = deque()
        self._rest = b""
        self._open([*rotated(path), path])
        self._left = sum(map(_size, self._files)) if bounded else None

    async def skip_to_tail(self, lines: int) -> None:
        """Go on at the last `lines` whole lines (a line cut in parts counts once)."""
        unfinished: set[bytes] = set()
        finished: set[bytes] = set()
        found = 0
        for index in range(len(self._files) - 1, -1, -1):
            for number, (offset, line) in enumerate(_lines_backwards(self._files[index])):
                if number % _BLOCK_LINES == 0:
                    await anyio.lowlevel.checkpoint()
                _, stream, tag, *_ = [*line.split(b" ", 3), b"", b""]
                if tag == b"F":
                    found += 1
                    finished.add(stream)
                elif stream not in finished | unfinished:
                    # Its newline is still to come.
                    found += 1
                    unfinished.add(stream)
                if found > lines:
                    self._go_to(index, offset + len(line) + 1)
                    return

    def read_some(self) -> list[LogEntry]:
        """Some entries more; none when there are none yet, or none within the bound."""
        while self._files and self._left != 0:
            block = self._files[0].read(_BLOCK_BYTES if self._left is None else min(_BLOCK_BYTES, self._left))
            if block:
                if self._left is not None:
                    self._left -= len(block)
                *lines, self._rest = (self._rest + block).split(b"\n")
                found = [entry for entry in map(decode, lines) if entry is not None]
                if found:
                    return found
            elif len(self._files) > 1:
                self._files.popleft().close()
                self._rest = b""
            elif not self._open_newer():
                break
        return []

    def close(self) -> None:
        while self._files:
            self._files.popleft().close()

    def _open_newer(self) -> bool:
        """The files begun since ours was the newest; False when it still is."""
        inode = os.fstat(self._files[0].fileno()).st_ino
        paths = [*rotated(self._path), self._path]
        inodes = [path.stat().st_ino if path.exists() else 0 for path in paths]
        if inodes[-1] in (0, inode):
            return False
        self._open(paths[inodes.index(inode) + 1 :] if inode in inodes else paths)
        return True

    def _open(self, paths: Iterable[Path]) -> None:
        for path in paths:
            try:
                self._files.append(path.open("rb"))
            except FileNotFoundError:
                continue

    def _go_to(self, index: int, offset: int) -> None:
        if self._left is not None:
            self._left -= sum(map(_size, list(self._files)[:index])) + offset
        for _ in range(index):
            self._files.popleft().close()
        self._files[0].seek(offset)


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _lines_backwards(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, each with its offset and without its newline, the last one first."""
    end = _size(file)
    rest = b""
    while end > 0:
        begin = max(0, end - _BLOCK_BYTES)
        first, *lines = (os.pread(file.fileno(), end - begin, begin) + rest).split(b"\n")
        offset = begin + len(first) + sum(len(line) + 1 for line in lines)
        for line in reversed(lines):
            offset -= len(line)
            if line:
                yield offset, line
            offset -= 1
        rest, end = first + b"\n" if lines else first, begin
    if rest:
        yield 0, rest.rstrip(b"\n")


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
    follower = Follower(path, bounded=not follow)
    try:
        if tail_lines is not None:
            await follower.skip_to_tail(tail_lines)
        while True:
            live = writer()
            found = follower.read_some()
            chunk = _render(since(found, start), timestamps, line_open)
            if budget is not None:
                chunk, budget = chunk[:budget], budget - len(chunk[:budget])
            if chunk:
                yield chunk
            if budget == 0:
                return
            if found:
                # Reading what one container wrote must not keep the loop from everybody else.
                await anyio.lowlevel.checkpoint()
            elif not follow or live is None or live.closed:
                return
            else:
                await live.wait_for_more()
    finally:
        follower.close()


def last_entries(file: Path, count: int) -> list[LogEntry]:
    """The last `count` entries, of those in the last 64 KiB of a file; none when there is no file."""
    try:
        opened = file.open("rb")
    except FileNotFoundError:
        return []
    with opened:
        begin = max(0, _size(opened) - _BLOCK_BYTES)
        lines = os.pread(opened.fileno(), _BLOCK_BYTES, begin).split(b"\n")
    # The first is one that was cut, or damaged by it at worst.
    found = map(decode, lines[1:] if begin else lines)
    return [entry for entry in found if entry is not None][-count:]


def _render(found: Iterable[LogEntry], timestamps: bool, line_open: dict[str, bool]) -> bytes:
    out = bytearray()
    for entry in found:
        if timestamps and not line_open[entry.stream]:
            out += entry.stamp.encode() + b" "
        out += entry.text
        line_open[entry.stream] = not entry.text.endswith(b"\n")
    return bytes(out)
