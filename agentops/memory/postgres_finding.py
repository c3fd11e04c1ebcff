"""Finding rows with PostgreSQL's full text: candidates by ts_rank, how many terms each has, the ranking of both."""

from __future__ import annotations

from typing import Any

import asyncpg

from agentops.api.memory import ContextSession, MemoryContext, SearchHit
from agentops.memory import rows
from agentops.memory.listing import Filter
from agentops.memory.postgres import term_query
from agentops.memory.query import enough, like_pattern, search_terms
from agentops.memory.ranking import TOPIC_RANK, Candidate, fit, ranked
from agentops.memory.rows import APPEND_ONLY

_COLUMNS = "id, type, title, content, topic_key"
_WEIGHTS = "'{0.2, 0.6, 0.8, 1.0}'"
"""content, tags, topic_key, title: as bm25's 1, 3, 4, 5."""


class Values(list[Any]):
    """Parameters in their order; `add` gives the place of a new one."""

    def add(self, value: Any) -> str:
        self.append(value)
        return f"${len(self)}"


def conditions(where: Filter, values: Values, *, with_global: bool = False) -> str:
    """The WHERE of a filter over live rows."""
    parts = ["deleted_at IS NULL"]
    if where.project:
        mine = f"project = {values.add(where.project)}"
        parts.append(f"({mine} OR scope = 'global')" if with_global else mine)
    if where.type:
        parts.append(f"type = {values.add(where.type)}")
    if where.scope:
        parts.append(f"scope = {values.add(where.scope)}")
    parts += [f"tags::jsonb ? {values.add(tag)}" for tag in where.tags]
    if where.since_ms is not None:
        parts.append(f"created_at >= {values.add(where.since_ms)}")
    if where.until_ms is not None:
        parts.append(f"created_at < {values.add(where.until_ms)}")
    return " AND ".join(parts)


async def search(
    c: asyncpg.Connection, text: str, where: Filter, limit: int, now: int, *, records: bool = True
) -> list[SearchHit]:
    """Best first; without `records` no security and audit rows."""
    terms = search_terms(text)
    queries = [term_query(term) for term in terms[:-1]] + [term_query(term, prefix=True) for term in terms[-1:]]
    queries = [query for query in queries if query]
    if not queries:
        return []
    only = "" if records else f" AND type NOT IN ({APPEND_ONLY})"
    by_topic: list[SearchHit] = []
    if "/" in text:
        values = Values()
        live = conditions(where, values, with_global=True) + only
        pattern = values.add(like_pattern(text.strip()))
        found = await c.fetch(
            f"SELECT {_COLUMNS} FROM observations WHERE topic_key ILIKE {pattern} ESCAPE '\\' AND {live} "
            f"ORDER BY updated_at DESC, id DESC LIMIT {values.add(limit)}",
            *values,
        )
        by_topic = [rows.hit(tuple(row), TOPIC_RANK) for row in found]
    values = Values()
    live = conditions(where, values, with_global=True) + only
    whole, each = values.add(" | ".join(f"({query})" for query in queries)), values.add(queries)
    found = await c.fetch(
        f"SELECT {_COLUMNS}, -ts_rank({_WEIGHTS}, words, q.whole)::float8 AS score, updated_at, "
        f"revision_count + duplicate_count - 1, "
        f"(SELECT count(*) FROM unnest({each}::text[]) AS one WHERE words @@ to_tsquery('words', one)) "
        f"FROM observations, to_tsquery('words', {whole}) AS q(whole) WHERE words @@ q.whole AND {live} "
        f"ORDER BY score, id DESC LIMIT {values.add(max(4 * limit, 50))}",
        *values,
    )
    candidates = [
        Candidate(hit=rows.hit(tuple(row)), score=row[5], updated_at_ms=row[6], uses=row[7], terms=row[8])
        for row in found
    ]
    return ranked(by_topic, candidates, need=enough(len(terms)), now_ms=now, limit=limit)


async def context(
    c: asyncpg.Connection, project: str, scope: str, query: str, limit: int, max_tokens: int | None, now: int
) -> MemoryContext:
    where = Filter(project=project, scope=scope)
    found = await search(c, query, where, limit, now, records=False)
    chosen = [rows.reminder((h.id, h.type, h.title, h.content), "fts5_bm25") for h in found]
    if len(chosen) < limit:
        values = Values()
        live = conditions(where, values, with_global=True)
        recent = await c.fetch(
            f"SELECT id, type, title, content FROM observations WHERE {live} AND type NOT IN ({APPEND_ONLY}) "
            f"ORDER BY created_at DESC, id DESC LIMIT {values.add(limit + len(chosen))}",
            *values,
        )
        taken = {row.id for row in chosen}
        chosen += [rows.reminder(tuple(row), "recency") for row in recent if row[0] not in taken][: limit - len(chosen)]
    sessions = [
        ContextSession(id=row[0], summary=row[1])
        for row in await c.fetch(
            "SELECT id, summary FROM sessions WHERE project = $1 AND summary <> '' "
            "ORDER BY started_at DESC, id DESC LIMIT $2",
            project,
            rows.CONTEXT_SESSIONS,
        )
    ]
    return fit(sessions, chosen, max_tokens)
