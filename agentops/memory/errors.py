"""What can go wrong in the memory service.

MemoryServiceError
├── InvalidRequest        400: every problem of the request, joined by "; "
├── NotFound              404: names the object
├── PayloadTooLarge       413: names the limit
└── StoreError            500: the database refused; the message is safe to show
    ├── DatabaseUnusable  at start: the file cannot be opened, is damaged, or is from a newer version
    └── StoreBusy         503: another process held the file for longer than the busy timeout
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class MemoryServiceError(Exception):
    """Root of this package's errors; `status` is the HTTP status it becomes, `kind` the `error.type` in traces."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "error"


class InvalidRequest(MemoryServiceError):
    """The request is not acceptable. `problems` lists everything wrong with it, each naming its field."""

    status = 400
    kind = "validation_error"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("validation failed: " + "; ".join(self.problems))


class NotFound(MemoryServiceError):
    """The named object does not exist, or was deleted."""

    status = 404
    kind = "not_found"


class PayloadTooLarge(MemoryServiceError):
    """The body, or one line of an import, is over its limit."""

    status = 413
    kind = "invalid_input"


class StoreError(MemoryServiceError):
    """The database refused the operation."""


class DatabaseUnusable(StoreError):
    """The database file cannot be used at all; the message names the file and the fix."""


class StoreBusy(StoreError):
    """The file stayed locked by another process; the request changed nothing and may be sent again."""

    status = 503
    kind = "db_locked"
