from __future__ import annotations

import anyio
import pytest

from agentops.runtime.events import Encoded, EventLog, pack, unpack
from agentops.runtime.sse import AT_ONCE, event_stream

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


async def test_a_client_that_reads_too_slowly_is_told_so_and_let_go() -> None:
    log = EventLog(10)
    for seq in range(1, 6):
        log.append(event(seq))
    frames = event_stream(log, 0).body_iterator
    assert await anext(frames) == b": connected\n\n"
    assert (await anext(frames)).startswith(b"id: 1\n")
    for seq in range(6, 100):  # the client does not come back for a while; nobody waits for it
        log.append(event(seq))
    rest = [frame async for frame in frames]
    assert len(rest) == 1
    assert b"read too slowly; the stream ends here" in rest[0]


async def test_a_long_log_is_sent_in_pieces() -> None:
    log = EventLog(10_000)
    for seq in range(1, 2 * AT_ONCE + 2):
        log.append(event(seq))
    log.close()
    frames = [frame async for frame in event_stream(log, 0).body_iterator]
    assert [frame.count(b"id: ") for frame in frames] == [0, AT_ONCE, AT_ONCE, 1]


async def test_large_events_leave_earlier_than_small_ones() -> None:
    """A prompt of megabytes is an event too."""
    log = EventLog(1000, most_bytes=10_000)
    for seq in range(1, 101):
        log.append(Encoded(seq, "agent_start", bytes(1000)))
    kept = [item.seq for item in log.events]
    assert kept[-1] == 100
    assert 7 <= len(kept) <= 10
    log.append(Encoded(101, "agent_start", bytes(50_000)))
    assert [item.seq for item in log.events] == [101], "the newest stays whatever its size"
    log.close()
    assert await collect(log, 50) == [101]
