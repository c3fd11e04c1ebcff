import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentops.values.duration import format_duration, human_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600), ("1h30m", 5400), ("1.5s", 1.5), ("500ms", 0.5), ("0", 0), ("-2s", -2), ("1us", 1e-6), (".5h", 1800)],
)
def test_go_notation_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "10 m", "m", "1h30", "1d", "s10", "1..5s", "-"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="10m"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**10))
def test_formatting_keeps_milliseconds(millis: int) -> None:
    assert parse_duration(format_duration(millis / 1000)) == pytest.approx(millis / 1000, abs=1e-3)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(45, "45s"), (552, "9m12s"), (600, "10m"), (3600 * 3 + 240, "3h4m"), (86400 * 2 + 3600 * 3, "2d3h"), (-5, "0s")],
)
def test_ages_read_as_kubectl_prints_them(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


@pytest.mark.parametrize("text", ["2562048h", "-9999999999999h", "9" * 400 + "h"])
def test_a_duration_that_go_could_not_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="longest duration"):
        parse_duration(text)
