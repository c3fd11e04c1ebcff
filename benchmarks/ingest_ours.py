"""Our side of `benchmarks.ingest`: a cache of one kind and an empty handler; with `--reconcile` a controller."""

from __future__ import annotations

import argparse
import time
from functools import partial

from agentops.controller import Builder, Manager, ManagerOptions, ObjectEvent, Request
from agentops.kube.config import load_config
from agentops.kube.kinds import POD
from agentops.net.serve import run_until_signal
from agentops.telemetry import logging
from agentops.values.kinds import Kind
from benchmarks.latencies import Latencies
from benchmarks.objects import SENTINEL

WIDGET = Kind("bench.agentops.io", "v1", "Widget", "widgets")


async def run(kind: Kind, metadata_only: bool, reconciles: bool, workers: int, latencies: Latencies) -> None:
    """Cache `kind` until cancelled, and say so whenever the sentinel comes by."""
    measured = latencies.wanted
    manager = Manager(await load_config(), ManagerOptions(name="ingest", grace_s=1.0, tune_gc=True))

    def handle(event: ObjectEvent) -> None:
        if event.entry.meta.name == SENTINEL:
            manager.add(done, name="done")

    async def done(**_: object) -> None:
        latencies.write()
        await manager.client.live.raw("GET", "/bench/done")

    async def reconcile(request: Request) -> None:
        now_ns = time.monotonic_ns()
        if measured:
            obj = await manager.client.get(kind, request.name, request.namespace, read_only=True)
            latencies.note(obj["metadata"].get("labels"), now_ns)
        if request.name == SENTINEL:
            await done()

    if reconciles:
        builder = Builder(manager).for_(kind, metadata_only=metadata_only)
        builder.with_options(max_concurrent=workers).build(reconcile)
    else:
        manager.cache.informer(kind, metadata_only=metadata_only).add_handler(handle)
    await manager.run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest_ours", description=__doc__)
    parser.add_argument("--kind", choices=["pods", "widgets"], default="pods")
    parser.add_argument("--metadata-only", action="store_true")
    parser.add_argument("--reconcile", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--latencies", default="", help="a file; implies --reconcile")
    args = parser.parse_args()
    logging.configure("text", "warning")
    kind = POD if args.kind == "pods" else WIDGET
    latencies = Latencies(args.latencies)
    reconciles = args.reconcile or latencies.wanted
    run_until_signal(partial(run, kind, args.metadata_only, reconciles, args.workers, latencies))


if __name__ == "__main__":
    main()
