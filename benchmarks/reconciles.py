"""B3: reconciles a second on one core, without a network: no-op, with a cached read, with a write besides, hot keys.

The API server is a transport in this process that answers with prepared bytes, so that what is measured is the
framework: informer, queue, workers, cached read, the client's side of a write.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import orjson

from agentops.controller import Builder, Controller, Manager, ManagerOptions, Request
from agentops.kube.transport import Query, Response, StreamResponse
from agentops.telemetry import logging
from benchmarks.measure import spread
from benchmarks.objects import custom
from benchmarks.report import Result, add_common_arguments, finish
from benchmarks.widgets import WIDGET

METRICS = {"per_s": "reconciles/s", "us": "CPU us per reconcile", "per_event": "reconciles per event"}
_HOT = 0.01
"""Share of keys that get nine tenths of the events."""
_SLICE = 500
"""Events between two turns of the workers."""

Reconcile = Callable[[Request], Awaitable[None]]


class _Canned:
    """A transport with one list of Widgets, whose watches are silent and whose patches are answered."""

    def __init__(self, count: int) -> None:
        items = [custom(number, number + 1) for number in range(count)]
        self._list = orjson.dumps({"kind": "WidgetList", "metadata": {"resourceVersion": str(count)}, "items": items})
        self._answer = orjson.dumps(custom(0, 1))

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float | None = 30.0,
    ) -> Response:
        if method == "PATCH":
            return Response(200, self._answer)
        return Response(200, self._list) if path.endswith("/widgets") else Response(404, b"{}")

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        idle_s: float | None = None,
        total_s: float | None = None,
    ) -> AsyncIterator[StreamResponse]:
        yield _Silence()

    async def aclose(self) -> None:
        """There is nothing to close."""


class _Silence:
    status = 200
    headers: Mapping[str, str] = {}

    async def chunks(self) -> AsyncIterator[bytes]:
        await anyio.sleep_forever()
        yield b""

    async def read(self) -> bytes:
        return b""


def requests(count: int) -> list[Request]:
    """The keys of the prepared Widgets."""
    return [Request.of(custom(number, 1)) for number in range(count)]


def hot(keys: list[Request], events: int) -> list[Request]:
    """Events of which nine tenths are about a hundredth of the keys."""
    rng = random.Random(1)
    few = keys[: max(1, round(len(keys) * _HOT))]
    return [rng.choice(few if rng.random() < 0.9 else keys) for _ in range(events)]


async def measure(case: str, count: int, workers: int) -> dict[str, float]:
    """One case."""
    manager = Manager(_Canned(count), ManagerOptions(name="bench", grace_s=1.0, watchdog=False))
    keys = requests(count)
    events = hot(keys, count) if case == "hot keys" else keys
    done = 0

    async def no_op(request: Request) -> None:
        nonlocal done
        done += 1

    async def read(request: Request) -> None:
        await manager.client.get(WIDGET, request.name, request.namespace)
        await no_op(request)

    async def write(request: Request) -> None:
        widget = await manager.client.get(WIDGET, request.name, request.namespace)
        status = {"status": {"observedGeneration": widget["metadata"]["generation"]}}
        await manager.client.patch(WIDGET, request.name, status, request.namespace, subresource="status")
        await no_op(request)

    act: Reconcile = {"cached read": read, "cached read and status patch": write}.get(case, no_op)
    controller = Builder(manager).for_(WIDGET).with_options(max_concurrent=workers).build(act)
    async with anyio.create_task_group() as tasks:
        await tasks.start(manager.run)
        await _idle(controller, lambda: done >= count)  # the objects that were there before
        done, started, cpu_s = 0, time.perf_counter(), time.process_time()
        for number, request in enumerate(events):
            controller.enqueue(request)
            if number % _SLICE == _SLICE - 1:
                await anyio.lowlevel.checkpoint()
        await _idle(controller, lambda: True)
        took_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
        tasks.cancel_scope.cancel()
    return {"per_s": done / took_s, "us": cpu_s / done * 1e6, "per_event": done / len(events)}


async def _idle(controller: Controller, also: Callable[[], bool]) -> None:
    """Until nothing is queued or in work."""
    while True:
        found = controller.queue.statistics()
        if not found.ready and not found.processing and also():
            return
        await anyio.sleep(0.001)


def run(args: argparse.Namespace) -> Result:
    """Every case `rounds` times."""
    logging.configure("text", "error")
    figures = {}
    for case in ("no-op", "cached read", "cached read and status patch", "hot keys"):
        for workers in (1, 16):
            rows = [anyio.run(measure, case, args.objects, workers) for _ in range(args.rounds)]
            name = f"{case}, {workers} worker{'s' if workers > 1 else ''}"
            figures[name] = {key: spread([row[key] for row in rows]) for key in METRICS}
    settings = {"objects": args.objects, "rounds": args.rounds}
    details = {"transposed": True, "server": "canned answers in the same process"}
    return Result("reconciles", "B3: reconciles", METRICS, settings, figures, details)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this benchmark can be told."""
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reconciles", description=__doc__)
    add_arguments(parser)
    add_common_arguments(parser)
    args = parser.parse_args()
    finish(run(args), args)


if __name__ == "__main__":
    main()
