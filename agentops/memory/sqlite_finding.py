"""Finding rows with FTS5: the candidates by bm25, how many terms each has, and the ranking of both."""

from __future__ import annotations

import sqlite3
from typing import Any

import orjson

from agentops.api.memory import ContextSession, MemoryContext, SearchHit
from agentops.memory import rows
from agentops.memory.listing import Filter
from agentops.memory.query import enough, fts_phrase, fts_query, like_pattern, search_terms
from agentops.memory.ranking import FTS_WEIGHTS, TOPIC_RANK, Candidate, fit, ranked
from agentops.memory.rows import APPEND_ONLY

_COLUMNS = "o.id, o.type, o.title, o.content, o.topic_key"


def conditions(where: Filter, table: str = "", *, with_global: bool = False) -> tuple[str, dict[str, Any]]:
    """The WHERE of a filter over live rows, and its named values."""
    t = f"{table}." if table else ""
    parts, values = [f"{t}deleted_at IS NULL"], {}
    if where.project:
        parts.append(f"({t}project = :project OR {t}scope = 'global')" if with_global else f"{t}project = :project")
    for name in ("project", "type", "scope"):
        values[name] = getattr(where, name)
        if name != "project" and values[name]:
            parts.append(f"{t}{name} = :{name}")
    for index, tag in enumerate(where.tags):
        parts.append(f"EXISTS (SELECT 1 FROM json_each({t}tags) WHERE value = :tag{index})")
        values[f"tag{index}"] = tag
    if where.since_ms is not None:
        parts.append(f"{t}created_at >= :since")
        values["since"] = where.since_ms
    if where.until_ms is not None:
        parts.append(f"{t}created_at < :until")
        values["until"] = where.until_ms
    return " AND ".join(parts), values


def search(
    c: sqlite3.Connection, text: str, where: Filter, limit: int, now: int, *, records: bool = True
) -> list[SearchHit]:
    """Best first; without `records` no security and audit rows."""
    terms = search_terms(text)
    if not terms:
        return []
    live, values = conditions(where, "o", with_global=True)
    if not records:
        live += f" AND o.type NOT IN ({APPEND_ONLY})"
    by_topic: list[SearchHit] = []
    if "/" in text:
        same_topic = c.execute(
            f"SELECT {_COLUMNS} FROM observations o WHERE o.topic_key LIKE :pattern ESCAPE '\\' AND {live} "
            "ORDER BY o.updated_at DESC, o.id DESC LIMIT :limit",
            {**values, "pattern": like_pattern(text.strip()), "limit": limit},
        )
        by_topic = [rows.hit(row, TOPIC_RANK) for row in same_topic]
    weights = ", ".join(str(weight) for weight in FTS_WEIGHTS)
    # CROSS JOIN keeps the index outside: the other way round each row of the project asks the index anew, for minutes
    found = c.execute(
        f"SELECT {_COLUMNS}, bm25(observations_fts, {weights}) AS score, o.updated_at, "
        "o.revision_count + o.duplicate_count - 1 FROM observations_fts "
        f"CROSS JOIN observations o ON o.id = observations_fts.rowid WHERE observations_fts MATCH :query AND {live} "
        "ORDER BY score, o.id DESC LIMIT :candidates",
        {**values, "query": fts_query(terms), "candidates": max(4 * limit, 50)},
    ).fetchall()
    counts = _term_counts(c, terms, [row[0] for row in found])
    candidates = [
        Candidate(hit=rows.hit(row), score=row[5], updated_at_ms=row[6], uses=row[7], terms=counts.get(row[0], 1))
        for row in found
    ]
    return ranked(by_topic, candidates, need=enough(len(terms)), now_ms=now, limit=limit)


def context(
    c: sqlite3.Connection, project: str, scope: str, query: str, limit: int, max_tokens: int | None, now: int
) -> MemoryContext:
    where = Filter(project=project, scope=scope)
    found = search(c, query, where, limit, now, records=False)
    chosen = [rows.reminder((h.id, h.type, h.title, h.content), "fts5_bm25") for h in found]
    if len(chosen) < limit:
        live, values = conditions(where, with_global=True)
        recent = c.execute(
            f"SELECT id, type, title, content FROM observations WHERE {live} AND type NOT IN ({APPEND_ONLY}) "
            "ORDER BY created_at DESC, id DESC LIMIT :limit",
            {**values, "limit": limit + len(chosen)},
        ).fetchall()
        taken = {row.id for row in chosen}
        chosen += [rows.reminder(row, "recency") for row in recent if row[0] not in taken][: limit - len(chosen)]
    sessions = [
        ContextSession(id=row[0], summary=row[1])
        for row in c.execute(
            "SELECT id, summary FROM sessions WHERE project = ? AND summary <> '' "
            "ORDER BY started_at DESC, id DESC LIMIT ?",
            (project, rows.CONTEXT_SESSIONS),
        )
    ]
    return fit(sessions, chosen, max_tokens)


def _term_counts(c: sqlite3.Connection, terms: list[str], ids: list[int]) -> dict[int, int]:
    """How many of `terms` each row has; empty when one is enough anyway."""
    counts: dict[int, int] = {}
    if enough(len(terms)) == 1 or not ids:
        return counts
    low, high, wanted = min(ids), max(ids), orjson.dumps(ids).decode()
    phrases = [fts_phrase(term) for term in terms]
    for phrase in [*phrases[:-1], phrases[-1] + "*"]:
        for (row,) in c.execute(
            "SELECT value FROM json_each(?) WHERE value IN (SELECT rowid FROM observations_fts "
            "WHERE observations_fts MATCH ? AND rowid BETWEEN ? AND ?)",
            (wanted, phrase, low, high),
        ):
            counts[row] = counts.get(row, 0) + 1
    return counts
