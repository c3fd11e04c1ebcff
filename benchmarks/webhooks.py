"""B12: how long an admission webhook takes to answer, alone and while the same process takes in Pods.

Reviews of a Widget are sent over TLS at a fixed rate, alternately to a mutating and a validating webhook, whether or
not earlier ones have been answered; a time is from when a review was due to its whole answer. Each rate runs against
a process with nothing else to do, then against one that takes in a list of Pods and as many changes, played back at
full speed (B1), for as long as that lasts.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import aiohttp
import anyio
import anyio.to_thread
import orjson

from benchmarks.ingest import SourceProcess, source
from benchmarks.measure import Child, cores, own_command, percentile, wait_until
from benchmarks.objects import custom
from benchmarks.report import Result, add_common_arguments, finish, once

METRICS = {
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "max_ms": "at most, ms",
    "reviews": "reviews",
    "failed": "not allowed or not answered",
}
_PATHS = ("mutate", "validate")
_SETTLE_S = 0.5
_LOOK_S = 0.05


def review(number: int) -> bytes:
    """What an API server asks about the creation of a Widget."""
    widget = custom(number, 1)
    request = {
        "uid": f"{number:032x}",
        "kind": {"group": "bench.agentops.io", "version": "v1", "kind": "Widget"},
        "resource": {"group": "bench.agentops.io", "version": "v1", "resource": "widgets"},
        "name": widget["metadata"]["name"],
        "namespace": widget["metadata"]["namespace"],
        "operation": "CREATE",
        "userInfo": {"username": "bench", "groups": ["system:authenticated"]},
        "object": widget,
        "oldObject": None,
        "dryRun": False,
    }
    return orjson.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})


async def load(url: str, rate: float, until: Callable[[], Awaitable[None]]) -> dict[str, float]:
    """Reviews at `rate` until `until` returns."""
    waits: list[float] = []
    failed = 0

    async def ask(session: aiohttp.ClientSession, number: int, due: float) -> None:
        nonlocal failed
        try:
            async with session.post(f"{url}/{_PATHS[number % 2]}?timeout=10s", data=review(number)) as answer:
                allowed = orjson.loads(await answer.read())["response"]["allowed"]
        except (aiohttp.ClientError, TimeoutError, KeyError, orjson.JSONDecodeError):
            allowed = False
        waits.append(time.monotonic() - due)
        failed += not allowed

    connector = aiohttp.TCPConnector(limit=64, ssl=False)
    headers = {"content-type": "application/json"}
    over = anyio.Event()

    async def wait() -> None:
        await until()
        over.set()

    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        for number in range(8):  # connections
            await ask(session, number, time.monotonic())
        waits.clear()
        started, number = time.monotonic(), 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            while not over.is_set():
                due = started + number / rate
                await anyio.sleep(max(0.0, due - time.monotonic()))
                tasks.start_soon(ask, session, number, due)
                number += 1
    return {
        "p50_ms": percentile(waits, 50) * 1000,
        "p99_ms": percentile(waits, 99) * 1000,
        "max_ms": max(waits, default=0.0) * 1000,
        "reviews": len(waits),
        "failed": failed,
    }


def measure(directory: Path, rate: float, seconds: float, pods: int) -> dict[str, dict[str, float]]:
    """Alone and during ingest, at one rate."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        bind = f"127.0.0.1:{free.getsockname()[1]}"
    with source(directory, pods, pods, "--hold") as server:
        command = own_command("benchmarks.webhooks_ours", "--bind", bind, "--cert-dir", str(directory))
        env = {"KUBECONFIG": str(server.kubeconfig)}
        with Child(command, directory / "webhooks.log", env=env, cpus=cores()[1]) as child:
            wait_until(lambda: server.stats()["held"], timeout_s=60, what="the first list", child=child)
            time.sleep(_SETTLE_S)
            alone = anyio.run(load, f"https://{bind}", rate, partial(anyio.sleep, seconds))
            during = anyio.run(load, f"https://{bind}", rate, partial(_taken_in, server))
    return {"alone": alone, "taking in Pods": during}


async def _taken_in(server: SourceProcess) -> None:
    """Until the list and then the events have been handled."""
    while True:
        stats = await anyio.to_thread.run_sync(server.stats)
        if len(stats["done"]) > 1:
            return
        if stats["held"]:
            await anyio.to_thread.run_sync(server.tell, "go")
        await anyio.sleep(_LOOK_S)


def run(args: argparse.Namespace) -> Result:
    """Every rate once."""
    figures = {}
    for rate in args.rates.split(","):
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            for name, row in measure(Path(scratch), float(rate), args.seconds, args.pods).items():
                figures[f"{rate}/s, {name}"] = once(**row)
    settings = {"seconds": args.seconds, "pods": args.pods}
    details = {"transposed": True, "server": "pre-encoded source; reviews over TLS on loopback"}
    return Result("webhooks", "B12: webhooks", METRICS, settings, figures, details)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this benchmark can be told."""
    parser.add_argument("--rates", default="100,1000", help="reviews a second, separated by commas")
    parser.add_argument("--seconds", type=float, default=10.0, help="alone; else as long as taking in lasts")
    parser.add_argument("--pods", type=int, default=20_000)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.webhooks", description=__doc__)
    add_arguments(parser)
    add_common_arguments(parser)
    args = parser.parse_args()
    finish(run(args), args)


if __name__ == "__main__":
    main()
