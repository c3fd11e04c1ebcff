"""The state directory: its place, its lock, its memory, its addresses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentops.local.state import PlaneRunning, RunningPlane, StateDir, StateError, default_state_dir

RUNNING = RunningPlane(pid=4711, url="https://127.0.0.1:1", started_at="2026-01-01T00:00:00Z", isolation="b")


def test_default_place_follows_xdg_and_ignores_relative_paths(tmp_path: Path) -> None:
    assert default_state_dir({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "agentops"
    assert default_state_dir({"XDG_STATE_HOME": "relative"}) == Path.home() / ".local/state/agentops"


def test_a_second_owner_is_told_who_the_first_is(tmp_path: Path) -> None:
    first, second = StateDir(tmp_path), StateDir(tmp_path)
    first.acquire()
    with pytest.raises(PlaneRunning, match=f"starting or stopping.*pid {os.getpid()}"):
        second.acquire()
    first.announce(RUNNING)
    with pytest.raises(PlaneRunning, match=r"pid 4711, https://127\.0\.0\.1:1"):
        second.acquire()
    assert second.running() == RUNNING
    first.release()
    assert second.running() is None
    second.acquire()
    second.release()


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = f"""
import os, sys
from pathlib import Path
from agentops.local.state import StateDir
state = StateDir(Path({str(tmp_path)!r})); state.acquire(); state.acquire_ranges()
print("held", flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    state = StateDir(tmp_path)
    assert state.locked()
    assert state.holder() == holder.pid
    with pytest.raises(PlaneRunning):
        state.acquire()
    holder.kill()
    holder.communicate()
    state.acquire()
    state.acquire_ranges()
    state.release()


def test_a_leftover_plane_json_does_not_count_without_the_lock(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.acquire()
    state.announce(RUNNING)
    leftover = (tmp_path / "plane.json").read_bytes()
    state.release()
    (tmp_path / "plane.json").write_bytes(leftover)
    assert state.running() is None


def test_settings_are_remembered_and_garbage_is_not_fatal(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.prepare()
    state.remember(port=1234)
    state.remember(slot=7)
    assert (StateDir(tmp_path).settings().port, StateDir(tmp_path).settings().slot) == (1234, 7)
    (tmp_path / "settings.json").write_text("{not json")
    assert state.settings().port == 0


def test_two_state_dirs_get_different_addresses_and_keep_them(tmp_path: Path) -> None:
    one, two = StateDir(tmp_path / "one"), StateDir(tmp_path / "two")
    for state in (one, two):
        state.acquire()
    first, second = one.acquire_ranges(), two.acquire_ranges()
    assert first.slot != second.slot
    assert len({first.services, first.pods, second.services, second.pods}) == 4
    assert first.api_service_ip.startswith("127.")
    for state in (one, two):
        state.release()
    again = StateDir(tmp_path / "one")
    again.acquire()
    assert again.acquire_ranges() == first
    again.release()


def test_a_remembered_slot_in_use_is_refused_rather_than_moved(tmp_path: Path) -> None:
    one, two = StateDir(tmp_path / "one"), StateDir(tmp_path / "two")
    one.acquire()
    slot = one.acquire_ranges().slot
    two.acquire()
    two.remember(slot=slot)
    with pytest.raises(StateError, match="used by another plane"):
        two.acquire_ranges()
    one.release()
    two.release()


def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text("99\n")
    with pytest.raises(StateError, match="layout 99, this version uses 1"):
        StateDir(tmp_path).prepare()


def test_a_path_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StateError, match=r"state dir .*file.*: .*; choose another with --state-dir"):
        StateDir(file / "below").prepare()
