"""A role as a real process: `python -m agentops …`, its log read line by line."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import orjson

_KEPT = (
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "COVERAGE_PROCESS_START",
    "PIP_INDEX_URL",
    "PIP_CONFIG_FILE",
    "SSL_CERT_FILE",
)


class Role:
    """Started on `with`, killed at its end if it still runs. Listen on port 0 and ask `ready` for the port."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.arguments = arguments
        self._env = {name: os.environ[name] for name in _KEPT if name in os.environ} | dict(env or {})
        self.lines: list[str] = []
        self._new: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def __enter__(self) -> Role:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agentops", *self.arguments],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def ready(self, event: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """The fields of the first log line whose event is `event`."""
        while True:
            try:
                line = self._new.get(timeout=timeout_s)
            except queue.Empty:
                raise AssertionError(f"no {event!r} within {timeout_s} s; output:\n{self.output}") from None
            if line is None:
                raise AssertionError(f"the process ended with {self.process.wait(10)}; output:\n{self.output}")
            if line.startswith("{"):
                fields = orjson.loads(line)
                if fields.get("event") == event:
                    return fields

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """Signal it and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def wait(self, timeout_s: float = 30.0) -> int:
        code = self.process.wait(timeout_s)
        self._reader.join(10)
        return code

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            self._new.put(line)
        self._new.put(None)
