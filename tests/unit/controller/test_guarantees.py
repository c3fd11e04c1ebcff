"""docs/guarantees.md and the tests agree: each number has a test, each test's number is on the page."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
_NUMBER = r"[A-Z]{1,2}\d+"


def stated():
    """(proved, listed as not proved) numbers of the page."""
    proved, _, rest = (ROOT / "docs/guarantees.md").read_text().partition("## Without a test of their own")
    return (
        re.findall(rf"^- \*\*({_NUMBER})\*\*", proved, re.M),
        re.findall(rf"^- \*\*({_NUMBER})\*\*", rest, re.M),
    )


def carried():
    """The numbers that tests carry, each with a test file that does."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for marker in re.findall(r"^\s*@pytest\.mark\.guarantee\(([^)]*)\)", path.read_text(), re.M):
            for number in re.findall(rf'"({_NUMBER})"', marker):
                found.setdefault(number, path.relative_to(ROOT))
    return found


def test_every_guarantee_has_a_test_that_carries_its_number():
    proved, _ = stated()
    assert len(proved) > 200
    have = carried()
    missing = [number for number in proved if number not in have]
    assert not missing, f"docs/guarantees.md states {missing}, but no test is marked with guarantee(…) of that number"


def test_every_number_that_a_test_carries_is_stated():
    proved, unproved = stated()
    known = set(proved)
    unknown = {number: str(path) for number, path in carried().items() if number not in known}
    assert not unknown, f"marked in tests, but not among the proved ones of docs/guarantees.md: {unknown}"
    assert not set(proved) & set(unproved)


def test_numbers_are_stated_once_and_in_order():
    proved, unproved = stated()
    assert len(set(proved + unproved)) == len(proved + unproved)
    by_part = {}
    for number in proved:
        part, digits = re.fullmatch(r"([A-Z]+)(\d+)", number).groups()
        by_part.setdefault(part, []).append(int(digits))
    assert all(digits == sorted(digits) for digits in by_part.values()), by_part


def test_every_deviation_names_a_guarantee_that_is_stated():
    numbers = re.findall(rf"^\| ({_NUMBER}) \|", (ROOT / "docs/deviations.md").read_text(), re.M)
    assert len(numbers) > 15
    assert not set(numbers) - set(stated()[0])
