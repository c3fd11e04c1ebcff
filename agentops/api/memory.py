"""What the memory service and its callers say to each other (REST on :7437).

Timestamps are RFC 3339 with milliseconds, ids of observations integers, of sessions strings.
"""

from __future__ import annotations

from datetime import datetime

from attrs import field, frozen

from agentops.api.codec import wire

MAX_BODY_BYTES = 1 << 20
MAX_TITLE = 500
MAX_CONTENT = 50_000
MAX_TOPIC_KEY = 200
MAX_SCOPE = 50
MAX_TYPE = 50
MAX_TAGS = 20
MAX_TAG = 100
MAX_PROJECT = 200
MAX_LIMIT = 1000


@frozen(slots=True, kw_only=True)
class NewSession:
    """Body of `POST /sessions`."""

    id: str
    project: str


@frozen(slots=True, kw_only=True)
class Session:
    id: str
    project: str
    started_at: datetime = wire("started_at")
    ended_at: datetime | None = wire("ended_at", default=None)
    summary: str | None = None
    message_count: int = wire("message_count", always=True, default=0)


@frozen(slots=True, kw_only=True)
class SessionMessage:
    """`role` is user, assistant or tool."""

    role: str
    content: str


@frozen(slots=True, kw_only=True)
class EndSession:
    """Body of `POST /sessions/{id}/end`."""

    messages: tuple[SessionMessage, ...] = ()


@frozen(slots=True, kw_only=True)
class SessionSummary:
    """Answer of `POST /sessions/{id}/end`."""

    session_id: str = wire("session_id")
    summary: str = wire("summary", always=True, default="")
    message_count: int = wire("message_count", always=True, default=0)


@frozen(slots=True, kw_only=True)
class NewObservation:
    """Body of `POST /observations`. `scope` is `project` or `global`."""

    session_id: str = wire("session_id")
    type: str = field()
    title: str = field()
    content: str = field()
    project: str = field()
    tags: tuple[str, ...] = ()
    scope: str = "project"
    topic_key: str | None = wire("topic_key", default=None)


@frozen(slots=True, kw_only=True)
class SavedObservation:
    """Answer of `POST /observations`. `action` is created, updated or deduplicated."""

    id: int
    action: str
    revision_count: int = wire("revision_count", always=True, default=1)
    duplicate_count: int = wire("duplicate_count", always=True, default=1)


@frozen(slots=True, kw_only=True)
class ObservationPatch:
    """Body of `PATCH /observations/{id}`: what is None stays."""

    type: str | None = None
    title: str | None = None
    content: str | None = None
    tags: tuple[str, ...] | None = None


@frozen(slots=True, kw_only=True)
class Observation:
    id: int
    session_id: str = wire("session_id")
    type: str = field()
    title: str = field()
    content: str = field()
    project: str = field()
    scope: str = wire("scope", always=True, default="project")
    tags: tuple[str, ...] = wire("tags", always=True, default=())
    topic_key: str | None = wire("topic_key", default=None)
    normalized_hash: str | None = wire("normalized_hash", default=None)
    revision_count: int = wire("revision_count", always=True, default=1)
    duplicate_count: int = wire("duplicate_count", always=True, default=1)
    last_seen_at: datetime | None = wire("last_seen_at", default=None)
    promoted_to: str | None = wire("promoted_to", default=None)
    created_at: datetime | None = wire("created_at", default=None)
    updated_at: datetime | None = wire("updated_at", default=None)


@frozen(slots=True, kw_only=True)
class SearchHit:
    """One row of `GET /search`; a lower `rank` is a better match."""

    id: int
    type: str
    title: str
    content: str
    rank: float = wire("rank", always=True, default=0.0)
    topic_key: str | None = wire("topic_key", default=None)


@frozen(slots=True, kw_only=True)
class ContextSession:
    id: str
    summary: str


@frozen(slots=True, kw_only=True)
class ContextObservation:
    """`method` says why the row was chosen: `fts5_bm25` or `recency`."""

    id: int
    type: str
    title: str
    content: str
    method: str = wire("method", always=True, default="recency")


@frozen(slots=True, kw_only=True)
class MemoryContext:
    """Answer of `GET /context`."""

    recent_sessions: tuple[ContextSession, ...] = wire("recent_sessions", always=True, default=())
    recent_observations: tuple[ContextObservation, ...] = wire("recent_observations", always=True, default=())
