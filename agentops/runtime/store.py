"""What an agent must not forget: run records, their events, the conversation, what is on its way to memory.

One SQLite file in the state dir.

Guarantees
    A record that `begin` returned is on disk before it returns. `finish` writes the record, its
    events and the turn's messages in one transaction, so a crash leaves either none or all of them.
    After a crash `recover` fails what was running; nothing is ever executed again.
Assumptions
    One process per file (the pod's volume is ReadWriteOnce). All access goes through this object's
    lock, in a worker thread.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread
import attrs
import orjson
from attrs import frozen

from agentops.api.codec import dumps, loads
from agentops.api.runs import RunFailure, RunRecord, RunState
from agentops.runtime.errors import StoreFault
from agentops.runtime.events import Encoded, pack, unpack
from agentops.runtime.messages import Message, from_wire, to_wire
from agentops.values.clock import Clock

KEPT_RUNS = 2000
KEPT_EVENT_LOGS = 200
SEQ_BLOCK = 1_000_000
"""Event numbers reserved ahead at start and after each turn, so that no event needs a write of its own."""

_SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, uid TEXT NOT NULL, prompt_sha256 TEXT NOT NULL,
    state TEXT NOT NULL, record BLOB NOT NULL
);
CREATE INDEX runs_running ON runs (id) WHERE state = 'running';
CREATE TABLE run_events (run_id INTEGER PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE, events BLOB NOT NULL);
CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL);
"""
_SINCE_2 = "CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL);"

_T = TypeVar("_T")


@frozen
class StoredRun:
    """A record and what identifies the request that made it."""

    record: RunRecord
    uid: str
    prompt_sha256: str


@frozen
class Restored:
    """What an earlier process left: the conversation, its turn count and the first free event number."""

    messages: tuple[Message, ...]
    turns: int
    next_seq: int
    lost: tuple[str, ...]
    """Runs that were going when that process died; their records now say so."""


class Store:
    """An async context manager over `path`; `:memory:` keeps nothing."""

    def __init__(self, path: Path | str, clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self._db: sqlite3.Connection | None = None
        self._lock = anyio.Lock()

    async def __aenter__(self) -> Store:
        try:
            self._db = await anyio.to_thread.run_sync(self._open)
        except (OSError, sqlite3.Error) as error:
            raise StoreFault(
                f"state {self.path}: {_why(error)}; AGENT_DATA_DIR must be a directory this user can write to"
            ) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._db is not None:
            with anyio.CancelScope(shield=True):
                async with self._lock:
                    await anyio.to_thread.run_sync(self._db.close)
                    self._db = None

    @property
    def is_open(self) -> bool:
        return self._db is not None

    async def recover(self, session_id: str) -> Restored:
        """Read what an earlier process left and fail the runs it was in the middle of."""
        return await self._do(lambda db: self._recover(db, session_id))

    async def begin(self, run: StoredRun) -> StoredRun:
        """Write a new record, or return the one that already has its name.

        A finished record of another `uid` is an earlier object of the same name: it gives way.
        """
        return await self._do(lambda db: _begin(db, run))

    async def finish(
        self,
        record: RunRecord,
        *,
        events: Sequence[Encoded],
        drop: int,
        messages: Sequence[Message],
        next_seq: int,
        summary: Message | None = None,
    ) -> None:
        """Close a run: its terminal record, its events, and the conversation's change.

        `drop` oldest messages leave the conversation, `summary` takes their place, `messages` join at the
        end. `next_seq` is the first event number not yet given out.
        """

        def rows() -> tuple[bytes, bytes | None, list[tuple[bytes]]]:
            pinned = _body(summary) if summary is not None else None
            return zlib.compress(pack(events), 6), pinned, [(_body(message),) for message in messages]

        packed, pinned, bodies = await anyio.to_thread.run_sync(rows)  # of a long turn, seconds
        await self._do(lambda db: _finish(db, record, packed, drop, pinned, bodies, next_seq))

    async def get(self, name: str) -> StoredRun | None:
        return await self._do(lambda db: _get(db, name))

    async def events(self, name: str) -> list[Encoded] | None:
        """The events of a finished run; None when they are no longer, or not yet, kept."""
        return await self._do(lambda db: _events(db, name))

    async def clear_conversation(self) -> None:
        """Forget every message; run records stay."""
        await self._do(_clear)

    async def outbox(self) -> list[tuple[int, bytes]]:
        """What `outbox_add` put there and nothing removed, oldest first."""
        return await self._do(lambda db: db.execute("SELECT id, body FROM outbox ORDER BY id").fetchall())

    async def outbox_add(self, body: bytes) -> int:
        """Keep `body`; its number."""
        return await self._do(lambda db: db.execute("INSERT INTO outbox (body) VALUES (?)", (body,)).lastrowid or 0)

    async def outbox_remove(self, number: int) -> None:
        await self._do(lambda db: db.execute("DELETE FROM outbox WHERE id = ?", (number,)))

    async def _do(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        async with self._lock:
            if self._db is None:
                raise StoreFault(f"state {self.path} is not open")
            db = self._db

            def locked() -> _T:
                with db:
                    db.execute("BEGIN IMMEDIATE")
                    return work(db)

            try:
                return await anyio.to_thread.run_sync(locked)
            except sqlite3.Error as error:
                raise StoreFault(f"state {self.path}: {_why(error)}; check the volume's free space") from error

    def _open(self) -> sqlite3.Connection:
        if str(self.path) != ":memory:":
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite gives its side files the same mode
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5)
        try:
            # FULL: what was answered with 202 survives power loss too. Turns are rare, an fsync is cheap.
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                db.execute(f"PRAGMA {pragma}").fetchall()
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > _SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"written by a newer runtime (schema {version} > {_SCHEMA_VERSION})")
            if version < _SCHEMA_VERSION:
                changes = (_SCHEMA if version == 0 else "") + _SINCE_2
                db.executescript(f"BEGIN;{changes}PRAGMA user_version={_SCHEMA_VERSION};COMMIT;")
        except BaseException:
            db.close()
            raise
        return db

    def _recover(self, db: sqlite3.Connection, session_id: str) -> Restored:
        next_seq = _meta(db, "next_seq", 1)
        lost: list[str] = []
        running = db.execute("SELECT id, record FROM runs WHERE state = ?", (RunState.RUNNING,)).fetchall()
        for run_id, blob in running:
            record = attrs.evolve(
                loads(RunRecord, blob),
                state=RunState.FAILED,
                reason=RunFailure.INTERRUPTED,
                error="the runtime stopped while the run was going; it is not executed a second time. Why it stopped "
                "(OOMKilled, for example) stands in its pod: kubectl describe pod",
                finished_at=self._clock.now(),
            )
            lost.append(record.name)
            _write(db, run_id, record)
            closing = _closing_events(record, session_id, next_seq, self._clock)
            next_seq += len(closing)
            _write_events(db, run_id, zlib.compress(pack(closing)))
        _set_meta(db, "next_seq", next_seq + SEQ_BLOCK)
        rows = db.execute("SELECT body FROM messages ORDER BY id").fetchall()
        messages = tuple(from_wire(orjson.loads(body)) for (body,) in rows)
        return Restored(messages, _meta(db, "turns", 0), next_seq, tuple(lost))


def _begin(db: sqlite3.Connection, run: StoredRun) -> StoredRun:
    existing = _get(db, run.record.name)
    if existing is not None:
        replaced = run.uid and existing.uid and run.uid != existing.uid and existing.record.state in RunState.TERMINAL
        if not replaced:
            return existing
        db.execute("DELETE FROM runs WHERE name = ?", (run.record.name,))
    db.execute(
        "INSERT INTO runs (name, uid, prompt_sha256, state, record) VALUES (?, ?, ?, ?, ?)",
        (run.record.name, run.uid, run.prompt_sha256, run.record.state, dumps(run.record)),
    )
    return run


def _finish(
    db: sqlite3.Connection,
    record: RunRecord,
    packed: bytes,
    drop: int,
    pinned: bytes | None,
    bodies: Sequence[tuple[bytes]],
    next_seq: int,
) -> None:
    row = db.execute("SELECT id FROM runs WHERE name = ?", (record.name,)).fetchone()
    if row is not None:
        _write(db, row[0], record)
        _write_events(db, row[0], packed)
    if drop:
        last = db.execute("SELECT max(id) FROM (SELECT id FROM messages ORDER BY id LIMIT ?)", (drop,)).fetchone()[0]
        db.execute("DELETE FROM messages WHERE id <= ?", (last,))
        if pinned is not None:
            db.execute("INSERT INTO messages (id, body) VALUES (?, ?)", (last, pinned))
    db.executemany("INSERT INTO messages (body) VALUES (?)", bodies)
    _set_meta(db, "turns", _meta(db, "turns", 0) + 1)
    _set_meta(db, "next_seq", next_seq + SEQ_BLOCK)
    db.execute(
        "DELETE FROM runs WHERE state <> 'running' AND id <= (SELECT max(id) FROM runs) - ?",
        (KEPT_RUNS,),
    )
    db.execute("DELETE FROM run_events WHERE run_id <= (SELECT max(id) FROM runs) - ?", (KEPT_EVENT_LOGS,))


def _body(message: Message) -> bytes:
    return orjson.dumps(to_wire(message))


def _get(db: sqlite3.Connection, name: str) -> StoredRun | None:
    row = db.execute("SELECT record, uid, prompt_sha256 FROM runs WHERE name = ?", (name,)).fetchone()
    return StoredRun(loads(RunRecord, row[0]), row[1], row[2]) if row else None


def _events(db: sqlite3.Connection, name: str) -> list[Encoded] | None:
    query = "SELECT events FROM run_events JOIN runs ON runs.id = run_events.run_id WHERE runs.name = ?"
    row = db.execute(query, (name,)).fetchone()
    return unpack(zlib.decompress(row[0])) if row else None


def _clear(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM messages")
    _set_meta(db, "turns", 0)


def _write(db: sqlite3.Connection, run_id: int, record: RunRecord) -> None:
    db.execute("UPDATE runs SET state = ?, record = ? WHERE id = ?", (record.state, dumps(record), run_id))


def _write_events(db: sqlite3.Connection, run_id: int, packed: bytes) -> None:
    db.execute("INSERT OR REPLACE INTO run_events (run_id, events) VALUES (?, ?)", (run_id, packed))


def _meta(db: sqlite3.Connection, key: str, default: int) -> int:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return row[0] if row else default


def _set_meta(db: sqlite3.Connection, key: str, value: int) -> None:
    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))


def _closing_events(record: RunRecord, session_id: str, seq: int, clock: Clock) -> list[Encoded]:
    """What followers of a run that died with its process are shown: an error and the end."""
    from agentops.runtime.events import Emitter, EventLog, Numbering

    emitter = Emitter(
        session_id=session_id,
        run=record.name,
        clock=clock,
        numbering=Numbering(seq),
        broadcast=EventLog(2),
        log=EventLog(2),
    )
    return [
        emitter.make("agent_error", error=record.error, reason=record.reason, retryable=False),
        emitter.make("session_idle"),
    ]


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
