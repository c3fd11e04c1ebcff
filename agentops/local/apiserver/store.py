"""Everything the server remembers: one log of revisions, in SQLite, and an index of what is live.

Knows nothing of Kubernetes beyond namespaces and names. One global revision numbers all writes. A
write is committed before it returns, so nobody is told of a write that a kill -9 could undo; the
log holds old and new bytes of each, which is what watches and reads of the past are made of.
Compaction forgets superseded bytes; what lies below `compact_revision` cannot be asked for any more.

Not thread-safe: one event loop, one process (the plane holds a lock on its state directory).
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from attrs import define, field, frozen
from sortedcontainers import SortedDict

Events = list["Event"]

Key = tuple[str, str]
"""Namespace ("" when there is none) and name."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS log (
  rev INTEGER PRIMARY KEY AUTOINCREMENT, res TEXT NOT NULL, ns TEXT NOT NULL, name TEXT NOT NULL,
  created INTEGER NOT NULL, deleted INTEGER NOT NULL, create_rev INTEGER NOT NULL, prev_rev INTEGER NOT NULL,
  value BLOB NOT NULL, old_value BLOB);
CREATE INDEX IF NOT EXISTS log_key ON log (res, ns, name, rev);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


class Compacted(Exception):
    """The asked revision lies below what the log still knows."""

    def __init__(self, asked: int, oldest: int) -> None:
        super().__init__(f"revision {asked} is compacted, the oldest is {oldest}")
        self.asked = asked
        self.oldest = oldest


class StaleWrite(Exception):
    """The object is not the one the writer looked at."""


@define(slots=True, eq=False)
class Entry:
    """One version of one object. Immutable; `obj()` is a private copy."""

    namespace: str
    name: str
    revision: int
    create_revision: int
    value: bytes
    _labels: dict[str, str] | None = field(default=None, init=False)

    def obj(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.value)
        return found

    @property
    def labels(self) -> dict[str, str]:
        if self._labels is None:
            self._labels = (self.obj().get("metadata") or {}).get("labels") or {}
        return self._labels


@define(slots=True, eq=False)
class Event:
    """One write. `type` is ADDED, MODIFIED or DELETED; a deleted entry carries the last state under a new revision."""

    type: str
    entry: Entry
    previous: Entry | None
    _line: bytes | None = field(default=None, init=False)

    @property
    def line(self) -> bytes:
        """As a watch of the whole resource sends it: made once, however many of them there are."""
        if self._line is None:
            self._line = b'{"type":"%b","object":%b}\n' % (self.type.encode(), self.entry.value)
        return self._line

    @property
    def revision(self) -> int:
        return self.entry.revision


Listener = Callable[[Event], None]


@frozen(slots=True)
class StoreStatistics:
    """For /metrics and tests."""

    revision: int
    compact_revision: int
    objects: int
    ring_events: int


class Store:
    """See the module. `path` None keeps everything in memory; `ring_size` bounds events kept per resource."""

    def __init__(self, path: Path | None = None, *, ring_size: int = 1000) -> None:
        self._path = path
        self._ring_size = ring_size
        self._db: sqlite3.Connection | None = None
        self._live: dict[str, SortedDict] = {}
        self._rings: dict[str, deque[Event]] = {}
        self._listeners: dict[str, list[Listener]] = {}
        self.revision = 0
        self.compact_revision = 0

    # life

    def open(self) -> None:
        """Read the log. Raises sqlite3.Error when the file is no database of ours."""
        db = sqlite3.connect(str(self._path) if self._path else ":memory:", isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.executescript(_SCHEMA)
        self._db = db
        row = db.execute("SELECT seq FROM sqlite_sequence WHERE name='log'").fetchone()
        self.revision = row[0] if row else 0
        row = db.execute("SELECT value FROM meta WHERE key='compact_rev'").fetchone()
        self.compact_revision = row[0] if row else 0
        latest = db.execute(
            "SELECT l.res, l.ns, l.name, l.rev, l.create_rev, l.value FROM log l JOIN "
            "(SELECT MAX(rev) AS rev FROM log GROUP BY res, ns, name) m ON l.rev = m.rev WHERE l.deleted = 0"
        )
        for res, ns, name, rev, create_rev, value in latest:
            self._index(res)[(ns, name)] = Entry(ns, name, rev, create_rev, value)

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    @property
    def is_open(self) -> bool:
        return self._db is not None

    # reads

    def get(self, res: str, namespace: str, name: str) -> Entry | None:
        index = self._live.get(res)
        return None if index is None else index.get((namespace, name))

    def list(self, res: str, namespace: str = "", after: Key | None = None) -> Iterator[Entry]:
        """Live entries in order of namespace and name. Writing while iterating is not allowed."""
        index = self._live.get(res)
        if index is None:
            return iter(())
        if namespace:
            low: Key = (namespace, "") if after is None else after
            keys = index.irange(low, (namespace, "\U0010ffff"), inclusive=(after is None, True))
        elif after is not None:
            keys = index.irange(after, None, inclusive=(False, True))
        else:
            return iter(index.values())
        return (index[key] for key in keys)

    def count(self, res: str) -> int:
        index = self._live.get(res)
        return len(index) if index is not None else 0

    def list_at(self, res: str, namespace: str, revision: int, after: Key = ("", "")) -> Iterator[Entry]:
        """The state exactly at `revision`, as `list`; read only as far as it is asked for. Raises Compacted."""
        if revision == self.revision:
            return self.list(res, namespace, after if after != ("", "") else None)
        if revision < self.compact_revision:
            raise Compacted(revision, self.compact_revision)
        return self._past(res, namespace, revision, after)

    def _past(self, res: str, namespace: str, revision: int, after: Key) -> Iterator[Entry]:
        """The index alone tells which versions; only those of the page are read."""
        clause, args = " AND (ns, name) > (?, ?)", after
        if namespace:
            clause, args = " AND ns = ? AND name > ?", (namespace, after[1] if after[0] == namespace else "")
        latest = self._sql.execute(
            f"SELECT MAX(rev) FROM log WHERE res = ? AND rev <= ?{clause} GROUP BY ns, name ORDER BY ns, name",
            (res, revision, *args),
        )
        for (rev,) in latest:
            row = self._sql.execute(
                "SELECT ns, name, rev, create_rev, value FROM log WHERE rev = ? AND deleted = 0", (rev,)
            ).fetchone()
            if row is not None:
                yield Entry(*row)

    def events_after(self, res: str, revision: int) -> Events:
        """What happened to `res` after `revision`, oldest first. Raises Compacted."""
        if revision < self.compact_revision:
            raise Compacted(revision, self.compact_revision)
        if revision >= self.revision:
            return []
        ring = self._rings.get(res)
        if ring and ring[0].revision <= revision:
            skip = next((i for i, event in enumerate(ring) if event.revision > revision), len(ring))
            return [*islice(ring, skip, None)]
        rows = self._sql.execute(
            "SELECT ns, name, rev, create_rev, value, created, deleted, prev_rev, old_value FROM log "
            "WHERE res = ? AND rev > ? ORDER BY rev",
            (res, revision),
        )
        events = []
        for ns, name, rev, create_rev, value, created, deleted, prev_rev, old_value in rows:
            previous = Entry(ns, name, prev_rev, create_rev, old_value) if old_value is not None else None
            kind = "DELETED" if deleted else "ADDED" if created else "MODIFIED"
            events.append(Event(kind, Entry(ns, name, rev, create_rev, value), previous))
        return events

    # writes

    def write(
        self,
        res: str,
        namespace: str,
        name: str,
        encode: Callable[[int], bytes],
        expected: Entry | None,
        *,
        delete: bool = False,
    ) -> Entry:
        """Create (`expected` None), update or delete one object, durably.

        `encode` makes the bytes for the revision the write gets. Raises StaleWrite when `expected` is
        not what is live. Returns the new entry (for deletes: the last state under the new revision).
        """
        index = self._index(res)
        key = (namespace, name)
        if index.get(key) is not expected:
            raise StaleWrite(f"{res} {namespace}/{name}")
        revision = self.revision + 1
        value = encode(revision)
        entry = Entry(namespace, name, revision, expected.create_revision if expected else revision, value)
        self._sql.execute(
            "INSERT INTO log (rev, res, ns, name, created, deleted, create_rev, prev_rev, value, old_value) "
            "VALUES (?,?,?,?,?,?,?,?,?,?)",
            (
                revision,
                res,
                namespace,
                name,
                int(expected is None),
                int(delete),
                entry.create_revision,
                expected.revision if expected else 0,
                value,
                expected.value if expected else None,
            ),
        )
        self.revision = revision
        if delete:
            del index[key]
        else:
            index[key] = entry
        event = Event("DELETED" if delete else "MODIFIED" if expected else "ADDED", entry, expected)
        ring = self._rings.get(res)
        if ring is None:
            ring = self._rings[res] = deque(maxlen=self._ring_size)
        ring.append(event)
        for listener in tuple(self._listeners.get(res, ())):
            listener(event)
        return entry

    def subscribe(self, res: str, listener: Listener) -> Callable[[], None]:
        """Call `listener` for every later write to `res`, before the write returns. Returns the way out."""
        listeners = self._listeners.setdefault(res, [])
        listeners.append(listener)

        def leave() -> None:
            if listener in listeners:
                listeners.remove(listener)

        return leave

    def compact(self, revision: int) -> int:
        """Forget what was superseded at or before `revision`. Returns how many rows went."""
        revision = min(revision, self.revision)
        if revision <= self.compact_revision:
            return 0
        sql = self._sql
        sql.execute("BEGIN")
        try:
            gone = sql.execute(
                "DELETE FROM log WHERE rev <= ?1 AND (deleted = 1 OR EXISTS (SELECT 1 FROM log n WHERE n.res = log.res "
                "AND n.ns = log.ns AND n.name = log.name AND n.rev > log.rev AND n.rev <= ?1))",
                (revision,),
            ).rowcount
            sql.execute("UPDATE log SET old_value = NULL WHERE rev <= ? AND old_value IS NOT NULL", (revision,))
            sql.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('compact_rev', ?)", (revision,))
        except BaseException:
            sql.execute("ROLLBACK")
            raise
        sql.execute("COMMIT")
        self.compact_revision = revision
        for ring in self._rings.values():
            while ring and ring[0].revision <= revision:
                ring.popleft()
        return gone

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(
            self.revision,
            self.compact_revision,
            sum(len(index) for index in self._live.values()),
            sum(len(ring) for ring in self._rings.values()),
        )

    # helpers

    @property
    def _sql(self) -> sqlite3.Connection:
        if self._db is None:
            raise RuntimeError("the store is not open")
        return self._db

    def _index(self, res: str) -> SortedDict:
        index = self._live.get(res)
        if index is None:
            index = self._live[res] = SortedDict()
        return index
