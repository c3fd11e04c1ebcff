"""Whole characters out of a vendor's stream.

JSON can say half of a character (`"\\ud83d"`, the first half of many emoji), and servers that cut an answer between
such halves do; no UTF-8 can hold one. Halves that meet become their character, those that do not U+FFFD.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from agentops.runtime.providers.base import Delta, ReasoningDelta, TextDelta, ToolInputDelta

Growing = TextDelta | ReasoningDelta | ToolInputDelta


class Characters:
    """The deltas of one stream. A half at the end of a piece waits for the next piece of the same text."""

    def __init__(self) -> None:
        self._half = ""
        self._of: Growing | None = None

    def whole(self, deltas: Iterable[Delta]) -> list[Delta]:
        """`deltas`, and before them what waited if its other half did not come. Raises TypeError for a text that is
        none."""
        out: list[Delta] = []
        for delta in deltas:
            if self._of is not None and not _same_text(self._of, delta):
                out.append(attrs.evolve(self._of, text="\ufffd"))
                self._half, self._of = "", None
            out += self._one(delta)
        return out

    def _one(self, delta: Delta) -> list[Delta]:
        changes: dict[str, Any] = {}
        for name, value in _texts(delta):
            if not isinstance(value, str):
                raise TypeError(f"{value!r:.60} stands where a text should be")
            if name == "text" and self._half:
                value, self._half, self._of = self._half + value, "", None
                changes[name] = value
            if _has_half(value):
                if isinstance(delta, Growing) and "\ud800" <= value[-1] <= "\udbff":
                    value, self._half, self._of = value[:-1], value[-1], delta
                changes[name] = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if changes.get("text") == "":
            return []
        return [attrs.evolve(delta, **changes) if changes else delta]


def _texts(delta: Delta) -> list[tuple[str, Any]]:
    """The fields of a delta that are texts, as they are; a finish's usage and a flag are none."""
    return [(a.name, getattr(delta, a.name)) for a in attrs.fields(type(delta)) if a.name not in ("usage", "redacted")]


def _same_text(one: Delta, other: Delta) -> bool:
    return type(one) is type(other) and getattr(one, "id", None) == getattr(other, "id", None)


def _has_half(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
