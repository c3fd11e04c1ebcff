"""One SQLite file: one writer, a few readers, and nothing assumed about its settings.

Durability: WAL with `synchronous=NORMAL`. A committed transaction is in the WAL file, handed to the kernel, before
the caller hears of it, so killing this process at any moment (`kill -9`, OOM) loses no acknowledged write. Only the
loss of the kernel itself (power, panic) can take the last commits since a checkpoint, and even then the file stays
consistent; one fsync per saved observation is not worth that. Where the file system has no WAL (some network
volumes) the journal is `DELETE` with `synchronous=FULL`, and the log says so.

Every PRAGMA is read back at start: SQLite ignores one that it does not know or cannot honour without a word.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from agentops.memory.errors import DatabaseUnusable, StoreBusy, StoreError
from agentops.memory.schema import MIGRATIONS
from agentops.telemetry.logging import get_logger

log = get_logger("memory.database")

T = TypeVar("T")

BUSY_TIMEOUT_MS = 5000
MIN_SQLITE = (3, 37, 0)
"""STRICT tables."""


class Database:
    """The file at `path`, open inside `async with`.

    `write` runs one function at a time in its own transaction; `read` runs up to `readers` at once on connections
    that cannot write. Both run in threads, finish what they began even when the caller is cancelled, and raise
    StoreBusy or StoreError. Opening raises DatabaseUnusable naming the file.
    """

    def __init__(self, path: Path, *, readers: int = 4) -> None:
        self.path = path
        self._reader_count = readers
        self._writing = anyio.CapacityLimiter(1)
        self._reading = anyio.CapacityLimiter(readers)
        self._writer: sqlite3.Connection | None = None
        self._readers: list[sqlite3.Connection] = []
        self._settings: dict[str, Any] = {}

    async def __aenter__(self) -> Database:
        await anyio.to_thread.run_sync(self._open, limiter=self._writing)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._close, limiter=self._writing)

    @property
    def is_open(self) -> bool:
        return self._writer is not None

    def statistics(self) -> dict[str, Any]:
        """What the settings really are, and who waits: `journal_mode`, `synchronous`, `writers_waiting`…"""
        return {
            **self._settings,
            "writers_waiting": self._writing.statistics().tasks_waiting,
            "readers_waiting": self._reading.statistics().tasks_waiting,
        }

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work`, committed; whatever it raises rolls back."""

        def run() -> T:
            connection = self._require_writer()
            with _translated(), _transaction(connection):
                return work(connection)

        return await anyio.to_thread.run_sync(run, limiter=self._writing)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work`, which sees one consistent state of the file."""

        def run() -> T:
            self._require_writer()
            connection = self._readers.pop()
            try:
                with _translated(), _snapshot(connection):
                    return work(connection)
            finally:
                self._readers.append(connection)

        return await anyio.to_thread.run_sync(run, limiter=self._reading)

    def _require_writer(self) -> sqlite3.Connection:
        if self._writer is None:
            raise StoreError("the database is closed")
        return self._writer

    def _open(self) -> None:
        if sqlite3.sqlite_version_info < MIN_SQLITE:
            raise DatabaseUnusable(f"SQLite {sqlite3.sqlite_version} is too old: 3.37 or newer is needed")
        try:
            writer = self._connect()
            try:
                self._settings = _configure(writer, self.path)
                _require_fts5(writer)
                _migrate(writer, self.path)
                self._readers = [self._open_reader() for _ in range(self._reader_count)]
            except BaseException:
                writer.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise DatabaseUnusable(
                f"database {self.path} cannot be opened: {error}; give --db a file in a writable directory"
            ) from error
        self._writer = writer

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_MS / 1000,
            cached_statements=256,
        )

    def _open_reader(self) -> sqlite3.Connection:
        reader = self._connect()
        _pragma(reader, "busy_timeout", BUSY_TIMEOUT_MS)
        _pragma(reader, "foreign_keys", 1)
        _pragma(reader, "query_only", 1)
        return reader

    def _close(self) -> None:
        for reader in self._readers:
            reader.close()
        self._readers.clear()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def _configure(writer: sqlite3.Connection, path: Path) -> dict[str, Any]:
    _pragma(writer, "busy_timeout", BUSY_TIMEOUT_MS)
    _pragma(writer, "foreign_keys", 1)
    (journal,) = writer.execute("PRAGMA journal_mode = WAL").fetchone()
    if journal == "wal":
        _pragma(writer, "synchronous", 1)
    else:
        log.warning("database.no_wal", db=str(path), journal_mode=journal)
        writer.execute("PRAGMA journal_mode = DELETE").fetchone()
        _pragma(writer, "synchronous", 2)
    return {
        name: writer.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    }


def _pragma(connection: sqlite3.Connection, name: str, value: int) -> None:
    connection.execute(f"PRAGMA {name} = {value}")
    (now,) = connection.execute(f"PRAGMA {name}").fetchone()
    if now != value:
        raise DatabaseUnusable(f"SQLite did not accept PRAGMA {name} = {value}, it is {now}")


def _require_fts5(connection: sqlite3.Connection) -> None:
    options = {row[0] for row in connection.execute("PRAGMA compile_options")}
    if "ENABLE_FTS5" not in options:
        raise DatabaseUnusable("this Python's SQLite has no FTS5 full-text search; use a build that has it")


def _migrate(writer: sqlite3.Connection, path: Path) -> None:
    """Bring the file to the current version, each step in its own transaction."""
    with _transaction(writer):
        writer.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
        row = writer.execute("SELECT version FROM schema_version").fetchone()
        if row is None:
            writer.execute("INSERT INTO schema_version (version) VALUES (0)")
    version = row[0] if row else 0
    if version > len(MIGRATIONS):
        raise DatabaseUnusable(
            f"database {path} has schema version {version}, this program knows up to {len(MIGRATIONS)}; "
            "run the newer version of agentops that wrote it"
        )
    for target in range(version + 1, len(MIGRATIONS) + 1):
        with _transaction(writer):
            for statement in _statements(MIGRATIONS[target - 1]):
                writer.execute(statement)
            writer.execute("UPDATE schema_version SET version = ?", (target,))
        log.info("database.migrated", db=str(path), version=target)


def _statements(script: str) -> Iterator[str]:
    """`executescript` would commit the transaction that a migration must be in."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
    if pending.strip():
        raise ValueError(f"migration ends in the middle of a statement: {pending.strip()[:60]}")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if (error.sqlite_errorcode & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreBusy("the database is locked by another process; nothing was changed, try again") from error
        raise StoreError(f"the database refused: {error}") from error
    except sqlite3.Error as error:
        raise StoreError(f"the database refused: {error}") from error
