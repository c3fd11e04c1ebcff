"""What can go wrong in the memory service.

MemoryServiceError
├── InvalidRequest        400: every problem of the request, joined by "; "
├── Forbidden             403: the bearer is of another project
├── NotFound              404: names the object
├── RequestTimeout        408: the body did not arrive
├── Conflict              409: the object is there, and is not to be changed like that
├── PayloadTooLarge       413: names the limit
└── StoreError            500: the database refused; the message is safe to show
    ├── DatabaseUnusable  at start: the file cannot be opened, is damaged, or is from a newer version
    ├── StoreBusy         503: another process held the file, or other writers were always faster
    └── StoreUnavailable  503: the disk is full, read-only or failing, or the database server is away
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


class Forbidden(MemoryServiceError):
    """The bearer belongs to one project and the request is about another, or about all of them."""

    status = 403
    kind = "forbidden"


class NotFound(MemoryServiceError):
    """The named object does not exist, was deleted, or is another project's."""

    status = 404
    kind = "not_found"


class RequestTimeout(MemoryServiceError):
    """The client did not send its body in time."""

    status = 408
    kind = "invalid_input"


class Conflict(MemoryServiceError):
    """What is stored stands against it; the message says what."""

    status = 409
    kind = "constraint_violation"


class PayloadTooLarge(MemoryServiceError):
    """The body, or one line of an import, is over its limit."""

    status = 413
    kind = "invalid_input"


class StoreError(MemoryServiceError):
    """The database refused the operation."""


class DatabaseUnusable(StoreError):
    """The database cannot be used at all; the message names it and the fix."""


class StoreBusy(StoreError):
    """Other writers were in the way for too long; the request changed nothing and may be sent again."""

    status = 503
    kind = "db_locked"


class StoreUnavailable(StoreError):
    """Nothing was changed; the same request works once what the message names is repaired."""

    status = 503
    kind = "db_unavailable"
