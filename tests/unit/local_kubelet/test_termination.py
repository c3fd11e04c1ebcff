"""The last words of a container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentops.local.kubelet.logs import LogWriter
from agentops.local.kubelet.termination import termination_message
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio

FALLBACK = {"terminationMessagePolicy": "FallbackToLogsOnError"}


@pytest.fixture
async def log(tmp_path: Path) -> Path:
    writer = LogWriter(tmp_path / "0.log", LoopClock())
    writer.write("stdout", b"".join(b"line %d\n" % number for number in range(100_000)))
    writer.close()
    return writer.path


async def test_the_termination_log_is_cut_at_4096_bytes(tmp_path: Path, log: Path) -> None:
    file = tmp_path / "message"
    file.write_bytes(b"m" * 5000)
    assert termination_message({}, log, file, 0) == "m" * 4096


async def test_an_empty_one_falls_back_to_the_last_80_lines(tmp_path: Path, log: Path) -> None:
    file = tmp_path / "message"
    file.touch()
    assert termination_message({}, log, file, 1) == ""
    assert termination_message(FALLBACK, log, file, 0) == ""
    told = termination_message(FALLBACK, log, file, 1)
    assert told == "".join(f"line {number}\n" for number in range(99_920, 100_000))


async def test_a_link_in_its_place_is_not_followed(tmp_path: Path, log: Path) -> None:
    (tmp_path / "secret").write_text("of somebody else")
    file = tmp_path / "message"
    file.symlink_to(tmp_path / "secret")
    assert termination_message({}, log, file, 1) == ""


async def test_a_pipe_in_its_place_stops_nobody(tmp_path: Path, log: Path) -> None:
    file = tmp_path / "message"
    os.mkfifo(file)
    assert termination_message({}, log, file, 1) == ""
