"""What tools can reach when the kernel has Landlock."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentops.runtime.errors import ToolFault
from agentops.runtime.tools import landlock
from agentops.runtime.tools.bash import BashTool
from agentops.runtime.tools.files import ReadTool
from agentops.runtime.tools.sandbox import PRIVATE_TMP, Sandbox, plan_reach
from agentops.runtime.tools.search import GrepTool, find_ripgrep
from agentops.runtime.tools.workspace import Workspace
from agentops.values.clock import SystemClock

pytestmark = pytest.mark.anyio

needs_landlock = pytest.mark.skipif(not landlock.version(), reason="the kernel has no Landlock")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/runtime.db").write_text("conversation")
    (tmp_path / "token").write_text("bearer")
    (tmp_path / "work").mkdir()
    return Workspace(tmp_path / "work")


@pytest.fixture
def sandbox(workspace: Workspace, tmp_path: Path) -> Iterator[Sandbox]:
    secret = [tmp_path / "state", tmp_path / "token"]
    with Sandbox(plan_reach(workspace, {"PATH": os.environ["PATH"]}, secret=secret)) as sandbox:
        yield sandbox


@pytest.fixture
def bash(workspace: Workspace, sandbox: Sandbox) -> BashTool:
    return BashTool(workspace, {"PATH": os.environ["PATH"], "HOME": "/root"}, SystemClock(), 5000, sandbox=sandbox)


@needs_landlock
@pytest.mark.parametrize(
    "command",
    [
        "cat {secret}/token",
        "cat {secret}/state/runtime.db",
        "ls {secret}/state",
        "echo x > {secret}/state/new",
        "ln -s {secret}/token link && cat link",
        "rm -r {secret}/state",
        "echo x > /etc/agentops-was-here",
        "(setsid cat {secret}/token)",
        "kill -0 {pid}",
    ],
)
async def test_a_command_reaches_neither_state_nor_tokens_nor_the_runtime(
    bash: BashTool, tmp_path: Path, command: str
) -> None:
    with pytest.raises(ToolFault, match="ermi"):
        await bash.run({"command": command.format(secret=tmp_path, pid=os.getpid())})
    assert (tmp_path / "state/runtime.db").read_text() == "conversation"


@needs_landlock
async def test_ordinary_work_goes_on_inside(bash: BashTool, workspace: Workspace) -> None:
    commands = (
        "echo hi > a && mkdir -p d && mv a d/b && cat d/b && rm -r d",
        "f=$(mktemp) && echo temporary > $f && cat $f && [ -w $HOME ]",
        "echo gone > /dev/null; echo seen > /dev/stderr",
        "cat <(echo substituted) && head -c1 /proc/self/environ > /dev/null",
        "getent hosts localhost > /dev/null && ls /etc /usr > /dev/null && echo read",
    )
    texts = [(await bash.run({"command": command})).text for command in commands]
    assert texts == ["hi\n", "temporary\n", "seen\n", "substituted\n", "read\n"]
    assert (workspace.root / PRIVATE_TMP).is_dir()


@needs_landlock
async def test_file_tools_are_inside_too(workspace: Workspace, sandbox: Sandbox, tmp_path: Path) -> None:
    """Were a path swapped for a link after it was checked, the kernel would still refuse."""
    (workspace.root / "a").write_text("needle\n")
    assert (await ReadTool(workspace, sandbox).run({"path": "a"})).text == "needle\n"
    for ripgrep in (None, find_ripgrep(os.environ)):
        found = await GrepTool(workspace, os.environ, 1000, ripgrep, sandbox).run({"pattern": "needle"})
        assert found.metadata["matchCount"] == 1
    with pytest.raises(PermissionError):
        await sandbox.run(lambda: (tmp_path / "token").read_text())


@needs_landlock
def test_the_runtimes_environment_is_closed_to_a_user_without_privileges(tmp_path: Path) -> None:
    program = """
import os, subprocess, sys
from pathlib import Path
from agentops.runtime.tools.sandbox import Sandbox, plan_reach
from agentops.runtime.tools.workspace import Workspace
import anyio
async def main():
    os.makedirs(sys.argv[1], exist_ok=True)
    with Sandbox(plan_reach(Workspace(Path(sys.argv[1])), os.environ, secret=[])) as sandbox:
        command = ["cat", f"/proc/{os.getpid()}/environ"]
        done = await sandbox.run(lambda: subprocess.run(command, capture_output=True))
        print(done.returncode, b"sk-secret" in done.stdout, sandbox.kind)
anyio.run(main)
"""
    no_privileges = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"] if os.getuid() == 0 else []
    done = subprocess.run(
        [*no_privileges, sys.executable, "-c", program, str(tmp_path / "w")],
        env={"PATH": os.environ["PATH"], "API_KEY": "sk-secret"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "1 False landlock\n", done.stderr


async def test_without_landlock_tools_work_and_the_status_says_why(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    with Sandbox(plan_reach(workspace, os.environ, secret=[tmp_path / "token"])) as sandbox:
        bash = BashTool(workspace, os.environ, SystemClock(), 1000, sandbox=sandbox)
        assert (await bash.run({"command": "echo hi"})).text == "hi\n"
        assert sandbox.status["kind"] == "none"
        assert "no Landlock" in sandbox.status["reason"]


async def test_a_kernel_that_refuses_is_said(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(rules: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(landlock, "restrict", refuse)
    monkeypatch.setattr(landlock, "version", lambda: 1)
    with Sandbox(plan_reach(workspace, os.environ, secret=[])) as sandbox:
        assert sandbox.kind == "none"
        assert "Operation not permitted" in sandbox.status["reason"]
        assert await sandbox.run(os.getpid) == os.getpid()
