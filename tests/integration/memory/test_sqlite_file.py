"""The SQLite file under the memory store: its index, settings, migrations and failures."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import anyio
import pytest
from support.memory import HandClock, note, open_store

from agentops.memory.database import Database
from agentops.memory.errors import DatabaseUnusable, StoreUnavailable
from agentops.memory.listing import Filter
from agentops.memory.maintenance import snapshot
from agentops.memory.schema import MIGRATIONS
from agentops.memory.sqlite_store import SqliteStore

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path):
    async with open_store(tmp_path / "memory.db") as opened:
        yield opened


def check_index(path: Path) -> None:
    """Raises when the full-text index disagrees with the live rows."""
    connection = sqlite3.connect(path)
    try:
        connection.execute("INSERT INTO observations_fts (observations_fts, rank) VALUES ('integrity-check', 1)")
    finally:
        connection.close()


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


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT max(i) FROM n"
SHORT = "INSERT INTO sessions (id, project, started_at) VALUES (hex(randomblob(9)), 'p', 1)"


@pytest.mark.parametrize("statement", [ENDLESS, SHORT], ids=["one endless statement", "endless short ones"])
async def test_closing_ends_a_write_that_its_server_has_cancelled(tmp_path: Path, monkeypatch, statement: str) -> None:
    """As uvicorn does with a request that is still there when the grace period ends; the thread hears nothing of it."""
    monkeypatch.setattr("agentops.memory.database.CLOSE_PATIENCE_S", 0.05)
    begun, ended = threading.Event(), threading.Event()
    outcome: list[BaseException] = []

    def endless(connection: sqlite3.Connection) -> None:
        begun.set()
        try:
            while True:
                connection.execute(statement).fetchall()
        except BaseException as error:
            outcome.append(error)
            raise
        finally:
            ended.set()

    database = Database(tmp_path / "memory.db")
    async with database:
        request = asyncio.ensure_future(database.write(endless))
        await anyio.to_thread.run_sync(begun.wait)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    assert ended.is_set()
    assert [str(error) for error in outcome] == ["interrupted"]
    async with open_store(tmp_path / "memory.db") as store:
        assert (await store.stats("")).total_sessions == 0


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


async def test_a_damaged_file_is_to_be_restored(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    async with open_store(path) as store:
        for n in range(50):
            await store.save(note(f"row {n} " + "x" * 4000))
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * 65536 + whole[4096 + 65536 :])
    with pytest.raises(DatabaseUnusable, match=r"memory\.db cannot be opened: .*restore a snapshot or an export"):
        await Database(path).__aenter__()


async def version_1(path: Path) -> None:
    """A file as the first release left it: one row in two scripts, one deleted."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
    connection.execute("INSERT INTO schema_version VALUES (1)")
    MIGRATIONS[0](connection)
    connection.execute("INSERT INTO sessions (id, project, started_at) VALUES ('s', 'shop', 1)")
    for number, gone in ((1, None), (2, 5)):
        connection.execute(
            "INSERT INTO observations (uuid, session_id, type, title, content, tags, project, normalized_hash, "
            "last_seen_at, created_at, updated_at, deleted_at) "
            """VALUES (?, 's', 'decision', 'Deploys', '蓝绿部署 zebra', '["发布"]', 'shop', 'h', 1, 1, 1, ?)""",
            (f"u{number}", gone),
        )
    connection.close()


async def test_a_file_of_the_first_version_is_brought_up_with_its_rows_findable(tmp_path: Path) -> None:
    await version_1(tmp_path / "memory.db")
    async with open_store(tmp_path / "memory.db") as store:
        for text in ("zebra", "部署", "发布", "deploys"):
            assert [hit.id for hit in await store.search(text, Filter(), 5)] == [1], text
        assert (await store.observation(1)).tags == ("发布",)
        assert [row.observation.id for row in (await store.trash("", 5)).items] == [2]
    check_index(tmp_path / "memory.db")


async def test_a_migration_that_dies_half_way_is_done_at_the_next_start(tmp_path: Path, monkeypatch) -> None:
    await version_1(tmp_path / "memory.db")

    def dying(connection: sqlite3.Connection) -> None:
        MIGRATIONS[1](connection)
        raise OSError("the node went away")

    monkeypatch.setattr("agentops.memory.database.MIGRATIONS", (MIGRATIONS[0], dying))
    with pytest.raises(DatabaseUnusable, match="the node went away"):
        await Database(tmp_path / "memory.db").__aenter__()
    monkeypatch.undo()
    async with open_store(tmp_path / "memory.db") as store:
        assert [hit.id for hit in await store.search("部署", Filter(), 5)] == [1]


async def test_two_processes_that_start_at_once_both_start(tmp_path: Path) -> None:
    async def one() -> None:
        async with open_store(tmp_path / "memory.db") as store:
            await store.save(note())

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(one)


def disk_full(connection: sqlite3.Connection) -> None:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")


async def test_a_full_disk_is_unavailable_until_there_is_room(tmp_path: Path) -> None:
    async with Database(tmp_path / "memory.db") as database:
        store = SqliteStore(database)
        await store.save(note("before"))
        disk_full(database._writer)
        with pytest.raises(StoreUnavailable, match="disk is full"):
            await store.save(note("x" * 40_000))
        assert "disk is full" in store.trouble()
        assert [hit.title for hit in await store.search("before", Filter(), 1)] == ["Deploy strategy"]
        with pytest.raises(StoreUnavailable):
            await store.probe()
        database._writer.execute("PRAGMA max_page_count = 100000")
        await store.probe()
        assert store.trouble() is None
        await store.save(note("after"))


async def test_the_write_ahead_log_is_emptied_though_somebody_always_reads(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("agentops.memory.database.MAX_WAL_BYTES", 200_000)
    path = tmp_path / "memory.db"
    async with Database(path) as database:
        store = SqliteStore(database)
        done = anyio.Event()

        async def reader() -> None:
            while not done.is_set():
                await store.search("words", Filter(), 5)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(reader)
            for n in range(60):
                await store.save(note(f"words {n} " + "x" * 20_000))
            done.set()
        assert path.with_name("memory.db-wal").stat().st_size < 400_000


async def test_a_snapshot_is_a_whole_database_made_while_others_write(tmp_path: Path) -> None:
    async with open_store(tmp_path / "memory.db") as store:
        await store.save(note("kept words"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store._db.snapshot, tmp_path / "copy.db")
            for n in range(10):
                await store.save(note(f"row {n}"))
    async with open_store(tmp_path / "copy.db") as copy:
        assert len(await copy.search("kept words", Filter(), 5)) == 1
    assert not (tmp_path / "copy.db.part").exists()


async def test_one_snapshot_a_day_is_made_and_the_newest_stay(tmp_path: Path) -> None:
    clock, directory = HandClock(), tmp_path / "snapshots"
    directory.mkdir()
    async with Database(tmp_path / "memory.db") as database:
        for _ in range(8):
            await snapshot(database, directory, 2, clock)
            clock.advance(12 * 3600)
        with pytest.raises(StoreUnavailable, match="--snapshot-dir"):
            await snapshot(database, tmp_path / "nowhere", 2, clock)
    assert sorted(file.name for file in directory.iterdir()) == ["memory-20261124.db", "memory-20261125.db"]


async def test_vacuum_gives_back_what_deleted_rows_took(tmp_path: Path) -> None:
    async with open_store(tmp_path / "memory.db") as store:
        rows = [await store.save(note(f"{n} " + "x" * 40_000)) for n in range(20)]
        for row in rows:
            await store.delete(row.id, hard=True)
        before, after = await store.vacuum()
        assert after < before
        assert (await store.save(note("still works"))).action == "created"
