"""Rows of an export into SQLite, each at most once."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from agentops.api.codec import WireError
from agentops.api.memory import Observation, Session
from agentops.memory import rows
from agentops.memory.errors import InvalidRequest
from agentops.memory.schema import index_columns
from agentops.memory.store import Imported
from agentops.memory.transfer import parse_record


def import_records(
    c: sqlite3.Connection, records: Sequence[dict[str, Any]], reader: str, first: int, now: int
) -> Imported:
    counts = {"session": 0, "observation": 0, "skipped": 0}
    for number, record in enumerate(records, first):
        kind = record.get("kind")
        try:
            row = parse_record(record, number, reader)
            added = _session(c, row) if isinstance(row, Session) else _observation(c, row, record.get("uuid"), now)
        except WireError as error:
            raise InvalidRequest([f"record {number}: {error}"]) from error
        counts[str(kind) if added else "skipped"] += 1
    return Imported(
        imported_sessions=counts["session"], imported_observations=counts["observation"], skipped=counts["skipped"]
    )


def ensure_session(c: sqlite3.Connection, session_id: str, project: str, now: int, reader: str) -> None:
    """Make the session unless it is there. Raises Conflict when it is another project's than `reader`."""
    done = c.execute(
        "INSERT INTO sessions (id, project, started_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (session_id, project, now),
    )
    if done.rowcount == 0 and reader:
        (owner,) = c.execute("SELECT project FROM sessions WHERE id = ?", (session_id,)).fetchone()
        if owner != reader:
            raise rows.foreign_session(session_id)


def _session(c: sqlite3.Connection, session: Session) -> bool:
    done = c.execute(
        f"INSERT INTO sessions ({rows.SESSION}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (session.id, session.project, rows.millis(session.started_at), rows.maybe_millis(session.ended_at),
         session.summary, session.message_count),
    )  # fmt: skip
    return done.rowcount > 0


def _observation(c: sqlite3.Connection, row: Observation, identity: object, now: int) -> bool:
    digest = rows.content_hash(row.content)
    created = rows.maybe_millis(row.created_at) or now
    if not isinstance(identity, str) or not identity:
        identity = rows.derived_uuid(row, digest)
    if c.execute("SELECT 1 FROM observations WHERE uuid = ?", (identity,)).fetchone():
        return False
    taken = c.execute("SELECT 1 FROM observations WHERE id = ?", (row.id,)).fetchone()
    ensure_session(c, row.session_id, row.project, created, "")
    tags = rows.tags_json(row.tags)
    done = c.execute(
        f"INSERT INTO observations ({rows.OBSERVATION}, uuid, index_title, index_tags, index_content) "
        f"VALUES ({', '.join('?' * 20)}) ON CONFLICT DO NOTHING",
        (None if taken else row.id, row.session_id, row.type, row.title, row.content, tags,
         row.project, row.scope, row.topic_key, digest, row.revision_count, row.duplicate_count,
         rows.maybe_millis(row.last_seen_at) or created, row.promoted_to, created,
         rows.maybe_millis(row.updated_at) or created, identity, *index_columns(row.title, tags, row.content)),
    )  # fmt: skip
    return done.rowcount > 0
