"""What PostgreSQL keeps and lets go: replaced versions, trash, retention; and rows of an export, each at most once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from agentops.api.codec import WireError
from agentops.api.memory import Observation, Session
from agentops.memory import rows
from agentops.memory.errors import InvalidRequest
from agentops.memory.listing import Cursor, Filter, Page
from agentops.memory.postgres import vector, vector_values
from agentops.memory.postgres_finding import Values, conditions
from agentops.memory.retention import EVERY_TYPE, Retention
from agentops.memory.rows import APPEND_ONLY, OBSERVATION, REVISION
from agentops.memory.schema import APPEND_ONLY_TYPES
from agentops.memory.store import Deleted, Imported, Pruned, Revision
from agentops.memory.transfer import parse_record

_LAST_USED = "greatest(updated_at, last_seen_at)"


async def recent(c: asyncpg.Connection, where: Filter, limit: int, after: Cursor | None) -> Page[Observation]:
    values = Values()
    live = conditions(where, values)
    if after is not None:
        live += f" AND (created_at, id) < ({values.add(after.at_ms)}, {values.add(after.number)})"
    found = await c.fetch(
        f"SELECT {OBSERVATION} FROM observations WHERE {live} ORDER BY created_at DESC, id DESC "
        f"LIMIT {values.add(limit + 1)}",
        *values,
    )
    last = found[limit - 1] if len(found) > limit else None
    return Page(
        items=[rows.observation(tuple(row)) for row in found[:limit]],
        after=Cursor(at_ms=last[14], id=str(last[0])) if last else None,
    )


async def live(c: asyncpg.Connection, observation_id: int, reader: str, *, write: bool = False) -> Observation:
    """The row `reader` may see, or change with `write`. Raises NotFound; Conflict for a record to be changed."""
    row = await c.fetchrow(
        f"SELECT {OBSERVATION} FROM observations WHERE id = $1 AND deleted_at IS NULL{' FOR UPDATE' if write else ''}",
        observation_id,
    )
    if row is None:
        raise rows.missing(observation_id)
    found = rows.observation(tuple(row))
    if reader and found.project != reader and (write or found.scope != "global"):
        raise rows.missing(observation_id)
    if write and found.type in APPEND_ONLY_TYPES:
        raise rows.append_only(observation_id, found.type)
    return found


async def keep_revision(c: asyncpg.Connection, observation_id: int, now: int) -> None:
    """Copy the row as it is now, before it changes; the oldest beyond `MAX_REVISIONS` go."""
    await c.execute(
        "INSERT INTO revisions (observation_id, revision, type, title, content, tags, replaced_at) "
        "SELECT id, revision_count, type, title, content, tags, $1 FROM observations WHERE id = $2 "
        "ON CONFLICT (observation_id, revision) DO NOTHING",
        now,
        observation_id,
    )
    await c.execute(
        "DELETE FROM revisions WHERE observation_id = $1 AND revision <= "
        "(SELECT revision_count FROM observations WHERE id = $1) - $2",
        observation_id,
        rows.MAX_REVISIONS,
    )


async def revisions(c: asyncpg.Connection, observation_id: int, reader: str) -> list[Revision]:
    await live(c, observation_id, reader)
    found = await c.fetch(
        f"SELECT {REVISION} FROM revisions WHERE observation_id = $1 ORDER BY revision DESC", observation_id
    )
    return [rows.revision(tuple(row)) for row in found]


async def delete(c: asyncpg.Connection, observation_id: int, hard: bool, reader: str, now: int) -> bool:
    row = await c.fetchrow("SELECT type, project FROM observations WHERE id = $1 FOR UPDATE", observation_id)
    if row is None or (reader and row[1] != reader):
        return False
    if row[0] in APPEND_ONLY_TYPES:
        raise rows.append_only(observation_id, row[0])
    if hard:
        return count(await c.execute("DELETE FROM observations WHERE id = $1", observation_id)) > 0
    hide = "UPDATE observations SET deleted_at = $1 WHERE id = $2 AND deleted_at IS NULL"
    return count(await c.execute(hide, now, observation_id)) > 0


async def trash(c: asyncpg.Connection, project: str, limit: int, after: Cursor | None) -> Page[Deleted]:
    values = Values()
    where = "deleted_at IS NOT NULL"
    if project:
        where += f" AND project = {values.add(project)}"
    if after is not None:
        where += f" AND (deleted_at, id) < ({values.add(after.at_ms)}, {values.add(after.number)})"
    found = await c.fetch(
        f"SELECT {OBSERVATION}, deleted_at FROM observations WHERE {where} ORDER BY deleted_at DESC, id DESC "
        f"LIMIT {values.add(limit + 1)}",
        *values,
    )
    last = found[limit - 1] if len(found) > limit else None
    return Page(
        items=[rows.deleted(tuple(row)) for row in found[:limit]],
        after=Cursor(at_ms=last["deleted_at"], id=str(last[0])) if last else None,
    )


async def restore(c: asyncpg.Connection, observation_id: int, reader: str, now: int) -> Observation:
    row = await c.fetchrow("SELECT project, topic_key FROM observations WHERE id = $1", observation_id)
    if row is None or (reader and row[0] != reader):
        raise rows.missing(observation_id)
    try:
        await c.execute(
            "UPDATE observations SET deleted_at = NULL, last_seen_at = $2 WHERE id = $1 AND deleted_at IS NOT NULL",
            observation_id,
            now,
        )
    except asyncpg.UniqueViolationError as error:
        raise rows.topic_taken(observation_id, row[1]) from error
    return await live(c, observation_id, reader)


async def prune(c: asyncpg.Connection, retention: Retention, project: str, now: int) -> Pruned:
    def begun() -> tuple[Values, str]:
        values = Values()
        return values, f" AND project = {values.add(project)}" if project else ""

    expired = over = purged = 0
    for type, age_s in retention.age_s.items():
        values, mine = begun()
        named = list(retention.named())
        which = f"type <> ALL({values.add(named)}::text[])" if type == EVERY_TYPE else f"type = {values.add(type)}"
        expired += count(
            await c.execute(
                f"UPDATE observations SET deleted_at = {values.add(now)} WHERE deleted_at IS NULL AND {which}{mine} "
                f"AND {_LAST_USED} < {values.add(now - round(age_s * 1000))}",
                *values,
            )
        )
    if retention.most:
        values, mine = begun()
        over = count(
            await c.execute(
                f"UPDATE observations SET deleted_at = {values.add(now)} WHERE id IN (SELECT id FROM (SELECT id, "
                f"row_number() OVER (PARTITION BY project ORDER BY {_LAST_USED} DESC, id DESC) AS place "
                f"FROM observations WHERE deleted_at IS NULL AND type NOT IN ({APPEND_ONLY}){mine}) AS ranked "
                f"WHERE place > {values.add(retention.most)})",
                *values,
            )
        )
    if retention.trash_s is not None:
        values, mine = begun()
        before = values.add(now - round(retention.trash_s * 1000))
        purged = count(await c.execute(f"DELETE FROM observations WHERE deleted_at < {before}{mine}", *values))
    return Pruned(expired=expired, over_limit=over, purged=purged)


_TO_LAST_ID = (
    "SELECT setval(ids, greatest((SELECT coalesce(max(id), 1) FROM observations), nextval(ids))) "
    "FROM (SELECT pg_get_serial_sequence('observations', 'id')::regclass AS ids) AS found"
)
"""Tells the sequence of the ids that were imported."""


async def import_records(
    c: asyncpg.Connection, records: Sequence[dict[str, Any]], reader: str, first: int, now: int
) -> Imported:
    counts = {"session": 0, "observation": 0, "skipped": 0}
    for number, record in enumerate(records, first):
        try:
            row = parse_record(record, number, reader)
        except WireError as error:
            raise InvalidRequest([f"record {number}: {error}"]) from error
        added = await (_session(c, row) if isinstance(row, Session) else _observation(c, row, record.get("uuid"), now))
        counts[str(record["kind"]) if added else "skipped"] += 1
    await c.execute(_TO_LAST_ID)
    return Imported(
        imported_sessions=counts["session"], imported_observations=counts["observation"], skipped=counts["skipped"]
    )


async def ensure_session(c: asyncpg.Connection, session_id: str, project: str, now: int, reader: str) -> None:
    """Make the session unless it is there. Raises Conflict when it is another project's than `reader`."""
    done = await c.execute(
        "INSERT INTO sessions (id, project, started_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        session_id,
        project,
        now,
    )
    if count(done) == 0 and reader:
        owner = await c.fetchval("SELECT project FROM sessions WHERE id = $1", session_id)
        if owner != reader:
            raise rows.foreign_session(session_id)


def count(status: str) -> int:
    """How many rows a command touched, from its status (`UPDATE 3`)."""
    return int(status.rpartition(" ")[2])


async def _session(c: asyncpg.Connection, session: Session) -> bool:
    done = await c.execute(
        f"INSERT INTO sessions ({rows.SESSION}) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        session.id, session.project, rows.millis(session.started_at), rows.maybe_millis(session.ended_at),
        session.summary, session.message_count,
    )  # fmt: skip
    return count(done) > 0


async def _observation(c: asyncpg.Connection, row: Observation, identity: object, now: int) -> bool:
    digest = rows.content_hash(row.content)
    created = rows.maybe_millis(row.created_at) or now
    if not isinstance(identity, str) or not identity:
        identity = rows.derived_uuid(row, digest)
    if await c.fetchval("SELECT 1 FROM observations WHERE uuid = $1", identity):
        return False
    await ensure_session(c, row.session_id, row.project, created, "")
    values = Values()
    places = ", ".join(
        values.add(value)
        for value in (
            row.session_id, row.type, row.title, row.content, rows.tags_json(row.tags), row.project, row.scope,
            row.topic_key, digest, row.revision_count, row.duplicate_count,
            rows.maybe_millis(row.last_seen_at) or created, row.promoted_to,
            created, rows.maybe_millis(row.updated_at) or created, identity,
        )
    )  # fmt: skip
    words = vector(*(values.add(value) for value in vector_values(row.title, row.topic_key, row.tags, row.content)))
    insert = (
        f"INSERT INTO observations ({OBSERVATION.removeprefix('id, ')}, uuid, words, id) "
        f"VALUES ({places}, {words}, ${len(values) + 1}) ON CONFLICT DO NOTHING"
    )
    place = row.id
    while True:  # another writer may take the id between the look and the insert
        if await c.fetchval("SELECT 1 FROM observations WHERE id = $1", place):
            await c.execute(_TO_LAST_ID)
            place = await c.fetchval("SELECT nextval(pg_get_serial_sequence('observations', 'id'))")
        elif count(await c.execute(insert, *values, place)):
            return True
        elif not await c.fetchval("SELECT 1 FROM observations WHERE id = $1", place):
            return False  # it is there already, by its uuid or topic
