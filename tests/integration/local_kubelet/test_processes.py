"""Starting processes, and leaving none behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest
from support.kubelet import processes_with

from agentops.local.kubelet import launch, strays
from agentops.local.kubelet.errors import StartError
from agentops.local.kubelet.exec import ExecSession, run_command
from agentops.local.kubelet.process import ProcessTable
from agentops.local.kubelet.starting import Command

pytestmark = pytest.mark.anyio


_LAUNCHER = """
import os, runpy, signal

def asked_to_end(collect):
    def collected(*args):
        found = collect(*args)
        os.kill(os.getpid(), signal.SIGTERM)
        return found
    return collected

os.wait, os.waitpid = asked_to_end(os.wait), asked_to_end(os.waitpid)
runpy.run_path({launcher!r}, run_name="__main__")
"""


def shell(tmp_path: Path, script: str, **env: str) -> Command:
    path = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    return Command(("/bin/sh", "-c", script), {**path, "AGENTOPS_ROOT": root(tmp_path), **env}, tmp_path)


def root(tmp_path: Path) -> str:
    return str(tmp_path / "pods/u/rootfs/c")


async def output_of(process) -> dict[str, bytes]:
    found = {"stdout": b"", "stderr": b""}

    async def sink(name: str, data: bytes) -> None:
        found[name] += data

    with anyio.fail_after(20):
        await process.pump(sink)
    process.close()
    return found


async def until_none(text: str, timeout_s: float = 10.0) -> None:
    with anyio.move_on_after(timeout_s):
        while processes_with(text):
            await anyio.sleep(0.02)
    assert processes_with(text) == []


async def test_output_and_exit_code_come_back(processes: ProcessTable, tmp_path: Path) -> None:
    process = await processes.spawn(shell(tmp_path, "echo out; echo err >&2; exit 7"), root=root(tmp_path))
    assert await output_of(process) == {"stdout": b"out\n", "stderr": b"err\n"}
    assert await process.wait() == 7


async def test_a_signal_is_128_and_its_number(processes: ProcessTable, tmp_path: Path) -> None:
    process = await processes.spawn(shell(tmp_path, "exec sleep 60"), root=root(tmp_path))
    process.signal(signal.SIGTERM)
    await output_of(process)
    assert await process.wait() == 143


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("no-such-program",), 'exec: "no-such-program": no such file or directory in $PATH'),
        (("/etc/passwd",), 'exec: "/etc/passwd": permission denied'),
    ],
)
async def test_a_program_that_cannot_run_is_named(
    processes: ProcessTable, tmp_path: Path, argv: tuple[str, ...], message: str
) -> None:
    with pytest.raises(StartError) as caught:
        await processes.spawn(Command(argv, {"PATH": "/usr/bin:/bin"}, tmp_path), root="")
    assert str(caught.value) == message


async def test_the_environment_is_exactly_the_given_one(processes: ProcessTable, tmp_path: Path) -> None:
    command = Command(("/usr/bin/env",), {"A": "1", "LANG": "C.UTF-8"}, tmp_path)
    assert await output_of(await processes.spawn(command, root="")) == {"stdout": b"A=1\nLANG=C.UTF-8\n", "stderr": b""}


async def test_no_descriptors_are_left_open(processes: ProcessTable, tmp_path: Path) -> None:
    async def once() -> None:
        await output_of(await processes.spawn(shell(tmp_path, "true"), root=root(tmp_path), stdin=True))
        tty = await processes.spawn(shell(tmp_path, "true"), root=root(tmp_path), tty=True)
        await output_of(tty)

    await once()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await once()
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_what_a_container_left_running_ends_with_it(processes: ProcessTable, tmp_path: Path) -> None:
    # The first stray leaves the process group, the second the session, the third is an orphan as well.
    script = "sleep 301 & setsid sleep 302 & (setsid sleep 303 &) ; exit 0"
    process = await processes.spawn(
        shell(tmp_path, script), root=root(tmp_path), pidfile=tmp_path / "pods/u/containers/c/pid.json"
    )
    await output_of(process)
    await until_none(root(tmp_path))


async def test_a_session_that_ends_with_its_container_still_has_its_exit_code(
    processes: ProcessTable, tmp_path: Path
) -> None:
    pidfile = tmp_path / "pods/u/containers/c/pid.json"
    container = await processes.spawn(shell(tmp_path, "exec sleep 316"), root=root(tmp_path), pidfile=pidfile)
    sessions = [await processes.spawn(shell(tmp_path, "exec sleep 317"), root=root(tmp_path)) for _ in range(4)]
    container.signal(signal.SIGKILL)
    with anyio.fail_after(10):
        assert await container.wait() == 137
        assert [await session.wait() for session in sessions] == [137] * 4
    for process in (container, *sessions):
        process.close()


async def test_what_hides_session_parent_and_environment_ends_with_its_container(
    processes: ProcessTable, tmp_path: Path
) -> None:
    script = "env -i setsid sh -c 'sleep 318 & sleep 0.1' & sleep 0.4"
    process = await processes.spawn(
        shell(tmp_path, script), root=root(tmp_path), pidfile=tmp_path / "pods/u/containers/c/pid.json"
    )
    await output_of(process)
    assert processes_with("sleep\x00318") == []


async def test_a_container_asked_to_end_as_its_program_is_collected_has_the_programs_exit_code(
    processes: ProcessTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `kill_tree` ends the program first and its keeper after it, which may have seen the end by then.
    launcher = tmp_path / "launch.py"
    launcher.write_text(_LAUNCHER.format(launcher=launch.__file__))
    monkeypatch.setattr(launch, "__file__", str(launcher))
    pidfile = tmp_path / "pods/u/containers/c/pid.json"
    process = await processes.spawn(shell(tmp_path, "exit 3"), root=root(tmp_path), pidfile=pidfile)
    await output_of(process)
    assert await process.wait() == 3


async def test_a_container_that_is_killed_takes_all_it_started_along(processes: ProcessTable, tmp_path: Path) -> None:
    script = "env -i setsid sh -c 'sleep 319 & sleep 0.1' & exec sleep 60"
    process = await processes.spawn(
        shell(tmp_path, script), root=root(tmp_path), pidfile=tmp_path / "pods/u/containers/c/pid.json"
    )
    with anyio.fail_after(10):
        while not processes_with("sleep\x00319"):
            await anyio.sleep(0.02)
        process.kill_tree()
        assert await process.wait() == 137
    process.close()
    assert processes_with("sleep\x00319") == []


async def test_a_program_that_always_leaves_its_successor_behind_ends_with_its_container(
    processes: ProcessTable, tmp_path: Path
) -> None:
    script = (
        "import os, time\nif os.fork():\n  time.sleep(0.3); os._exit(0)\n"
        "end = time.monotonic() + 20\n"  # for the machine's sake, should this test fail
        "while time.monotonic() < end:\n  if os.fork(): os._exit(0)\n  os.setsid(); time.sleep(0.001)\n# chain-320"
    )
    command = Command((sys.executable, "-c", script), {}, tmp_path)
    process = await processes.spawn(command, root="", pidfile=tmp_path / "pods/u/containers/c/pid.json")
    await output_of(process)
    assert processes_with("chain-320") == []


async def test_an_orphan_that_hid_its_environment_is_ended_with_the_plane(tmp_path: Path) -> None:
    from agentops.values.clock import SystemClock

    pods = tmp_path / "pods"
    pods.mkdir()
    table = ProcessTable(pods, SystemClock())
    async with table.open():
        script = "env -i sleep 304 & env -i sleep 305; exit 0"
        await table.spawn(shell(tmp_path, script), root=root(tmp_path), pidfile=pods / "u/containers/c/pid.json")
        with anyio.fail_after(10):
            while len(processes_with("sleep\x00304")) + len(processes_with("sleep\x00305")) < 2:
                await anyio.sleep(0.02)
    await until_none("sleep\x00304")
    await until_none("sleep\x00305")


async def test_orphans_do_not_stay_as_zombies(processes: ProcessTable, tmp_path: Path) -> None:
    script = "(sleep 0.1 & ) ; exec sleep 306"
    process = await processes.spawn(shell(tmp_path, script), root=root(tmp_path))

    def zombies() -> list[strays.Stat]:
        return [s for s in strays.snapshot().values() if s.zombie and s.sid == process.pid]

    with anyio.fail_after(10):
        while not zombies():
            await anyio.sleep(0.02)
    processes.sweep()
    assert zombies() == []


async def test_a_terminal_has_a_size_and_one_output(processes: ProcessTable, tmp_path: Path) -> None:
    process = await processes.spawn(
        shell(tmp_path, "read line; stty size; tty >&2; echo $line", TERM="xterm"), root="", tty=True
    )
    process.resize(100, 40)
    await process.write_stdin(b"hello\n")
    found = await output_of(process)
    assert found["stderr"] == b""
    assert b"40 100" in found["stdout"]
    assert b"/dev/pts/" in found["stdout"]
    assert found["stdout"].endswith(b"hello\r\n")


async def test_an_exec_session_carries_input_and_ends_at_its_end(processes: ProcessTable, tmp_path: Path) -> None:
    async with anyio.create_task_group() as tg:
        session = ExecSession(await processes.spawn(shell(tmp_path, "cat; exit 4"), root="", stdin=True), tg)
        big = b"x" * 300_000

        async def feed() -> None:
            await session.write_stdin(big)
            await session.close_stdin()

        tg.start_soon(feed)
        with anyio.fail_after(20):
            received = b"".join([data async for channel, data in session.output() if channel == 1])
            assert received == big
            assert await session.wait() == 4


async def test_killing_a_session_ends_everything_it_started(processes: ProcessTable, tmp_path: Path) -> None:
    async with anyio.create_task_group() as tg:
        process = await processes.spawn(shell(tmp_path, "sleep 307 & sleep 308", MARK="m-307"), root="")
        session = ExecSession(process, tg)
        with anyio.fail_after(10):
            while len(processes_with("m-307")) < 3:
                await anyio.sleep(0.02)
            await session.kill()
            await session.kill()
            assert await session.wait() == 137
        await until_none("m-307")


async def test_a_command_that_is_cancelled_is_ended(processes: ProcessTable, tmp_path: Path) -> None:
    with anyio.move_on_after(0.5):
        await run_command(processes, shell(tmp_path, "sleep 309", MARK="m-309"), "")
    await until_none("m-309")


_PLANE = """
import sys, anyio
from pathlib import Path
from agentops.local.kubelet.process import ProcessTable
from agentops.local.kubelet.starting import Command
from agentops.values.clock import SystemClock

async def main():
    pods = Path(sys.argv[1]); root = str(pods / "u/rootfs/c")
    async with ProcessTable(pods, SystemClock()).open() as table:
        env = {"PATH": "/usr/bin:/bin", "AGENTOPS_ROOT": root}
        script = "sleep 310 & setsid sleep 311 & (setsid sleep 312 &) ; sleep 313"
        command = Command(("/bin/sh", "-c", script), env, pods)
        await table.spawn(command, root=root, pidfile=pods / "u/containers/c/pid.json")
        print("started", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


def _start_plane(pods: Path) -> subprocess.Popen[bytes]:
    plane = subprocess.Popen([sys.executable, "-c", _PLANE, str(pods)], stdout=subprocess.PIPE)
    assert plane.stdout is not None
    assert plane.stdout.readline() == b"started\n"
    deadline = time.monotonic() + 10
    while len(processes_with(f"AGENTOPS_ROOT={pods}")) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    plane.stdout.close()
    return plane


async def test_nothing_outlives_a_plane_that_is_killed(tmp_path: Path) -> None:
    plane = _start_plane(tmp_path)
    plane.kill()
    plane.wait()
    await until_none(f"AGENTOPS_ROOT={tmp_path}")
    await until_none(str(tmp_path))  # the watchdog itself


async def test_a_plane_that_starts_ends_what_an_earlier_one_left(tmp_path: Path) -> None:
    # A leader that is recorded but carries no mark, as if its environment could not be read.
    leader = subprocess.Popen(["sleep", "314"], start_new_session=True, env={"PATH": "/usr/bin:/bin"})
    other = subprocess.Popen(["sleep", "315"], start_new_session=True, env={"PATH": "/usr/bin:/bin"})
    try:
        for name, process in (("a", leader), ("b", other)):
            path = tmp_path / f"u/containers/{name}/pid.json"
            path.parent.mkdir(parents=True)
            strays.write_pidfile(path, process.pid)
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "start": record["start"] - 1}))
        assert strays.end_leftovers(tmp_path) == 1
        assert leader.wait(5) == -signal.SIGKILL
        assert other.poll() is None, "the pid belongs to another process than the one recorded"
    finally:
        other.kill()
        other.wait()
        leader.kill()
        leader.wait()


@pytest.mark.parametrize("where", ["argument", "variable"])
async def test_a_nul_byte_is_a_program_that_cannot_be_started(
    processes: ProcessTable, tmp_path: Path, where: str
) -> None:
    command = shell(
        tmp_path, "echo \0" if where == "argument" else "true", **({"A": "\0"} if where != "argument" else {})
    )
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StartError, match="null byte"):
        await processes.spawn(command, root=root(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == len(before)


async def test_a_program_that_prints_without_pause_can_be_cut_off(processes: ProcessTable, tmp_path: Path) -> None:
    with anyio.move_on_after(0.5) as scope:
        await run_command(processes, shell(tmp_path, "exec yes"), root(tmp_path))
    assert scope.cancelled_caught
    await until_none(root(tmp_path))
