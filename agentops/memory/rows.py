"""Rows to values and back, the same for every database: times are milliseconds since 1970, tags are JSON."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from attrs import evolve

from agentops.api.memory import ContextObservation, Observation, ObservationPatch, SearchHit, Session
from agentops.memory.errors import Conflict, NotFound
from agentops.memory.ranking import shorten
from agentops.memory.schema import APPEND_ONLY_TYPES
from agentops.memory.store import Deleted, Revision, TimelineEntry

SESSION = "id, project, started_at, ended_at, summary, message_count"
OBSERVATION = (
    "id, session_id, type, title, content, tags, project, scope, topic_key, normalized_hash, revision_count, "
    "duplicate_count, last_seen_at, promoted_to, created_at, updated_at"
)
REVISION = "revision, type, title, content, tags, replaced_at"
APPEND_ONLY = ", ".join(f"'{name}'" for name in APPEND_ONLY_TYPES)

CONTEXT_SESSIONS = 3
MAX_REVISIONS = 50
"""How many replaced versions of one row are kept."""

_UUID_SPACE = uuid.UUID("6f0d3c1e-6a57-4c39-9a0b-0d6d0d2f7437")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = Sequence[Any]


def session(row: Row) -> Session:
    return Session(
        id=row[0],
        project=row[1],
        started_at=moment(row[2]),
        ended_at=None if row[3] is None else moment(row[3]),
        summary=row[4],
        message_count=row[5],
    )


def observation(row: Row) -> Observation:
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
        last_seen_at=moment(row[12]),
        promoted_to=row[13],
        created_at=moment(row[14]),
        updated_at=moment(row[15]),
    )


def revision(row: Row) -> Revision:
    return Revision(
        revision=row[0],
        type=row[1],
        title=row[2],
        content=row[3],
        tags=tuple(orjson.loads(row[4])),
        replaced_at=moment(row[5]),
    )


def deleted(row: Row) -> Deleted:
    """A row of `OBSERVATION, deleted_at`."""
    return Deleted(observation=observation(row[:-1]), deleted_at=moment(row[-1]))


def timeline_entry(row: Row) -> TimelineEntry:
    return TimelineEntry(id=row[0], type=row[1], title=row[2], content=row[3], created_at=moment(row[4]))


def patched(old: Observation, patch: ObservationPatch) -> Observation:
    """`old` with what the patch names."""
    named = {name: getattr(patch, name) for name in ("type", "title", "content", "tags")}
    return evolve(old, **{name: value for name, value in named.items() if value is not None})


def hit(row: Row, rank: float = 0.0) -> SearchHit:
    return SearchHit(id=row[0], type=row[1], title=row[2], content=row[3], topic_key=row[4], rank=rank)


def reminder(row: Row, method: str) -> ContextObservation:
    return ContextObservation(id=row[0], type=row[1], title=row[2], content=shorten(row[3]), method=method)


def tags_json(tags: Sequence[str]) -> str:
    return orjson.dumps(list(tags)).decode()


def content_hash(content: str) -> str:
    """The SHA-256 of `content` lower-cased with runs of white space collapsed: the same thing said again."""
    return hashlib.sha256(" ".join(content.lower().split()).encode("utf-8", "replace")).hexdigest()


def derived_uuid(row: Observation, digest: str) -> str:
    """The identity of an exported row that has none, the same at every import."""
    return str(uuid.uuid5(_UUID_SPACE, f"{row.session_id}\0{row.created_at}\0{row.title}\0{digest}"))


def millis(moment: datetime) -> int:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(milliseconds=1)


def maybe_millis(moment: datetime | None) -> int | None:
    return None if moment is None else millis(moment)


def moment(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


def missing(observation_id: int) -> NotFound:
    return NotFound(f"observation {observation_id} does not exist")


def missing_session(session_id: str) -> NotFound:
    return NotFound(f"session {session_id!r:.80} does not exist; create it with POST /sessions")


def foreign_session(session_id: str) -> Conflict:
    return Conflict(f"session id {session_id!r:.80} is taken by another project; use a new one")


def append_only(observation_id: int, type: str) -> Conflict:
    return Conflict(f"observation {observation_id} is of type {type}, a record that cannot be changed or deleted")


def topic_taken(observation_id: int, topic_key: str) -> Conflict:
    return Conflict(
        f"observation {observation_id} cannot come back: topic_key {topic_key!r} is another row's; delete that first"
    )
