"""What the store holds after its process died at any moment."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import attrs
import pytest

from agentops.api.runs import RunRecord, RunState
from agentops.runtime.events import Encoded
from agentops.runtime.messages import assistant, user
from agentops.runtime.store import Store, StoredRun
from agentops.values.clock import SystemClock

pytestmark = pytest.mark.anyio

TURNS = 12


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the store works in threads, which virtual time does not wait for


async def turn(store: Store, number: int) -> None:
    record = RunRecord(name=f"run-{number}")
    await store.begin(StoredRun(record, "", "digest"))
    await store.finish(
        attrs.evolve(record, state=RunState.SUCCEEDED),
        events=[Encoded(number, "session_idle", b'{"type":"session_idle","seq":%d}' % number)],
        drop=0,
        messages=[user(f"question {number}"), assistant(f"answer {number} " + "x" * 500)],
        next_seq=number + 1,
    )


async def test_a_log_torn_at_any_byte_holds_the_turns_before_and_nothing_else(tmp_path: Path) -> None:
    """The write-ahead log is what a killed process, or a machine without power, leaves half written."""
    source, torn = tmp_path / "source", tmp_path / "torn"
    source.mkdir()
    async with Store(source / "runtime.db", SystemClock()) as store:
        await store.recover("sre")
        for number in range(TURNS):
            await turn(store, number)
        shutil.copytree(source, torn)  # as it is while the process lives: nothing was moved into the database
    log = (torn / "runtime.db-wal").read_bytes()
    database = (torn / "runtime.db").read_bytes()
    lengths = random.Random(7).sample(range(len(log)), 60)
    seen: set[int] = set()
    for index, length in enumerate([0, 31, 32, 33, *lengths, len(log)]):
        case = tmp_path / str(index)
        case.mkdir()
        (case / "runtime.db").write_bytes(database)
        (case / "runtime.db-wal").write_bytes(log[:length])
        async with Store(case / "runtime.db", SystemClock()) as store:
            restored = await store.recover("sre")
            found = len(restored.messages) // 2
            expected = [text for n in range(found) for text in (f"question {n}", f"answer {n} " + "x" * 500)]
            assert [message.text for message in restored.messages] == expected
            assert restored.turns == found
            for number in range(found):
                kept = await store.get(f"run-{number}")
                assert kept is not None
                assert kept.record.state == RunState.SUCCEEDED
            assert set(restored.lost) <= {f"run-{found}"}, "begun, and never finished"
        seen.add(found)
        shutil.rmtree(case)
    assert seen >= {0, TURNS}
    assert len(seen) > TURNS // 2


async def test_a_store_of_an_earlier_version_is_brought_up(tmp_path: Path) -> None:
    async with Store(tmp_path / "runtime.db", SystemClock()) as store:
        await store.recover("sre")
        await turn(store, 0)
    with closing(sqlite3.connect(tmp_path / "runtime.db")) as db:
        db.executescript("DROP TABLE outbox; PRAGMA user_version=1;")
    async with Store(tmp_path / "runtime.db", SystemClock()) as store:
        assert len((await store.recover("sre")).messages) == 2
        number = await store.outbox_add(b"{}")
        assert await store.outbox() == [(number, b"{}")]
        await store.outbox_remove(number)
        assert await store.outbox() == []
