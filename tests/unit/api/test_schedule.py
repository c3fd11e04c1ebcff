"""The notation of schedules."""

from __future__ import annotations

import pytest

from agentops.api.schedule import schedule_problem, split_schedule


@pytest.mark.parametrize(
    "text",
    [
        "* * * * *",
        "0 9 * * 1-5",
        "*/15 0-6/2 1,15 jan-MAR sun",
        "@hourly",
        "TZ=UTC @daily",
        "0 0 * * 7",
        "5/10 * * * *",
    ],
)
def test_good_schedules(text: str) -> None:
    assert schedule_problem(text) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("* * * *", "4 fields"),
        ("* * * * * *", "6 fields"),
        ("60 * * * *", "'60' is not a minute"),
        ("* 24 * * *", "'24' is not a hour"),
        ("* * 0 * *", "'0' is not a day of month"),
        ("* * * foo *", "'foo' is not a month"),
        ("* * * * 8", "'8' is not a day of week"),
        ("*/0 * * * *", "'*/0' is not a minute"),
        ("5-3 * * * *", "'5-3' is not a minute"),
        ("1, * * * *", "'' is not a minute"),
        ("@fortnightly", "@yearly"),
        ("CRON_TZ=Mars/Olympus * * * * *", "not a time zone"),
    ],
)
def test_bad_schedules_say_what_is_wrong(text: str, says: str) -> None:
    assert says in (schedule_problem(text) or "")


def test_the_zone_leads_and_words_are_spelled_out() -> None:
    assert split_schedule("CRON_TZ=Europe/Vienna @daily") == ("Europe/Vienna", "0 0 * * *")
    assert split_schedule("0 9 * * *") == ("UTC", "0 9 * * *")
