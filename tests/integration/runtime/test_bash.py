"""The `bash` tool with real processes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentops.runtime.errors import ToolFault
from agentops.runtime.tools.bash import BashTool, child_environment
from agentops.runtime.tools.output import SPILL_DIR
from agentops.runtime.tools.workspace import Workspace
from agentops.values.clock import SystemClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def bash(tmp_path: Path) -> BashTool:
    return BashTool(Workspace(tmp_path), dict(os.environ), SystemClock(), limit_chars=1000)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter when it goes between opening and reading
        return False


async def gone(pid: int) -> None:
    """Until the process has ended."""
    with anyio.fail_after(5):
        while alive(pid):
            await anyio.sleep(0.01)


async def test_output_of_both_streams_comes_back_with_metadata(bash: BashTool, tmp_path: Path) -> None:
    output = await bash.run({"command": "pwd; echo err >&2"})
    assert output.text == f"{tmp_path}\nerr\n"
    assert {key: output.metadata[key] for key in ("ui", "exitCode", "command")} == {
        "ui": "terminal",
        "exitCode": 0,
        "command": "pwd; echo err >&2",
    }


async def test_a_failing_command_is_an_error_with_its_text(bash: BashTool) -> None:
    with pytest.raises(ToolFault) as fault:
        await bash.run({"command": "echo why; exit 3"})
    assert str(fault.value) == "why\n[exit code 3]"
    assert fault.value.metadata["exitCode"] == 3


async def test_the_timeout_ends_the_whole_group(bash: BashTool) -> None:
    started = time.monotonic()
    with pytest.raises(ToolFault, match="timed out after 1 s") as fault:
        await bash.run({"command": "trap '' TERM; sleep 300 & echo $!; wait", "timeout": 1})
    assert time.monotonic() - started < 6
    await gone(int(str(fault.value).splitlines()[0]))


async def test_cancelling_ends_the_whole_group(bash: BashTool, tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bash.run, {"command": "sleep 300 & echo $! > pid; wait"})
        with anyio.fail_after(10):
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    await gone(int((tmp_path / "pid").read_text()))


async def test_a_background_process_does_not_hold_the_call(bash: BashTool) -> None:
    started = time.monotonic()
    output = await bash.run({"command": "sleep 300 & echo $!"})
    assert time.monotonic() - started < 10
    await gone(int(output.text))


async def test_long_output_is_cut_and_kept_whole_in_a_file(bash: BashTool, tmp_path: Path) -> None:
    output = await bash.run({"command": "seq 100000"})
    assert output.text.startswith("1\n2\n3\n")
    assert output.text.endswith("99999\n100000\n")
    assert "showing 1000 of 588895 chars" in output.text
    (spilled,) = (tmp_path / SPILL_DIR).iterdir()
    assert f"{SPILL_DIR}/{spilled.name}" in output.text
    assert spilled.read_text().splitlines()[-1] == "100000"


async def test_a_process_that_left_its_group_ends_with_the_call(bash: BashTool, tmp_path: Path) -> None:
    """One that ignores signals in a session of its own, and an orphan of another."""
    stubborn = "setsid sh -c 'trap \"\" HUP TERM; echo $$ > stubborn; exec sleep 300' &"
    orphan = "setsid sh -c 'sleep 300 & echo $! > orphan' &"
    await bash.run({"command": f"{stubborn} {orphan} until [ -s stubborn ] && [ -s orphan ]; do sleep 0.02; done"})
    for name in ("stubborn", "orphan"):
        assert not alive(int((tmp_path / name).read_text())), name


async def test_what_is_left_behind_is_found_without_looking_at_every_process(
    bash: BashTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes have thousands of them."""
    listed: list[str] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path=".": listed.append(str(path)) or listdir(path))
    output = await bash.run({"command": "setsid sleep 300 & echo $!"})
    await gone(int(output.text))
    assert "/proc" not in listed


async def test_output_is_shown_while_the_command_runs(bash: BashTool, tmp_path: Path) -> None:
    seen: list[str] = []
    command = "echo one; sleep 0.05; echo two; until [ -e go ]; do sleep 0.05; done; echo three"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bash.run_showing, {"command": command}, seen.append)
        with anyio.fail_after(20):
            while "".join(seen) != "one\ntwo\n":
                await anyio.sleep(0.01)
        (tmp_path / "go").touch()


@pytest.mark.parametrize("timeout", [0, -1, 100_000])
async def test_an_impossible_timeout_is_refused(bash: BashTool, timeout: int) -> None:
    with pytest.raises(ToolFault, match="timeout must be"):
        await bash.run({"command": "true", "timeout": timeout})


def test_children_get_the_variables_the_config_names() -> None:
    env = {"PATH": "/bin", "REGION": "eu", "OPENAI_API_KEY": "x"}
    assert child_environment(env, ("REGION", "ABSENT"))["REGION"] == "eu"
    assert "OPENAI_API_KEY" not in child_environment(env, ("REGION",))


def test_children_get_no_secret() -> None:
    env: dict[str, Any] = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "OPENAI_API_KEY": "x",
        "AGENT_TOKEN_FILE": "/t",
        "MEMORY_TOKEN_FILE": "/t",
        "GIT_TOKEN": "x",
        "HTTPS_PROXY": "http://user:pass@proxy",
        "no_proxy": "localhost",
        "AGENT_NAME": "sre",
    }
    assert child_environment(env) == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "no_proxy": "localhost",
        "AGENT_NAME": "sre",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
    }


async def test_when_memory_runs_out_the_kernel_takes_a_command_before_the_runtime(bash: BashTool) -> None:
    before = Path("/proc/self/oom_score_adj").read_text()
    # until it is: the command has begun when its score is set
    output = await bash.run({"command": "until grep -x 1000 /proc/self/oom_score_adj; do :; done", "timeout": 20})
    assert output.text == "1000\n"
    assert Path("/proc/self/oom_score_adj").read_text() == before
