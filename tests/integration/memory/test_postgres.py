"""The PostgreSQL server under the memory store: its schema and its failures."""

from __future__ import annotations

import anyio
import pytest
from support.memory import note, open_postgres_store

from agentops.memory.errors import DatabaseUnusable, StoreUnavailable
from agentops.memory.listing import Filter

pytestmark = pytest.mark.anyio


async def test_a_schema_of_a_newer_version_is_refused(postgres: str) -> None:
    from agentops.memory.postgres import Postgres

    async with open_postgres_store(postgres) as store:
        await store._db.write(lambda c: c.execute("UPDATE schema_version SET version = 999"))
    with pytest.raises(DatabaseUnusable, match="schema version 999"):
        await Postgres(postgres).__aenter__()
    async with open_postgres_store(postgres):
        """A sound schema for whoever comes next."""


async def test_several_processes_that_start_at_once_all_start(postgres: str) -> None:
    from agentops.memory.postgres import SCHEMA, Postgres

    async with open_postgres_store(postgres) as store:
        await store._db.write(lambda c: c.execute(f"DROP SCHEMA {SCHEMA} CASCADE"))

    async def one() -> None:
        async with Postgres(postgres) as database:
            await database.probe()

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(one)


async def test_a_server_that_ends_its_connections_is_reached_again(postgres: str) -> None:
    async with open_postgres_store(postgres) as store:
        saved = await store.save(note("before"))
        mine = "pid <> pg_backend_pid() AND datname = current_database()"
        ended = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}"
        await store._db.write(lambda c: c.execute(ended))
        assert (await store.observation(saved.id)).content == "before"


async def test_a_read_only_server_is_unavailable_until_it_is_not(postgres: str) -> None:
    async with open_postgres_store(postgres) as store:
        await store.save(note("before"))

        async def read_only(value: str) -> None:
            async with store._db._pool.acquire() as connection:
                await connection.execute(f"ALTER ROLE CURRENT_USER SET default_transaction_read_only = {value}")
            await store._db._pool.expire_connections()

        await read_only("on")
        try:
            with pytest.raises(StoreUnavailable, match="read-only"):
                await store.save(note("after"))
            assert "read-only" in store.trouble()
            assert len(await store.search("before", Filter(), 5)) == 1
            assert "read-only" in store.trouble(), "reading does not say that writing works"
        finally:
            async with store._db._pool.acquire() as connection:
                await connection.execute("SET default_transaction_read_only = off")
                await connection.execute("ALTER ROLE CURRENT_USER RESET default_transaction_read_only")
            await store._db._pool.expire_connections()
        await store.probe()
        assert store.trouble() is None
        assert (await store.save(note("after"))).action == "created"


async def test_an_imported_row_whose_id_is_taken_gets_one_that_no_row_of_the_import_has(postgres: str) -> None:
    async with open_postgres_store(postgres) as store:
        await store.save(note("here before"))
        row = {"kind": "observation", "session_id": "s", "type": "t", "title": "t", "project": "shop"}
        rows = [row | {"id": n, "uuid": f"u{n}", "content": f"c{n}"} for n in (5, 4, 3, 2, 1)]
        done = await store.import_records(rows)
        assert (done.imported_observations, done.skipped) == (5, 0)
        assert (await store.stats("")).total_observations == 6
        assert (await store.save(note("here after"))).action == "created"


async def test_writers_that_meet_an_import_of_the_same_ids_and_topics_wait_for_it(postgres: str) -> None:
    async with open_postgres_store(postgres) as store:
        row = {"kind": "observation", "session_id": "s", "type": "t", "title": "t", "project": "shop"}
        rows = [row | {"id": n, "uuid": f"u{n}", "content": f"c{n}", "topic_key": f"t{n}"} for n in range(1, 301)]
        saved = []

        async def save(number: int) -> None:
            saved.append(await store.save(note(f"row {number}", topic_key=f"t{number * 10}")))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.import_records, rows)
            for number in range(1, 31):
                tasks.start_soon(save, number)
        assert len(saved) == 30
        assert (await store.stats("")).total_observations == 300
