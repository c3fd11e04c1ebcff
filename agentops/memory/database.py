"""One SQLite file: one writer, a few readers, and nothing assumed about its settings.

Durability: WAL with `synchronous=NORMAL`. A committed transaction is in the WAL file, handed to the kernel, before
the caller hears of it, so killing this process at any moment (`kill -9`, OOM) loses no acknowledged write. Only the
loss of the kernel itself (power, panic) can take the last commits since a checkpoint, and even then the file stays
consistent; one fsync per saved observation is not worth that. Where the file system has no WAL (some network
volumes) the journal is `DELETE` with `synchronous=FULL`, and the log says so.

Every PRAGMA is read back at start: SQLite ignores one that it does not know or cannot honour without a word.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from agentops.api.memory import MAX_BODY_BYTES
from agentops.memory.errors import DatabaseUnusable, StoreBusy, StoreError, StoreUnavailable
from agentops.memory.schema import MIGRATIONS
from agentops.telemetry.logging import get_logger

log = get_logger("memory.database")

T = TypeVar("T")

BUSY_TIMEOUT_MS = 5000
MAX_WAL_BYTES = 64 << 20
"""The write-ahead log is emptied when it grew past this; SQLite's own checkpoints keep it at 4 MB when nobody reads."""
CLOSE_PATIENCE_S = 1.0
"""How long closing waits for a write that nobody waits for any more, before it interrupts it."""
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
        self._in_use = threading.Lock()  # the limiter is given back when a server cancels a request, its thread goes on
        self._writer: sqlite3.Connection | None = None
        self._readers: list[sqlite3.Connection] = []
        self._settings: dict[str, Any] = {}
        self._wal = path.with_name(path.name + "-wal")
        self.trouble: str | None = None
        """Why the disk refused last, until `probe` finds that it does not any more."""

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
            with self._writing_connection() as connection:
                with self._watched(), _transaction(connection):
                    result = work(connection)
                self._bound_wal(connection)
                return result

        return await anyio.to_thread.run_sync(run, limiter=self._writing)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work`, which sees one consistent state of the file."""

        def run() -> T:
            self._require_writer()
            connection = self._readers.pop()
            try:
                with self._watched(), _snapshot(connection):
                    return work(connection)
            finally:
                if self._writer is None:
                    connection.close()
                else:
                    self._readers.append(connection)

        return await anyio.to_thread.run_sync(run, limiter=self._reading)

    async def probe(self) -> None:
        """Write and take back what the largest request may bring, and bring `trouble` up to date.

        Raises StoreUnavailable. A smaller row would find the last free pages of a full disk, and the next request none.
        """

        def run() -> None:
            with self._writing_connection() as connection, self._watched(), _transaction(connection):
                connection.execute("CREATE TABLE probe (filler BLOB)")
                connection.execute("INSERT INTO probe VALUES (zeroblob(?))", (MAX_BODY_BYTES,))
                connection.execute("DROP TABLE probe")
            self.trouble = None

        await anyio.to_thread.run_sync(run, limiter=self._writing)

    async def vacuum(self) -> tuple[int, int]:
        """Give free pages back to the file system; the file's bytes before and after."""

        def run() -> tuple[int, int]:
            before = self.path.stat().st_size
            with self._writing_connection() as connection, self._watched():
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return before, self.path.stat().st_size

        return await anyio.to_thread.run_sync(run, limiter=self._writing)

    async def snapshot(self, target: Path) -> None:
        """A consistent copy of the whole database in the new file `target`, while others read and write."""

        def run() -> None:
            part = target.with_name(target.name + ".part")
            part.unlink(missing_ok=True)
            connection = self._connect()
            try:
                with self._watched(note=False):
                    connection.execute("VACUUM INTO ?", (str(part),))
                with part.open("rb+") as written:
                    os.fsync(written.fileno())
                part.replace(target)
            except OSError as error:
                raise StoreUnavailable(f"snapshot {target} cannot be written: {error.strerror}") from error
            finally:
                connection.close()
                part.unlink(missing_ok=True)

        await anyio.to_thread.run_sync(run)

    @contextmanager
    def _watched(self, note: bool = True) -> Iterator[None]:
        """Errors explained, and remembered in `trouble` as long as they last."""
        try:
            yield
        except sqlite3.Error as error:
            explained = _explained(error)
            if note and isinstance(explained, StoreUnavailable):
                self.trouble = str(explained)
            raise explained from error

    def _bound_wal(self, connection: sqlite3.Connection) -> None:
        """Readers that always overlap keep SQLite's own checkpoint from ever starting the log over."""
        try:
            if self._wal.stat().st_size > MAX_WAL_BYTES:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except FileNotFoundError:
            return
        except sqlite3.Error as error:
            log.warning("database.checkpoint_failed", db=str(self.path), error=str(error))

    @contextmanager
    def _writing_connection(self) -> Iterator[sqlite3.Connection]:
        with self._in_use:
            yield self._require_writer()

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
            raise DatabaseUnusable(f"database {self.path} cannot be opened: {error}; {_start_fix(error)}") from error
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
        writer, self._writer = self._writer, None
        if writer is None:
            return
        for reader in self._readers:
            reader.close()
        self._readers.clear()
        patience_s = CLOSE_PATIENCE_S
        while not self._in_use.acquire(timeout=patience_s):
            writer.interrupt()  # again and again: it ends one statement, and there may be none just now
            patience_s = 0.01
        try:
            writer.close()
        finally:
            self._in_use.release()


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
    """Bring the file to the current version, each step in its own transaction.

    A process that dies in a step leaves the file at the version before it. The version is read inside the transaction,
    so of two processes that start at once one migrates and the other finds it done.
    """
    while True:
        with _transaction(writer):
            version = _version(writer)
            if version > len(MIGRATIONS):
                raise DatabaseUnusable(
                    f"database {path} has schema version {version}, this program knows up to {len(MIGRATIONS)}; "
                    "run the newer version of agentops that wrote it"
                )
            if version == len(MIGRATIONS):
                return
            MIGRATIONS[version](writer)
            writer.execute("UPDATE schema_version SET version = ?", (version + 1,))
        log.info("database.migrated", db=str(path), version=version + 1)


def _version(writer: sqlite3.Connection) -> int:
    writer.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    row = writer.execute("SELECT version FROM schema_version").fetchone()
    if row is None:
        writer.execute("INSERT INTO schema_version (version) VALUES (0)")
        return 0
    return int(row[0])


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


_FIXES = {
    sqlite3.SQLITE_FULL: "the disk is full; make room on the volume (deleting rows takes room first)",
    sqlite3.SQLITE_READONLY: "the database is read-only; make its volume and file writable",
    sqlite3.SQLITE_IOERR: "the disk failed; see the node's log",
    sqlite3.SQLITE_CANTOPEN: "the file or its directory is gone; mount the volume again and restart",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore a snapshot or an export",
    sqlite3.SQLITE_NOTADB: "the file was overwritten with something else; restore a snapshot or an export",
}


def _start_fix(error: Exception) -> str:
    code = _code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "another process holds it; stop that"
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT):
        return _FIXES[code]
    return "give --db a file in a writable directory"


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _explained(error: sqlite3.Error) -> StoreError:
    code = _code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy("the database is locked by another process; nothing was changed, try again")
    if code in _FIXES:
        return StoreUnavailable(f"nothing was changed, {_FIXES[code]} ({error})")
    return StoreError(f"the database refused: {error}")
