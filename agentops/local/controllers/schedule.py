"""When a CronJob is due, and which of its finished Jobs are history. Pure.

Times are those of `spec.timeZone`, UTC without; around a clock change a run is neither skipped nor doubled, as with
Debian's cron.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from attrs import frozen
from cronsim import CronSim, CronSimError

from agentops.local.controllers.jobs import finished_at
from agentops.local.controllers.pods import Object, created_at, has_condition, name_of
from agentops.values.clock import parse_rfc3339

_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MANY_MISSED = 100


class ScheduleError(ValueError):
    """The schedule or the time zone cannot be read; the message names the field and the fix."""


@frozen(slots=True)
class Due:
    """`at` is the latest start that is due and not yet made, `None` when none is; `next_at` the one after now."""

    at: datetime | None
    missed: int
    next_at: datetime


def due(cron_job: Mapping[str, Any], now: datetime) -> Due:
    """What the schedule asks for now. Raises ScheduleError."""
    spec, status = cron_job["spec"], cron_job.get("status") or {}
    last = status.get("lastScheduleTime")
    since = parse_rfc3339(last) if last else created_at(cron_job)
    if spec.get("startingDeadlineSeconds") is not None:
        since = max(since, now - timedelta(seconds=int(spec["startingDeadlineSeconds"])))
    ticks = _ticks(spec, since)
    found, missed = None, 0
    upcoming = next(ticks)
    while upcoming <= now:
        found, missed = upcoming, missed + 1
        if missed > _MANY_MISSED:  # a plane that slept for months need not count minutes
            ticks = _ticks(spec, now - timedelta(days=1))
            upcoming = next(ticks)
            while upcoming <= now:
                found, upcoming = upcoming, next(ticks)
            break
        upcoming = next(ticks)
    return Due(found, missed, upcoming)


def _ticks(spec: Mapping[str, Any], since: datetime) -> Any:
    text = str(spec.get("schedule") or "").strip()
    expression = _ALIASES.get(text, text)
    if len(expression.split()) != 5:
        raise ScheduleError(f"spec.schedule {text!r}: write five fields, such as '*/5 * * * *', or @daily and its like")
    try:
        zone = _zone(spec)
        simulation = CronSim(expression, since.astimezone(zone))
    except CronSimError as error:
        raise ScheduleError(f"spec.schedule {text!r}: {error}") from error

    def ticks() -> Iterable[datetime]:
        for moment in simulation:
            yield moment.astimezone(UTC)

    return iter(ticks())


def _zone(spec: Mapping[str, Any]) -> tzinfo:
    name = spec.get("timeZone")
    if not name:
        return UTC
    try:
        return ZoneInfo(str(name))
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ScheduleError(f"spec.timeZone {name!r} is not known; write a name such as Europe/Berlin") from error


def is_too_late(cron_job: Mapping[str, Any], at: datetime, now: datetime) -> bool:
    """Whether the start may no longer be made up for."""
    limit = cron_job["spec"].get("startingDeadlineSeconds")
    return limit is not None and at + timedelta(seconds=int(limit)) < now


def job_name(cron_job: Mapping[str, Any], at: datetime) -> str:
    """The same for the same start, so that it cannot be made twice."""
    return f"{name_of(cron_job)}-{int(at.timestamp()) // 60}"


def surplus_history(cron_job: Mapping[str, Any], jobs: Iterable[Object]) -> list[Object]:
    """Finished Jobs beyond the history limits, oldest first."""
    spec = cron_job["spec"]
    result: list[Object] = []
    for type_, field, default in (
        ("Complete", "successfulJobsHistoryLimit", 3),
        ("Failed", "failedJobsHistoryLimit", 1),
    ):
        limit = spec.get(field)
        limit = default if limit is None else int(limit)
        ended = sorted((j for j in jobs if has_condition(j, type_)), key=lambda j: (finished_at(j), name_of(j)))
        result += ended[: max(0, len(ended) - limit)]
    return result
