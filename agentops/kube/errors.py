"""What can go wrong when talking to an API server.

KubeError
├── ConfigError            kubeconfig or in-cluster configuration is unusable (a UsageError too)
├── TransportError         no complete answer (refused, reset, timeout, silence)
└── ApiError               the server answered with a Status
    ├── BadRequest         400
    ├── Unauthorized       401
    ├── Forbidden          403
    ├── NotFound           404
    ├── AlreadyExists      409, reason AlreadyExists
    ├── Conflict           409
    ├── Expired            410
    ├── UnsupportedMediaType 415
    ├── Invalid            422
    ├── TooManyRequests    429
    └── ServerTimeout      504 (also "too large resource version")
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar

import orjson

from agentops.net.errors import UsageError


class KubeError(Exception):
    """Root of this layer's errors."""


class ConfigError(KubeError, UsageError):
    """The cluster configuration cannot be used; the message names the file and the fix."""


class TransportError(KubeError):
    """No complete answer came back, so a write may or may not have happened."""


class ApiError(KubeError):
    """The server answered with an error. `status` is the whole `Status` object, if it sent one."""

    http_status: ClassVar[int] = 0

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        status: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.status: Mapping[str, Any] = status or {}
        self.headers: Mapping[str, str] = headers or {}

    @property
    def details(self) -> Mapping[str, Any]:
        details = self.status.get("details")
        return details if isinstance(details, Mapping) else {}

    @property
    def causes(self) -> list[Mapping[str, Any]]:
        causes = self.details.get("causes")
        return [cause for cause in causes if isinstance(cause, Mapping)] if isinstance(causes, list) else []

    @property
    def retry_after_s(self) -> float | None:
        """The server's own wish in seconds, from the header or the Status details; None for none that makes sense.

        A date is meant by the server's clock, which its `Date` header tells.
        """
        raw = str(self.headers.get("retry-after") or self.details.get("retryAfterSeconds") or "").strip()
        if raw.isascii() and raw.isdigit() and len(raw) < 10:
            return float(raw)
        try:
            until, now = parsedate_to_datetime(raw), parsedate_to_datetime(self.headers.get("date", ""))
            return max(0.0, (until - now).total_seconds())
        except (TypeError, ValueError):
            return None


class BadRequest(ApiError):
    http_status = 400


class Unauthorized(ApiError):
    http_status = 401


class Forbidden(ApiError):
    http_status = 403


class NotFound(ApiError):
    http_status = 404


class Conflict(ApiError):
    http_status = 409


class AlreadyExists(ApiError):
    http_status = 409


class Expired(ApiError):
    http_status = 410


class UnsupportedMediaType(ApiError):
    http_status = 415


class Invalid(ApiError):
    http_status = 422


class TooManyRequests(ApiError):
    http_status = 429


class ServerTimeout(ApiError):
    http_status = 504


_BY_CODE: dict[int, type[ApiError]] = {
    cls.http_status: cls
    for cls in (
        BadRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        Conflict,
        Expired,
        UnsupportedMediaType,
        Invalid,
        TooManyRequests,
        ServerTimeout,
    )
}


def error_from_status(status: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> ApiError:
    """The exception for a `Status` object."""
    code = status.get("code")
    code = code if isinstance(code, int) else 0
    reason = str(status.get("reason") or "")
    cls = AlreadyExists if reason == "AlreadyExists" else _BY_CODE.get(code, ApiError)
    return cls(code, reason, str(status.get("message") or reason or f"HTTP {code}"), status, headers)


def error_from_response(code: int, body: bytes, headers: Mapping[str, str] | None = None) -> ApiError:
    """The exception for an HTTP answer; plain-text bodies (unknown paths, proxies) are kept as the message."""
    try:
        status = orjson.loads(body)
    except ValueError:
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        said = status.get("code")
        return error_from_status({**status, "code": said if isinstance(said, int) and said else code}, headers)
    text = body.decode("utf-8", "replace").strip()[:500]
    cls = _BY_CODE.get(code, ApiError)
    return cls(code, "", text or f"HTTP {code}", None, headers)


def ignore_not_found(error: Exception) -> None:
    """Re-raise `error` unless it says the object is absent."""
    if not isinstance(error, NotFound):
        raise error
