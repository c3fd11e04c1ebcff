"""Every benchmark, one after the other: `python -m benchmarks [--quick] [--peer-python PYTHON] [--out DIR]`.

Writes DIR/<name>.json, the plots, and the tables into docs/benchmarks.md. `--only` names a few.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from attrs import asdict

from benchmarks import (
    compare,
    failover,
    halfopen,
    idle,
    ingest,
    latency,
    micro,
    reconciles,
    restart,
    storm,
    webhooks,
)
from benchmarks.report import PAGE, Result, render, table

Run = Callable[[argparse.Namespace], Result]

_ALL: dict[str, tuple[ModuleType, Run, tuple[str, ...], tuple[str, ...]]] = {
    # name: module, function, arguments, arguments of a quick run
    "widgets": (
        compare,
        compare.run,
        (),
        ("--objects", "50", "--rounds", "1", "--samples", "10", "--idle-s", "1"),
    ),
    "ingest-pods": (ingest, ingest.run, (), ("--objects", "200", "--events", "200", "--rounds", "1")),
    "ingest-widgets": (
        ingest,
        ingest.run,
        ("--kind", "widgets"),
        ("--kind", "widgets", "--objects", "200", "--events", "200", "--rounds", "1"),
    ),
    "latency": (
        latency,
        latency.run,
        (),
        ("--objects", "100", "--rates", "100", "--seconds", "0.5"),
    ),
    "reconciles": (reconciles, reconciles.run, (), ("--objects", "200", "--rounds", "1")),
    "idle": (idle, idle.run, (), ("--objects", "100", "--seconds", "2")),
    "restart": (restart, restart.run, (), ("--objects", "10", "--outage-s", "1")),
    "halfopen": (halfopen, halfopen.run, (), ("--rounds", "2")),
    "failover": (failover, failover.run, (), ("--rounds", "1")),
    "storm": (storm, storm.run, (), ("--informers", "2", "--objects", "100")),
    "webhooks": (webhooks, webhooks.run, (), ("--rates", "50", "--seconds", "0.5", "--pods", "200")),
    "micro": (micro, micro.run, (), ("--objects", "200", "--rounds", "1")),
    "error-storm": (micro, micro.run_storm, (), ("--failing", "100", "--seconds", "1")),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default=",".join(_ALL), help="names, separated by commas")
    parser.add_argument("--quick", action="store_true", help="tiny: to see that all of it works")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=OPTIONS",
        help="options of one benchmark, as in --set 'widgets=--objects 20000 --rounds 1'; may be repeated",
    )
    parser.add_argument("--peer-python", default="", help="interpreter of the peers' environment; none: ours alone")
    parser.add_argument("--out", type=Path, default=PAGE.with_suffix(""))
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    unknown = set(args.only.split(",")) - set(_ALL)
    if unknown:
        parser.error(f"unknown benchmark {sorted(unknown)[0]!r}; there are {', '.join(_ALL)}")
    chosen = dict(text.partition("=")[::2] for text in args.set)
    if set(chosen) - set(_ALL):
        parser.error(f"--set: unknown benchmark {min(set(chosen) - set(_ALL))!r}; there are {', '.join(_ALL)}")
    args.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in args.only.split(","):
        module, run, usual, quick = _ALL[name]
        own = argparse.ArgumentParser()
        module.add_arguments(own)
        settings = own.parse_args([*(quick if args.quick else usual), *shlex.split(chosen.get(name, ""))])
        settings.peer_python = args.peer_python
        print(f"== {name}, load {os.getloadavg()[0]:.2f}", file=sys.stderr)
        started = time.monotonic()
        try:
            result = run(settings)
        except (TimeoutError, RuntimeError, ExceptionGroup) as error:
            failed.append(name)
            print(f"{name}: {error!r}", file=sys.stderr)
            continue
        print(f"== {name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        print(table(result), flush=True)
        (args.out / f"{name}.json").write_text(json.dumps(asdict(result), indent=1, default=str) + "\n")
    render(args.page, sorted(args.out.glob("*.json")))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
