"""What every memory store does, whatever database is under it."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from support.memory import HandClock, note, open_postgres_store, open_store

from agentops.api.memory import NewSession, ObservationPatch, SessionMessage
from agentops.memory.errors import Conflict, Forbidden, InvalidRequest, NotFound
from agentops.memory.listing import Filter, decode_cursor
from agentops.memory.retention import Retention

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock):
    if request.param == "sqlite":
        async with open_store(tmp_path / "memory.db", clock) as opened:
            yield opened
        return
    async with open_postgres_store(request.getfixturevalue("postgres"), clock) as opened:
        yield opened


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


async def test_many_writers_at_once_of_the_same_words_make_one_row(store) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(store.save, note("Ship on Friday"))
    rows = (await store.recent_observations(Filter(project="shop"), 30)).items
    assert [row.duplicate_count for row in rows] == [20]


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


# ---- scripts, partial words, more than one word


async def ids(store, text: str, **where) -> list[int]:
    return [hit.id for hit in await store.search(text, Filter(project="shop", **where), 10)]


@pytest.mark.parametrize(
    ("content", "queries"),
    [
        ("我们用蓝绿方式部署商店", ("部署", "蓝绿", "我们如何部署", "商")),
        ("本番環境へのデプロイは金曜日に禁止", ("金曜日", "デプロイ", "環境")),
        ("배포는 금요일에 하지 않는다", ("금요일", "배포")),
        ("Déploiement à Zürich le jeudi", ("deploiement", "ZURICH", "Zürich")),
        ("set max_tokens to 4096 in values.yaml", ("max_tokens", "values.yaml", "tokens", "val")),
        ("k8s集群升级到v1.30", ("k8s集群", "集群", "v1.30")),
        ("email ops@example.com about #42", ("ops@example.com", "#42", "example")),
        ("Строим образ в понедельник", ("образ", "ПОНЕДЕЛЬНИК")),
    ],
)
async def test_words_of_any_script_are_found(store, content: str, queries: tuple[str, ...]) -> None:
    await store.save(note("Something else entirely", title="Other"))
    saved = await store.save(note(content, title="t"))
    for text in queries:
        assert await ids(store, text) == [saved.id], text


async def test_text_without_spaces_is_found_in_titles_and_tags_and_after_a_change(store) -> None:
    saved = await store.save(note("x", title="部署策略", tags=("蓝绿",)))
    assert await ids(store, "策略") == await ids(store, "蓝绿") == [saved.id]
    await store.patch(saved.id, ObservationPatch(title="回滚", tags=("金丝雀",)))
    assert await ids(store, "策略") == await ids(store, "蓝绿") == []
    assert await ids(store, "回滚") == await ids(store, "金丝雀") == [saved.id]


async def test_a_row_with_one_word_of_a_long_question_gives_way_to_one_with_several(store) -> None:
    await store.save(note("The checkout of the hotel is at noon", title="Hotel"))
    wanted = await store.save(note("Deploy the checkout service to staging first", title="Rollout"))
    question = "Where should I deploy the checkout service before production?"
    assert await ids(store, question) == [wanted.id]


async def test_a_row_with_one_word_of_a_long_question_is_shown_when_no_row_has_more(store) -> None:
    only = await store.save(note("The checkout of the hotel is at noon", title="Hotel"))
    assert await ids(store, "Where should I deploy the checkout service before production?") == [only.id]


# ---- filters and pages


async def test_rows_are_filtered_by_all_tags_and_by_when_they_were_made(store, clock) -> None:
    both = await store.save(note("alpha one", tags=("red", "blue")))
    clock.advance(60)
    await store.save(note("alpha two", tags=("red",)))
    middle = round((clock.now().timestamp() - 30) * 1000)
    assert await ids(store, "alpha", tags=("red", "blue")) == [both.id]
    assert await ids(store, "alpha", until_ms=middle) == [both.id]
    assert len((await store.recent_observations(Filter(tags=("red",)), 10)).items) == 2
    assert [row.content for row in (await store.recent_observations(Filter(since_ms=middle), 10)).items] == [
        "alpha two"
    ]
    assert await ids(store, "alpha", tags=("re",)) == []


async def test_pages_hold_every_row_once_though_rows_are_added_between_them(store) -> None:
    made = [(await store.save(note(f"row {n}"))).id for n in range(7)]
    seen, after = [], None
    while True:
        page = await store.recent_observations(Filter(project="shop"), 3, after)
        seen += [row.id for row in page.items]
        await store.save(note(f"late {len(seen)}"))
        if (after := page.after) is None:
            break
    assert seen == made[::-1]


async def test_sessions_have_pages_too(store) -> None:
    for n in range(5):
        await store.create_session(NewSession(id=f"s{n}", project="shop"))
    first = await store.recent_sessions("shop", 3)
    rest = await store.recent_sessions("shop", 3, first.after)
    assert [s.id for s in [*first.items, *rest.items]] == ["s4", "s3", "s2", "s1", "s0"]
    assert rest.after is None


# ---- history, trash, records


async def test_what_a_row_was_before_is_kept_newest_first(store, clock) -> None:
    saved = await store.save(note("one", topic_key="t"))
    clock.advance(1)
    await store.save(note("two", topic_key="t", title="Two"))
    await store.patch(saved.id, ObservationPatch(content="three"))
    history = await store.revisions(saved.id)
    assert [(r.revision, r.title, r.content) for r in history] == [(2, "Two", "two"), (1, "Deploy strategy", "one")]
    assert history[0].replaced_at == clock.now()


async def test_only_the_last_fifty_versions_are_kept(store) -> None:
    for n in range(53):
        saved = await store.save(note(f"version {n}", topic_key="t"))
    history = await store.revisions(saved.id)
    assert [r.revision for r in history] == list(range(52, 2, -1))


async def test_a_deleted_row_is_in_the_trash_and_comes_back_findable(store) -> None:
    saved = await store.save(note("canary words"))
    await store.delete(saved.id, hard=False)
    assert [row.observation.id for row in (await store.trash("shop", 5)).items] == [saved.id]
    assert (await store.trash("blog", 5)).items == []
    assert (await store.restore(saved.id)).content == "canary words"
    assert await ids(store, "canary") == [saved.id]
    assert (await store.trash("shop", 5)).items == []


async def test_restoring_a_row_whose_topic_is_taken_says_so(store) -> None:
    old = await store.save(note("old", topic_key="a/b"))
    await store.delete(old.id, hard=False)
    new = await store.save(note("new", topic_key="a/b"))
    with pytest.raises(Conflict, match="'a/b'"):
        await store.restore(old.id)
    await store.delete(new.id, hard=True)
    assert (await store.restore(old.id)).content == "old"


async def test_an_audit_record_cannot_be_changed_or_deleted(store) -> None:
    saved = await store.save(note("ran rm", type="audit"))
    for attempt in (
        store.patch(saved.id, ObservationPatch(content="ran nothing")),
        store.delete(saved.id, hard=False),
        store.delete(saved.id, hard=True),
    ):
        with pytest.raises(Conflict, match="audit, a record"):
            await attempt
    assert (await store.observation(saved.id)).content == "ran rm"


# ---- projects


async def test_a_reader_neither_sees_nor_changes_another_projects_rows(store) -> None:
    await store.create_session(NewSession(id="s1", project="shop"))
    mine = await store.save(note("mine"))
    for attempt in (
        store.observation(mine.id, "blog"),
        store.revisions(mine.id, "blog"),
        store.patch(mine.id, ObservationPatch(title="x"), "blog"),
        store.timeline(mine.id, 1, 1, "blog"),
        store.restore(mine.id, "blog"),
        store.end_session("s1", [], "blog"),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert not await store.delete(mine.id, hard=True, reader="blog")
    assert (await store.observation(mine.id, "shop")).title == "Deploy strategy"


async def test_a_global_row_is_read_but_not_changed_from_another_project(store) -> None:
    shared = await store.save(note("for all", scope="global"))
    secret = await store.save(note("for us"))
    assert (await store.observation(shared.id, "blog")).content == "for all"
    assert secret.id not in [entry.id for entry in await store.timeline(shared.id, 3, 3, "blog")]
    with pytest.raises(NotFound):
        await store.patch(shared.id, ObservationPatch(title="x"), "blog")


async def test_a_session_of_another_project_cannot_be_taken(store) -> None:
    await store.create_session(NewSession(id="s1", project="shop"))
    with pytest.raises(Conflict, match="'s1' is taken"):
        await store.create_session(NewSession(id="s1", project="blog"), "blog")
    with pytest.raises(Conflict, match="'s1' is taken"):
        await store.save(note(project="blog"), "blog")
    assert (await store.stats("blog")).total_observations == 0


async def test_an_import_for_one_project_refuses_rows_of_another(store) -> None:
    row = {"kind": "session", "id": "x", "project": "Shop", "started_at": "2026-01-01T00:00:00Z"}
    with pytest.raises(Forbidden, match=r"record 1: .*'shop'"):
        await store.import_records([row], "blog")
    assert (await store.import_records([row], "shop")).imported_sessions == 1


# ---- retention

DAY_S = 86_400


async def test_rows_not_used_for_their_types_age_go_to_the_trash(store, clock) -> None:
    for type in ("decision", "discovery", "audit"):
        await store.save(note(f"old {type}", type=type))
    clock.advance(20 * DAY_S)
    await store.save(note("young", type="discovery"))
    done = await store.prune(Retention(age_s={"*": 10 * DAY_S, "decision": 30 * DAY_S}), "")
    assert (done.expired, done.purged) == (1, 0)
    left = (await store.recent_observations(Filter(), 10)).items
    assert sorted(row.content for row in left) == ["old audit", "old decision", "young"]
    assert [row.observation.content for row in (await store.trash("shop", 5)).items] == ["old discovery"]


async def test_a_row_said_again_is_young_again(store, clock) -> None:
    await store.save(note("kept", topic_key="t"))
    clock.advance(9 * DAY_S)
    await store.save(note("kept", topic_key="t"))
    clock.advance(9 * DAY_S)
    assert (await store.prune(Retention(age_s={"*": 10 * DAY_S}), "")).expired == 0


async def test_a_restored_row_is_young_again(store, clock) -> None:
    policy = Retention(age_s={"*": 10 * DAY_S})
    saved = await store.save(note("kept"))
    clock.advance(11 * DAY_S)
    assert (await store.prune(policy, "")).expired == 1
    await store.restore(saved.id)
    assert (await store.prune(policy, "")).expired == 0


async def test_audit_records_go_when_their_own_type_has_an_age(store, clock) -> None:
    await store.save(note("x", type="audit"))
    clock.advance(2 * DAY_S)
    assert (await store.prune(Retention(age_s={"audit": DAY_S}), "")).expired == 1


async def test_the_longest_unused_rows_beyond_a_projects_number_go(store, clock) -> None:
    for n in range(4):
        await store.save(note(f"row {n}"))
        clock.advance(1)
    await store.save(note("elsewhere", project="blog"))
    assert (await store.prune(Retention(most=2), "blog")).over_limit == 0
    assert (await store.prune(Retention(most=2), "")).over_limit == 2
    left = (await store.recent_observations(Filter(project="shop"), 10)).items
    assert [row.content for row in left] == ["row 3", "row 2"]


async def test_the_trash_is_emptied_after_its_time(store, clock) -> None:
    saved = await store.save(note("x", topic_key="t"))
    await store.save(note("y", topic_key="t"))
    await store.delete(saved.id, hard=False)
    clock.advance(2 * DAY_S)
    assert (await store.prune(Retention(trash_s=3 * DAY_S), "")).purged == 0
    assert (await store.prune(Retention(trash_s=DAY_S), "")).purged == 1
    with pytest.raises(NotFound):
        await store.restore(saved.id)


# ---- hostile rows of an import

GOOD_ROW = {"kind": "observation", "id": 1, "uuid": "u", "session_id": "s", "type": "t"}
GOOD_ROW |= {"title": "t", "content": "c", "project": "p"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"id": 2**63}, "id"),
        ({"id": 2**63 - 1}, "id"),
        ({"id": 0}, "id"),
        ({"revision_count": 2**63 - 1}, "revision_count"),
        ({"id": -1}, "id"),
        ({"revision_count": 2**70}, "revision_count"),
        ({"title": "x" * 501}, "title"),
        ({"content": "a\x00b"}, "content"),
        ({"tags": ["x"] * 21}, "tags"),
        ({"tags": "x"}, "tags"),
        ({"project": " "}, "project"),
        ({"created_at": "2026-01-01"}, "created_at"),
        ({"created_at": "0001-01-01T00:00:00+14:00"}, "created_at"),
        ({"created_at": 5}, "created_at"),
        ({"uuid": "x" * 200}, "uuid"),
        ({"uuid": 7}, "uuid"),
        ({"content": None}, "content"),
        ({"kind": []}, "kind"),
        ({"summary": "x" * 3000, "kind": "session", "id": "s", "started_at": "2026-01-01T00:00:00Z"}, "summary"),
    ],
)
async def test_a_hostile_record_is_refused_by_its_field(store, change: dict, named: str) -> None:
    with pytest.raises(InvalidRequest, match=f"record 7: .*{named}"):
        await store.import_records([GOOD_ROW | change], first=7)
    assert (await store.stats("")).total_sessions == 0


async def test_there_are_ids_and_revisions_left_after_the_largest_numbers_of_an_import(store) -> None:
    most = 2**52
    await store.import_records([GOOD_ROW | {"id": most, "revision_count": most, "topic_key": "a/b"}])
    assert (await store.save(note(project="p", topic_key="a/b"))).revision_count == most + 1
    assert (await store.save(note("another"))).id == most + 1


async def test_imported_rows_from_before_1970_are_paged_too(store) -> None:
    rows = [GOOD_ROW | {"id": n, "uuid": f"u{n}", "created_at": f"196{n}-01-01T00:00:00Z"} for n in range(1, 4)]
    await store.import_records(rows)
    first = await store.recent_observations(Filter(), 1)
    rest = await store.recent_observations(Filter(), 5, decode_cursor(first.after.encode()))
    assert [row.id for row in [*first.items, *rest.items]] == [3, 2, 1]


async def test_null_in_a_record_is_as_good_as_nothing(store) -> None:
    """As Go writes an empty list."""
    await store.import_records([GOOD_ROW | {"tags": None, "uuid": None, "topic_key": None, "scope": None}])
    assert (await store.observation(1)).tags == ()
