"""Every request that came in, for tests that want to see what a model is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import orjson

from agentops.net.errors import UsageError
from agentops.values.clock import Clock, rfc3339

KEPT = 10_000
"""Requests kept in memory; a record file keeps all."""

_SECRET_HEADERS = ("authorization", "x-api-key", "x-agentops-token", "cookie")


class Journal:
    """Requests as JSON lines: `{number, time, path, headers, body, answered_by}`.

    Secrets in headers are replaced by a short digest: two requests with the same key can be told from two keys. With
    `record`, lines are also appended to that file, each before its answer begins.
    """

    def __init__(self, clock: Clock, record: Path | None = None) -> None:
        self._clock = clock
        self._lines: list[bytes] = []
        self._number = 0
        self._file: IO[bytes] | None = None
        if record is not None:
            try:
                self._file = record.open("ab", buffering=0)
            except OSError as error:
                raise UsageError(f"--record {record}: {error.strerror}; choose a writable file") from error

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def add(self, number: int, path: str, headers: Mapping[str, str], body: Any, answered_by: str) -> None:
        entry = {
            "number": number,
            "time": rfc3339(self._clock.now(), micro=True),
            "path": path,
            "headers": {name: _shown(name, value) for name, value in headers.items()},
            "body": body,
            "answered_by": answered_by,
        }
        line = orjson.dumps(entry, default=str) + b"\n"
        self._lines.append(line)
        del self._lines[:-KEPT]
        if self._file is not None:
            self._file.write(line)

    def clear(self) -> None:
        self._lines.clear()

    def lines(self) -> bytes:
        """What was asked so far, oldest first."""
        return b"".join(self._lines)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _shown(name: str, value: str) -> str:
    if name.lower() not in _SECRET_HEADERS:
        return value
    scheme, space, secret = value.partition(" ")
    digest = hashlib.sha256((secret if space else value).encode()).hexdigest()[:12]
    return f"{scheme} sha256:{digest}" if space else f"sha256:{digest}"
