"""Words of any script, as an index that knows only white space sees them.

SQLite's and PostgreSQL's tokenizers cut text at spaces and punctuation. Chinese, Japanese and Korean are written
without or with few of them, so a whole sentence would be one word that nobody ever types. Their characters are indexed
one by one (`spaced`) and searched in pairs (`query.search_terms`): any part of a sentence is found without a
dictionary.
"""

from __future__ import annotations

import re
import unicodedata

_UNSPACED = (
    "\u1100-\u11ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3040-\u318f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_CHARACTER = re.compile(f"([{_UNSPACED}])")
_RUN = re.compile(f"([{_UNSPACED}]+)")
_NO_WORD = re.compile(r"[\W_]+", re.UNICODE)


def spaced(text: str) -> str | None:
    """`text` with every character of a script without spaces standing alone; None when it has none of them."""
    return None if _CHARACTER.search(text) is None else _CHARACTER.sub(r" \1 ", text).replace("  ", " ").strip()


def runs(token: str) -> list[tuple[str, bool]]:
    """`token` cut where scripts change: each part, and whether it is written without spaces.

    >>> runs("k8s部署")
    [('k8s', False), ('部署', True)]
    """
    return [(part, index % 2 == 1) for index, part in enumerate(_RUN.split(token)) if part]


def plain(text: str) -> str:
    """Lower-case words with single spaces between them: no accents, no punctuation, scripts without spaces spaced."""
    decomposed = unicodedata.normalize("NFD", text.lower())
    unmarked = unicodedata.normalize("NFC", "".join(c for c in decomposed if not "\u0300" <= c <= "\u036f"))
    return " ".join(_NO_WORD.sub(" ", spaced(unmarked) or unmarked).split())
