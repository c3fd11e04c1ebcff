"""When CronJobs are due."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from agentops.local.controllers.schedule import ScheduleError, due, is_too_late, job_name, surplus_history


def cron(make: Any, schedule: str = "*/5 * * * *", *, last: str = "", **spec: Any) -> dict[str, Any]:
    meta = make.meta("c", creationTimestamp="2026-01-01T11:58:00Z")
    return {
        "metadata": meta,
        "spec": {"schedule": schedule, **spec},
        "status": {"lastScheduleTime": last} if last else {},
    }


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_nothing_is_due_before_the_first_start(make: Any) -> None:
    asked = due(cron(make), at("2026-01-01T11:59:00"))
    assert asked.at is None
    assert asked.next_at == at("2026-01-01T12:00:00")


def test_the_latest_missed_start_is_due_once(make: Any) -> None:
    asked = due(cron(make, last="2026-01-01T12:00:00Z"), at("2026-01-01T12:17:00"))
    assert (asked.at, asked.missed) == (at("2026-01-01T12:15:00"), 3)
    assert asked.next_at == at("2026-01-01T12:20:00")


def test_a_start_that_was_made_is_not_due_again(make: Any) -> None:
    assert due(cron(make, last="2026-01-01T12:15:00Z"), at("2026-01-01T12:17:00")).at is None


def test_months_of_sleep_do_not_take_minutes_to_count(make: Any) -> None:
    asked = due(cron(make, "* * * * *", last="2026-01-01T12:00:00Z"), at("2026-09-01T00:00:30"))
    assert asked.at == at("2026-09-01T00:00:00")


def test_starting_deadline_bounds_what_is_made_up_for(make: Any) -> None:
    late = cron(make, "0 * * * *", last="2026-01-01T10:00:00Z", startingDeadlineSeconds=60)
    assert due(late, at("2026-01-01T12:30:00")).at is None
    assert is_too_late(late, at("2026-01-01T12:00:00"), at("2026-01-01T12:01:01"))


@pytest.mark.parametrize("alias", ["@hourly", "@daily", "@weekly", "@monthly", "@yearly"])
def test_aliases_are_read(make: Any, alias: str) -> None:
    assert due(cron(make, alias), at("2026-01-01T11:58:30")).next_at > at("2026-01-01T11:58:30")


@pytest.mark.parametrize("bad", ["", "* * * *", "* * * * * *", "61 * * * *", "@never"])
def test_a_bad_schedule_names_the_field(make: Any, bad: str) -> None:
    with pytest.raises(ScheduleError, match=r"spec\.schedule"):
        due(cron(make, bad), make.now)


def test_time_zones_are_honoured(make: Any) -> None:
    berlin = due(cron(make, "0 9 * * *", timeZone="Europe/Berlin"), make.now)
    assert berlin.next_at == at("2026-01-02T08:00:00")
    with pytest.raises(ScheduleError, match=r"spec\.timeZone 'Mars/Base'"):
        due(cron(make, timeZone="Mars/Base"), make.now)


def test_one_start_has_one_name(make: Any) -> None:
    assert job_name(cron(make), at("2026-01-01T12:00:00")) == f"c-{int(at('2026-01-01T12:00:00').timestamp()) // 60}"


def test_history_keeps_the_newest(make: Any) -> None:
    def job(n: int, type_: str) -> dict[str, Any]:
        stamp = make.stamp(n)
        return {
            "metadata": make.meta(f"j{n}"),
            "status": {"conditions": [{"type": type_, "status": "True", "lastTransitionTime": stamp}]},
        }

    jobs = [job(n, "Complete") for n in range(5)] + [job(n, "Failed") for n in range(5, 8)]
    assert [j["metadata"]["name"] for j in surplus_history(cron(make), jobs)] == ["j0", "j1", "j5", "j6"]
