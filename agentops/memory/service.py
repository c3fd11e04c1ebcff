"""The memory role: options in, a served database out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from attrs import field, frozen

from agentops.memory.app import build_app
from agentops.memory.database import Database
from agentops.memory.errors import DatabaseUnusable
from agentops.memory.maintenance import keep_probing, keep_pruned, keep_snapshots
from agentops.memory.retention import Retention
from agentops.memory.sqlite_store import SqliteStore
from agentops.memory.store import MemoryStore
from agentops.net.auth import TokenFile
from agentops.net.errors import UsageError
from agentops.net.listen import ListenAddress, bind
from agentops.net.serve import serve
from agentops.telemetry.logging import get_logger
from agentops.telemetry.metrics import Registry
from agentops.values.clock import Clock, SystemClock

log = get_logger("memory")

IDLE_TIMEOUT_S = 60.0
"""How long an idle connection stays open for the next request."""


@frozen(slots=True, kw_only=True)
class MemoryOptions:
    """Everything the service can be told."""

    listen: str = ":7437"
    db: Path = Path("/data/memory.db")
    """SQLite file; its directory must exist and be writable."""
    database_url: str | None = field(default=None, repr=False)
    """A PostgreSQL server instead of the file."""
    dedupe_window_s: float = 900.0
    """The same content within this many seconds is counted, not stored again; 0 stores every time."""
    token_file: Path | None = None
    """The bearer every caller must send. None only together with `insecure`."""
    insecure: bool = False
    """Serve without authentication; for development, and the log says so."""
    retention: Retention = field(factory=Retention)
    """What goes to the trash by itself; nothing does unless said."""
    snapshot_dir: Path | None = None
    """Where a copy of the database is written every day; None writes none."""
    snapshot_keep: int = 7
    """How many of those copies stay."""
    grace_s: float = 15.0
    """How long open requests get after SIGTERM."""


class MemoryService:
    """Run with `await service.run()`; cancel to drain and close."""

    def __init__(self, options: MemoryOptions, *, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self.registry = Registry()
        self.database: Database | None = None
        """The SQLite file; None on PostgreSQL."""
        self._statistics: dict[str, Any] = {}

    async def run(self, *, task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; `task_status` starts with the port. Raises UsageError for bad options."""
        options = self._options
        token = self._token()
        sock = bind(ListenAddress.parse(options.listen))
        try:
            async with self._opened() as store, anyio.create_task_group() as tasks:
                app = build_app(
                    store,
                    registry=self.registry,
                    token=token,
                    ready=lambda: {"database": store.trouble()},
                    clock=self._clock,
                    retention=options.retention,
                )
                await tasks.start(_serve, app, sock, options.grace_s)
                tasks.start_soon(keep_probing, store, self._clock)
                tasks.start_soon(keep_pruned, store, options.retention, self._clock)
                if self.database is not None:
                    tasks.start_soon(
                        keep_snapshots, self.database, options.snapshot_dir, options.snapshot_keep, self._clock
                    )
                host, port = sock.getsockname()[:2]
                log.info("memory.ready", host=host, port=port, **self._statistics)
                task_status.started(port)
                await anyio.sleep_forever()
        except DatabaseUnusable as error:
            raise UsageError(str(error)) from error
        finally:
            sock.close()
            log.info("memory.stopped")

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[MemoryStore]:
        options = self._options
        if options.database_url is None:
            async with Database(options.db) as self.database:
                self._statistics = {"db": str(options.db), **self.database.statistics()}
                yield SqliteStore(self.database, dedupe_window_s=options.dedupe_window_s, clock=self._clock)
            return
        if options.snapshot_dir is not None:
            raise UsageError("--snapshot-dir is for the SQLite file; a PostgreSQL server has backups of its own")
        try:
            from agentops.memory.postgres import Postgres
            from agentops.memory.postgres_store import PostgresStore
        except ModuleNotFoundError as error:
            raise UsageError(
                f"DATABASE_URL needs {error.name}, which is not installed: pip install 'agentops-platform[postgres]'"
            ) from error
        async with Postgres(options.database_url) as server:
            self._statistics = {"db": "postgresql", **server.statistics()}
            yield PostgresStore(server, dedupe_window_s=options.dedupe_window_s, clock=self._clock)

    def _token(self) -> TokenFile | None:
        if self._options.insecure:
            log.warning("memory.insecure", reason="--insecure: anyone who reaches the port can read and write")
            return None
        if self._options.token_file is None:
            raise UsageError(
                "the memory service needs a bearer token: give --token-file FILE, or --insecure for development"
            )
        return TokenFile(self._options.token_file)


async def _serve(app: object, sock: object, grace_s: float, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    await serve(app, sock, grace_s=grace_s, keep_alive_s=IDLE_TIMEOUT_S, task_status=task_status)  # type: ignore[arg-type]
