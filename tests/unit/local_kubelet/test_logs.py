"""Container logs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from agentops.local.kubelet.logs import LogWriter, decode, parse_nano, read_log, rotated
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio


async def collect(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def read(writer: LogWriter, **options: object) -> bytes:
    return await collect(read_log(writer.path, lambda: writer, **options))


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[LogWriter]:
    writer = LogWriter(tmp_path / "0.log", LoopClock())
    yield writer
    writer.close()


async def test_lines_are_kept_in_the_cri_format(writer: LogWriter) -> None:
    writer.write("stdout", b"hello\nwor")
    writer.write("stderr", b"oops\n")
    writer.write("stdout", b"ld\n")
    lines = writer.path.read_bytes().splitlines()
    assert [line.split(b" ", 1)[1] for line in lines] == [b"stdout F hello", b"stderr F oops", b"stdout F world"]
    assert lines[0].startswith(b"2026-01-01T")
    assert lines[0].split(b" ")[0].endswith(b"000Z")


async def test_what_was_printed_comes_back_byte_for_byte_also_without_a_last_newline(writer: LogWriter) -> None:
    text = b"a\n\n" + b"x" * 40_000 + b"\nlast"
    writer.write("stdout", text)
    writer.close()
    assert await read(writer) == text


async def test_tail_counts_whole_lines_even_long_ones(writer: LogWriter) -> None:
    writer.write("stdout", b"one\n" + b"y" * 40_000 + b"\nthree\n")
    assert await read(writer, tail_lines=2) == b"y" * 40_000 + b"\nthree\n"
    assert await read(writer, tail_lines=0) == b""


async def test_since_leaves_older_lines_out(writer: LogWriter) -> None:
    writer.write("stdout", b"old\n")
    await anyio.sleep(60)
    writer.write("stdout", b"new\n")
    start = LoopClock().now() - timedelta(seconds=30)
    assert await read(writer, start=start) == b"new\n"


async def test_timestamps_stand_before_each_line(writer: LogWriter) -> None:
    writer.write("stdout", b"a\nb\n")
    lines = (await read(writer, timestamps=True)).splitlines()
    assert [line.split(b" ")[1] for line in lines] == [b"a", b"b"]
    assert parse_nano(lines[0].split(b" ")[0].decode()).year == 2026


async def test_limit_bytes_cuts_at_the_byte(writer: LogWriter) -> None:
    writer.write("stdout", b"abcdef\nghi\n")
    assert await read(writer, limit_bytes=9) == b"abcdef\ngh"


async def test_following_gives_what_comes_and_ends_with_the_container(writer: LogWriter) -> None:
    writer.write("stdout", b"one\n")
    found: list[bytes] = []

    async def follow() -> None:
        async for chunk in read_log(writer.path, lambda: writer, follow=True):
            found.append(chunk)  # noqa: PERF401 - seen while it goes on

    async with anyio.create_task_group() as tg:
        tg.start_soon(follow)
        await anyio.sleep(1)
        writer.write("stdout", b"two\n")
        await anyio.sleep(1)
        assert found == [b"one\n", b"two\n"]
        writer.close()
    assert b"".join(found) == b"one\ntwo\n"


async def test_following_goes_on_across_a_rotation(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "0.log", LoopClock(), max_bytes=2000)
    found: list[bytes] = []

    async def follow() -> None:
        async for chunk in read_log(writer.path, lambda: writer, follow=True, tail_lines=0):
            found.append(chunk)  # noqa: PERF401 - seen while it goes on

    async with anyio.create_task_group() as tg:
        tg.start_soon(follow)
        for index in range(200):
            await anyio.sleep(0.001)
            writer.write("stdout", b"%d\n" % index)
        writer.close()
    assert rotated(writer.path)
    assert b"".join(found) == b"".join(b"%d\n" % index for index in range(200))


async def test_old_rotations_are_dropped(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "0.log", LoopClock(), max_bytes=100)
    for _ in range(50):
        await anyio.sleep(1)
        writer.write("stdout", b"z" * 40 + b"\n")
    writer.close()
    assert len(rotated(writer.path)) == 4
    assert (await read(writer)).count(b"z" * 40) < 50


async def test_the_log_of_a_run_that_is_over_ends_a_follower_at_once(writer: LogWriter) -> None:
    writer.write("stdout", b"x\n")
    writer.close()
    with anyio.fail_after(1):
        assert await read(writer, follow=True) == b"x\n"


async def test_a_damaged_line_is_passed_over() -> None:
    assert decode(b"not a log line") is None
    assert decode(b"yesterday stdout F x") is None
    entry = decode(b"2026-11-21T04:51:00.123456789Z stdout F a b ")
    assert entry is not None
    assert entry.text == b"a b \n"
    assert entry.time == datetime(2026, 11, 21, 4, 51, 0, 123456, tzinfo=UTC)


async def test_a_tail_is_found_across_rotations_without_reading_the_rest(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "0.log", LoopClock(), max_bytes=2000)
    for index in range(200):
        await anyio.sleep(0.001)
        writer.write("stdout", b"%d\n" % index)
    oldest = rotated(writer.path)[0]
    oldest.write_bytes(b"damaged\n" * 100)
    assert await read(writer, tail_lines=60) == b"".join(b"%d\n" % index for index in range(140, 200))
    writer.close()


async def test_reading_without_following_ends_where_the_log_ended(writer: LogWriter) -> None:
    writer.write("stdout", b"x\n" * 50_000)
    found = 0
    async for chunk in read_log(writer.path, lambda: writer):
        found += chunk.count(b"x")
        writer.write("stdout", b"x\n" * 50_000)
        assert found <= 50_000, "a program that prints without pause would never let its log end"
    assert found == 50_000


async def test_a_reader_slower_than_the_rotations_loses_nothing_that_is_kept(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "0.log", LoopClock(), max_bytes=2000)
    reader = read_log(writer.path, lambda: writer, follow=True)
    writer.write("stdout", b"first\n")
    found = [await anext(reader)]
    for index in range(150):
        await anyio.sleep(0.001)
        writer.write("stdout", b"%d\n" % index)
    assert len(rotated(writer.path)) > 2
    writer.close()
    found += [chunk async for chunk in reader]
    assert b"".join(found) == b"first\n" + b"".join(b"%d\n" % index for index in range(150))


async def test_long_logs_leave_the_loop_to_others(writer: LogWriter) -> None:
    writer.write("stdout", b"x\n" * 200_000)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tg:
        tg.start_soon(others)
        assert await read(writer, start=LoopClock().now() + timedelta(hours=1)) == b""
        tg.cancel_scope.cancel()
    assert turns > 50
