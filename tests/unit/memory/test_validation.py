from __future__ import annotations

import pytest

from agentops.memory import validation
from agentops.memory.errors import InvalidRequest

GOOD = {"session_id": "s", "type": "decision", "title": "t", "content": "c", "project": "Shop "}


def problems_of(call, *arguments) -> str:
    with pytest.raises(InvalidRequest) as caught:
        call(*arguments)
    return str(caught.value)


def test_projects_are_lower_cased_at_the_edge() -> None:
    assert validation.new_observation(GOOD).project == "shop"
    assert validation.project({"project": " SHOP"}) == "shop"


def test_every_problem_of_an_observation_is_told_at_once() -> None:
    message = problems_of(
        validation.new_observation, {"type": 5, "title": "x" * 501, "tags": ["a" * 101, 3], "project": " "}
    )
    assert message.startswith("validation failed: ")
    for part in (
        "session_id is required",
        "type must be a string",
        "title has 501 characters, at most 500 are allowed",
        "content is required",
        "project is required",
        "tags[0] has 101 characters, at most 100 are allowed",
        "tags[1] must be a string",
    ):
        assert part in message.removeprefix("validation failed: ").split("; ")


@pytest.mark.parametrize(
    ("field", "most"), [("title", 500), ("content", 50_000), ("topic_key", 200), ("scope", 50), ("type", 50)]
)
def test_each_limit_is_inclusive(field: str, most: int) -> None:
    validation.new_observation(GOOD | {field: "x" * most})
    assert f"{field} has {most + 1} characters" in problems_of(
        validation.new_observation, GOOD | {field: "x" * (most + 1)}
    )


def test_more_than_twenty_tags_are_refused() -> None:
    assert "tags has 21 entries" in problems_of(
        validation.new_observation, GOOD | {"tags": [str(n) for n in range(21)]}
    )


def test_blank_optional_fields_are_absent() -> None:
    new = validation.new_observation(GOOD | {"topic_key": " ", "scope": "", "tags": None})
    assert (new.topic_key, new.scope, new.tags) == (None, "project", ())


def test_a_patch_names_fields_that_cannot_change() -> None:
    message = problems_of(validation.observation_patch, {"title": "", "project": "x"})
    assert "title is required" in message
    assert "project cannot be changed" in message


def test_an_empty_patch_is_refused() -> None:
    assert "at least one of" in problems_of(validation.observation_patch, {})


def test_messages_are_checked_by_index() -> None:
    message = problems_of(validation.end_session, {"messages": [{"role": "user", "content": "x"}, {"role": "user"}, 4]})
    assert "messages[1].content is required" in message
    assert "messages[2] must be an object" in message


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b'{"a": "\xff"}', b'{"a": "\\ud800"}'])
def test_a_body_that_is_not_an_object_is_refused(body: bytes) -> None:
    assert "body" in problems_of(validation.parse_object, body)


@pytest.mark.parametrize(("text", "expected"), [("7", 7), ("-1", 5), ("NaN", 5), ("0", 5), ("5000", 1000), ("", 5)])
def test_a_limit_that_makes_no_sense_is_the_default(text: str, expected: int) -> None:
    assert validation.limit({"limit": text}, 5) == expected


@pytest.mark.parametrize("text", ["0", "-1", "abc", "", "1.5", "99999999999999999999", "²"])
def test_an_id_must_be_a_positive_whole_number(text: str) -> None:
    assert "id must be a positive whole number" in problems_of(validation.observation_id, text)
