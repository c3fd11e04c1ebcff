"""Child processes of the tools: started inside the sandbox, and none of them outlives its call.

A command can leave its process group (`setsid`, a daemon), so killing the group is not enough. While a
command runs this process is a subreaper: whoever loses its parent becomes our child, and is ended with
the call.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import anyio.to_thread

from agentops.runtime.errors import ToolFault
from agentops.runtime.tools.sandbox import Sandbox
from agentops.telemetry.logging import get_logger

log = get_logger("runtime.processes")

LINGER_S = 0.5
"""How long output is still read after the command has ended, when a child keeps the pipe open."""
TICK_S = 0.25
REAP_S = 5.0
"""How long killed processes get to disappear; one that is stuck in the kernel is left, and logged."""

_CHUNK = 65536
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37


class Command:
    """A command that runs; `running` makes it."""

    def __init__(self, process: subprocess.Popen[bytes], pidfd: int) -> None:
        assert process.stdout is not None
        self._process = process
        self._pidfd = pidfd
        self._out = process.stdout.fileno()
        self._ended = anyio.Event()
        os.set_blocking(self._out, False)

    async def read_until_end(self, take: Callable[[bytes], None], tick: Callable[[], None] = lambda: None) -> int:
        """Give each piece of output to `take` until the command has ended. Its exit code, negative for a signal.

        `tick` is called every `TICK_S` meanwhile.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, take)
            tasks.start_soon(_every_tick, tick)
            await anyio.wait_readable(self._pidfd)
            with anyio.move_on_after(LINGER_S):
                await self._ended.wait()
            tasks.cancel_scope.cancel()
        return _exit_code(self._pidfd)

    def errors(self) -> bytes:
        """What an ended command wrote to standard error, when that is a stream of its own: the first 64 KiB."""
        assert self._process.stderr is not None
        descriptor = self._process.stderr.fileno()
        os.set_blocking(descriptor, False)
        with suppress(BlockingIOError):
            return os.read(descriptor, _CHUNK)
        return b""

    def terminate(self) -> None:
        """SIGTERM to the command and its group."""
        _signal_group(self._process.pid, signal.SIGTERM)

    async def _read(self, take: Callable[[bytes], None]) -> None:
        while True:
            await anyio.wait_readable(self._out)
            with suppress(BlockingIOError):
                chunk = os.read(self._out, _CHUNK)
                if not chunk:
                    self._ended.set()
                    return
                take(chunk)


@asynccontextmanager
async def running(
    arguments: Sequence[str], *, sandbox: Sandbox, cwd: Path, env: Mapping[str, str], merge: bool = True
) -> AsyncIterator[Command]:
    """A command in a session of its own; on leaving, its group is killed.

    With `merge` standard error joins the output. Raises ToolFault when it cannot be started.
    """

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge else subprocess.PIPE,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
        )

    try:
        process = await sandbox.run(start)
    except OSError as error:
        hint = "; write the text to a file first" if error.errno == errno.E2BIG else ""
        raise ToolFault(f"cannot start {arguments[0]}: {error.strerror or error}{hint}") from error
    pidfd = os.pidfd_open(process.pid)
    _give_up_first(process.pid)
    try:
        yield Command(process, pidfd)
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        with anyio.move_on_after(REAP_S, shield=True) as waiting:
            await anyio.wait_readable(pidfd)
            process.wait()
        if waiting.cancelled_caught:
            log.error("processes.left", pid=process.pid, meaning="a killed process did not disappear")
        os.close(pidfd)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """On leaving, whatever the commands of this block left behind is killed, also what left their group.

    No other command may be started meanwhile.
    """
    before = await anyio.to_thread.run_sync(_children)
    with _subreaper():
        try:
            yield
        finally:
            with anyio.move_on_after(REAP_S, shield=True) as waiting:
                while strays := await anyio.to_thread.run_sync(_children) - before:
                    for pid in strays:
                        _kill(pid)
                    await anyio.sleep(0.01)
            if waiting.cancelled_caught:
                log.error("processes.left", meaning="a killed process did not disappear")


def _give_up_first(pid: int) -> None:
    """When memory runs out, the kernel takes this process and what it starts rather than the runtime."""
    with suppress(OSError):
        Path("/proc", str(pid), "oom_score_adj").write_text("1000")


async def _every_tick(tick: Callable[[], None]) -> None:
    while True:
        await anyio.sleep(TICK_S)
        tick()


def _exit_code(pidfd: int) -> int:
    """Of an ended process, which is not reaped: its group's number stays taken until the group was killed."""
    info = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    assert info is not None
    return info.si_status if info.si_code == os.CLD_EXITED else -info.si_status


def _kill(pid: int) -> None:
    """A child of ours that no code of ours started: killed, and reaped when it is dead already."""
    with suppress(ProcessLookupError, PermissionError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, os.WNOHANG)


def _children() -> frozenset[int]:
    """Children of this process outside its session: those of tools, and what these left behind."""
    me, session = os.getpid(), os.getsid(0)
    found = set()
    for pid in _possible_children():
        with suppress(OSError, ValueError, IndexError):
            fields = Path("/proc", pid, "stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[1]) == me and int(fields[3]) != session:
                found.add(int(pid))
    return frozenset(found)


def _possible_children() -> set[str]:
    """From the kernel's list, where it keeps one: on a node with a thousand processes, looking at each takes longer
    than most commands. The list may skip one while another of it ends, so it is read until it says the same twice."""
    before: set[str] | None = None
    while True:
        now: set[str] = set()
        for thread in os.listdir("/proc/self/task"):
            try:
                now.update(Path("/proc/self/task", thread, "children").read_text().split())
            except FileNotFoundError:
                if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
                    return {entry for entry in os.listdir("/proc") if entry.isdigit()}
            except ProcessLookupError:  # the thread has ended
                pass
        if not now or now == before:
            return now
        before = now


@contextmanager
def _subreaper() -> Iterator[None]:
    """Orphans among our descendants become our children instead of init's."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = ctypes.c_int(0)
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


def _signal_group(pid: int, number: signal.Signals) -> None:
    """To every process of the group; a group that is gone is what was wanted."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
