"""A process that outlives its terminal, and a parent that waits until it is of use.

    parent ── fork ── child ── setsid, fork ── daemon      stdin closed, stdout and stderr in the log file
       └──────────── reads one line from a pipe ◄─┘        {"ready": …} or {"error": …}; nothing means it died

Forking happens before an event loop, a thread or a heavy import exists.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import frozen

_LOG_LIMIT_BYTES = 10 * 1024 * 1024


@frozen(slots=True)
class Outcome:
    """What the daemon said. `exit_code` is 0 with `ready`, else non-zero with a one-line `error`."""

    ready: dict[str, Any] | None = None
    error: str = ""
    exit_code: int = 0


class Report:
    """The daemon's end of the pipe. The first report counts."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def ready(self, **fields: Any) -> None:
        self._send({"ready": fields})

    def failed(self, error: str, exit_code: int = 1) -> None:
        self._send({"error": error, "exitCode": exit_code})

    def _send(self, message: dict[str, Any]) -> None:
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            os.write(descriptor, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            pass  # the parent was interrupted; the daemon goes on
        os.close(descriptor)


def start_daemon(main: Callable[[Report], int], log_file: Path, *, timeout_s: float = 60.0) -> Outcome:
    """Run `main` in the background and wait for its report; its result is the daemon's exit code.

    A daemon that does not report in time, or whose parent is interrupted, is told to stop.
    """
    _rotate(log_file)
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    middle = os.fork()
    if middle == 0:
        os.close(reading)
        _become_daemon(main, writing, log_file)
    os.close(writing)
    try:
        os.waitpid(middle, 0)
        return _await_report(reading, log_file, timeout_s)
    finally:
        os.close(reading)


def _become_daemon(main: Callable[[Report], int], writing: int, log_file: Path) -> None:
    """In the child: never returns."""
    code = 1
    try:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.chdir("/")
        os.umask(0o077)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.write(writing, json.dumps({"pid": os.getpid()}).encode() + b"\n")
        code = main(Report(writing))
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _await_report(reading: int, log_file: Path, timeout_s: float) -> Outcome:
    buffer, pid = b"", 0
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([reading], [], [], left)[0]:
                _stop(pid)
                return Outcome(error=f"not ready after {timeout_s:g} s; {_why(log_file)}", exit_code=1)
            data = os.read(reading, 65536)
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "pid" in message:
                    pid = int(message["pid"])
                elif "ready" in message:
                    return Outcome(ready={**message["ready"], "pid": pid})
                else:
                    return Outcome(error=str(message["error"]), exit_code=int(message["exitCode"]))
            if not data:
                return Outcome(error=f"it ended while starting; {_why(log_file)}", exit_code=1)
    except KeyboardInterrupt:
        _stop(pid)
        raise


def _stop(pid: int) -> None:
    if pid:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return


def _why(log_file: Path) -> str:
    """The last thing the log says in words (tracebacks of exception groups end in rules), and where the rest is."""
    try:
        text = log_file.read_text(errors="replace")
    except OSError:
        text = ""
    lines = [line.strip(" |+-") for line in text.splitlines() if line.strip(" |+-")]
    last = lines[-1][:300] if lines else "nothing was logged"
    return f"last log line: {last} (all of it: {log_file})"


def _rotate(log_file: Path) -> None:
    try:
        if log_file.stat().st_size > _LOG_LIMIT_BYTES:
            os.replace(log_file, log_file.with_suffix(".log.1"))
    except FileNotFoundError:
        return
