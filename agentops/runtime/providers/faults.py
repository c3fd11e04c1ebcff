"""What the adapters share when a call fails: which status may pass, its kind, one line of the vendor's words."""

from __future__ import annotations

from typing import Any

import httpx2
import orjson

RETRYABLE_STATUS = frozenset({408, 409, 429, 500, 502, 503, 504, 529})


def kind_of(status: int | None) -> str:
    """The `ProviderFault.kind` of an HTTP status; None is an error without one."""
    if status in (401, 403):
        return "auth_error"
    if status == 429:
        return "rate_limited"
    if status == 404:
        return "not_found"
    if status in (408, 504):
        return "timeout"
    if status is not None and status >= 500:
        return "server_error"
    return "bad_request" if status is not None else "error"


def detail(body: object, otherwise: object) -> str:
    """The `error.message` in a vendor's error body, else `otherwise`, as one short line."""
    if isinstance(body, dict):
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, dict) else inner
        if isinstance(message, str) and message:
            return short(message)
    return short(otherwise)


def retry_after(response: httpx2.Response) -> float | None:
    """Seconds the provider asks to wait, or None."""
    value = response.headers.get("retry-after")
    try:
        return max(0.0, float(value)) if value else None
    except ValueError:  # an HTTP date: the backoff is good enough
        return None


def short(error: object) -> str:
    """One line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:299] + "…"


def tool_input(text: str) -> dict[str, Any]:
    """The arguments a model wrote as the object its vendor wants back; anything else is kept under `malformed`."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {"malformed": text} if text.strip() else {}
    return value if isinstance(value, dict) else {"malformed": text}
