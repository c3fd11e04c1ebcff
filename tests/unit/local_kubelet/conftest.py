"""Fixtures of the kubelet's unit tests: virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio.testing
from support.kubelet import MemoryApi, ScriptedSpawner, make_host

from agentops.local.kubelet.pod_worker import PodWorker
from agentops.values.clock import LoopClock


@pytest.fixture
def anyio_backend() -> object:
    return ("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})


class Bench:
    """Runs one pod's worker on scripted programs."""

    def __init__(self, tmp_path: Path) -> None:
        self.api = MemoryApi()
        self.clock = LoopClock()
        self._tmp_path = tmp_path

    @asynccontextmanager
    async def running(
        self, pod: dict[str, Any], *script: Any, stubborn: bool = False, **host: Any
    ) -> AsyncIterator[tuple[PodWorker, ScriptedSpawner]]:
        spawner = ScriptedSpawner(self.clock, list(script))
        spawner.stubborn = stubborn
        worker = PodWorker(pod, make_host(self._tmp_path, self.api, spawner, self.clock, **host))
        async with anyio.create_task_group() as tg:
            spawner.tasks = tg
            tg.start_soon(worker.run)
            yield worker, spawner
            tg.cancel_scope.cancel()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
