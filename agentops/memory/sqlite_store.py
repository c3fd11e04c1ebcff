"""The memory store on SQLite with FTS5. SQL lives here and in `schema`; decisions live in `query` and `ranking`."""

from __future__ import annotations

import hashlib
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from agentops.api.codec import WireError, from_wire, to_wire
from agentops.api.memory import (
    MAX_TAGS,
    ContextObservation,
    ContextSession,
    MemoryContext,
    NewObservation,
    NewSession,
    Observation,
    ObservationPatch,
    SavedObservation,
    SearchHit,
    Session,
    SessionMessage,
    SessionSummary,
)
from agentops.memory.database import Database
from agentops.memory.errors import InvalidRequest, NotFound
from agentops.memory.query import fts_query, like_pattern
from agentops.memory.ranking import FTS_WEIGHTS, TOPIC_RANK, boosted, fit, shorten
from agentops.memory.schema import APPEND_ONLY_TYPES
from agentops.memory.store import Imported, Stats, TimelineEntry
from agentops.memory.summary import summarize
from agentops.values.clock import Clock, SystemClock

CONTEXT_SESSIONS = 3
EXPORT_PAGE = 500

_SESSION = "id, project, started_at, ended_at, summary, message_count"
_OBSERVATION = (
    "id, session_id, type, title, content, tags, project, scope, topic_key, normalized_hash, revision_count, "
    "duplicate_count, last_seen_at, promoted_to, created_at, updated_at"
)
_UUID_SPACE = uuid.UUID("6f0d3c1e-6a57-4c39-9a0b-0d6d0d2f7437")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = tuple[Any, ...]


class SqliteStore:
    """A `MemoryStore` on one open `Database`.

    `dedupe_window_s` is how long, in seconds after a row was created, the same content counts as said twice; zero
    switches that off.
    """

    def __init__(
        self,
        database: Database,
        *,
        dedupe_window_s: float = 900.0,
        clock: Clock | None = None,
        new_uuid: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._db = database
        self._window_ms = round(dedupe_window_s * 1000)
        self._clock = clock or SystemClock()
        self._new_uuid = new_uuid

    async def ping(self) -> None:
        await self._db.read(lambda c: c.execute("SELECT version FROM schema_version").fetchone())

    # ---- sessions

    async def create_session(self, new: NewSession) -> Session:
        now = self._now_ms()

        def work(c: sqlite3.Connection) -> Session:
            _ensure_session(c, new.id, new.project, now)
            return _session(c.execute(f"SELECT {_SESSION} FROM sessions WHERE id = ?", (new.id,)).fetchone())

        return await self._db.write(work)

    async def end_session(self, session_id: str, messages: Sequence[SessionMessage]) -> SessionSummary:
        now = self._now_ms()
        summary = summarize((m.role, m.content) for m in messages)

        def work(c: sqlite3.Connection) -> None:
            done = c.execute(
                "UPDATE sessions SET ended_at = ?, summary = ?, message_count = ? WHERE id = ?",
                (now, summary, len(messages), session_id),
            )
            if done.rowcount == 0:
                raise NotFound(f"session {session_id!r} does not exist; create it with POST /sessions")

        await self._db.write(work)
        return SessionSummary(session_id=session_id, summary=summary, message_count=len(messages))

    async def recent_sessions(self, project: str, limit: int) -> list[Session]:
        sql = (
            f"SELECT {_SESSION} FROM sessions WHERE (?1 = '' OR project = ?1) "
            "ORDER BY started_at DESC, id DESC LIMIT ?2"
        )
        return await self._db.read(lambda c: [_session(row) for row in c.execute(sql, (project, limit))])

    # ---- observations

    async def save(self, new: NewObservation) -> SavedObservation:
        now = self._now_ms()
        digest = content_hash(new.content)
        identity = self._new_uuid()

        def work(c: sqlite3.Connection) -> SavedObservation:
            _ensure_session(c, new.session_id, new.project, now)
            if new.type not in APPEND_ONLY_TYPES:
                merged = (
                    _revise_topic(c, new, digest, now)
                    if new.topic_key is not None
                    else _count_duplicate(c, new, digest, now, now - self._window_ms)
                )
                if merged is not None:
                    return merged
            row = c.execute(
                "INSERT INTO observations (uuid, session_id, type, title, content, tags, project, scope, topic_key, "
                "normalized_hash, last_seen_at, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (identity, new.session_id, new.type, new.title, new.content, _tags(new.tags), new.project, new.scope,
                 new.topic_key, digest, now, now, now),
            )  # fmt: skip
            return SavedObservation(id=int(row.lastrowid or 0), action="created")

        return await self._db.write(work)

    async def observation(self, observation_id: int) -> Observation:
        return await self._db.read(lambda c: _live(c, observation_id))

    async def recent_observations(self, project: str, type: str, scope: str, limit: int) -> list[Observation]:
        sql = (
            f"SELECT {_OBSERVATION} FROM observations WHERE deleted_at IS NULL AND (?1 = '' OR project = ?1) "
            "AND (?2 = '' OR type = ?2) AND (?3 = '' OR scope = ?3) ORDER BY created_at DESC, id DESC LIMIT ?4"
        )
        return await self._db.read(
            lambda c: [_observation(row) for row in c.execute(sql, (project, type, scope, limit))]
        )

    async def patch(self, observation_id: int, patch: ObservationPatch) -> Observation:
        now = self._now_ms()

        def work(c: sqlite3.Connection) -> Observation:
            old = _live(c, observation_id)
            wanted = {
                name: value
                for name in ("type", "title", "content", "tags")
                if (value := getattr(patch, name)) is not None and value != getattr(old, name)
            }
            if not wanted:
                return old
            title, content = wanted.get("title", old.title), wanted.get("content", old.content)
            c.execute(
                "UPDATE observations SET type = ?, title = ?, content = ?, tags = ?, normalized_hash = ?, "
                "revision_count = revision_count + 1, updated_at = ? WHERE id = ?",
                (wanted.get("type", old.type), title, content, _tags(wanted.get("tags", old.tags)),
                 content_hash(content), now, observation_id),
            )  # fmt: skip
            return _live(c, observation_id)

        return await self._db.write(work)

    async def delete(self, observation_id: int, *, hard: bool) -> bool:
        now = self._now_ms()

        def work(c: sqlite3.Connection) -> bool:
            if hard:
                return c.execute("DELETE FROM observations WHERE id = ?", (observation_id,)).rowcount > 0
            hide = "UPDATE observations SET deleted_at = ? WHERE id = ? AND deleted_at IS NULL"
            return c.execute(hide, (now, observation_id)).rowcount > 0

        return await self._db.write(work)

    # ---- finding

    async def search(self, text: str, project: str, type: str, scope: str, limit: int) -> list[SearchHit]:
        now = self._now_ms()
        return await self._db.read(lambda c: _search(c, text, project, type, scope, limit, now))

    async def context(self, project: str, scope: str, query: str, limit: int, max_tokens: int | None) -> MemoryContext:
        now = self._now_ms()

        def work(c: sqlite3.Connection) -> MemoryContext:
            found = _search(c, query, project, "", scope, limit, now, hidden=APPEND_ONLY_TYPES)
            rows = [_reminder(h.id, h.type, h.title, h.content, "fts5_bm25") for h in found]
            if len(rows) < limit:
                chosen = {row.id for row in rows}
                recent = _recent_visible(c, project, scope, limit + len(chosen))
                rows += [
                    _reminder(row[0], row[1], row[2], row[3], "recency") for row in recent if row[0] not in chosen
                ][: limit - len(rows)]
            sessions = [
                ContextSession(id=row[0], summary=row[1])
                for row in c.execute(
                    "SELECT id, summary FROM sessions WHERE project = ? AND summary <> '' "
                    "ORDER BY started_at DESC, id DESC LIMIT ?",
                    (project, CONTEXT_SESSIONS),
                )
            ]
            return fit(sessions, rows, max_tokens)

        return await self._db.read(work)

    async def timeline(self, observation_id: int, before: int, after: int) -> list[TimelineEntry]:
        columns = "id, type, title, content, created_at"
        near = f"SELECT {columns} FROM observations WHERE deleted_at IS NULL AND project = ? AND (created_at, id)"

        def work(c: sqlite3.Connection) -> list[TimelineEntry]:
            anchor = c.execute(
                f"SELECT {columns}, project FROM observations WHERE id = ? AND deleted_at IS NULL", (observation_id,)
            ).fetchone()
            if anchor is None:
                raise _missing(observation_id)
            key = (anchor[5], anchor[4], anchor[0])
            older = c.execute(f"{near} < (?, ?) ORDER BY created_at DESC, id DESC LIMIT ?", (*key, before)).fetchall()
            newer = c.execute(f"{near} > (?, ?) ORDER BY created_at, id LIMIT ?", (*key, after)).fetchall()
            return [
                TimelineEntry(id=row[0], type=row[1], title=row[2], content=row[3], created_at=_moment(row[4]))
                for row in [*reversed(older), anchor[:5], *newer]
            ]

        return await self._db.read(work)

    async def stats(self, project: str) -> Stats:
        def work(c: sqlite3.Connection) -> Stats:
            mine = "(?1 = '' OR project = ?1)"
            (sessions,) = c.execute(f"SELECT count(*) FROM sessions WHERE {mine}", (project,)).fetchone()
            (observations,) = c.execute(
                f"SELECT count(*) FROM observations WHERE deleted_at IS NULL AND {mine}", (project,)
            ).fetchone()
            projects = c.execute(
                f"SELECT project FROM sessions WHERE {mine} UNION "
                f"SELECT project FROM observations WHERE deleted_at IS NULL AND {mine} ORDER BY project",
                (project,),
            )
            return Stats(
                total_sessions=sessions, total_observations=observations, projects=tuple(row[0] for row in projects)
            )

        return await self._db.read(work)

    # ---- moving

    async def export(self, project: str) -> AsyncIterator[list[dict[str, Any]]]:
        after_session, after_observation = "", 0
        sessions = f"SELECT {_SESSION} FROM sessions WHERE id > ? AND (? = '' OR project = ?) ORDER BY id LIMIT ?"
        while page := await self._page(sessions, (after_session, project, project, EXPORT_PAGE)):
            yield [{"kind": "session", **to_wire(_session(row))} for row in page]
            after_session = page[-1][0]
        observations = (
            f"SELECT {_OBSERVATION}, uuid FROM observations WHERE id > ? AND deleted_at IS NULL "
            "AND (? = '' OR project = ?) ORDER BY id LIMIT ?"
        )
        while page := await self._page(observations, (after_observation, project, project, EXPORT_PAGE)):
            yield [{"kind": "observation", "uuid": row[-1], **to_wire(_observation(row[:-1]))} for row in page]
            after_observation = page[-1][0]

    async def import_records(self, records: Sequence[dict[str, Any]]) -> Imported:
        now = self._now_ms()

        def work(c: sqlite3.Connection) -> Imported:
            counts = {"session": 0, "observation": 0, "skipped": 0}
            for index, record in enumerate(records):
                kind = record.get("kind")
                try:
                    if kind == "session":
                        added = _import_session(c, from_wire(Session, record))
                    elif kind == "observation":
                        added = _import_observation(c, from_wire(Observation, record), record.get("uuid"), now)
                    else:
                        raise WireError(f"kind: must be session or observation, not {kind!r:.60}")
                except WireError as error:
                    raise InvalidRequest([f"record {index + 1}: {error}"]) from error
                counts[kind if added else "skipped"] += 1
            return Imported(
                imported_sessions=counts["session"],
                imported_observations=counts["observation"],
                skipped=counts["skipped"],
            )

        return await self._db.write(work)

    async def _page(self, sql: str, arguments: tuple[Any, ...]) -> list[Row]:
        return await self._db.read(lambda c: c.execute(sql, arguments).fetchall())

    def _now_ms(self) -> int:
        return _millis(self._clock.now())


def content_hash(content: str) -> str:
    """The SHA-256 of `content` lower-cased with runs of white space collapsed: the same thing said again."""
    return hashlib.sha256(" ".join(content.lower().split()).encode("utf-8", "replace")).hexdigest()


def _revise_topic(c: sqlite3.Connection, new: NewObservation, digest: str, now: int) -> SavedObservation | None:
    """Tier 1: a live row of that topic gets the new words."""
    row = c.execute(
        "UPDATE observations SET type = ?, title = ?, content = ?, tags = ?, normalized_hash = ?, "
        "revision_count = revision_count + 1, updated_at = ?, last_seen_at = ? "
        "WHERE topic_key = ? AND project = ? AND scope = ? AND deleted_at IS NULL "
        "AND type NOT IN ('security', 'audit') RETURNING id, revision_count, duplicate_count",
        (new.type, new.title, new.content, _tags(new.tags), digest, now, now, new.topic_key, new.project, new.scope),
    ).fetchone()
    if row is None:
        return None
    return SavedObservation(id=row[0], action="updated", revision_count=row[1], duplicate_count=row[2])


def _count_duplicate(
    c: sqlite3.Connection, new: NewObservation, digest: str, now: int, since: int
) -> SavedObservation | None:
    """Tier 2: the same thing said again within the window is counted, and its tags are added."""
    row = c.execute(
        "SELECT id, revision_count, duplicate_count, tags FROM observations WHERE normalized_hash = ? AND project = ? "
        "AND scope = ? AND type = ? AND title = ? AND created_at > ? AND deleted_at IS NULL "
        "ORDER BY created_at DESC, id DESC LIMIT 1",
        (digest, new.project, new.scope, new.type, new.title, since),
    ).fetchone()
    if row is None:
        return None
    tags = dict.fromkeys([*orjson.loads(row[3]), *new.tags])
    c.execute(
        "UPDATE observations SET duplicate_count = duplicate_count + 1, last_seen_at = ?, tags = ? WHERE id = ?",
        (now, _tags(list(tags)[:MAX_TAGS]), row[0]),
    )
    return SavedObservation(id=row[0], action="deduplicated", revision_count=row[1], duplicate_count=row[2] + 1)


def _search(
    c: sqlite3.Connection,
    text: str,
    project: str,
    type: str,
    scope: str,
    limit: int,
    now: int,
    hidden: Sequence[str] = (),
) -> list[SearchHit]:
    text = text.strip()
    query = fts_query(text)
    if not query:
        return []
    filters = (
        "o.deleted_at IS NULL AND (:project = '' OR o.project = :project OR o.scope = 'global') "
        "AND (:type = '' OR o.type = :type) AND (:scope = '' OR o.scope = :scope)"
        + "".join(f" AND o.type <> '{name}'" for name in hidden)
    )
    values = {"project": project, "type": type, "scope": scope, "query": query, "limit": limit}
    columns = "o.id, o.type, o.title, o.content, o.topic_key"
    hits: dict[int, SearchHit] = {}
    if "/" in text:
        for row in c.execute(
            f"SELECT {columns} FROM observations o WHERE o.topic_key LIKE :pattern ESCAPE '\\' AND {filters} "
            "ORDER BY o.updated_at DESC, o.id DESC LIMIT :limit",
            {**values, "pattern": like_pattern(text)},
        ):
            hits[row[0]] = _hit(row, TOPIC_RANK)
    weights = ", ".join(str(weight) for weight in FTS_WEIGHTS)
    candidates = c.execute(
        f"SELECT {columns}, bm25(observations_fts, {weights}) AS score, o.updated_at, "
        "o.revision_count + o.duplicate_count - 1 FROM observations_fts "
        f"JOIN observations o ON o.id = observations_fts.rowid WHERE observations_fts MATCH :query AND {filters} "
        "ORDER BY score, o.id DESC LIMIT :candidates",
        {**values, "candidates": max(4 * limit, 50)},
    ).fetchall()
    scored = [_hit(row, boosted(row[5], age_ms=now - row[6], uses=row[7])) for row in candidates]
    for hit in sorted(scored, key=lambda hit: hit.rank):
        hits.setdefault(hit.id, hit)
    return list(hits.values())[:limit]


def _recent_visible(c: sqlite3.Connection, project: str, scope: str, limit: int) -> list[Row]:
    hidden = ", ".join(f"'{name}'" for name in APPEND_ONLY_TYPES)
    return c.execute(
        "SELECT id, type, title, content FROM observations WHERE deleted_at IS NULL "
        f"AND (project = ?1 OR scope = 'global') AND (?2 = '' OR scope = ?2) AND type NOT IN ({hidden}) "
        "ORDER BY created_at DESC, id DESC LIMIT ?3",
        (project, scope, limit),
    ).fetchall()


def _ensure_session(c: sqlite3.Connection, session_id: str, project: str, now: int) -> None:
    c.execute("INSERT OR IGNORE INTO sessions (id, project, started_at) VALUES (?, ?, ?)", (session_id, project, now))


def _live(c: sqlite3.Connection, observation_id: int) -> Observation:
    row = c.execute(
        f"SELECT {_OBSERVATION} FROM observations WHERE id = ? AND deleted_at IS NULL", (observation_id,)
    ).fetchone()
    if row is None:
        raise _missing(observation_id)
    return _observation(row)


def _missing(observation_id: int) -> NotFound:
    return NotFound(f"observation {observation_id} does not exist")


def _import_session(c: sqlite3.Connection, session: Session) -> bool:
    done = c.execute(
        f"INSERT OR IGNORE INTO sessions ({_SESSION}) VALUES (?, ?, ?, ?, ?, ?)",
        (session.id, session.project.lower(), _millis(session.started_at), _maybe_millis(session.ended_at),
         session.summary, session.message_count),
    )  # fmt: skip
    return done.rowcount > 0


def _import_observation(c: sqlite3.Connection, row: Observation, identity: object, now: int) -> bool:
    digest = content_hash(row.content)
    created = _maybe_millis(row.created_at) or now
    if not isinstance(identity, str) or not identity:
        identity = str(uuid.uuid5(_UUID_SPACE, f"{row.session_id}\0{row.created_at}\0{row.title}\0{digest}"))
    if c.execute("SELECT 1 FROM observations WHERE uuid = ?", (identity,)).fetchone():
        return False
    taken = c.execute("SELECT 1 FROM observations WHERE id = ?", (row.id,)).fetchone()
    _ensure_session(c, row.session_id, row.project.lower(), created)
    done = c.execute(
        f"INSERT INTO observations ({_OBSERVATION}, uuid) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (None if taken else row.id, row.session_id, row.type, row.title, row.content, _tags(row.tags),
         row.project.lower(), row.scope, row.topic_key, digest, row.revision_count, row.duplicate_count,
         _maybe_millis(row.last_seen_at) or created, row.promoted_to, created,
         _maybe_millis(row.updated_at) or created, identity),
    )  # fmt: skip
    return done.rowcount > 0


def _session(row: Row) -> Session:
    return Session(
        id=row[0],
        project=row[1],
        started_at=_moment(row[2]),
        ended_at=None if row[3] is None else _moment(row[3]),
        summary=row[4],
        message_count=row[5],
    )


def _observation(row: Row) -> Observation:
    return Observation(
        id=row[0],
        session_id=row[1],
        type=row[2],
        title=row[3],
        content=row[4],
        tags=tuple(orjson.loads(row[5])),
        project=row[6],
        scope=row[7],
        topic_key=row[8],
        normalized_hash=row[9],
        revision_count=row[10],
        duplicate_count=row[11],
        last_seen_at=_moment(row[12]),
        promoted_to=row[13],
        created_at=_moment(row[14]),
        updated_at=_moment(row[15]),
    )


def _hit(row: Row, rank: float) -> SearchHit:
    return SearchHit(id=row[0], type=row[1], title=row[2], content=row[3], topic_key=row[4], rank=rank)


def _reminder(id: int, type: str, title: str, content: str, method: str) -> ContextObservation:
    return ContextObservation(id=id, type=type, title=title, content=shorten(content), method=method)


def _tags(tags: Sequence[str]) -> str:
    return orjson.dumps(list(tags)).decode()


def _millis(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _maybe_millis(moment: datetime | None) -> int | None:
    return None if moment is None else _millis(moment)


def _moment(millis: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=millis)
