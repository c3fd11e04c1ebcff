from __future__ import annotations

import sqlite3
from pathlib import Path

import anyio
import pytest
from support.memory import HandClock, note, open_store

from agentops.api.memory import NewSession, ObservationPatch, SessionMessage
from agentops.memory.database import Database
from agentops.memory.errors import DatabaseUnusable, InvalidRequest, NotFound
from agentops.memory.listing import Filter

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def store(tmp_path: Path, clock: HandClock):
    async with open_store(tmp_path / "memory.db", clock) as opened:
        yield opened


def check_index(path: Path) -> None:
    """Raises when the full-text index disagrees with the live rows."""
    connection = sqlite3.connect(path)
    try:
        connection.execute("INSERT INTO observations_fts (observations_fts, rank) VALUES ('integrity-check', 1)")
    finally:
        connection.close()


# ---- three tiers


async def test_the_same_topic_is_revised_not_repeated(store) -> None:
    first = await store.save(note("Use Postgres.", topic_key="db/choice"))
    second = await store.save(note("Use SQLite.", topic_key="db/choice", title="Database"))
    assert (first.action, second.action) == ("created", "updated")
    assert (second.id, second.revision_count) == (first.id, 2)
    assert (await store.observation(first.id)).content == "Use SQLite."


async def test_a_topic_belongs_to_its_project_and_scope(store) -> None:
    await store.save(note(topic_key="db/choice"))
    assert (await store.save(note(topic_key="db/choice", project="blog"))).action == "created"
    assert (await store.save(note(topic_key="db/choice", scope="global"))).action == "created"


async def test_the_same_content_a_second_before_the_window_ends_is_a_duplicate(store, clock) -> None:
    first = await store.save(note("Ship on  Friday"))
    clock.advance(14 * 60 + 59)
    again = await store.save(note("ship ON\nfriday", tags=("release",)))
    assert (again.action, again.id, again.duplicate_count) == ("deduplicated", first.id, 2)
    assert (await store.observation(first.id)).tags == ("release",)


async def test_the_same_content_a_second_after_the_window_is_new(store, clock) -> None:
    first = await store.save(note("Ship on Friday"))
    clock.advance(15 * 60 + 1)
    again = await store.save(note("Ship on Friday"))
    assert again.action == "created"
    assert again.id != first.id


async def test_a_new_topic_is_not_swallowed_as_a_duplicate(store) -> None:
    await store.save(note("Ship on Friday"))
    saved = await store.save(note("Ship on Friday", topic_key="release/day"))
    assert saved.action == "created"
    assert (await store.observation(saved.id)).topic_key == "release/day"


async def test_another_title_or_type_is_another_row(store) -> None:
    await store.save(note("Ship on Friday"))
    assert (await store.save(note("Ship on Friday", title="Other"))).action == "created"
    assert (await store.save(note("Ship on Friday", type="pattern"))).action == "created"


async def test_security_records_are_never_merged(store) -> None:
    for _ in range(3):
        saved = await store.save(note("rm -rf /", type="security", topic_key="security/blocked_command"))
        assert saved.action == "created"
    assert (await store.stats("shop")).total_observations == 3


async def test_many_writers_at_once_make_one_row_of_one_topic(store) -> None:
    async with anyio.create_task_group() as tasks:
        for n in range(20):
            tasks.start_soon(store.save, note(f"version {n}", topic_key="race"))
    rows = (await store.recent_observations(Filter(project="shop"), 10)).items
    assert [(row.topic_key, row.revision_count) for row in rows] == [("race", 20)]


async def test_an_unknown_session_is_made(store) -> None:
    await store.save(note(session_id="fresh"))
    assert [session.id for session in (await store.recent_sessions("shop", 5)).items] == ["fresh"]


# ---- sessions


async def test_creating_a_session_twice_keeps_the_first(store, clock) -> None:
    first = await store.create_session(NewSession(id="s", project="shop"))
    clock.advance(60)
    assert await store.create_session(NewSession(id="s", project="other")) == first


async def test_ending_a_session_keeps_its_summary(store) -> None:
    await store.create_session(NewSession(id="s", project="shop"))
    ended = await store.end_session("s", [SessionMessage(role="user", content="fix the cart")])
    assert (ended.message_count, "fix the cart" in ended.summary) == (1, True)
    assert (await store.recent_sessions("shop", 5)).items[0].summary == ended.summary


async def test_ending_an_unknown_session_names_it(store) -> None:
    with pytest.raises(NotFound, match="'nope' does not exist"):
        await store.end_session("nope", [])


# ---- change and delete


async def test_a_patch_bumps_revision_and_refreshes_the_hash(store, clock) -> None:
    saved = await store.save(note("old words"))
    before = await store.observation(saved.id)
    clock.advance(5)
    after = await store.patch(saved.id, ObservationPatch(content="new words", tags=("x",)))
    assert after.revision_count == 2
    assert after.normalized_hash != before.normalized_hash
    assert after.updated_at > before.updated_at
    assert (await store.save(note("new words"))).action == "deduplicated"
    assert [hit.id for hit in await store.search("new", Filter(project="shop"), 5)] == [saved.id]
    assert await store.search("old", Filter(project="shop"), 5) == []


async def test_a_patch_that_changes_nothing_is_no_revision(store) -> None:
    saved = await store.save(note("words"))
    assert (await store.patch(saved.id, ObservationPatch(content="words"))).revision_count == 1


async def test_a_patch_of_a_missing_row_is_not_found(store) -> None:
    with pytest.raises(NotFound, match="observation 99"):
        await store.patch(99, ObservationPatch(title="x"))


async def test_a_deleted_row_is_hidden_everywhere(store) -> None:
    saved = await store.save(note("canary words", topic_key="a/b"))
    assert await store.delete(saved.id, hard=False)
    assert await store.search("canary", Filter(project="shop"), 5) == []
    assert await store.search("a/b", Filter(project="shop"), 5) == []
    assert (await store.recent_observations(Filter(project="shop"), 5)).items == []
    assert (await store.context("shop", "", "canary", 5, None)).recent_observations == ()
    with pytest.raises(NotFound):
        await store.observation(saved.id)
    with pytest.raises(NotFound):
        await store.timeline(saved.id, 1, 1)


async def test_the_topic_of_a_deleted_row_is_free_again(store) -> None:
    saved = await store.save(note(topic_key="a/b"))
    await store.delete(saved.id, hard=False)
    assert (await store.save(note(topic_key="a/b"))).action == "created"


async def test_removing_a_hidden_row_leaves_the_index_sound(store, tmp_path: Path) -> None:
    saved = await store.save(note("one"))
    await store.save(note("two"))
    assert await store.delete(saved.id, hard=False)
    assert await store.delete(saved.id, hard=True)
    assert not await store.delete(saved.id, hard=True)
    check_index(tmp_path / "memory.db")


async def test_rebuilding_the_index_does_not_bring_deleted_rows_back(store, tmp_path: Path) -> None:
    saved = await store.save(note("zebra"))
    await store.delete(saved.id, hard=False)
    connection = sqlite3.connect(tmp_path / "memory.db")
    connection.execute("INSERT INTO observations_fts (observations_fts) VALUES ('rebuild')")
    connection.commit()
    (count,) = connection.execute(
        "SELECT count(*) FROM observations_fts WHERE observations_fts MATCH 'zebra'"
    ).fetchone()
    connection.close()
    assert count == 0


# ---- search, context, timeline


async def test_a_title_match_ranks_before_a_content_match(store) -> None:
    in_content = await store.save(note("The falcon service is slow at night", title="Night"))
    in_title = await store.save(note("It is slow at night", title="Falcon"))
    hits = await store.search("falcon", Filter(project="shop"), 5)
    assert [hit.id for hit in hits] == [in_title.id, in_content.id]
    assert hits[0].rank < hits[1].rank < 0


async def test_a_whole_prompt_finds_the_row_it_is_about(store) -> None:
    await store.save(note("Invoices are sent by the ledger at noon", title="Ledger"))
    await store.save(note("Cats like boxes", title="Cats"))
    hits = await store.search("Could you tell me when our invoices go out, please?", Filter(project="shop"), 5)
    assert [hit.title for hit in hits] == ["Ledger"]


async def test_tags_are_searched_and_words_are_stemmed(store) -> None:
    saved = await store.save(note("x", tags=("observability", "café")))
    for text in ("observability", "cafe", "observabilities"):
        assert [hit.id for hit in await store.search(text, Filter(project="shop"), 5)] == [saved.id], text


async def test_the_project_and_type_names_do_not_pollute_the_index(store) -> None:
    await store.save(note("words", project="payments", type="discovery"))
    assert await store.search("payments discovery", Filter(), 5) == []


async def test_a_topic_path_is_found_first(store) -> None:
    await store.save(note("deploy strategy of the shop deploy strategy", title="deploy strategy"))
    by_topic = await store.save(note("blue", title="b", topic_key="deploy/strategy/shop"))
    hits = await store.search("deploy/strategy", Filter(project="shop"), 5)
    assert hits[0].id == by_topic.id
    assert hits[0].rank == -1000.0
    assert len({hit.id for hit in hits}) == len(hits)


async def test_global_rows_are_found_from_every_project(store) -> None:
    saved = await store.save(note("Never deploy on Fridays", project="platform", scope="global"))
    await store.save(note("Deploys take an hour", project="platform"))
    assert [hit.id for hit in await store.search("deploy", Filter(project="shop"), 5)] == [saved.id]
    context = await store.context("shop", "", "", 5, None)
    assert [row.id for row in context.recent_observations] == [saved.id]


async def test_search_filters_by_type_and_scope(store) -> None:
    await store.save(note("alpha one"))
    wanted = await store.save(note("alpha two", type="bugfix"))
    assert [hit.id for hit in await store.search("alpha", Filter(project="shop", type="bugfix"), 5)] == [wanted.id]
    assert await store.search("alpha", Filter(project="shop", scope="global"), 5) == []


async def test_the_context_has_matches_first_then_recent_rows(store, clock) -> None:
    match = await store.save(note("The falcon ships on Friday", title="Falcon"))
    for n in range(4):
        clock.advance(1)
        await store.save(note(f"unrelated {n}", title=f"Row {n}"))
    context = await store.context("shop", "", "when does the falcon ship?", 3, None)
    assert [(row.id, row.method) for row in context.recent_observations] == [
        (match.id, "fts5_bm25"),
        (5, "recency"),
        (4, "recency"),
    ]


async def test_the_context_cuts_long_content_and_leaves_audit_out(store) -> None:
    await store.save(note("x" * 1000))
    await store.save(note("ran bash x", type="audit"))
    context = await store.context("shop", "", "x", 5, None)
    assert [row.content for row in context.recent_observations] == ["x" * 300 + "…"]


async def test_the_context_names_the_last_three_sessions_with_a_summary(store, clock) -> None:
    for n in range(5):
        clock.advance(1)
        await store.create_session(NewSession(id=f"s{n}", project="shop"))
        messages = [SessionMessage(role="user", content=f"task {n}")] if n != 3 else []
        await store.end_session(f"s{n}", messages)
    context = await store.context("shop", "", "", 5, None)
    assert [session.id for session in context.recent_sessions] == ["s4", "s2", "s1"]


async def test_a_timeline_keeps_rows_of_the_same_millisecond_in_order(store) -> None:
    ids = [(await store.save(note(f"n{n}"))).id for n in range(7)]
    await store.save(note("elsewhere", project="blog"))
    entries = await store.timeline(ids[3], 2, 2)
    assert [entry.id for entry in entries] == ids[1:6]


async def test_stats_count_live_rows_of_the_project(store) -> None:
    await store.save(note("a"))
    gone = await store.save(note("b"))
    await store.delete(gone.id, hard=False)
    await store.save(note("c", project="blog", session_id="s2"))
    stats = await store.stats("")
    assert (stats.total_sessions, stats.total_observations, stats.projects) == (2, 2, ("blog", "shop"))
    assert (await store.stats("shop")).total_observations == 1


# ---- export and import


async def records_of(store) -> list[dict]:
    return [record async for page in store.export("") for record in page]


async def test_export_wipe_import_gives_an_identical_export(store, tmp_path: Path, clock) -> None:
    await store.create_session(NewSession(id="s1", project="shop"))
    await store.end_session("s1", [SessionMessage(role="user", content="hi")])
    gone = await store.save(note("gone"))
    await store.delete(gone.id, hard=False)
    await store.save(note("kept", tags=("a",), topic_key="t/k"))
    clock.advance(3.5)
    await store.save(note("kept, revised", topic_key="t/k"))
    exported = await records_of(store)
    async with open_store(tmp_path / "other.db", clock) as other:
        first = await other.import_records(exported)
        assert (first.imported_sessions, first.imported_observations) == (1, 1)
        assert await records_of(other) == exported
        again = await other.import_records(exported)
        assert (again.imported_sessions, again.imported_observations, again.skipped) == (0, 0, 2)
        assert await records_of(other) == exported


async def test_an_imported_row_whose_id_is_taken_gets_another(store, tmp_path: Path) -> None:
    await store.save(note("from here"))
    exported = await records_of(store)
    async with open_store(tmp_path / "other.db") as other:
        await other.save(note("already there"))
        assert (await other.import_records(exported)).imported_observations == 1
        assert (await other.stats("")).total_observations == 2


async def test_a_bad_record_is_named_and_nothing_of_its_batch_stays(store) -> None:
    good = {"kind": "session", "id": "x", "project": "shop", "started_at": "2026-01-01T00:00:00Z"}
    with pytest.raises(InvalidRequest, match="record 2: kind"):
        await store.import_records([good, {"kind": "cat"}])
    assert (await store.recent_sessions("", 5)).items == []


# ---- the file


async def test_settings_are_what_was_asked_for(tmp_path: Path) -> None:
    async with Database(tmp_path / "memory.db") as database:
        settings = database.statistics()
    assert (settings["journal_mode"], settings["synchronous"], settings["foreign_keys"], settings["busy_timeout"]) == (
        "wal",
        1,
        1,
        5000,
    )


async def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    async with Database(tmp_path / "memory.db") as database:

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO sessions (id, project, started_at) VALUES ('s', 'p', 1)")
            raise RuntimeError("half way")

        with pytest.raises(RuntimeError, match="half way"):
            await database.write(work)
        assert await database.read(lambda c: c.execute("SELECT count(*) FROM sessions").fetchone()) == (0,)


async def test_readers_cannot_write(tmp_path: Path) -> None:
    async with Database(tmp_path / "memory.db") as database:
        with pytest.raises(Exception, match="readonly"):
            await database.read(lambda c: c.execute("DELETE FROM sessions"))


async def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    async with Database(tmp_path / "memory.db") as database:
        await database.write(lambda c: c.execute("UPDATE schema_version SET version = 999"))
    with pytest.raises(DatabaseUnusable, match="schema version 999"):
        await Database(tmp_path / "memory.db").__aenter__()


async def test_a_file_that_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    path.write_bytes(b"not a database, surely not" * 100)
    with pytest.raises(DatabaseUnusable, match=r"memory\.db"):
        await Database(path).__aenter__()
