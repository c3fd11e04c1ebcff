from __future__ import annotations

from agentops.memory.summary import summarize


def test_nothing_said_is_an_empty_summary() -> None:
    assert summarize([]) == ""


def test_one_request_is_counted_and_quoted() -> None:
    summary = summarize([("user", "Roll  back\nthe shop"), ("assistant", "Done.")])
    assert summary == "2 messages (1 user, 1 assistant). First request: Roll back the shop"


def test_the_last_request_is_quoted_when_there_are_several() -> None:
    summary = summarize([("user", "first"), ("assistant", "ok"), ("user", "middle"), ("user", "last")])
    assert summary == "4 messages (3 user, 1 assistant). First request: first | Last request: last"


def test_long_requests_are_cut_at_200_characters() -> None:
    assert summarize([("user", "ä" * 300)]).endswith("ä" * 200 + "…")


def test_delegation_callbacks_are_nobodys_request() -> None:
    talk = [("user", "ask the team"), ("user", "[DELEGATION RESULTS] group 1: done"), ("assistant", "All done.")]
    assert summarize(talk) == "2 messages (1 user, 1 assistant). First request: ask the team"
    assert summarize([("user", "[DELEGATION RESULT] done")]) == ""
