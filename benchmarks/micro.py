"""B10 and B11: the parts by themselves, in this process, and what a garbage collection costs beside them.

Every figure stands beside its ratio to a calibration loop (a million additions in a Python loop), which is what a
gate may compare: microseconds depend on the machine, ratios hardly.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import orjson

from agentops.controller import Controller, ControllerOptions, Request
from agentops.controller.priority_queue import PriorityQueue
from agentops.controller.store import Entry, Store
from agentops.controller.workqueue import WorkQueue
from agentops.kube.kinds import POD
from agentops.kube.patches import create_merge_patch
from agentops.kube.watch import LineSplitter, decode_event, decode_list, strip_managed_fields
from agentops.telemetry import logging
from agentops.values.selector import LabelSelector
from benchmarks.measure import percentile, spread
from benchmarks.objects import pod
from benchmarks.report import Result, add_common_arguments, finish

METRICS = {"us": "us each", "ratio": "to the calibration loop"}
_CALIBRATION = 1_000_000


def calibrate() -> float:
    """Seconds for a million additions."""
    started, total = time.perf_counter(), 0
    for number in range(_CALIBRATION):
        total += number
    return time.perf_counter() - started


def timed(work: Callable[[], object], times: int) -> float:
    """Seconds per unit of `work`, which does `times` units."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) / times


def parts(count: int) -> dict[str, Callable[[], float]]:
    """What is measured: name to seconds per unit."""
    requests = [Request("ns", f"name-{number}") for number in range(count)]
    raws = [orjson.dumps(pod(number, number + 1)) for number in range(count)]
    lines = [b'{"type":"MODIFIED","object":' + raw + b"}" for raw in raws]
    stream = b"\n".join(lines) + b"\n"
    listed = b'{"kind":"PodList","metadata":{"resourceVersion":"1"},"items":[' + b",".join(raws) + b"]}"
    decoded = [orjson.loads(raw) for raw in raws[:200]]
    changed = [{**obj, "status": {"phase": "Failed"}} for obj in decoded]
    gc.collect()
    gc.freeze()  # what follows is all that a collection looks at
    entries = [Entry(POD, event.meta, event.raw, number) for number, event in enumerate(map(decode_event, lines))]
    store, indexed = Store("pods"), Store("pods")
    indexed.add_index("node", lambda obj: [obj["spec"]["nodeName"]])
    for entry in entries:
        store.put(entry)
        indexed.put(entry)
    selector = LabelSelector.parse("app in (service-1,service-2),tier=web")

    def all_of(function: Callable[[Any], object], values: list[Any]) -> Callable[[], float]:
        def work() -> None:
            for value in values:
                function(value)

        return lambda: timed(work, len(values))

    def queue(make: Callable[[], WorkQueue[Request]]) -> Callable[[], float]:
        async def work() -> float:
            q = make()
            started = time.perf_counter()
            for request in requests:
                q.add(request)
            for _ in requests:
                q.done(await q.get())
            return (time.perf_counter() - started) / len(requests)

        return lambda: anyio.run(work)

    def split() -> float:
        splitter = LineSplitter()
        chunks = [stream[at : at + 65536] for at in range(0, len(stream), 65536)]
        return timed(lambda: [line for chunk in chunks for line in splitter.feed(chunk)], count)

    def collect() -> float:
        return timed(gc.collect, count)

    return {
        "workqueue add, get, done": queue(WorkQueue),
        "priority queue add, get, done": queue(PriorityQueue),
        "split a stream into lines": split,
        "decode a watch event (6 KB)": all_of(decode_event, lines),
        "strip managedFields": all_of(strip_managed_fields, raws),
        "decode a list, per object": lambda: timed(partial(decode_list, listed), count),
        "store put": all_of(store.put, entries),
        "store put, field index, changed": lambda: timed(
            lambda: [indexed.put(Entry(POD, e.meta, e.raw + b" ", e.rv)) for e in entries], count
        ),
        "cached read (6 KB)": all_of(Entry.object, entries),
        "list by index, per hit": lambda: timed(
            lambda: list(indexed.by_index("node", "node-001")), max(1, count // 100)
        ),
        "selector match": all_of(lambda entry: selector.matches(entry.meta.labels), entries),
        "merge patch diff": lambda: timed(
            lambda: [create_merge_patch(old, new) for old, new in zip(decoded, changed, strict=True)], len(decoded)
        ),
        "full garbage collection, per cached object": collect,
        "no-op reconcile": lambda: anyio.run(reconciles, count, 1),
        "no-op reconcile, 16 workers": lambda: anyio.run(reconciles, count, 16),
    }


async def reconciles(count: int, workers: int) -> float:
    """Seconds per reconcile that does nothing, distinct keys."""
    done = 0
    finished = anyio.Event()

    async def reconcile(request: Request) -> None:
        nonlocal done
        done += 1
        if done == count:
            finished.set()

    controller = Controller("bench", reconcile, options=ControllerOptions(max_concurrent=workers))
    async with anyio.create_task_group() as tasks:
        await tasks.start(controller.run)
        started = time.perf_counter()
        for number in range(count):
            controller.enqueue(Request("ns", f"name-{number}"))
        await finished.wait()
        took_s = time.perf_counter() - started
        tasks.cancel_scope.cancel()
    return took_s / count


async def error_storm(failing: int, seconds: float) -> dict[str, float]:
    """`failing` keys that never succeed, and one healthy key at a time: what its reconcile waits."""
    retries = 0
    waits: list[float] = []
    asked = 0.0
    healthy = anyio.Event()

    async def reconcile(request: Request) -> None:
        nonlocal retries
        if request.namespace == "healthy":
            waits.append(time.perf_counter() - asked)
            healthy.set()
            return
        retries += 1
        raise TimeoutError("this key never succeeds")

    controller = Controller("bench", reconcile, options=ControllerOptions(max_concurrent=4))
    async with anyio.create_task_group() as tasks:
        await tasks.start(controller.run)
        cpu_s, started = time.process_time(), time.perf_counter()
        for number in range(failing):
            controller.enqueue(Request("failing", f"name-{number}"))
        while time.perf_counter() - started < seconds:
            healthy = anyio.Event()
            asked = time.perf_counter()
            controller.enqueue(Request("healthy", f"name-{len(waits)}"))
            await healthy.wait()
            await anyio.sleep(0.02)
        cpu_s = time.process_time() - cpu_s
        tasks.cancel_scope.cancel()
    return {
        "retries_per_s": retries / seconds,
        "cpu_us": cpu_s / max(1, retries) * 1e6,
        "healthy_p50_ms": percentile(waits, 50) * 1000,
        "healthy_p99_ms": percentile(waits, 99) * 1000,
    }


def run(args: argparse.Namespace) -> Result:
    """Every part `rounds` times."""
    logging.configure("text", "error")
    calibration_s = min(calibrate() for _ in range(5))
    figures: dict[str, dict[str, dict[str, float]]] = {}
    try:
        for name, work in parts(args.objects).items():
            took_s = [work() for _ in range(args.rounds)]
            ratios = [s / calibration_s for s in took_s]
            figures[name] = {"us": spread([s * 1e6 for s in took_s]), "ratio": spread(ratios)}
    finally:
        gc.unfreeze()
    settings = {"objects": args.objects, "rounds": args.rounds, "calibration_ms": round(calibration_s * 1000, 1)}
    return Result("micro", "B11: the parts", METRICS, settings, figures, {"transposed": True})


def run_storm(args: argparse.Namespace) -> Result:
    """The error storm."""
    logging.configure("text", "error")
    found = anyio.run(error_storm, args.failing, args.seconds)
    metrics = {
        "retries_per_s": "retries/s",
        "cpu_us": "CPU us per retry",
        "healthy_p50_ms": "healthy key's wait p50, ms",
        "healthy_p99_ms": "healthy key's wait p99, ms",
    }
    figures = {"agentops": {key: spread([value]) for key, value in found.items()}}
    settings = {"failing keys": args.failing, "seconds": args.seconds, "workers": 4}
    return Result("error-storm", "B10: error storm", metrics, settings, figures)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this benchmark can be told."""
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--failing", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--storm", action="store_true", help="B10 instead of the parts")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro", description=__doc__)
    add_arguments(parser)
    add_common_arguments(parser)
    args = parser.parse_args()
    finish(run_storm(args) if args.storm else run(args), args)


if __name__ == "__main__":
    main()
