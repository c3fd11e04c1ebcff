"""B8: how long nobody leads. Two processes campaign for one lease; the leader is ended; each says when it works.

`overlap` counts signs of work by the old leader after the first one by the new: it must be 0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.cluster import api_server
from benchmarks.measure import Child, cores, own_command, spread, wait_until
from benchmarks.report import Result, add_common_arguments, finish

METRICS = {"gap_s": "from the signal to the successor's work, s", "overlap": "signs of two leaders"}


def measure(directory: Path, end: Callable[[Child], object]) -> dict[str, float]:
    """One handover."""
    beats = directory / "beats"
    with api_server(directory, cpus=cores()[0]) as (_, kubeconfig):
        beats.touch()

        def start(identity: str) -> Child:
            command = own_command("benchmarks.manager_ours", "--beats", str(beats), "--identity", identity)
            return Child(command, directory / f"{identity}.log", env={"KUBECONFIG": str(kubeconfig)})

        with start("a") as first:
            wait_until(lambda: "a " in beats.read_text(), timeout_s=30, what="the first leader", child=first)
            with start("b") as second:
                time.sleep(3.0)  # long enough to have seen the lease
                ended = time.monotonic()
                end(first)
                wait_until(lambda: "b " in beats.read_text(), timeout_s=60, what="the successor", child=second)
        lines = [line.split() for line in beats.read_text().splitlines()]
        took_over = min(float(at) for who, at in lines if who == "b")
        return {"gap_s": took_over - ended, "overlap": sum(who == "a" and float(at) > took_over for who, at in lines)}


def run(args: argparse.Namespace) -> Result:
    """SIGTERM, then SIGKILL, `rounds` times each."""
    figures = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        for name, end in (("SIGTERM", Child.stop), ("SIGKILL", Child.kill)):
            rows = []
            for number in range(args.rounds):
                directory = Path(scratch) / f"{name}-{number}"
                directory.mkdir()
                rows.append(measure(directory, end))
                print(f"{name}: {rows[-1]}", file=sys.stderr)
            figures[name] = {key: spread([row[key] for row in rows]) for key in METRICS}
    settings = {"rounds": args.rounds, "lease": "15/10/2 s"}
    return Result("failover", "B8: failover", METRICS, settings, figures)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this benchmark can be told."""
    parser.add_argument("--rounds", type=int, default=5)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    add_arguments(parser)
    add_common_arguments(parser)
    args = parser.parse_args()
    finish(run(args), args)


if __name__ == "__main__":
    main()
