"""What the adapters share when a call fails: which status may pass, its kind, one line of the vendor's words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

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


def detail(body: object) -> str:
    """The `error.message` in a vendor's error body; empty when there is none."""
    if isinstance(body, dict):
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, dict) else inner
        if isinstance(message, str) and message:
            return message
    return ""


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds the provider asks to wait (`Retry-After-Ms`, `Retry-After` in seconds or as an HTTP date), or None."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        with suppress(ValueError):
            seconds = float(value) * unit_s
            return max(0.0, seconds) if math.isfinite(seconds) else None
        with suppress(ValueError):
            at = parsedate_to_datetime(value)
            return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())
    return None


def count(value: object) -> int:
    """A number of tokens as a provider gave it; 0 for what is none."""
    return int(value) if isinstance(value, int | float) and 0 < value < math.inf else 0


def short(error: object) -> str:
    """One line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:299] + "…"


def tool_name(name: str) -> str:
    """A name the model wrote in a form its vendor takes back: an invented one must not spoil the conversation."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "unnamed"


def tool_input(text: str) -> dict[str, Any]:
    """The arguments a model wrote as the object its vendor wants back; anything else is kept under `malformed`."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {"malformed": text} if text.strip() else {}
    return value if isinstance(value, dict) else {"malformed": text}
