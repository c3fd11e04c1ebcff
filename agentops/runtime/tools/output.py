"""Long output: what the model sees of it, and where the rest goes.

The model gets the head and a line that says how much there is and where all of it stands; the file
lies inside the workspace so that `read` and `grep` reach it.
"""

from __future__ import annotations

import codecs
import os
from io import BufferedWriter
from pathlib import Path

SPILL_DIR = ".agentops/output"
"""Relative to the workspace."""
SPILL_MAX_BYTES = 64 << 20


def cut_notice(shown: int, total: int, spilled: str | None) -> str:
    """The line below a cut output."""
    where = f" The whole output is in {spilled}; read the part you need with offset and limit." if spilled else ""
    return f"\n\n[output cut: showing {shown} of {total} chars.{where} Or narrow the call.]"


def cut(text: str, limit: int, spilled: str | None = None, total: int | None = None) -> str:
    """At most `limit` characters (code points, never half of one) of `text` and the notice."""
    whole = total if total is not None else len(text)
    if len(text) <= limit and whole <= limit:
        return text
    head = text[:limit]
    return head + cut_notice(len(head), whole, spilled)


def spill(workspace: Path, name: str, text: str) -> str | None:
    """Write `text` to the spill directory; its workspace path, or None when the disk refuses."""
    try:
        path = _spill_path(workspace, name)
        path.write_text(text[:SPILL_MAX_BYTES], encoding="utf-8", errors="replace")
    except OSError:
        return None
    return f"{SPILL_DIR}/{path.name}"


class OutputSink:
    """Takes a process's output piece by piece; keeps the head in memory, and the whole in a file once it is long.

    Beyond `SPILL_MAX_BYTES` bytes are counted and thrown away, so a runaway command fills no disk.
    """

    def __init__(self, workspace: Path, name: str, limit_chars: int) -> None:
        self._workspace = workspace
        self._name = name
        self._limit = limit_chars
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._head: list[str] = []
        self._head_chars = 0
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
        return "".join(self._head)

    @property
    def spilled(self) -> str | None:
        return self._spilled

    def _take(self, text: str) -> None:
        if not text:
            return
        self.total_chars += len(text)
        room = self._limit - self._head_chars
        if self.total_chars > self._limit and self._file is None and not self._failed:
            self._open()
        if room > 0:
            self._head.append(text[:room])
            self._head_chars += min(room, len(text))
        if self._file is not None and self._file_bytes < SPILL_MAX_BYTES:
            self._write(text)

    def _open(self) -> None:
        try:
            path = _spill_path(self._workspace, self._name)
            self._file = path.open("wb")
        except OSError:
            self._failed = True
            return
        self._spilled = f"{SPILL_DIR}/{path.name}"
        self._write("".join(self._head))

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
    safe = "".join(char if char.isalnum() or char in "-_" else "-" for char in name)[:80] or "output"
    return directory / f"{safe}.txt"
