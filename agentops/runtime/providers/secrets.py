"""What of a provider account must not be told: its key, its headers' values, its OAuth2 client and tokens."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

SHORTEST = 4
"""Shorter values are no secrets, and taking them out would spoil every sentence."""


class Secrets:
    """Values to be taken out of texts that others wrote: vendors and libraries quote what they were given."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._fixed = frozenset(values)
        self._tokens: deque[str] = deque(maxlen=2)
        self._pattern = self._compile()

    def renew(self, token: str) -> None:
        """A token that takes the place of the last one, which may still be quoted."""
        self._tokens.append(token)
        self._pattern = self._compile()

    def out_of(self, text: object) -> str:
        """`text` with `…` for every secret, however it is escaped, and for every line of one. Call it before `text`
        is cut: a part of a secret is not found."""
        return self._pattern.sub("…", str(text))

    def _compile(self) -> re.Pattern[str]:
        forms = {form for value in (*self._fixed, *self._tokens) for form in _forms(value) if len(form) >= SHORTEST}
        return re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True))) or r"(?!)")


def _forms(secret: str) -> Iterator[str]:
    words = secret.split()
    bare = words[1] if len(words) == 2 else secret  # `Bearer abc`, of which a vendor quotes the second
    for part in {secret, secret.strip(), " ".join(words), bare, *map(str.strip, secret.splitlines())}:
        data = part.encode("utf-8", "surrogateescape")
        yield from (part, repr(part)[1:-1], repr(data)[2:-1], ascii(part)[1:-1])
        yield from (quote(data), quote(data, safe=""), quote_plus(data))
        yield from (json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1])
