"""B1 and B4: how fast a collection is taken in, and what it weighs in memory.

A source plays back a list of N objects, then as many changes (`benchmarks.source`): clients are the limit. Times are
the source's: from the first list request to the last object being reported as handled, then from the first to the
last change. Memory is resident size less that of the same process with an empty collection, per object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.contenders import CONTENDERS, OURS, Contender, chosen, versions
from benchmarks.measure import Child, cores, own_command, spread, wait_until
from benchmarks.report import Result, add_common_arguments, finish

METRICS = {
    "list_per_s": "list, objects/s",
    "list_cpu_us": "list, CPU us/object",
    "list_waited_percent": "list, time without a core, %",
    "events_per_s": "events/s",
    "events_cpu_us": "events, CPU us/event",
    "events_waited_percent": "events, time without a core, %",
    "bytes_per_object": "memory, bytes/object",
    "rss_mib": "resident after the list, MiB",
    "peak_rss_mib": "resident at most, MiB",
    "growth_percent": "growth of resident by the events, %",
}
_POLL_S = 0.05
"""Asking the source costs it time on the core it plays from."""
_SETTLE_S = 0.3
_MODES = "what the source offers: only pages of 500, whole lists at version 0, or streaming lists to those who ask"
_MODE_NAMES = {
    "pages": "pages of 500",
    "whole": "whole lists at version 0",
    "stream": "streaming lists for those who ask",
}


class SourceProcess:
    """A running source."""

    def __init__(self, child: Child, kubeconfig: Path) -> None:
        self.child = child
        self.kubeconfig = kubeconfig
        self.url = str(yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"])

    def stats(self) -> dict[str, Any]:
        """What was asked for and when."""
        with urllib.request.urlopen(f"{self.url}/bench/stats") as answer:
            return dict(json.load(answer))

    def tell(self, what: str) -> None:
        """`expire` or `freeze` the watches."""
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/bench/{what}", method="POST")) as answer:
            answer.read()


@contextmanager
def source(directory: Path, objects: int, events: int, *options: str) -> Iterator[SourceProcess]:
    """A source process with its collections prepared."""
    directory.mkdir(parents=True, exist_ok=True)
    kubeconfig = directory / "kubeconfig.yaml"
    kubeconfig.unlink(missing_ok=True)
    command = own_command(
        "benchmarks.source", str(directory), "--objects", str(objects), "--events", str(events), *options
    )
    with Child(command, directory / "source.log", cpus=cores()[0]) as child:
        wait_until(kubeconfig.exists, timeout_s=300, what="the source's start", child=child)
        yield SourceProcess(child, kubeconfig)


def measure(
    command: list[str], directory: Path, name: str, objects: int, events: int, *options: str, timeout_s: float = 300.0
) -> dict[str, float]:
    """One run of one contender."""
    with (
        source(directory, objects, events, *options, *(["--hold"] if objects else [])) as server,
        Child(command, directory / f"{name}.log", env={"KUBECONFIG": str(server.kubeconfig)}, cpus=cores()[1]) as child,
    ):
        deadline = time.monotonic() + timeout_s

        def wait(check: Any) -> dict[str, Any]:
            while True:
                child.require_running()
                stats = server.stats()
                if check(stats):
                    return stats
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{name} did not take in {objects} objects in {timeout_s:g} s")
                time.sleep(_POLL_S)

        if not objects:
            wait(lambda stats: stats["watches"])
            time.sleep(1.5)
            return {"rss": child.rss_bytes()}

        def release(what: str) -> tuple[float, float]:
            """Let the source answer what it holds; CPU and waiting so far."""
            wait(lambda stats: stats["held"] == what)
            time.sleep(_SETTLE_S)
            before = child.cpu_s(), child.waited_s()
            server.tell("go")
            return before

        cpu_s, waited_s = release("list")
        stats = wait(lambda stats: stats["done"])
        took_s = stats["done"][0] - stats["lists"][0]
        time.sleep(_SETTLE_S)  # the pass of the garbage collector that ends it is part of the list's cost
        found = {
            "list_per_s": objects / took_s,
            "list_cpu_us": (child.cpu_s() - cpu_s) / objects * 1e6,
            "list_waited_percent": (child.waited_s() - waited_s) / took_s * 100,
            "rss": child.rss_bytes(),
        }
        if events:
            cpu_s, waited_s = release("events")
            stats = wait(lambda stats: len(stats["done"]) > 1)
            took_s = stats["done"][-1] - stats["events_at"]
            found["events_per_s"] = events / took_s
            found["events_cpu_us"] = (child.cpu_s() - cpu_s) / events * 1e6
            found["events_waited_percent"] = (child.waited_s() - waited_s) / took_s * 100
        time.sleep(1.5)
        found["rss_after"] = child.rss_bytes()
        found["peak_rss_mib"] = child.peak_rss_bytes() / 2**20
        return found


def cases(contender: Contender, kind: str, peer: str) -> dict[str, list[str]]:
    """The commands of a contender, by what they are called in the table."""
    plain = contender.command(contender.ingest, peer, "--kind", kind)
    if contender.name == "kopf":
        return {"kopf": plain, "kopf, no index": [*plain, "--dict"]}
    if contender.name != OURS:
        return {contender.name: plain}
    return {
        OURS: plain,
        f"{OURS}, reconciles": [*plain, "--reconcile"],
        f"{OURS}, metadata only": [*plain, "--metadata-only"],
    }


def run(args: argparse.Namespace) -> Result:
    """All contenders, `rounds` times, in alternating order."""
    contenders = chosen(args.contenders, args.peer_python)
    commands = {
        name: c
        for contender in contenders
        for name, c in cases(contender, args.kind, args.peer_python).items()
        if name not in args.skip
    }
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    failures: dict[str, str] = {}
    options = {"pages": ["--no-streaming"], "whole": ["--no-streaming", "--ignore-limit"], "stream": []}[args.mode]
    kinds = {name: f"{args.kind}:metadata" if "metadata" in name else args.kind for name in commands}
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        for number in range(args.rounds):
            for name in commands if number % 2 == 0 else reversed(commands):
                if name in failures:
                    continue
                directory = Path(scratch) / f"{number}-{name.replace(' ', '-')}"
                try:
                    empty = measure(commands[name], directory / "empty", "contender", 0, 0)["rss"]
                    row = measure(
                        commands[name],
                        directory,
                        "contender",
                        args.objects,
                        args.events,
                        "--kinds",
                        kinds[name],
                        *options,
                    )
                except (TimeoutError, RuntimeError) as error:
                    failures[name] = str(error).partition("\n")[0]
                    print(f"{name}: {error}", file=sys.stderr)
                    continue
                after = row.pop("rss_after")
                row["bytes_per_object"] = max(0.0, after - empty) / args.objects
                row["rss_mib"] = row["rss"] / 2**20
                row["growth_percent"] = (after / row.pop("rss") - 1) * 100
                rounds[name].append(row)
                print(f"round {number + 1} {name}: {row}", file=sys.stderr)
    figures = {
        name: {key: spread([row[key] for row in rows]) for key in METRICS if all(key in row for row in rows)}
        for name, rows in rounds.items()
        if rows
    }
    ratios = {
        name: _ratios(rounds[OURS], rounds[name]) for name in figures if not name.startswith(OURS) and rounds.get(OURS)
    }
    details = {
        "server": f"pre-encoded source, plain HTTP on loopback, {_MODE_NAMES[args.mode]}",
        "ratios": ratios,
        "failures": failures,
        "peers": versions(contenders, args.peer_python),
    }
    settings = {"mode": args.mode, "objects": args.objects, "events": args.events, "rounds": args.rounds}
    return Result(f"ingest-{args.kind}", f"B1, B4: taking in {args.kind}", METRICS, settings, figures, details)


def _ratios(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Ours to theirs, per metric the median over rounds; none where theirs was too small to be seen."""
    pairs = list(zip(ours, theirs, strict=False))
    return {
        key: spread([mine[key] / other[key] for mine, other in pairs])["median"]
        for key in METRICS
        if not key.endswith("_percent") and all(mine.get(key) and other.get(key) for mine, other in pairs)
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this benchmark can be told."""
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kind", choices=["pods", "widgets"], default="pods")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument(
        "--skip", action="append", default=[], help="a column, such as kopf: its index takes long to fill"
    )
    parser.add_argument("--mode", choices=["pages", "whole", "stream"], default="stream", help=_MODES)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    add_arguments(parser)
    add_common_arguments(parser)
    args = parser.parse_args()
    finish(run(args), args)


if __name__ == "__main__":
    main()
