"""Whether a CronJob's schedule and time zone can be read, as the parser that Kubernetes uses reads them.

That parser (robfig/cron) takes five fields or a descriptor. It knows no `L`, `#` or `7` for Sunday, which the
controller's own would take: what runs here has to run on a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[int, int, Mapping[str, int]], ...] = (
    (0, 59, {}),
    (0, 23, {}),
    (1, 31, {}),
    (1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    (0, 6, {name: number for number, name in enumerate(_DAYS)}),
)
_DESCRIPTORS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_EVERY = "@every "
_GO_DURATION = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)"
                          r"(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))*|[-+]?0")  # fmt: skip
_ZONE_PART = re.compile(r"(?!-)[A-Za-z._0-9+-]{1,14}")


def schedule_problem(schedule: str) -> str | None:
    """Why `schedule` cannot be read; None for one that can."""
    if schedule.startswith(("TZ=", "CRON_TZ=")):
        zone, _, schedule = schedule.partition(" ")
        if problem := zone_problem(zone.partition("=")[2]):
            return f"provided bad location {zone.partition('=')[2]}: {problem}"
        schedule = schedule.strip()
    if schedule.startswith("@"):
        return _descriptor_problem(schedule)
    fields = schedule.split()
    if len(fields) != 5:
        return f"expected exactly 5 fields, found {len(fields)}: [{' '.join(fields)}]"
    for text, (low, high, names) in zip(fields, _FIELDS, strict=True):
        for term in text.split(","):
            if term and (problem := _term_problem(term, low, high, names)):
                return problem
    return None


def _descriptor_problem(text: str) -> str | None:
    if text in _DESCRIPTORS:
        return None
    if text.startswith(_EVERY):
        length = text.removeprefix(_EVERY)
        if _GO_DURATION.fullmatch(length):
            return None
        return f'failed to parse duration {text}: time: invalid duration "{length}"'
    return f"unrecognized descriptor: {text}"


def _term_problem(term: str, low: int, high: int, names: Mapping[str, int]) -> str | None:
    """One of the terms that commas join: `*`, `a`, `a-b`, each perhaps with `/step`."""
    whole, *steps = term.split("/")
    step = 1
    first, *ends = whole.split("-")
    if first in ("*", "?"):
        start, end = low, high
    else:
        if len(ends) > 1:
            return f"too many hyphens: {term}"
        numbers = []
        for text in (first, *ends):
            number = names.get(text.lower())
            if number is None:
                number, problem = _number(text)
                if problem:
                    return problem
            numbers.append(number)
        start, end = numbers[0], numbers[-1]
    if len(steps) > 1:
        return f"too many slashes: {term}"
    if steps:
        step, problem = _number(steps[0])
        if problem:
            return problem
        end = end if ends else high
    if start < low:
        return f"beginning of range ({start}) below minimum ({low}): {term}"
    if end > high:
        return f"end of range ({end}) above maximum ({high}): {term}"
    if start > end:
        return f"beginning of range ({start}) beyond end of range ({end}): {term}"
    if step == 0:
        return f"step of range should be a positive number: {term}"
    return None


def _number(text: str) -> tuple[int, str | None]:
    if not re.fullmatch(r"[-+]?[0-9]+", text, re.ASCII):
        return 0, f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax'
    if int(text) < 0:
        return 0, f"negative number ({int(text)}) not allowed: {text}"
    return int(text), None


def zone_problem(name: str) -> str | None:
    """Why `name` is no time zone; None for one that is."""
    if not name:
        return "timeZone must be nil or non-empty string"
    unknown = f"unknown time zone {name}"
    if any(part in (".", "..") or not _ZONE_PART.fullmatch(part) for part in name.split("/")):
        return unknown
    if name.lower() == "local":
        return "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return unknown
    return None
