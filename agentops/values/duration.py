"""Durations in Go's notation (`1h30m`, `500ms`), the way Kubernetes APIs write them."""

from __future__ import annotations

import re

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")

_MOST_S = 2**63 / 1e9
"""Go counts nanoseconds in 64 bits."""


def parse_duration(text: str) -> float:
    """Seconds. Accepts what Go's `time.ParseDuration` accepts; raises ValueError otherwise."""
    body = text[1:] if text[:1] in "+-" and text else text
    if body == "0":
        return 0.0
    total, end = 0.0, 0
    while end < len(body):
        match = _PART.match(body, end)
        if match is None:
            break
        total += float(match.group(1)) * _UNITS_S[match.group(2)]
        end = match.end()
    if not body or end != len(body):
        raise ValueError(f"{text!r} is not a duration; write a number with a unit, such as 30s, 10m or 1h30m")
    if total > _MOST_S:
        raise ValueError(f"{text!r:.60} is longer than the longest duration, 2562047h47m16s")
    return -total if text[0] == "-" else total


def format_duration(seconds: float) -> str:
    """The shortest Go notation, to the millisecond: `1h30m`, `10m`, `1.5s`, `0s`."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    millis = round(seconds * 1000)
    hours, millis = divmod(millis, 3_600_000)
    minutes, millis = divmod(millis, 60_000)
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else ""]
    if millis or not (hours or minutes):
        parts.append(f"{millis / 1000:g}s")
    return "".join(parts)


def human_duration(seconds: float) -> str:
    """Two significant units as kubectl prints ages: `45s`, `9m12s`, `3h4m`, `2d3h`, `400d`, `2y35d`."""
    total = int(seconds)
    if total < 0:
        return "0s"
    if total < 120:
        return f"{total}s"
    minutes = total // 60
    if minutes < 10:
        return f"{minutes}m{total % 60}s" if total % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    hours = total // 3600
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 365 * 2:
        return f"{days}d"
    years, rest = divmod(days, 365)
    if years < 8:
        return f"{years}y{rest}d" if rest else f"{years}y"
    return f"{years}y"
