from __future__ import annotations

import anyio
import pytest

from agentops.runtime.events import Encoded, EventLog, pack, unpack

pytestmark = pytest.mark.anyio


def event(seq: int) -> Encoded:
    return Encoded(seq, "text_delta", b'{"type":"text_delta","seq":%d}' % seq)


async def collect(log: EventLog, after: int | None = 0) -> list[int]:
    return [item.seq async for item in log.follow(after)]


async def test_a_follower_gets_what_was_and_what_comes() -> None:
    log = EventLog(100)
    log.append(event(1))
    found: list[int] = []

    async def follow() -> None:
        found.extend(await collect(log))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        log.append(event(2))
        log.append(event(3))
        log.close()
    assert found == [1, 2, 3]


async def test_replay_starts_after_the_number_also_across_gaps() -> None:
    log = EventLog(100)
    for seq in (10, 11, 15, 20):
        log.append(event(seq))
    log.close()
    assert await collect(log, 11) == [15, 20]
    assert await collect(log, 12) == [15, 20]
    assert await collect(log, 0) == [10, 11, 15, 20]
    assert await collect(log, 99) == []
    assert await collect(log, None) == []


async def test_only_the_newest_are_kept_and_a_slow_reader_skips() -> None:
    log = EventLog(10)
    reader = log.reader(0)
    log.append(event(1))
    assert [item.seq for item in reader.take()] == [1]
    for seq in range(2, 102):
        log.append(event(seq))
    taken = [item.seq for item in reader.take()]
    assert taken[-1] == 101
    assert 10 <= len(taken) <= 20
    assert not reader.ended
    log.close()
    assert reader.ended


async def test_packed_events_come_back() -> None:
    events = [event(1), event(2)]
    assert unpack(pack(events)) == events
