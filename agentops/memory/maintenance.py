"""What the service does by itself: retention every hour, a snapshot every day, asking a failing disk how it is."""

from __future__ import annotations

from pathlib import Path

import anyio

from agentops.memory.database import Database
from agentops.memory.errors import MemoryServiceError, StoreUnavailable
from agentops.memory.retention import Retention
from agentops.memory.store import MemoryStore
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock

log = get_logger("memory.maintenance")

PRUNE_EVERY_S = 3600.0
PROBE_EVERY_S = 5.0
_SNAPSHOT = "memory-{day:%Y%m%d}.db"


async def keep_pruned(store: MemoryStore, retention: Retention, clock: Clock) -> None:
    """Apply the retention now and every hour. Until cancelled; returns at once without a policy."""
    while retention.anything:
        try:
            done = await store.prune(retention, "")
            if done.expired or done.over_limit or done.purged:
                log.info("memory.pruned", expired=done.expired, over_limit=done.over_limit, purged=done.purged)
        except MemoryServiceError as error:
            log.error("memory.prune_failed", error=str(error))
        await clock.sleep(PRUNE_EVERY_S)


async def keep_snapshots(database: Database, directory: Path | None, keep: int, clock: Clock) -> None:
    """One snapshot `memory-YYYYMMDD.db` a day (UTC), the newest `keep` of them. Until cancelled."""
    while directory is not None:
        try:
            await snapshot(database, directory, keep, clock)
        except (MemoryServiceError, OSError) as error:
            log.error("memory.snapshot_failed", directory=str(directory), error=str(error))
        await clock.sleep(PRUNE_EVERY_S)


async def snapshot(database: Database, directory: Path, keep: int, clock: Clock) -> Path | None:
    """Today's snapshot unless there is one; older ones beyond `keep` are removed. Raises StoreUnavailable."""
    folder = anyio.Path(directory)
    if not await folder.is_dir():
        raise StoreUnavailable(f"--snapshot-dir {directory} is not a directory; mount a volume there")
    target = folder / _SNAPSHOT.format(day=clock.now())
    if await target.exists():
        return None
    await database.snapshot(Path(target))
    log.info("memory.snapshot", file=str(target), bytes=(await target.stat()).st_size)
    for old in sorted([file async for file in folder.glob("memory-????????.db")])[:-keep]:
        await old.unlink()
    return Path(target)


async def keep_probing(store: MemoryStore, clock: Clock) -> None:
    """Ask a database in trouble how it is: unready, it gets no request that would find out. Until cancelled."""
    while True:
        await clock.sleep(PROBE_EVERY_S)
        was = store.trouble()
        if was is None:
            continue
        try:
            await store.probe()
            log.info("memory.recovered", was=was)
        except MemoryServiceError as error:
            log.error("memory.unavailable", error=str(error))
