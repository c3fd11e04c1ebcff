"""Revisions, history and durability."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from agentops.local.apiserver.store import Compacted, Entry, Event, StaleWrite, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "db.sqlite", ring_size=5)
    store.open()
    return store


def put(store: Store, name: str, text: str, expected: Entry | None = None, *, delete: bool = False) -> Entry:
    return store.write(
        "things", "ns", name, lambda rev: f'{{"t":"{text}","r":{rev}}}'.encode(), expected, delete=delete
    )


def test_every_write_takes_the_next_revision_of_one_counter(store: Store) -> None:
    first = put(store, "a", "1")
    second = store.write("others", "", "b", lambda rev: b"{}", None)
    third = put(store, "a", "2", first)
    assert [first.revision, second.revision, third.revision] == [1, 2, 3]
    assert third.create_revision == 1


def test_a_write_that_looked_at_an_older_entry_is_refused(store: Store) -> None:
    first = put(store, "a", "1")
    put(store, "a", "2", first)
    with pytest.raises(StaleWrite):
        put(store, "a", "3", first)


def test_revisions_and_objects_survive_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    store = Store(path)
    store.open()
    kept = put(store, "a", "1")
    gone = put(store, "b", "1")
    put(store, "b", "1", gone, delete=True)
    # No close: what a kill -9 leaves is what is committed.
    again = Store(path)
    again.open()
    assert again.revision == 3
    assert again.get("things", "ns", "b") is None
    found = again.get("things", "ns", "a")
    assert found is not None
    assert found.value == kept.value
    assert put(again, "c", "1").revision == 4
    again.close()
    store.close()


def test_revisions_are_not_reused_when_compaction_removed_the_newest_row(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    store = Store(path)
    store.open()
    entry = put(store, "a", "1")
    put(store, "a", "1", entry, delete=True)
    store.compact(2)
    store.close()
    again = Store(path)
    again.open()
    assert put(again, "a", "1").revision == 3
    again.close()


def test_listing_the_past_shows_what_was_live_then(store: Store) -> None:
    first = put(store, "a", "1")
    put(store, "b", "1")
    second = put(store, "a", "2", first)
    put(store, "a", "2", second, delete=True)
    assert [e.name for e in store.list_at("things", "ns", 1)] == ["a"]
    assert [(e.name, e.revision) for e in store.list_at("things", "", 3)] == [("a", 3), ("b", 2)]
    assert [e.name for e in store.list_at("things", "ns", 4)] == ["b"]


def test_events_older_than_the_ring_come_from_the_log(store: Store) -> None:
    entry = put(store, "a", "0")
    for number in range(1, 12):
        entry = put(store, "a", str(number), entry)
    events = store.events_after("things", 1)
    assert [e.revision for e in events] == list(range(2, 13))
    assert events[0].previous is not None
    assert events[0].previous.revision == 1
    assert [e.revision for e in store.events_after("things", 10)] == [11, 12]


def test_compaction_keeps_what_is_live_and_refuses_the_past(store: Store) -> None:
    entry = put(store, "a", "1")
    put(store, "b", "1")
    entry = put(store, "a", "2", entry)
    put(store, "a", "3", entry)
    assert store.compact(3) == 1
    with pytest.raises(Compacted):
        store.events_after("things", 2)
    with pytest.raises(Compacted):
        store.list_at("things", "", 2)
    assert [e.name for e in store.list_at("things", "", 3)] == ["a", "b"]
    assert [e.revision for e in store.events_after("things", 3)] == [4]


def test_listeners_hear_of_writes_with_what_was_before(store: Store) -> None:
    heard: list[Event] = []
    leave = store.subscribe("things", heard.append)
    first = put(store, "a", "1")
    put(store, "a", "1", put(store, "a", "2", first), delete=True)
    leave()
    put(store, "z", "1")
    assert [e.type for e in heard] == ["ADDED", "MODIFIED", "DELETED"]
    assert heard[1].previous is first


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    path.write_bytes(b"this is not a database, it only looks like a file of some length" * 20)
    with pytest.raises(sqlite3.DatabaseError):
        Store(path).open()
