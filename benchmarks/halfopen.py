"""B7: a watch whose connection is dead without anybody saying so, in virtual time.

A scripted server answers a list, sends a bookmark, and then keeps the stream open in silence while objects change.
Measured is how long it takes until the informer has seen everything. Runs on trio with a clock that jumps.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import trio
import trio.testing

from agentops.controller.informer import Informer
from agentops.controller.target import Target
from agentops.kube.client import ApiClient
from agentops.kube.kinds import CONFIG_MAP
from agentops.kube.transport import Query, Response
from agentops.values.clock import LoopClock
from benchmarks.report import Result, add_common_arguments, finish

METRICS = {"noticed_s": "noticed within, s", "lost": "changes lost", "requests": "requests to recover"}


class Silent:
    """A transport whose first watch goes silent; later ones resume from the version they ask for."""

    def __init__(self, changes: int, bookmark: bool) -> None:
        self._changes, self._bookmark = changes, bookmark
        self.silent_since: float | None = None
        self.requests = 0

    async def request(self, method: str, path: str, *, query: Query = (), **_: Any) -> Response:
        self.requests += 1
        body = {"kind": "ConfigMapList", "metadata": {"resourceVersion": "100"}, "items": [_object("first", 100)]}
        return Response(200, json.dumps(body).encode())

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, query: Query = (), headers: Mapping[str, str] | None = None, **_: Any
    ) -> AsyncIterator[Any]:
        self.requests += 1
        asked = dict(query)
        if asked.get("sendInitialEvents") == "true":
            status = {"kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid", "message": "forbidden"}
            yield _Answer(self, json.dumps(status).encode(), status=422)
            return
        if self.silent_since is None:
            lines = _line("MODIFIED", _object("first", 101))
            if self._bookmark:
                lines += _line("BOOKMARK", _object("", 102))
        else:
            start = int(asked["resourceVersion"])
            versions = range(max(start, 200) + 1, 201 + self._changes)
            lines = b"".join(_line("ADDED", _object(f"late-{v}", v)) for v in versions)
        yield _Answer(self, lines)

    async def aclose(self) -> None:
        """Nothing is open."""


class _Answer:
    def __init__(self, transport: Silent, data: bytes, status: int = 200) -> None:
        self._transport, self._data = transport, data
        self.status = status
        self.headers: dict[str, str] = {}

    async def read(self) -> bytes:
        return self._data

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._data
        if self._transport.silent_since is None:
            self._transport.silent_since = anyio.current_time()
        await anyio.sleep_forever()


def _object(name: str, version: int) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def _line(type_: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": type_, "object": obj}).encode() + b"\n"


async def measure(changes: int, bookmark: bool, seed: int) -> dict[str, float]:
    """One dead connection."""
    transport = Silent(changes, bookmark)
    clock = LoopClock()
    client = ApiClient(transport, clock=clock)
    informer = Informer(client, Target(CONFIG_MAP), clock=clock, rng=random.Random(seed), resync_s=0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(informer.run)
        with anyio.move_on_after(3600):
            while len(informer.store) < changes + 1:  # noqa: ASYNC110 - virtual time, and nobody announces it
                await anyio.sleep(0.5)
        assert transport.silent_since is not None
        found = {
            "noticed_s": anyio.current_time() - transport.silent_since,
            "lost": changes + 1 - len(informer.store),
            "requests": transport.requests,
        }
        tasks.cancel_scope.cancel()
    return found


def run(args: argparse.Namespace) -> Result:
    """With and without a bookmark before the silence, over seeds."""
    figures = {}
    for name, bookmark in (("after a bookmark", True), ("without one", False)):
        rows = [_in_virtual_time(args.changes, bookmark, seed) for seed in range(args.rounds)]
        figures[name] = {
            key: {
                "median": sorted(row[key] for row in rows)[len(rows) // 2],
                "min": min(row[key] for row in rows),
                "max": max(row[key] for row in rows),
            }
            for key in METRICS
        }
    settings = {"changes": args.changes, "rounds": args.rounds, "time": "virtual"}
    return Result("halfopen", "B7: a half-open watch", METRICS, settings, figures)


def _in_virtual_time(changes: int, bookmark: bool, seed: int) -> dict[str, float]:
    async def main() -> dict[str, float]:
        return await measure(changes, bookmark, seed)

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this benchmark can be told."""
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.halfopen", description=__doc__)
    add_arguments(parser)
    add_common_arguments(parser)
    args = parser.parse_args()
    finish(run(args), args)


if __name__ == "__main__":
    main()
