"""The memory store on SQLite with FTS5: sessions, the three-tier write, and the other operations by their modules.

SQL lives in the `sqlite_*` modules and in `schema`; decisions live in `query`, `ranking` and `retention`.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import orjson

from agentops.api.codec import to_wire
from agentops.api.memory import (
    MAX_TAGS,
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
from agentops.memory import rows, sqlite_finding, sqlite_keeping, sqlite_moving
from agentops.memory.database import Database
from agentops.memory.listing import Cursor, Filter, Page
from agentops.memory.retention import Retention
from agentops.memory.rows import APPEND_ONLY, OBSERVATION, SESSION, Row
from agentops.memory.schema import APPEND_ONLY_TYPES, index_columns
from agentops.memory.spans import spanned
from agentops.memory.store import Deleted, Imported, Pruned, Revision, Stats, TimelineEntry
from agentops.memory.summary import summarize
from agentops.values.clock import Clock, SystemClock

EXPORT_PAGE = 500


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

    def trouble(self) -> str | None:
        return self._db.trouble if self._db.is_open else "closed"

    async def probe(self) -> None:
        await self._db.probe()

    # ---- sessions

    @spanned
    async def create_session(self, new: NewSession, reader: str = "") -> Session:
        now = self._now_ms()

        def work(c: sqlite3.Connection) -> Session:
            sqlite_moving.ensure_session(c, new.id, new.project, now, reader)
            return rows.session(c.execute(f"SELECT {SESSION} FROM sessions WHERE id = ?", (new.id,)).fetchone())

        return await self._db.write(work)

    @spanned
    async def end_session(
        self, session_id: str, messages: Sequence[SessionMessage], reader: str = ""
    ) -> SessionSummary:
        now = self._now_ms()
        summary = summarize((m.role, m.content) for m in messages)

        def work(c: sqlite3.Connection) -> None:
            done = c.execute(
                "UPDATE sessions SET ended_at = ?, summary = ?, message_count = ? "
                "WHERE id = ? AND (? = '' OR project = ?)",
                (now, summary, len(messages), session_id, reader, reader),
            )
            if done.rowcount == 0:
                raise rows.missing_session(session_id)

        await self._db.write(work)
        return SessionSummary(session_id=session_id, summary=summary, message_count=len(messages))

    @spanned
    async def recent_sessions(self, project: str, limit: int, after: Cursor | None = None) -> Page[Session]:
        values: dict[str, Any] = {"project": project, "limit": limit + 1}
        behind = ""
        if after is not None:
            behind = "AND (started_at, id) < (:at, :id) "
            values |= {"at": after.at_ms, "id": after.id}
        sql = (
            f"SELECT {SESSION} FROM sessions WHERE (:project = '' OR project = :project) {behind}"
            "ORDER BY started_at DESC, id DESC LIMIT :limit"
        )
        found = await self._db.read(lambda c: c.execute(sql, values).fetchall())
        last = found[limit - 1] if len(found) > limit else None
        return Page(
            items=[rows.session(row) for row in found[:limit]],
            after=Cursor(at_ms=last[2], id=last[0]) if last else None,
        )

    # ---- observations

    @spanned
    async def save(self, new: NewObservation, reader: str = "") -> SavedObservation:
        now = self._now_ms()
        digest = rows.content_hash(new.content)
        identity = self._new_uuid()

        def work(c: sqlite3.Connection) -> SavedObservation:
            sqlite_moving.ensure_session(c, new.session_id, new.project, now, reader)
            if new.type not in APPEND_ONLY_TYPES:
                merged = (
                    _revise_topic(c, new, digest, now)
                    if new.topic_key is not None
                    else _count_duplicate(c, new, digest, now, now - self._window_ms)
                )
                if merged is not None:
                    return merged
            tags = rows.tags_json(new.tags)
            row = c.execute(
                "INSERT INTO observations (uuid, session_id, type, title, content, tags, project, scope, topic_key, "
                "normalized_hash, last_seen_at, created_at, updated_at, index_title, index_tags, index_content) "
                f"VALUES ({', '.join('?' * 16)})",
                (identity, new.session_id, new.type, new.title, new.content, tags, new.project, new.scope,
                 new.topic_key, digest, now, now, now, *index_columns(new.title, tags, new.content)),
            )  # fmt: skip
            return SavedObservation(id=int(row.lastrowid or 0), action="created")

        return await self._db.write(work)

    @spanned
    async def observation(self, observation_id: int, reader: str = "") -> Observation:
        return await self._db.read(lambda c: sqlite_keeping.live(c, observation_id, reader))

    @spanned
    async def revisions(self, observation_id: int, reader: str = "") -> list[Revision]:
        return await self._db.read(lambda c: sqlite_keeping.revisions(c, observation_id, reader))

    @spanned
    async def recent_observations(self, where: Filter, limit: int, after: Cursor | None = None) -> Page[Observation]:
        return await self._db.read(lambda c: sqlite_keeping.recent(c, where, limit, after))

    @spanned
    async def patch(self, observation_id: int, patch: ObservationPatch, reader: str = "") -> Observation:
        now = self._now_ms()

        def work(c: sqlite3.Connection) -> Observation:
            old = sqlite_keeping.live(c, observation_id, reader, write=True)
            new = rows.patched(old, patch)
            if new == old:
                return old
            sqlite_keeping.keep_revision(c, observation_id, now)
            tags = rows.tags_json(new.tags)
            c.execute(
                "UPDATE observations SET type = ?, title = ?, content = ?, tags = ?, normalized_hash = ?, "
                "index_title = ?, index_tags = ?, index_content = ?, revision_count = revision_count + 1, "
                "updated_at = ? WHERE id = ?",
                (new.type, new.title, new.content, tags, rows.content_hash(new.content),
                 *index_columns(new.title, tags, new.content), now, observation_id),
            )  # fmt: skip
            return sqlite_keeping.live(c, observation_id, reader)

        return await self._db.write(work)

    @spanned
    async def delete(self, observation_id: int, *, hard: bool, reader: str = "") -> bool:
        now = self._now_ms()
        return await self._db.write(lambda c: sqlite_keeping.delete(c, observation_id, hard, reader, now))

    @spanned
    async def trash(self, project: str, limit: int, after: Cursor | None = None) -> Page[Deleted]:
        return await self._db.read(lambda c: sqlite_keeping.trash(c, project, limit, after))

    @spanned
    async def restore(self, observation_id: int, reader: str = "") -> Observation:
        now = self._now_ms()
        return await self._db.write(lambda c: sqlite_keeping.restore(c, observation_id, reader, now))

    @spanned
    async def prune(self, retention: Retention, project: str) -> Pruned:
        now = self._now_ms()
        return await self._db.write(lambda c: sqlite_keeping.prune(c, retention, project, now))

    @spanned
    async def vacuum(self) -> tuple[int, int]:
        return await self._db.vacuum()

    # ---- finding

    @spanned
    async def search(self, text: str, where: Filter, limit: int) -> list[SearchHit]:
        now = self._now_ms()
        return await self._db.read(lambda c: sqlite_finding.search(c, text, where, limit, now))

    @spanned
    async def context(self, project: str, scope: str, query: str, limit: int, max_tokens: int | None) -> MemoryContext:
        now = self._now_ms()
        return await self._db.read(lambda c: sqlite_finding.context(c, project, scope, query, limit, max_tokens, now))

    @spanned
    async def timeline(self, observation_id: int, before: int, after: int, reader: str = "") -> list[TimelineEntry]:
        near = (
            "SELECT id, type, title, content, created_at FROM observations WHERE deleted_at IS NULL AND project = ? "
            "AND (? = '' OR project = ? OR scope = 'global') AND (created_at, id)"
        )

        def work(c: sqlite3.Connection) -> list[TimelineEntry]:
            anchor = sqlite_keeping.live(c, observation_id, reader)
            key = (anchor.project, reader, reader, rows.maybe_millis(anchor.created_at), anchor.id)
            older = c.execute(f"{near} < (?, ?) ORDER BY created_at DESC, id DESC LIMIT ?", (*key, before)).fetchall()
            newer = c.execute(f"{near} >= (?, ?) ORDER BY created_at, id LIMIT ?", (*key, after + 1)).fetchall()
            return [rows.timeline_entry(row) for row in [*reversed(older), *newer]]

        return await self._db.read(work)

    @spanned
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
        sessions = f"SELECT {SESSION} FROM sessions WHERE id > ? AND (? = '' OR project = ?) ORDER BY id LIMIT ?"
        while page := await self._page(sessions, (after_session, project, project, EXPORT_PAGE)):
            yield [{"kind": "session", **to_wire(rows.session(row))} for row in page]
            after_session = page[-1][0]
        observations = (
            f"SELECT {OBSERVATION}, uuid FROM observations WHERE id > ? AND deleted_at IS NULL "
            "AND (? = '' OR project = ?) ORDER BY id LIMIT ?"
        )
        while page := await self._page(observations, (after_observation, project, project, EXPORT_PAGE)):
            yield [{"kind": "observation", "uuid": row[-1], **to_wire(rows.observation(row[:-1]))} for row in page]
            after_observation = page[-1][0]

    @spanned
    async def import_records(self, records: Sequence[dict[str, Any]], reader: str = "", first: int = 1) -> Imported:
        now = self._now_ms()
        return await self._db.write(lambda c: sqlite_moving.import_records(c, records, reader, first, now))

    async def _page(self, sql: str, arguments: tuple[Any, ...]) -> list[Row]:
        return await self._db.read(lambda c: c.execute(sql, arguments).fetchall())

    def _now_ms(self) -> int:
        return rows.millis(self._clock.now())


def _revise_topic(c: sqlite3.Connection, new: NewObservation, digest: str, now: int) -> SavedObservation | None:
    """Tier 1: a live row of that topic gets the new words."""
    row = c.execute(
        "SELECT id FROM observations WHERE topic_key = ? AND project = ? AND scope = ? AND deleted_at IS NULL "
        f"AND type NOT IN ({APPEND_ONLY})",
        (new.topic_key, new.project, new.scope),
    ).fetchone()
    if row is None:
        return None
    sqlite_keeping.keep_revision(c, row[0], now)
    tags = rows.tags_json(new.tags)
    row = c.execute(
        "UPDATE observations SET type = ?, title = ?, content = ?, tags = ?, normalized_hash = ?, index_title = ?, "
        "index_tags = ?, index_content = ?, revision_count = revision_count + 1, updated_at = ?, last_seen_at = ? "
        "WHERE id = ? RETURNING id, revision_count, duplicate_count",
        (new.type, new.title, new.content, tags, digest, *index_columns(new.title, tags, new.content), now, now,
         row[0]),
    ).fetchone()  # fmt: skip
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
    merged = list(dict.fromkeys([*orjson.loads(row[3]), *new.tags]))[:MAX_TAGS]
    tags = rows.tags_json(merged)
    c.execute(
        "UPDATE observations SET duplicate_count = duplicate_count + 1, last_seen_at = ?, tags = ?, index_tags = ? "
        "WHERE id = ?",
        (now, tags, index_columns("", tags, "")[1], row[0]),
    )
    return SavedObservation(id=row[0], action="deduplicated", revision_count=row[1], duplicate_count=row[2] + 1)
