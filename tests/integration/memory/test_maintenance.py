"""What the service does without being asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from support.memory import HandClock

from agentops.memory.retention import Retention
from agentops.memory.service import MemoryOptions, MemoryService

pytestmark = pytest.mark.anyio

DAY_S = 86_400.0
NOTE = {"session_id": "s1", "type": "decision", "title": "Deploys", "content": "Deploy blue-green.", "project": "shop"}


@asynccontextmanager
async def served(
    tmp_path: Path, clock: HandClock, **options: Any
) -> AsyncIterator[tuple[MemoryService, httpx2.AsyncClient]]:
    given = MemoryOptions(listen="127.0.0.1:0", db=tmp_path / "memory.db", insecure=True, grace_s=1.0, **options)
    service = MemoryService(given, clock=clock)
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(service.run)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            yield service, client
        tasks.cancel_scope.cancel()


async def eventually(check: Callable[[], Awaitable[Any]]) -> Any:
    with anyio.fail_after(20):
        while not (found := await check()):
            await anyio.sleep(0.02)
    return found


async def test_rows_past_their_age_go_within_the_hour(tmp_path: Path) -> None:
    clock = HandClock()
    async with served(tmp_path, clock, retention=Retention(age_s={"*": DAY_S})) as (_, client):
        await client.post("/observations", json=NOTE)
        clock.advance(DAY_S + 3600)

        async def thrown() -> list[Any]:
            return (await client.get("/observations/trash")).json()

        assert [row["title"] for row in await eventually(thrown)] == ["Deploys"]
        assert (await client.get("/observations/recent")).json() == []


async def test_readyz_is_well_again_seconds_after_the_disk_is(tmp_path: Path) -> None:
    clock = HandClock()
    async with served(tmp_path, clock) as (service, client):
        connection = service.database._writer
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        refused = await client.post("/observations", json=NOTE | {"content": "x" * 40_000})
        assert (refused.status_code, (await client.get("/readyz")).status_code) == (503, 500)
        connection.execute("PRAGMA max_page_count = 100000")
        clock.advance(5)

        async def well() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await eventually(well)
        assert (await client.post("/observations", json=NOTE)).status_code == 201


async def test_a_snapshot_is_there_every_day(tmp_path: Path) -> None:
    clock, directory = HandClock(), tmp_path / "snapshots"
    directory.mkdir()
    async with served(tmp_path, clock, snapshot_dir=directory):

        async def two_days() -> bool:
            clock.advance(DAY_S)  # at every look: the service may not sleep yet when the first snapshot is seen
            return len(list(directory.glob("memory-????????.db"))) >= 2

        await eventually(two_days)
