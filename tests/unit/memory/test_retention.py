import pytest

from agentops.memory.retention import parse_age, parse_ages


def test_ages_are_days_or_go_durations() -> None:
    assert parse_ages(["decision=90d", " * =1h30m"]) == {"decision": 90 * 86_400, "*": 5400}


@pytest.mark.parametrize("text", ["", "d", "0d", "0s", "-1h", "soon", "36501d", "999999999999d", "1000000h"])
def test_an_age_that_is_none_is_quoted_back(text: str) -> None:
    """A row older than the calendar would be asked for, which ends the service instead."""
    with pytest.raises(ValueError, match=repr(text)):
        parse_age(text)
