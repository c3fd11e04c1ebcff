"""B5: what it costs to wait. Five informers over N objects, a lease to renew, bookmarks, and nothing happens."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.ingest import source
from benchmarks.measure import Child, cores, own_command, wait_until
from benchmarks.report import Result, add_common_arguments, finish, once

METRICS = {
    "cpu_percent": "idle, % of a core",
    "cpu_s_per_minute": "CPU s per minute",
    "wakeups_per_s": "wake-ups per s",
    "rss_mib": "resident, MiB",
}
_INFORMERS = 5


def measure(directory: Path, objects: int, seconds: float, bookmark_s: float, *options: str) -> dict[str, float]:
    """One run."""
    arguments = ("--bookmark-s", str(bookmark_s), "--kinds", "pods")
    with source(directory, objects // _INFORMERS, 0, *arguments) as server:
        command = own_command("benchmarks.manager_ours", "--informers", str(_INFORMERS), *options)
        env = {"KUBECONFIG": str(server.kubeconfig)}
        with Child(command, directory / "manager.log", env=env, cpus=cores()[1]) as child:
            wait_until(
                lambda: len(server.stats()["watches"]) >= _INFORMERS, timeout_s=120, what="the first lists", child=child
            )
            time.sleep(3.0)
            cpu_s, wakeups, started = child.cpu_s(), child.wakeups(), time.monotonic()
            time.sleep(seconds)
            child.require_running()
            took_s = time.monotonic() - started
            used_s = child.cpu_s() - cpu_s
            return {
                "cpu_percent": used_s / took_s * 100,
                "cpu_s_per_minute": used_s / took_s * 60,
                "wakeups_per_s": (child.wakeups() - wakeups) / took_s,
                "rss_mib": child.rss_bytes() / 2**20,
            }


def run(args: argparse.Namespace) -> Result:
    """With the loop watchdog, which is on by default, and without."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        figures = {}
        for name, options in (("agentops", ()), ("agentops, no watchdog", ("--no-watchdog",))):
            found = measure(Path(scratch) / name, args.objects, args.seconds, args.bookmark_s, *options)
            print(f"{name}: {found}", file=sys.stderr)
            figures[name] = once(**found)
    settings = {
        "objects": args.objects,
        "informers": _INFORMERS,
        "seconds": args.seconds,
        "bookmark_s": args.bookmark_s,
    }
    return Result("idle", "B5: idle", METRICS, settings, figures, {"server": "pre-encoded source"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this benchmark can be told."""
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--bookmark-s", type=float, default=60.0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    add_arguments(parser)
    add_common_arguments(parser)
    args = parser.parse_args()
    finish(run(args), args)


if __name__ == "__main__":
    main()
