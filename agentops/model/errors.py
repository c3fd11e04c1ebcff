"""What can go wrong with a model.

ModelError
├── BadRequest        400: the request cannot be understood; names the field
├── Refused           an HTTP error instead of an answer, before anything was sent
├── AnswerBroken      the answer stops in the middle
│   ├── StreamFailed  with an error on the wire
│   ├── StreamEnded   without one: the body ends as if complete
│   └── StreamCut     the connection breaks
├── ScriptError       the script cannot be used; names the file, the path and the fix
├── WeightsError      no weights; names the fix
└── EngineFailed      the engine did not start, or died; one line
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ModelError(Exception):
    """Root of this package's errors."""


class BadRequest(ModelError):
    """The request cannot be understood; the message names the field."""


class Refused(ModelError):
    """Answer with HTTP `status` instead. `body` is sent as it is (JSON or text); None: an error in the wire's shape."""

    def __init__(
        self, status: int, message: str, *, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


class Verbatim(ModelError):
    """Answer with HTTP 200 and exactly `body`, as an event stream, in pieces of `slice_bytes`."""

    def __init__(self, body: bytes, slice_bytes: int) -> None:
        super().__init__("a verbatim answer")
        self.body = body
        self.slice_bytes = slice_bytes


class AnswerBroken(ModelError):
    """The answer stops here."""


class StreamFailed(AnswerBroken):
    """An error event ends the stream. `body` is sent as it is; None: an error in the wire's shape."""

    def __init__(self, message: str, *, body: Any = None) -> None:
        super().__init__(message)
        self.body = body


class StreamEnded(AnswerBroken):
    """The body ends cleanly, but early: no finish reason, no end marker."""


class StreamCut(AnswerBroken):
    """The connection is closed in the middle of the body."""


class ScriptError(ModelError):
    """The script cannot be used."""


class WeightsError(ModelError):
    """The weights are not here and could not be fetched."""


class EngineFailed(ModelError):
    """The inference engine did not start, or died."""
