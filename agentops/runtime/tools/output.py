"""Long output: what the model sees of it, and where the rest goes.

The model gets the beginning, the end, and between them a line that says how much is left out and where
all of it stands; the file lies inside the workspace so that `read` and `grep` reach it.
"""

from __future__ import annotations

import codecs
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from io import BufferedWriter
from pathlib import Path

SPILL_DIR = ".agentops/output"
"""Relative to the workspace."""
SPILL_MAX_BYTES = 64 << 20
KEPT_BYTES = 256 << 20
KEPT_FILES = 200
"""Of all spilled output together; the oldest files make room."""


def cut(text: str, limit: int, spilled: str | None = None) -> str:
    """`text` when it has at most `limit` characters (code points), else its head, a notice, and its tail."""
    if len(text) <= limit:
        return text
    head, tail = split(limit)
    return join(text[:head], text[len(text) - tail :], len(text), spilled)


def split(limit: int) -> tuple[int, int]:
    """How many of `limit` characters the head and the tail get. Errors tend to stand at the end."""
    tail = limit // 3
    return limit - tail, tail


def join(head: str, tail: str, total: int, spilled: str | None) -> str:
    """Head and tail of an output of `total` characters with the notice between them."""
    where = f" The whole output is in {spilled}; read the part you need with offset and limit." if spilled else ""
    shown = len(head) + len(tail)
    return f"{head}\n\n[output cut: showing {shown} of {total} chars.{where} Or narrow the call.]\n\n{tail}"


def printable(text: str) -> str:
    """`text` as UTF-8 can say it: bytes of a file's name that are none become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def spill(workspace: Path, name: str, text: str) -> str | None:
    """Write `text` to the spill directory; its workspace path, or None when the disk refuses."""
    try:
        path = _spill_path(workspace, name)
        path.write_text(text[:SPILL_MAX_BYTES], encoding="utf-8", errors="replace")
    except OSError:
        return None
    return f"{SPILL_DIR}/{path.name}"


class OutputSink:
    """Takes a process's output piece by piece; keeps head and tail in memory, and the whole in a file once it is long.

    Beyond `SPILL_MAX_BYTES` bytes are counted and thrown away, so a runaway command fills no disk. `watch`
    is given the text as it comes.
    """

    def __init__(
        self, workspace: Path, name: str, limit_chars: int, watch: Callable[[str], None] | None = None
    ) -> None:
        self._workspace = workspace
        self._name = name
        self._limit = limit_chars
        self._watch = watch
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._start: list[str] = []
        self._start_chars = 0
        self._end: deque[str] = deque()
        self._end_chars = 0
        self._file: BufferedWriter | None = None
        self._file_bytes = 0
        self._spilled: str | None = None
        self._failed = False
        self.total_chars = 0

    def write(self, chunk: bytes) -> None:
        self._take(self._decoder.decode(chunk))

    def close(self) -> None:
        self._take(self._decoder.decode(b"", True))
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def text(self) -> str:
        """All of it while it fits the limit, else head, notice and tail."""
        start, end = "".join(self._start), "".join(self._end)
        if self.total_chars <= self._limit:
            return start
        head, tail = split(self._limit)
        return join(start[:head], (start + end)[-tail:] if tail else "", self.total_chars, self._spilled)

    @property
    def spilled(self) -> str | None:
        return self._spilled

    def _take(self, text: str) -> None:
        if not text:
            return
        if self._watch is not None:
            self._watch(text)
        self.total_chars += len(text)
        if self.total_chars > self._limit and self._file is None and not self._failed:
            self._open()
        if self._file is not None and self._file_bytes < SPILL_MAX_BYTES:
            self._write(text)
        room = self._limit - self._start_chars
        if room > 0:
            self._start.append(text[:room])
            self._start_chars += len(self._start[-1])
        self._keep_end(text[max(0, room) :])

    def _keep_end(self, text: str) -> None:
        tail = split(self._limit)[1]
        if not text or not tail:
            return
        self._end.append(text[-tail:])
        self._end_chars += len(self._end[-1])
        while self._end_chars - len(self._end[0]) >= tail:
            self._end_chars -= len(self._end.popleft())

    def _open(self) -> None:
        try:
            path = _spill_path(self._workspace, self._name)
            self._file = path.open("wb")
        except OSError:
            self._failed = True
            return
        self._spilled = f"{SPILL_DIR}/{path.name}"
        self._write("".join(self._start))

    def _write(self, text: str) -> None:
        assert self._file is not None
        data = text.encode("utf-8", "replace")[: SPILL_MAX_BYTES - self._file_bytes]
        try:
            self._file.write(data)
        except OSError:
            self._failed = True
            self._file.close()
            self._file = None
            return
        self._file_bytes += len(data)


def _spill_path(workspace: Path, name: str) -> Path:
    directory = workspace / SPILL_DIR
    directory.mkdir(parents=True, exist_ok=True)
    if os.path.realpath(directory) != str(Path(os.path.realpath(workspace)) / SPILL_DIR):
        raise OSError(f"{directory} leads outside the workspace")
    _make_room(directory)
    safe = "".join(char if char.isalnum() or char in "-_" else "-" for char in name)[:80] or "output"
    path = directory / f"{safe}.txt"
    path.unlink(missing_ok=True)  # never through a link that stands in its place
    return path


def _make_room(directory: Path) -> None:
    """Delete the oldest files until what stays is under the limits."""
    files = []
    for path in directory.iterdir():
        with suppress(OSError):
            info = path.lstat()
            files.append((info.st_mtime, info.st_size, path))
    files.sort(key=lambda file: file[0], reverse=True)
    used = 0
    for index, (_, size, path) in enumerate(files):
        used += size
        if index >= KEPT_FILES - 1 or used > KEPT_BYTES - SPILL_MAX_BYTES:
            with suppress(OSError):
                path.unlink()
