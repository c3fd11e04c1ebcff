"""Fixtures of the kubelet's integration tests: real processes on the machine's loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.kubelet import MemoryApi, make_host

from agentops.local.kubelet.pod_worker import PodWorker
from agentops.local.kubelet.process import ProcessTable
from agentops.values.clock import SystemClock


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[ProcessTable]:
    pods = tmp_path / "pods"
    pods.mkdir()
    async with ProcessTable(pods, SystemClock()).open() as table:
        yield table


class Bench:
    """Runs one pod's worker on real processes."""

    def __init__(self, tmp_path: Path, processes: ProcessTable) -> None:
        self.api = MemoryApi()
        self.processes = processes
        self._tmp_path = tmp_path

    @asynccontextmanager
    async def running(self, pod: dict[str, Any], **host: Any) -> AsyncIterator[PodWorker]:
        options = {"backoff_scale": 0.01, "stop_grace_s": 2.0, **host}
        worker = PodWorker(pod, make_host(self._tmp_path, self.api, self.processes, SystemClock(), **options))
        async with anyio.create_task_group() as tg:
            tg.start_soon(worker.run)
            yield worker
            tg.cancel_scope.cancel()


@pytest.fixture
def bench(tmp_path: Path, processes: ProcessTable) -> Bench:
    return Bench(tmp_path, processes)
