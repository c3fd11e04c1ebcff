"""The memory store on PostgreSQL: as `sqlite_store`, operation by operation.

Two writers of one topic, or of the same content, wait for each other on an advisory lock of the transaction: the three
tiers decide one after the other, as they do on SQLite's single writer.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import asyncpg
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
from agentops.memory import postgres_finding, postgres_keeping, rows
from agentops.memory.listing import Cursor, Filter, Page
from agentops.memory.postgres import Postgres, vector, vector_values
from agentops.memory.postgres_finding import Values
from agentops.memory.postgres_keeping import count
from agentops.memory.retention import Retention
from agentops.memory.rows import APPEND_ONLY, OBSERVATION, SESSION
from agentops.memory.schema import APPEND_ONLY_TYPES
from agentops.memory.spans import spanned
from agentops.memory.store import Deleted, Imported, Pruned, Revision, Stats, TimelineEntry
from agentops.memory.summary import summarize
from agentops.values.clock import Clock, SystemClock

EXPORT_PAGE = 500


class PostgresStore:
    """A `MemoryStore` on one open `Postgres`; the rest as `SqliteStore`."""

    def __init__(
        self,
        database: Postgres,
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

        async def work(c: asyncpg.Connection) -> Session:
            await postgres_keeping.ensure_session(c, new.id, new.project, now, reader)
            return rows.session(tuple(await c.fetchrow(f"SELECT {SESSION} FROM sessions WHERE id = $1", new.id)))

        return await self._db.write(work)

    @spanned
    async def end_session(
        self, session_id: str, messages: Sequence[SessionMessage], reader: str = ""
    ) -> SessionSummary:
        now = self._now_ms()
        summary = summarize((m.role, m.content) for m in messages)

        async def work(c: asyncpg.Connection) -> None:
            done = await c.execute(
                "UPDATE sessions SET ended_at = $1, summary = $2, message_count = $3 "
                "WHERE id = $4 AND ($5 = '' OR project = $5)",
                now, summary, len(messages), session_id, reader,
            )  # fmt: skip
            if count(done) == 0:
                raise rows.missing_session(session_id)

        await self._db.write(work)
        return SessionSummary(session_id=session_id, summary=summary, message_count=len(messages))

    @spanned
    async def recent_sessions(self, project: str, limit: int, after: Cursor | None = None) -> Page[Session]:
        values = Values()
        where = f"project = {values.add(project)}" if project else "true"
        if after is not None:
            where += f" AND (started_at, id) < ({values.add(after.at_ms)}, {values.add(after.id)})"
        sql = (
            f"SELECT {SESSION} FROM sessions WHERE {where} ORDER BY started_at DESC, id DESC "
            f"LIMIT {values.add(limit + 1)}"
        )
        found = await self._db.read(lambda c: c.fetch(sql, *values))
        last = found[limit - 1] if len(found) > limit else None
        return Page(
            items=[rows.session(tuple(row)) for row in found[:limit]],
            after=Cursor(at_ms=last[2], id=last[0]) if last else None,
        )

    # ---- observations

    @spanned
    async def save(self, new: NewObservation, reader: str = "") -> SavedObservation:
        now = self._now_ms()
        digest = rows.content_hash(new.content)
        identity = self._new_uuid()

        async def work(c: asyncpg.Connection) -> SavedObservation:
            await postgres_keeping.ensure_session(c, new.session_id, new.project, now, reader)
            if new.type not in APPEND_ONLY_TYPES:
                same = orjson.dumps([new.project, new.scope, new.topic_key or digest, new.topic_key is None]).decode()
                await c.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", same)
                merged = await (
                    _revise_topic(c, new, digest, now)
                    if new.topic_key is not None
                    else _count_duplicate(c, new, digest, now, now - self._window_ms)
                )
                if merged is not None:
                    return merged
            values = Values()
            places = ", ".join(
                values.add(value)
                for value in (
                    identity, new.session_id, new.type, new.title, new.content, rows.tags_json(new.tags), new.project,
                    new.scope, new.topic_key, digest, now, now, now,
                )
            )  # fmt: skip
            words = vector(*map(values.add, vector_values(new.title, new.topic_key, new.tags, new.content)))
            row = await c.fetchval(
                "INSERT INTO observations (uuid, session_id, type, title, content, tags, project, scope, topic_key, "
                "normalized_hash, last_seen_at, created_at, updated_at, words) "
                f"VALUES ({places}, {words}) RETURNING id",
                *values,
            )
            return SavedObservation(id=row, action="created")

        return await self._db.write(work)

    @spanned
    async def observation(self, observation_id: int, reader: str = "") -> Observation:
        return await self._db.read(lambda c: postgres_keeping.live(c, observation_id, reader))

    @spanned
    async def revisions(self, observation_id: int, reader: str = "") -> list[Revision]:
        return await self._db.read(lambda c: postgres_keeping.revisions(c, observation_id, reader))

    @spanned
    async def recent_observations(self, where: Filter, limit: int, after: Cursor | None = None) -> Page[Observation]:
        return await self._db.read(lambda c: postgres_keeping.recent(c, where, limit, after))

    @spanned
    async def patch(self, observation_id: int, patch: ObservationPatch, reader: str = "") -> Observation:
        now = self._now_ms()

        async def work(c: asyncpg.Connection) -> Observation:
            old = await postgres_keeping.live(c, observation_id, reader, write=True)
            new = rows.patched(old, patch)
            if new == old:
                return old
            await postgres_keeping.keep_revision(c, observation_id, now)
            await _rewrite(c, observation_id, new, rows.content_hash(new.content), now, seen=False)
            return await postgres_keeping.live(c, observation_id, reader)

        return await self._db.write(work)

    @spanned
    async def delete(self, observation_id: int, *, hard: bool, reader: str = "") -> bool:
        now = self._now_ms()
        return await self._db.write(lambda c: postgres_keeping.delete(c, observation_id, hard, reader, now))

    @spanned
    async def trash(self, project: str, limit: int, after: Cursor | None = None) -> Page[Deleted]:
        return await self._db.read(lambda c: postgres_keeping.trash(c, project, limit, after))

    @spanned
    async def restore(self, observation_id: int, reader: str = "") -> Observation:
        now = self._now_ms()
        return await self._db.write(lambda c: postgres_keeping.restore(c, observation_id, reader, now))

    @spanned
    async def prune(self, retention: Retention, project: str) -> Pruned:
        now = self._now_ms()
        return await self._db.write(lambda c: postgres_keeping.prune(c, retention, project, now))

    @spanned
    async def vacuum(self) -> tuple[int, int]:
        return await self._db.vacuum()

    # ---- finding

    @spanned
    async def search(self, text: str, where: Filter, limit: int) -> list[SearchHit]:
        now = self._now_ms()
        return await self._db.read(lambda c: postgres_finding.search(c, text, where, limit, now))

    @spanned
    async def context(self, project: str, scope: str, query: str, limit: int, max_tokens: int | None) -> MemoryContext:
        now = self._now_ms()
        return await self._db.read(lambda c: postgres_finding.context(c, project, scope, query, limit, max_tokens, now))

    @spanned
    async def timeline(self, observation_id: int, before: int, after: int, reader: str = "") -> list[TimelineEntry]:
        near = (
            "SELECT id, type, title, content, created_at FROM observations WHERE deleted_at IS NULL AND project = $1 "
            "AND ($2 = '' OR project = $2 OR scope = 'global') AND (created_at, id)"
        )

        async def work(c: asyncpg.Connection) -> list[TimelineEntry]:
            anchor = await postgres_keeping.live(c, observation_id, reader)
            key = (anchor.project, reader, rows.maybe_millis(anchor.created_at), anchor.id)
            older = await c.fetch(f"{near} < ($3, $4) ORDER BY created_at DESC, id DESC LIMIT $5", *key, before)
            newer = await c.fetch(f"{near} >= ($3, $4) ORDER BY created_at, id LIMIT $5", *key, after + 1)
            return [rows.timeline_entry(tuple(row)) for row in [*reversed(older), *newer]]

        return await self._db.read(work)

    @spanned
    async def stats(self, project: str) -> Stats:
        mine = "($1 = '' OR project = $1)"

        async def work(c: asyncpg.Connection) -> Stats:
            sessions = await c.fetchval(f"SELECT count(*) FROM sessions WHERE {mine}", project)
            live = f"observations WHERE deleted_at IS NULL AND {mine}"
            observations = await c.fetchval(f"SELECT count(*) FROM {live}", project)
            projects = await c.fetch(
                f"SELECT project FROM sessions WHERE {mine} UNION SELECT project FROM {live} ORDER BY project", project
            )
            return Stats(
                total_sessions=sessions, total_observations=observations, projects=tuple(row[0] for row in projects)
            )

        return await self._db.read(work)

    # ---- moving

    async def export(self, project: str) -> AsyncIterator[list[dict[str, Any]]]:
        after_session, after_observation = "", 0
        mine = "($2 = '' OR project = $2)"
        sessions = f"SELECT {SESSION} FROM sessions WHERE id > $1 AND {mine} ORDER BY id LIMIT {EXPORT_PAGE}"
        while page := await self._page(sessions, after_session, project):
            yield [{"kind": "session", **to_wire(rows.session(row))} for row in page]
            after_session = page[-1][0]
        observations = (
            f"SELECT {OBSERVATION}, uuid FROM observations WHERE id > $1 AND deleted_at IS NULL AND {mine} "
            f"ORDER BY id LIMIT {EXPORT_PAGE}"
        )
        while page := await self._page(observations, after_observation, project):
            yield [{"kind": "observation", "uuid": row[-1], **to_wire(rows.observation(row[:-1]))} for row in page]
            after_observation = page[-1][0]

    @spanned
    async def import_records(self, records: Sequence[dict[str, Any]], reader: str = "", first: int = 1) -> Imported:
        now = self._now_ms()
        return await self._db.write(lambda c: postgres_keeping.import_records(c, records, reader, first, now))

    async def _page(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self._db.read(lambda c: c.fetch(sql, *arguments))]

    def _now_ms(self) -> int:
        return rows.millis(self._clock.now())


async def _revise_topic(c: asyncpg.Connection, new: NewObservation, digest: str, now: int) -> SavedObservation | None:
    """Tier 1: a live row of that topic gets the new words."""
    found = await c.fetchval(
        "SELECT id FROM observations WHERE topic_key = $1 AND project = $2 AND scope = $3 AND deleted_at IS NULL "
        f"AND type NOT IN ({APPEND_ONLY}) FOR UPDATE",
        new.topic_key, new.project, new.scope,
    )  # fmt: skip
    if found is None:
        return None
    await postgres_keeping.keep_revision(c, found, now)
    row = await _rewrite(c, found, new, digest, now, seen=True)
    return SavedObservation(id=row[0], action="updated", revision_count=row[1], duplicate_count=row[2])


async def _count_duplicate(
    c: asyncpg.Connection, new: NewObservation, digest: str, now: int, since: int
) -> SavedObservation | None:
    """Tier 2: the same thing said again within the window is counted, and its tags are added."""
    row = await c.fetchrow(
        "SELECT id, revision_count, duplicate_count, tags, topic_key, content FROM observations "
        "WHERE normalized_hash = $1 AND project = $2 AND scope = $3 AND type = $4 AND title = $5 AND created_at > $6 "
        "AND deleted_at IS NULL ORDER BY created_at DESC, id DESC LIMIT 1 FOR UPDATE",
        digest, new.project, new.scope, new.type, new.title, since,
    )  # fmt: skip
    if row is None:
        return None
    merged = tuple(dict.fromkeys([*orjson.loads(row[3]), *new.tags]))[:MAX_TAGS]
    values = Values([now, rows.tags_json(merged), row[0]])
    words = vector(*map(values.add, vector_values(new.title, row[4], merged, row[5])))
    await c.execute(
        "UPDATE observations SET duplicate_count = duplicate_count + 1, last_seen_at = $1, tags = $2, "
        f"words = {words} WHERE id = $3",
        *values,
    )
    return SavedObservation(id=row[0], action="deduplicated", revision_count=row[1], duplicate_count=row[2] + 1)


async def _rewrite(
    c: asyncpg.Connection,
    observation_id: int,
    new: NewObservation | Observation,
    digest: str,
    now: int,
    *,
    seen: bool,
) -> Any:
    """New words for a row: its id, revision_count and duplicate_count after it."""
    values = Values([new.type, new.title, new.content, rows.tags_json(new.tags), digest, now, observation_id])
    words = vector(*map(values.add, vector_values(new.title, new.topic_key, new.tags, new.content)))
    return await c.fetchrow(
        "UPDATE observations SET type = $1, title = $2, content = $3, tags = $4, normalized_hash = $5, "
        f"revision_count = revision_count + 1, updated_at = $6{', last_seen_at = $6' if seen else ''}, words = {words} "
        "WHERE id = $7 RETURNING id, revision_count, duplicate_count",
        *values,
    )
