"""B9: every watch of a manager with many informers expires at once.

The loop's lag is what a probe sees from outside: how long `/healthz` takes to answer, asked every 10 ms.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.ingest import source
from benchmarks.measure import Child, cores, own_command, percentile, wait_until
from benchmarks.report import Result, add_common_arguments, finish, once

METRICS = {
    "relist_s": "until all is listed again, s",
    "objects_per_s": "relisted, objects/s",
    "probe_p99_ms": "probe meanwhile p99, ms",
    "probe_max_ms": "probe meanwhile at most, ms",
    "rss_mib": "resident before, MiB",
    "peak_rss_mib": "resident at most, MiB",
}
_QUIET_S = 1.0
_LOOK_S = 0.2
_BUSY = 0.25
"""Share of a core above which it works; asking `/healthz` costs less."""


def measure(directory: Path, informers: int, objects: int) -> dict[str, float]:
    """One storm."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        probes = f"127.0.0.1:{free.getsockname()[1]}"
    with source(directory, objects, 0, "--kinds", "pods") as server:
        command = own_command("benchmarks.manager_ours", "--informers", str(informers), "--probes", probes)
        env = {"KUBECONFIG": str(server.kubeconfig)}
        with Child(command, directory / "manager.log", env=env, cpus=cores()[1]) as child:
            opened = lambda times: lambda: len(server.stats()["watches"]) >= times * informers  # noqa: E731
            wait_until(opened(1), timeout_s=300, what="the first lists", child=child)
            time.sleep(3.0)
            rss = child.rss_bytes()
            server.tell("expire")
            started = busy_at = time.monotonic()
            used_s, looked_at, waits = child.cpu_s(), started, list[float]()
            # over when every watch is open again and the process has had nothing to do for a while
            while time.monotonic() - busy_at < _QUIET_S or not opened(2)():
                child.require_running()
                asked = time.monotonic()
                with urllib.request.urlopen(f"http://{probes}/healthz", timeout=60) as answer:
                    answer.read()
                waits.append(time.monotonic() - asked)
                time.sleep(0.01)
                now = time.monotonic()
                if now - looked_at > _LOOK_S:
                    now_used_s = child.cpu_s()
                    if now_used_s - used_s > _BUSY * (now - looked_at):
                        busy_at = now
                    used_s, looked_at = now_used_s, now
            relist_s = max(busy_at, server.stats()["watches"][-1]) - started  # sent, and then nothing left to do
            return {
                "relist_s": relist_s,
                "objects_per_s": informers * objects / relist_s,
                "probe_p99_ms": percentile(waits, 99) * 1000,
                "probe_max_ms": max(waits) * 1000,
                "rss_mib": rss / 2**20,
                "peak_rss_mib": child.peak_rss_bytes() / 2**20,
            }


def run(args: argparse.Namespace) -> Result:
    """One run."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        figures = {"agentops": once(**measure(Path(scratch), args.informers, args.objects))}
    settings = {"informers": args.informers, "objects each": args.objects}
    return Result("storm", "B9: relist storm", METRICS, settings, figures, {"server": "pre-encoded source"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this benchmark can be told."""
    parser.add_argument("--informers", type=int, default=20)
    parser.add_argument("--objects", type=int, default=5000)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description=__doc__)
    add_arguments(parser)
    add_common_arguments(parser)
    args = parser.parse_args()
    finish(run(args), args)


if __name__ == "__main__":
    main()
