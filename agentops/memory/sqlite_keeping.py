"""What SQLite keeps and lets go: replaced versions, the trash, retention."""

from __future__ import annotations

import sqlite3
from typing import Any

from agentops.api.memory import Observation
from agentops.memory import rows
from agentops.memory.listing import Cursor, Filter, Page
from agentops.memory.retention import EVERY_TYPE, Retention
from agentops.memory.rows import APPEND_ONLY, OBSERVATION, REVISION
from agentops.memory.schema import APPEND_ONLY_TYPES
from agentops.memory.sqlite_finding import conditions
from agentops.memory.store import Deleted, Pruned, Revision

_LAST_USED = "max(updated_at, last_seen_at)"


def recent(c: sqlite3.Connection, where: Filter, limit: int, after: Cursor | None) -> Page[Observation]:
    live, values = conditions(where)
    if after is not None:
        live += " AND (created_at, id) < (:at, :id)"
        values |= {"at": after.at_ms, "id": after.number}
    found = c.execute(
        f"SELECT {OBSERVATION} FROM observations WHERE {live} ORDER BY created_at DESC, id DESC LIMIT :limit",
        {**values, "limit": limit + 1},
    ).fetchall()
    last = found[limit - 1] if len(found) > limit else None
    return Page(
        items=[rows.observation(row) for row in found[:limit]],
        after=Cursor(at_ms=last[14], id=str(last[0])) if last else None,
    )


def live(c: sqlite3.Connection, observation_id: int, reader: str, *, write: bool = False) -> Observation:
    """The row `reader` may see, or change with `write`. Raises NotFound; Conflict for a record to be changed."""
    row = c.execute(
        f"SELECT {OBSERVATION} FROM observations WHERE id = ? AND deleted_at IS NULL", (observation_id,)
    ).fetchone()
    if row is None:
        raise rows.missing(observation_id)
    found = rows.observation(row)
    if reader and found.project != reader and (write or found.scope != "global"):
        raise rows.missing(observation_id)
    if write and found.type in APPEND_ONLY_TYPES:
        raise rows.append_only(observation_id, found.type)
    return found


def keep_revision(c: sqlite3.Connection, observation_id: int, now: int) -> None:
    """Copy the row as it is now, before it changes; the oldest beyond `MAX_REVISIONS` go."""
    c.execute(
        "INSERT OR REPLACE INTO revisions (observation_id, revision, type, title, content, tags, replaced_at) "
        "SELECT id, revision_count, type, title, content, tags, ? FROM observations WHERE id = ?",
        (now, observation_id),
    )
    c.execute(
        "DELETE FROM revisions WHERE observation_id = ?1 AND revision <= "
        "(SELECT revision_count FROM observations WHERE id = ?1) - ?2",
        (observation_id, rows.MAX_REVISIONS),
    )


def revisions(c: sqlite3.Connection, observation_id: int, reader: str) -> list[Revision]:
    live(c, observation_id, reader)
    found = c.execute(
        f"SELECT {REVISION} FROM revisions WHERE observation_id = ? ORDER BY revision DESC", (observation_id,)
    )
    return [rows.revision(row) for row in found]


def delete(c: sqlite3.Connection, observation_id: int, hard: bool, reader: str, now: int) -> bool:
    row = c.execute("SELECT type, project FROM observations WHERE id = ?", (observation_id,)).fetchone()
    if row is None or (reader and row[1] != reader):
        return False
    if row[0] in APPEND_ONLY_TYPES:
        raise rows.append_only(observation_id, row[0])
    if hard:
        return c.execute("DELETE FROM observations WHERE id = ?", (observation_id,)).rowcount > 0
    hide = "UPDATE observations SET deleted_at = ? WHERE id = ? AND deleted_at IS NULL"
    return c.execute(hide, (now, observation_id)).rowcount > 0


def trash(c: sqlite3.Connection, project: str, limit: int, after: Cursor | None) -> Page[Deleted]:
    values: dict[str, Any] = {"project": project, "limit": limit + 1}
    behind = ""
    if after is not None:
        behind = "AND (deleted_at, id) < (:at, :id) "
        values |= {"at": after.at_ms, "id": after.number}
    found = c.execute(
        f"SELECT {OBSERVATION}, deleted_at FROM observations WHERE deleted_at IS NOT NULL "
        f"AND (:project = '' OR project = :project) {behind}ORDER BY deleted_at DESC, id DESC LIMIT :limit",
        values,
    ).fetchall()
    last = found[limit - 1] if len(found) > limit else None
    return Page(
        items=[rows.deleted(row) for row in found[:limit]],
        after=Cursor(at_ms=last[-1], id=str(last[0])) if last else None,
    )


def restore(c: sqlite3.Connection, observation_id: int, reader: str, now: int) -> Observation:
    row = c.execute("SELECT project, topic_key FROM observations WHERE id = ?", (observation_id,)).fetchone()
    if row is None or (reader and row[0] != reader):
        raise rows.missing(observation_id)
    try:
        c.execute(
            "UPDATE observations SET deleted_at = NULL, last_seen_at = ? WHERE id = ? AND deleted_at IS NOT NULL",
            (now, observation_id),
        )
    except sqlite3.IntegrityError as error:
        raise rows.topic_taken(observation_id, row[1]) from error
    return live(c, observation_id, reader)


def prune(c: sqlite3.Connection, retention: Retention, project: str, now: int) -> Pruned:
    mine = "(:project = '' OR project = :project)"
    values: dict[str, Any] = {"now": now, "project": project}
    expired = over = purged = 0
    for type, age_s in retention.age_s.items():
        names = retention.named()
        which = (
            "type = :type" if type != EVERY_TYPE else f"type NOT IN ({', '.join(f':n{i}' for i in range(len(names)))})"
        )
        expired += c.execute(
            f"UPDATE observations SET deleted_at = :now WHERE deleted_at IS NULL AND {mine} AND {which} "
            f"AND {_LAST_USED} < :before",
            values
            | {"before": now - round(age_s * 1000)}
            | ({f"n{i}": name for i, name in enumerate(names)} if type == EVERY_TYPE else {"type": type}),
        ).rowcount
    if retention.most:
        over = c.execute(
            "UPDATE observations SET deleted_at = :now WHERE id IN (SELECT id FROM ("
            f"SELECT id, row_number() OVER (PARTITION BY project ORDER BY {_LAST_USED} DESC, id DESC) AS place "
            f"FROM observations WHERE deleted_at IS NULL AND {mine} AND type NOT IN ({APPEND_ONLY})) "
            "WHERE place > :most)",
            values | {"most": retention.most},
        ).rowcount
    if retention.trash_s is not None:
        purged = c.execute(
            f"DELETE FROM observations WHERE deleted_at < :before AND {mine}",
            {"project": project, "before": now - round(retention.trash_s * 1000)},
        ).rowcount
    return Pruned(expired=expired, over_limit=over, purged=purged)
