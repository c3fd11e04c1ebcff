"""A user's words to a full-text query.

User text is never query syntax: each word becomes a quoted phrase, so `"`, `*`, `(`, `)`, `:` and `-` cannot make
SQLite complain. Words are joined by OR (a whole prompt AND-ed matches nothing), stop words are left out unless
nothing else is there, and the last word also matches as a prefix, so that search-as-you-type finds something. Scripts
without spaces are searched by overlapping pairs of characters.
"""

from __future__ import annotations

import re

from agentops.memory.words import runs, spaced

MAX_TERMS = 48

_WORD = re.compile(r"[^\W_]", re.UNICODE)
_EDGES = re.compile(r"^[\W_]+|[\W_]+$", re.UNICODE)

_COMMON = """
a about above after again all also am an and any are as at be because been before being below between both but by
can could did do does doing down during each few for from further had has have having he her here hers him his how
i if in into is it its itself just let me more most my no nor not now of off on once only or other our ours out
over own please same she should so some such than that the their theirs them then there these they this those
through to too under until up us very was we were what when where which while who whom why will with would you
your yours tell say said get got make made want wants need needs
"""
STOP_WORDS = frozenset(_COMMON.split())


def search_terms(text: str) -> list[str]:
    """The distinct words worth searching for, in order, lower-cased, without surrounding punctuation.

    Stop words are dropped unless the text has nothing else. At most `MAX_TERMS`.

    >>> search_terms("why k8s部署流程?")
    ['k8s', '部署', '署流', '流程']
    """
    words: dict[str, None] = {}
    for token in text.replace("\x00", " ").split():
        for part, unspaced in runs(token):
            for word in _pairs(part) if unspaced else [_EDGES.sub("", part).lower()]:
                if _WORD.search(word):
                    words.setdefault(word)
    useful = [word for word in words if word not in STOP_WORDS]
    return (useful or list(words))[:MAX_TERMS]


def enough(terms: int) -> int:
    """How many of so many terms a row should have to be about the question rather than next to it.

    Rows with fewer are shown only when no row has that many.
    """
    return 1 if terms < 3 else 2 if terms < 8 else 3


def fts_phrase(term: str) -> str:
    """One term as an FTS5 phrase."""
    return '"' + (spaced(term) or term).replace('"', '""') + '"'


def fts_query(terms: list[str]) -> str:
    """The FTS5 MATCH expression for `terms`; empty when there is nothing to search for.

    >>> fts_query(search_terms('how do we roll back "prod"?'))
    '"roll" OR "back" OR "prod"*'
    """
    if not terms:
        return ""
    return " OR ".join(fts_phrase(term) for term in terms) + "*"


def like_pattern(text: str) -> str:
    r"""`%text%` for `LIKE … ESCAPE '\'`, with the pattern characters in `text` taken literally."""
    escaped = text.replace("\x00", "").replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def _pairs(run: str) -> list[str]:
    return [run] if len(run) <= 2 else [run[at : at + 2] for at in range(len(run) - 1)]
