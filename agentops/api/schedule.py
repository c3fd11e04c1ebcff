"""The notation of `spec.schedule`: what is a cron line, without asking when it fires.

Five fields (minute, hour, day of month, month, day of week) with `*`, lists, ranges, steps and
English names, or one of the `@` words; `CRON_TZ=<zone> ` may lead.
"""

from __future__ import annotations

from zoneinfo import available_timezones

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of month", 1, 31, {}),
    ("month", 1, 12, {name: index for index, name in enumerate(_MONTHS, 1)}),
    ("day of week", 0, 7, {name: index for index, name in enumerate(_DAYS)}),
)


def split_schedule(text: str) -> tuple[str, str]:
    """`(zone, five fields)`: the zone is `UTC` unless CRON_TZ leads, and `@` words are spelled out."""
    zone, rest = "UTC", text.strip()
    if rest.startswith(("CRON_TZ=", "TZ=")):
        head, _, rest = rest.partition(" ")
        zone = head.partition("=")[2]
    rest = rest.strip()
    return zone, ALIASES.get(rest.lower(), rest)


def schedule_problem(text: str) -> str | None:
    """What is wrong with a schedule, in one sentence; None when nothing is."""
    zone, line = split_schedule(text)
    if zone not in available_timezones() | {"UTC"}:
        return f"{zone!r} is not a time zone; write one such as Europe/Vienna"
    if line.startswith("@"):
        return f"{line!r} is not one of {', '.join(ALIASES)}"
    parts = line.split()
    if len(parts) != len(_FIELDS):
        return f"{text!r} has {len(parts)} fields; write five (minute hour day month weekday), such as 0 9 * * 1-5"
    for part, (name, low, high, words) in zip(parts, _FIELDS, strict=True):
        for item in part.split(","):
            if not _is_item(item, low, high, words):
                return f"{item!r} is not a {name}; write *, a number from {low} to {high}, a range or a step"
    return None


def _is_item(item: str, low: int, high: int, words: dict[str, int]) -> bool:
    span, slash, step = item.partition("/")
    if slash and not (step.isascii() and step.isdigit() and 0 < int(step) <= high):
        return False
    if span == "*":
        return True
    first, dash, last = span.partition("-")
    start, end = _number(first, words), _number(last, words) if dash else None
    if start is None or not low <= start <= high:
        return False
    return not dash or (end is not None and start <= end <= high)


def _number(text: str, words: dict[str, int]) -> int | None:
    if text.isascii() and text.isdigit():
        return int(text)
    return words.get(text.lower())
