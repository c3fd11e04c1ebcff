"""B2: from an event being sent to the first line of its reconcile, at several rates.

The source sends changes of Widgets at a fixed rate, each with its time of sending in a label; the contender, whose
cache holds N of them, notes when it comes to handle each. A contender that is slower than the rate falls behind, and
its figures say so. Ours is measured in a reconcile, behind a queue; the peers in an event handler.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.contenders import CONTENDERS, OURS, Contender, chosen, versions
from benchmarks.ingest import source
from benchmarks.measure import Child, cores, percentile, spread, wait_until
from benchmarks.report import Result, add_common_arguments, finish

METRICS = {"p50_ms": "p50, ms", "p99_ms": "p99, ms", "p999_ms": "p99.9, ms", "missing": "events never handled"}
_POLL_S = 0.05
_QUIET_S = 1.0
"""Between the first list and the first event."""


def measure(command: list[str], directory: Path, objects: int, rate: float, seconds: float) -> dict[str, float]:
    """One contender at one rate."""
    events = max(2, round(rate * seconds))
    noted = directory / "latencies.txt"
    options = ("--kinds", "widgets", "--rate", str(rate), "--hold")
    with source(directory, objects, events, *options) as server:
        command = [*command, "--kind", "widgets", "--latencies", str(noted)]
        env = {"KUBECONFIG": str(server.kubeconfig)}
        with Child(command, directory / "contender.log", env=env, cpus=cores()[1]) as child:
            for what in ("list", "events"):
                wait_until(
                    lambda what=what: server.stats()["held"] == what,
                    timeout_s=120,
                    what=f"asking for the {what}",
                    child=child,
                    poll_s=_POLL_S,
                )
                time.sleep(_QUIET_S)
                server.tell("go")
            timeout_s = 60 + 20 * seconds
            wait_until(noted.exists, timeout_s=timeout_s, what="the last event", child=child, poll_s=_POLL_S)
            time.sleep(_QUIET_S)
            waits = [float(line) for line in noted.read_text().split()]
    return {
        "p50_ms": percentile(waits, 50) * 1000,
        "p99_ms": percentile(waits, 99) * 1000,
        "p999_ms": percentile(waits, 99.9) * 1000,
        "missing": events - len(waits),
    }


def cases(contender: Contender, peer: str) -> dict[str, list[str]]:
    """The commands of a contender, by what they are called in the table."""
    plain = contender.command(contender.ingest, peer)
    if contender.name == OURS:
        return {f"{OURS}, {n} worker{'s' if n > 1 else ''}": [*plain, "--workers", str(n)] for n in (1, 16)}
    return {contender.name: [*plain, "--dict"] if contender.name == "kopf" else plain}


def run(args: argparse.Namespace) -> Result:
    """Every contender at every rate, `rounds` times, in alternating order."""
    contenders = chosen(args.contenders, args.peer_python)
    commands = {name: c for contender in contenders for name, c in cases(contender, args.peer_python).items()}
    found: dict[str, list[dict[str, float]]] = {
        f"{r}/s, {name}": [] for r in args.rates.split(",") for name in commands
    }
    failures: dict[str, str] = {}
    for number in range(args.rounds):
        for name in commands if number % 2 == 0 else reversed(commands):
            for rate in args.rates.split(","):
                with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
                    case = f"{rate}/s, {name}"
                    try:
                        row = measure(commands[name], Path(scratch), args.objects, float(rate), args.seconds)
                    except (TimeoutError, RuntimeError) as error:
                        failures[case] = str(error).partition("\n")[0]
                        print(f"{case}: {error}", file=sys.stderr)
                        continue
                print(f"round {number + 1} {case}: {row}", file=sys.stderr)
                found[case].append(row)
    figures = {
        case: {key: spread([row[key] for row in rows]) for key in METRICS} for case, rows in found.items() if rows
    }
    details = {
        "server": "pre-encoded source, plain HTTP on loopback",
        "transposed": True,
        "failures": failures,
        "peers": versions(contenders, args.peer_python),
    }
    settings = {"objects": args.objects, "seconds": args.seconds, "rounds": args.rounds}
    return Result("latency", "B2: from sent to reconciled", METRICS, settings, figures, details)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this benchmark can be told."""
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--rates", default="10,100,1000,5000", help="events a second, separated by commas")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--contenders", default=",".join(CONTENDERS))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    add_arguments(parser)
    add_common_arguments(parser)
    args = parser.parse_args()
    finish(run(args), args)


if __name__ == "__main__":
    main()
