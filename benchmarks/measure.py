"""Figures from outside: /proc for CPU and memory of a process tree, and the statistics of a few numbers.

Contenders measure nothing themselves; they are child processes that this module watches.
"""

from __future__ import annotations

import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
_TICK = os.sysconf("SC_CLK_TCK")
_OURS = ("aiohttp", "anyio", "msgspec", "orjson", "uvloop")


class Child:
    """A process of a benchmark, its output in a log, its resources in /proc. Ended with `stop`.

    `cpus` pins it. Its group is its own, so that no child of its survives `stop`.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_file: Path,
        *,
        env: Mapping[str, str] | None = None,
        cpus: set[int] | None = None,
    ) -> None:
        self.log_file = log_file
        with open(log_file, "ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), **(env or {})},
                start_new_session=True,
            )
        self.pid = self._process.pid
        if cpus:
            os.sched_setaffinity(self.pid, cpus)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def cpu_s(self) -> float:
        """User and system seconds so far, without children."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def waited_s(self) -> float:
        """Seconds its threads were ready to run while something else had the core."""
        return (
            sum(float(path.read_text().split()[1]) for path in Path(f"/proc/{self.pid}/task").glob("*/schedstat")) / 1e9
        )

    def rss_bytes(self) -> int:
        """Resident now."""
        return self._status_bytes("VmRSS")

    def peak_rss_bytes(self) -> int:
        """Resident at the most."""
        return self._status_bytes("VmHWM")

    def wakeups(self) -> int:
        """How often it has gone to sleep and been woken."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                return int(line.split()[1])
        return 0

    def require_running(self) -> None:
        """Raise RuntimeError with the end of the log when it has ended."""
        if not self.running:
            raise RuntimeError(f"the process ended with {self._process.returncode}:\n{self.log[-3000:]}")

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self, timeout_s: float = 10.0) -> int:
        """SIGTERM, then SIGKILL to its whole group; the exit code."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _status_bytes(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        return 0


def wait_until(check: Any, *, timeout_s: float, what: str, child: Child | None = None, poll_s: float = 0.005) -> None:
    """Poll `check` until it is true. Raises TimeoutError naming `what`."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if child is not None:
            child.require_running()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(poll_s)


def percentile(values: Sequence[float], percent: float) -> float:
    """By nearest rank; 0 of nothing."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(percent * len(ordered) / 100) - 1)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and extremes over runs."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def cores() -> tuple[set[int] | None, set[int] | None]:
    """(server's, contender's) CPUs: apart when there are two at least, else not pinned."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        return None, None
    return set(usable[:-1]), {usable[-1]}


def machine() -> dict[str, Any]:
    """Where and with what a run was made."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": [round(value, 2) for value in os.getloadavg()],
        "versions": {name: found for name in _OURS if (found := _version(name))},
    }


def versions_of(python: str, names: Sequence[str]) -> dict[str, str]:
    """What is installed beside another interpreter."""
    code = (
        "import sys\nfrom importlib.metadata import version, PackageNotFoundError\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(name, version(name))\n"
        "    except PackageNotFoundError: pass"
    )
    found = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=False)
    return dict(line.split() for line in found.stdout.splitlines())


def own_command(module: str, *args: str) -> list[str]:
    """A module of this package with this interpreter."""
    return [sys.executable, "-m", module, *args]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
