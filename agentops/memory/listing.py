"""What a list is narrowed to, and where its next page begins."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Generic, TypeVar

from attrs import frozen

from agentops.memory.errors import InvalidRequest

T = TypeVar("T")

_LATEST_MS = 253_402_300_800_000
"""The year 10000."""


@frozen(slots=True, kw_only=True)
class Filter:
    """An empty field matches everything. Times are milliseconds since 1970 of the row's creation."""

    project: str = ""
    type: str = ""
    scope: str = ""
    tags: tuple[str, ...] = ()
    """The row must have every one of them."""
    since_ms: int | None = None
    """At or after."""
    until_ms: int | None = None
    """Before."""


@frozen(slots=True, kw_only=True)
class Cursor:
    """The last row of a page; the next page begins behind it. `id` is text for sessions."""

    at_ms: int
    id: str

    def encode(self) -> str:
        return base64.urlsafe_b64encode(f"{self.at_ms}.{self.id}".encode()).decode().rstrip("=")

    @property
    def number(self) -> int:
        """The id of a row that is counted. Raises InvalidRequest."""
        if not self.id.isascii() or not self.id.isdigit() or len(self.id) > 18:
            raise _malformed()
        return int(self.id)


@frozen(slots=True, kw_only=True)
class Page(Generic[T]):
    """Some rows, and the cursor of what follows; None at the end."""

    items: Sequence[T]
    after: Cursor | None = None


def decode_cursor(text: str) -> Cursor:
    """Raises InvalidRequest unless `Cursor.encode` made it."""
    try:
        at, dot, row = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True).decode().partition(".")
    except (binascii.Error, ValueError):
        raise _malformed() from None
    digits = at.removeprefix("-")  # imported rows may be older than 1970
    if not dot or not digits.isascii() or not digits.isdigit() or len(digits) > 15 or "\x00" in row:
        raise _malformed()
    if int(digits) > _LATEST_MS:
        raise _malformed()
    return Cursor(at_ms=int(at), id=row)


def _malformed() -> InvalidRequest:
    return InvalidRequest(["cursor is not one this service gave; take it from the Link header of the page before"])
