"""What a memory store must do, whatever database is under it.

Projects are lower-case (callers normalise through `validation`). `scope=global` rows belong to the project that wrote
them but are found from every project. Deleted means hidden from everything but the trash.
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


@frozen(slots=True, kw_only=True)
class TimelineEntry:
    """One row of `GET /timeline`, oldest first."""

    id: int
    type: str
    title: str
    content: str
    created_at: datetime = wire("created_at")


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


class MemoryStore(Protocol):
    """Rows in, rows out. Raises NotFound for a named row that is not there, StoreBusy and StoreError."""

    async def create_session(self, new: NewSession) -> Session:
        """The session with that id, made now or found as it was."""
        ...

    async def end_session(self, session_id: str, messages: Sequence[SessionMessage]) -> SessionSummary:
        """Stamp the end and keep a summary of `messages`; ending again replaces both."""
        ...

    async def recent_sessions(self, project: str, limit: int) -> list[Session]:
        """Newest first; every project's when `project` is empty."""
        ...

    async def save(self, new: NewObservation) -> SavedObservation:
        """Write in three tiers: same topic, same content within the window, new row. Makes an unknown session."""
        ...

    async def observation(self, observation_id: int) -> Observation: ...

    async def recent_observations(self, project: str, type: str, scope: str, limit: int) -> list[Observation]:
        """Newest first; an empty filter matches everything."""
        ...

    async def patch(self, observation_id: int, patch: ObservationPatch) -> Observation:
        """Apply what is not None; a change bumps the revision, no change does nothing."""
        ...

    async def delete(self, observation_id: int, *, hard: bool) -> bool:
        """Hide the row, or with `hard` remove it even when hidden; False when there was nothing to do."""
        ...

    async def search(self, text: str, project: str, type: str, scope: str, limit: int) -> list[SearchHit]:
        """Best first. No text matches nothing; no text is an error."""
        ...

    async def context(self, project: str, scope: str, query: str, limit: int, max_tokens: int | None) -> MemoryContext:
        """What an agent should be reminded of: past sessions, matching rows, then recent ones."""
        ...

    async def timeline(self, observation_id: int, before: int, after: int) -> list[TimelineEntry]:
        """The row and its neighbours in the same project, by (created_at, id)."""
        ...

    async def stats(self, project: str) -> Stats: ...

    def export(self, project: str) -> AsyncIterator[list[dict[str, Any]]]:
        """Pages of records, sessions first: `{"kind": "session"|"observation", …}`."""
        ...

    async def import_records(self, records: Sequence[dict[str, Any]]) -> Imported:
        """Add what is not there yet, by session id and observation uuid, in one transaction."""
        ...

    async def ping(self) -> None:
        """Raises when the store could not answer a read."""
        ...
