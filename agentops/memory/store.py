"""What a memory store must do, whatever database is under it.

Projects are lower-case (callers normalise through `validation`). `scope=global` rows belong to the project that wrote
them but are found and read from every project. Deleted means hidden from everything but the trash. Rows of the types
`security` and `audit` are a record: never merged, replaced, changed or deleted by a request.

`reader` is the project a request speaks for, empty for all: a row of another project is not found for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Protocol

from attrs import frozen

from agentops.api.codec import wire
from agentops.api.memory import (
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
from agentops.memory.listing import Cursor, Filter, Page
from agentops.memory.retention import Retention


@frozen(slots=True, kw_only=True)
class TimelineEntry:
    """One row of `GET /timeline`, oldest first."""

    id: int
    type: str
    title: str
    content: str
    created_at: datetime = wire("created_at")


@frozen(slots=True, kw_only=True)
class Revision:
    """A version of a row that another replaced; `revision` is the revision_count it had."""

    revision: int
    type: str
    title: str
    content: str
    tags: tuple[str, ...] = wire("tags", always=True, default=())
    replaced_at: datetime = wire("replaced_at")


@frozen(slots=True, kw_only=True)
class Deleted:
    """A row in the trash."""

    observation: Observation
    deleted_at: datetime = wire("deleted_at")


@frozen(slots=True, kw_only=True)
class Stats:
    """Answer of `GET /stats`: live rows only."""

    total_sessions: int = wire("total_sessions", always=True, default=0)
    total_observations: int = wire("total_observations", always=True, default=0)
    projects: tuple[str, ...] = wire("projects", always=True, default=())


@frozen(slots=True, kw_only=True)
class Imported:
    """Answer of `POST /import`. `skipped` counts rows that were already there."""

    imported_sessions: int = wire("imported_sessions", always=True, default=0)
    imported_observations: int = wire("imported_observations", always=True, default=0)
    skipped: int = wire("skipped", always=True, default=0)


@frozen(slots=True, kw_only=True)
class Pruned:
    """Answer of `POST /prune`: rows that went to the trash for their age or their project's limit, and left it."""

    expired: int = wire("expired", always=True, default=0)
    over_limit: int = wire("over_limit", always=True, default=0)
    purged: int = wire("purged", always=True, default=0)


class MemoryStore(Protocol):
    """Rows in, rows out. Raises NotFound for a named row that is not there, Conflict, StoreBusy and StoreError."""

    async def create_session(self, new: NewSession, reader: str = "") -> Session:
        """The session with that id, made now or found as it was."""
        ...

    async def end_session(
        self, session_id: str, messages: Sequence[SessionMessage], reader: str = ""
    ) -> SessionSummary:
        """Stamp the end and keep a summary of `messages`; ending again replaces both."""
        ...

    async def recent_sessions(self, project: str, limit: int, after: Cursor | None = None) -> Page[Session]:
        """Newest first; every project's when `project` is empty."""
        ...

    async def save(self, new: NewObservation, reader: str = "") -> SavedObservation:
        """Write in three tiers: same topic, same content within the window, new row. Makes an unknown session."""
        ...

    async def observation(self, observation_id: int, reader: str = "") -> Observation: ...

    async def revisions(self, observation_id: int, reader: str = "") -> list[Revision]:
        """What the row was before, newest first; the last 50."""
        ...

    async def recent_observations(self, where: Filter, limit: int, after: Cursor | None = None) -> Page[Observation]:
        """Newest first."""
        ...

    async def patch(self, observation_id: int, patch: ObservationPatch, reader: str = "") -> Observation:
        """Apply what is not None; a change bumps the revision and keeps the old one, no change does nothing."""
        ...

    async def delete(self, observation_id: int, *, hard: bool, reader: str = "") -> bool:
        """Hide the row, or with `hard` remove it even when hidden; False when there was nothing to do."""
        ...

    async def trash(self, project: str, limit: int, after: Cursor | None = None) -> Page[Deleted]:
        """What can be restored, newest deletion first."""
        ...

    async def restore(self, observation_id: int, reader: str = "") -> Observation:
        """Take a row out of the trash, as one used now, or retention would take it away again; a live one stays as it
        is. Raises Conflict when its topic is taken."""
        ...

    async def prune(self, retention: Retention, project: str) -> Pruned:
        """Do what `retention` says, to one project or, when empty, to all."""
        ...

    async def search(self, text: str, where: Filter, limit: int) -> list[SearchHit]:
        """Best first. No text matches nothing; no text is an error."""
        ...

    async def context(self, project: str, scope: str, query: str, limit: int, max_tokens: int | None) -> MemoryContext:
        """What an agent should be reminded of: past sessions, matching rows, then recent ones."""
        ...

    async def timeline(self, observation_id: int, before: int, after: int, reader: str = "") -> list[TimelineEntry]:
        """The row and its neighbours in the same project, by (created_at, id)."""
        ...

    async def stats(self, project: str) -> Stats: ...

    def export(self, project: str) -> AsyncIterator[list[dict[str, Any]]]:
        """Pages of records, sessions first: `{"kind": "session"|"observation", …}`."""
        ...

    async def import_records(self, records: Sequence[dict[str, Any]], reader: str = "", first: int = 1) -> Imported:
        """Add what is not there yet, by session id and observation uuid, in one transaction.

        Raises InvalidRequest naming the record, counted from `first`; Forbidden for another project's than `reader`.
        """
        ...

    async def vacuum(self) -> tuple[int, int]:
        """Give back what deleted rows took; bytes before and after."""
        ...

    def trouble(self) -> str | None:
        """Why the database refused last and still may; None when it works."""
        ...

    async def probe(self) -> None:
        """Find out whether it works. Raises when not."""
        ...
