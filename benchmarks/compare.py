"""The Widgets controller in every framework, in turns, each in a fresh process on a fresh server.

Per turn: N Widgets exist, the contender starts (cold, until all are settled); every Widget is changed at once
(burst); single Widgets are changed one after the other (latency); nothing happens (idle). Then its ConfigMaps are
checked. The order alternates from round to round.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio

from benchmarks.cluster import api_server, widgets_on
from benchmarks.contenders import CONTENDERS, OURS, Contender, chosen, versions
from benchmarks.measure import Child, cores, percentile, spread
from benchmarks.report import Result, add_common_arguments, finish

METRICS = {
    "cold_per_s": "cold, objects/s",
    "cold_work_per_s": "cold after the first, objects/s",
    "cold_cpu_s": "cold, CPU s",
    "burst_per_s": "burst, objects/s",
    "burst_cpu_s": "burst, CPU s",
    "latency_p50_ms": "patch to status p50, ms",
    "latency_p99_ms": "patch to status p99, ms",
    "by_hand_p50_ms": "the same three requests without a controller, p50, ms",
    "idle_cpu_percent": "idle, % of a core",
    "rss_mib": "resident, MiB",
    "peak_rss_mib": "resident at most, MiB",
    "writes_at_rest": "writes at rest",
    "wrong": "wrong ConfigMaps",
}
LOWER_IS_BETTER = {key for key in METRICS if not key.endswith("per_s")}


async def turn(
    contender: Contender,
    kubeconfig: Path,
    directory: Path,
    *,
    objects: int,
    samples: int,
    idle_s: float,
    peer: str,
    clean: bool,
) -> dict[str, float]:
    """One contender's figures. Raises TimeoutError or RuntimeError when it does not do the work."""
    timeout_s = 60 + objects / 10
    found: dict[str, float] = {}
    async with widgets_on(kubeconfig, objects) as widgets:
        await widgets.create()
        command = contender.command(contender.widgets, peer)
        started = time.monotonic()
        with Child(
            command, directory / f"{contender.name}.log", env={"KUBECONFIG": str(kubeconfig)}, cpus=cores()[1]
        ) as child:
            await widgets.all_settled(timeout_s=timeout_s, contender=child)
            found["cold_per_s"] = objects / (time.monotonic() - started)
            found["cold_work_per_s"] = _rate(widgets.settled_at)
            found["cold_cpu_s"] = child.cpu_s()
            await anyio.sleep(1.0)

            cpu_s, started = child.cpu_s(), time.monotonic()
            await widgets.burst("v1")
            await widgets.all_settled(timeout_s=timeout_s, contender=child)
            found["burst_per_s"] = objects / (time.monotonic() - started)
            found["burst_cpu_s"] = child.cpu_s() - cpu_s
            await anyio.sleep(1.0)

            rng = random.Random(1)
            latencies = []
            for number in range(samples):
                with anyio.fail_after(timeout_s):
                    latencies.append(await widgets.latency_s(rng.choice(widgets.names), f"l{number}"))
                await anyio.sleep(0.01)
            found["latency_p50_ms"] = percentile(latencies, 50) * 1000
            found["latency_p99_ms"] = percentile(latencies, 99) * 1000

            await anyio.sleep(1.0)
            revision, cpu_s = await widgets.revision(), child.cpu_s()
            await anyio.sleep(idle_s)
            found["idle_cpu_percent"] = (child.cpu_s() - cpu_s) / idle_s * 100
            found["writes_at_rest"] = await widgets.revision() - revision
            found["rss_mib"] = child.rss_bytes() / 2**20
            found["peak_rss_mib"] = child.peak_rss_bytes() / 2**20
            found["wrong"] = await widgets.wrong()
        alone = [await widgets.by_hand_s(rng.choice(widgets.names), f"h{number}") for number in range(samples)]
        found["by_hand_p50_ms"] = percentile(alone, 50) * 1000
        if clean:
            await widgets.clean()
    return found


def run(args: argparse.Namespace) -> Result:
    """All contenders, `rounds` times, in alternating order."""
    contenders = chosen(args.contenders, args.peer_python)
    rounds: list[dict[str, dict[str, float]]] = []
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        for number in range(args.rounds):
            row: dict[str, dict[str, float]] = {}
            for contender in contenders if number % 2 == 0 else reversed(contenders):
                if contender.name in failures:
                    continue
                directory = Path(scratch) / f"{number}-{contender.name}"
                directory.mkdir()
                with ExitStack() as stack:
                    kubeconfig = args.kubeconfig
                    if kubeconfig is None:
                        kubeconfig = stack.enter_context(api_server(directory, cpus=cores()[0]))[1]
                    try:
                        row[contender.name] = anyio.run(_turn, contender, kubeconfig, directory, args)
                    except (TimeoutError, RuntimeError, ExceptionGroup) as error:
                        failures[contender.name] = _first_line(error)
                        print(f"{contender.name}: {error!r}", file=sys.stderr)
                print(f"round {number + 1} {contender.name}: {_short(row.get(contender.name, {}))}", file=sys.stderr)
            rounds.append(row)
    figures = {
        contender.name: {
            key: spread([row[contender.name][key] for row in rounds])
            for key in METRICS
            if all(contender.name in row for row in rounds)
        }
        for contender in contenders
    }
    settings = {"objects": args.objects, "rounds": args.rounds, "samples": args.samples, "idle_s": args.idle_s}
    server = "the cluster of a kubeconfig" if args.kubeconfig else "the local plane's API server, TLS, in memory"
    details: dict[str, Any] = {
        "server": server,
        "ratios": ratios(rounds, [c.name for c in contenders]),
        "failures": failures,
        "remarks": {c.name: c.remark for c in contenders if c.remark},
        "peers": versions(contenders, args.peer_python),
        "rounds": rounds,
    }
    return Result("widgets", "Widgets: the same controller everywhere", METRICS, settings, figures, details)


def ratios(rounds: Sequence[dict[str, dict[str, float]]], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Ours to theirs, per metric the median over rounds of the ratio within one round."""
    found: dict[str, dict[str, float]] = {}
    for name in names:
        if name == OURS:
            continue
        pairs = [(row[OURS], row[name]) for row in rounds if OURS in row and name in row]
        found[name] = {
            key: spread([ours[key] / theirs[key] for ours, theirs in pairs])["median"]
            for key in METRICS
            if pairs and all(theirs[key] for _, theirs in pairs)
        }
    return found


async def _turn(contender: Contender, kubeconfig: Path, directory: Path, args: argparse.Namespace) -> dict[str, float]:
    return await turn(
        contender,
        kubeconfig,
        directory,
        objects=args.objects,
        samples=args.samples,
        idle_s=args.idle_s,
        peer=args.peer_python,
        clean=args.kubeconfig is not None,  # a server of ours ends with the turn
    )


def _rate(moments: Sequence[float]) -> float:
    """Per second between the first and the last, so that starting an interpreter does not count."""
    return (len(moments) - 1) / (moments[-1] - moments[0]) if len(moments) > 1 else 0.0


def _first_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error).partition("\n")[0]


def _short(row: dict[str, float]) -> str:
    return " ".join(f"{key}={value:.2f}" for key, value in row.items())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this benchmark can be told."""
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=200, help="of latency")
    parser.add_argument("--idle-s", type=float, default=10.0)
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--kubeconfig", type=Path, help="an API server of yours; default is a fresh one of ours")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    add_arguments(parser)
    add_common_arguments(parser)
    args = parser.parse_args()
    finish(run(args), args)


if __name__ == "__main__":
    main()
