"""A background process and the parent that waits for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

PRELUDE = """
import json, os, signal, sys, time
from pathlib import Path
from agentops.local.daemon import start_daemon
log = Path(sys.argv[1])
def show(outcome):
    print(json.dumps({"ready": outcome.ready, "error": outcome.error, "code": outcome.exit_code}))
"""


def run(tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    code = PRELUDE + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "log")], capture_output=True, text=True, timeout=30, check=False
    )


def test_the_parent_returns_when_the_daemon_is_ready_and_the_daemon_lives_on(tmp_path: Path) -> None:
    result = run(
        tmp_path,
        """
        def main(report):
            report.ready(url="u")
            print("in the log", flush=True)
            time.sleep(60)
            return 0
        show(start_daemon(main, log))
    """,
    )
    assert '"url": "u"' in result.stdout, result.stderr
    pid = int(result.stdout.partition('"pid": ')[2].partition("}")[0])
    try:
        assert os.getsid(pid) != os.getsid(0)
        deadline = time.monotonic() + 5
        while "in the log" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "in the log" in (tmp_path / "log").read_text()
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_reported_failure_reaches_the_parent_with_its_code(tmp_path: Path) -> None:
    result = run(
        tmp_path,
        """
        def main(report):
            report.failed("the port is taken", exit_code=2)
            return 2
        show(start_daemon(main, log))
    """,
    )
    assert '"error": "the port is taken", "code": 2' in result.stdout


def test_a_daemon_that_dies_is_explained_by_its_last_log_line(tmp_path: Path) -> None:
    result = run(
        tmp_path,
        """
        def main(report):
            raise RuntimeError("boom")
        show(start_daemon(main, log))
    """,
    )
    assert "it ended while starting; last log line: RuntimeError: boom" in result.stdout


def test_a_daemon_that_is_never_ready_is_stopped(tmp_path: Path) -> None:
    result = run(
        tmp_path,
        """
        def main(report):
            signal.signal(signal.SIGTERM, lambda *_: (print("told to stop", flush=True), os._exit(0)))
            print("up", flush=True)
            time.sleep(60)
            return 0
        show(start_daemon(main, log, timeout_s=1.5))
    """,
    )
    assert "not ready after 1.5 s" in result.stdout
    deadline = time.monotonic() + 5
    while "told to stop" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "told to stop" in (tmp_path / "log").read_text()
