"""Which rows win, and what fits: pure functions over rows that the store already found."""

from __future__ import annotations

import math
from collections.abc import Sequence

from attrs import evolve, frozen

from agentops.api.memory import ContextObservation, ContextSession, MemoryContext, SearchHit

FTS_WEIGHTS = (5.0, 4.0, 3.0, 1.0)
"""bm25 weights of the indexed columns: title, topic_key, tags, content."""

TOPIC_RANK = -1000.0
"""The rank of a row found by its topic key; words never reach it."""

CONTENT_RUNES = 300
RECENCY_HALF_LIFE_DAYS = 30.0
_DAY_MS = 86_400_000


@frozen(slots=True, kw_only=True)
class Candidate:
    """A row some word found: `score` is the database's own, lower is better."""

    hit: SearchHit
    score: float
    updated_at_ms: int
    uses: int
    terms: int
    """How many of the terms it has."""


def boosted(bm25: float, *, age_ms: int, uses: int) -> float:
    """A row's rank, lower is better: `bm25` (negative) made up to 20 % stronger when fresh and 30 % when used often.

    `age_ms` counts from the last update, `uses` is how often the row was revised or seen again (at least 1).
    """
    recency = 0.2 * math.pow(0.5, max(age_ms, 0) / _DAY_MS / RECENCY_HALF_LIFE_DAYS)
    usage = 0.1 * min(math.log2(max(uses, 1)), 3.0)
    return bm25 * (1.0 + recency + usage)


def ranked(
    by_topic: Sequence[SearchHit], candidates: Sequence[Candidate], *, need: int, now_ms: int, limit: int
) -> list[SearchHit]:
    """Rows of the topic first, then candidates by boosted score, each row once.

    Candidates with fewer than `need` terms are left out when one has that many.
    """
    if any(candidate.terms >= need for candidate in candidates):
        candidates = [candidate for candidate in candidates if candidate.terms >= need]
    scored = sorted(
        (
            evolve(row.hit, rank=boosted(row.score, age_ms=now_ms - row.updated_at_ms, uses=row.uses))
            for row in candidates
        ),
        key=lambda hit: hit.rank,
    )
    hits: dict[int, SearchHit] = {}
    for hit in [*by_topic, *scored]:
        hits.setdefault(hit.id, hit)
    return list(hits.values())[:limit]


def shorten(content: str, runes: int = CONTENT_RUNES) -> str:
    """At most `runes` characters of `content`, then an ellipsis."""
    return content if len(content) <= runes else content[:runes] + "…"


def estimate_tokens(text: str) -> int:
    """About how many tokens a model sees in `text`: a quarter of its UTF-8 bytes, rounded up."""
    return math.ceil(len(text.encode("utf-8", "replace")) / 4)


def fit(
    sessions: Sequence[ContextSession], observations: Sequence[ContextObservation], max_tokens: int | None
) -> MemoryContext:
    """The context that fits `max_tokens` (None: all of it).

    Observations come first, in order, each whole or not at all; sessions take what is left.
    """
    if max_tokens is None:
        return MemoryContext(recent_sessions=tuple(sessions), recent_observations=tuple(observations))
    left = max_tokens
    kept_observations: list[ContextObservation] = []
    for row in observations:
        cost = estimate_tokens(f"- [{row.type}] {row.title}: {row.content}\n")
        if cost > left:
            break
        left -= cost
        kept_observations.append(row)
    kept_sessions: list[ContextSession] = []
    for session in sessions:
        cost = estimate_tokens(f"- {session.summary}\n")
        if cost > left:
            break
        left -= cost
        kept_sessions.append(session)
    return MemoryContext(recent_sessions=tuple(kept_sessions), recent_observations=tuple(kept_observations))
