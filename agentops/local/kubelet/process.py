"""Processes of containers: starting, signalling, ending and reaping them.

Every program is started through `launch.py` in its own session, dies with the plane (PR_SET_PDEATHSIG)
and is waited for through a pidfd, so no thread and no child watcher is involved. The plane is a subreaper:
orphans of a container become its children, and `ProcessTable.run` reaps or ends them.

What is started is the leader; what is signalled and entered is the program. They are one process, unless a sandbox
program stands between them (leader: the sandbox program, program: what runs within), the program joined a container
(leader: who waits for it), or it is a container without a sandbox (leader: who keeps what it starts together).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol

import anyio

from agentops.local.kubelet import strays
from agentops.local.kubelet.errors import StartError
from agentops.local.kubelet.starting import Command, Reader, Started, greet, start
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock

log = get_logger("kubelet.process")

_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_SWEEP_S = 5.0
_FORGOTTEN_S = 30.0
"""A zombie child nobody has collected for so long was inherited, not started by someone here."""
_DRAIN_S = 1.0
_START_S = 30.0
_MEMORY_S = 1.0
"""How often memory is compared with the limits: what a program takes in less goes unseen."""

Sink = Callable[[str, bytes], Awaitable[None]]


class Process(Protocol):
    """A started program, as containers and exec sessions see it."""

    @property
    def pid(self) -> int:
        """The program's own, not that of a sandbox around it."""
        ...

    memory_bytes: int | None
    """Its limit, which may change while it runs."""

    @property
    def out_of_memory(self) -> bool:
        """Whether it was ended for using more than its limit."""
        ...

    async def pump(self, sink: Sink) -> None:
        """Give ("stdout"|"stderr", bytes) to `sink` until the program has ended and its output is drained."""
        ...

    async def write_stdin(self, data: bytes) -> None: ...

    async def close_stdin(self) -> None: ...

    def resize(self, width: int, height: int) -> None: ...

    def signal(self, number: int) -> None:
        """To the program alone, as a container runtime does: its children are its own to stop."""
        ...

    def kill_tree(self) -> None:
        """SIGKILL to the program and what descends from it; nothing when it has ended."""
        ...

    async def wait(self) -> int:
        """The exit code; 128+n for signal n. Any number of waiters."""
        ...

    def close(self) -> None:
        """Release the descriptors, once nobody reads or writes any more."""
        ...


class Spawner(Protocol):
    """Starts programs. Raises StartError."""

    async def spawn(
        self,
        command: Command,
        *,
        root: str,
        stdin: bool = False,
        tty: bool = False,
        pidfile: Path | None = None,
        memory_bytes: int | None = None,
    ) -> Process:
        """Returns once the program is executing.

        `root` is the AGENTOPS_ROOT that marks its descendants. With a `pidfile` it is a container: everything
        with that root ends with it. With `memory_bytes` it ends when it and its descendants use more than that.
        """
        ...


class HostProcess:
    """A program started by `ProcessTable`, which also runs `watch`."""

    def __init__(self, started: Started, *, root: str, container: bool, keeps: bool, others: Collection[int]) -> None:
        self.leader = started.popen.pid
        self.pid = started.popen.pid
        self.root = root
        self.memory_bytes: int | None = None
        self.out_of_memory = False
        self.scope = anyio.CancelScope(shield=True)
        self._container = container
        self._keeps = keeps
        self._others = others
        self._popen = started.popen
        self._channel = started.channel
        self._streams = started.streams
        self._stdin = started.stdin
        self._terminal = started.terminal
        self._pidfd = -1
        self._code: int | None = None
        self._done = anyio.Event()

    async def begin(self) -> None:
        """Wait until the program is executing. Raises StartError, and has ended then."""
        message = f"it has not started within {_START_S:g} s"
        # A spawned process must be known to us, whatever is cancelled meanwhile.
        with anyio.CancelScope(shield=True):
            try:
                with anyio.move_on_after(_START_S):
                    self.pid, self._pidfd = await greet(self._channel, self.leader)
                    return
            except (StartError, OSError) as error:
                message = str(error) or await self._last_words()
            finally:
                anyio.notify_closing(self._channel)
                self._channel.close()
            self.kill_tree()
            await self.wait()
            self.close()
        raise StartError(message)

    async def _last_words(self) -> str:
        """What a sandbox program said before it gave up."""
        reader = self._streams.get("stderr") or self._streams["stdout"]
        told = b""
        with anyio.move_on_after(_DRAIN_S):
            while data := await reader.read():
                told += data
        lines = told.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "the sandbox ended without a word"

    @property
    def pidfd(self) -> int:
        """Names the program, also when its pid has been given to another process; -1 when it has ended."""
        return -1 if self.exited else self._pidfd

    async def watch(self) -> None:
        """Wait for the program through a pidfd, end what a container leaves behind, publish the exit code."""
        fd = os.pidfd_open(self.leader)
        try:
            await anyio.wait_readable(fd)
        finally:
            anyio.notify_closing(fd)
            os.close(fd)
        if self._container:
            # Before the exit status is collected: until then nobody else can get this pid as a session.
            await self._end_descendants()
        self.collect()

    def collect(self) -> None:
        """Take the exit status, if there is one."""
        code = self._popen.poll()
        if code is not None:
            self._code = 128 - code if code < 0 else code
            self._done.set()

    async def _end_descendants(self) -> None:
        for _ in range(100):
            if not strays.kill_round({self.leader}, self.root, started=self._others):
                return
            await anyio.sleep(0.02)
        log.warning("kubelet.strays_survive", root=self.root)

    @property
    def exited(self) -> bool:
        return self._done.is_set()

    async def wait(self) -> int:
        await self._done.wait()
        assert self._code is not None
        return self._code

    async def pump(self, sink: Sink) -> None:
        async def copy(name: str, reader: Reader) -> None:
            while data := await reader.read():
                await sink(name, data)

        async def copy_all() -> None:
            async with anyio.create_task_group() as copies:
                for name, reader in self._streams.items():
                    copies.start_soon(copy, name, reader)
            drained.set()

        drained = anyio.Event()
        async with anyio.create_task_group() as tg:
            tg.start_soon(copy_all)
            await self.wait()
            # What left the process group may hold the pipes open for ever; the program is over nevertheless.
            with anyio.move_on_after(_DRAIN_S):
                await drained.wait()
            tg.cancel_scope.cancel()

    async def write_stdin(self, data: bytes) -> None:
        if self._stdin is not None:
            await self._stdin.write(data)

    async def close_stdin(self) -> None:
        if self._stdin is None:
            return
        if self._terminal >= 0:
            # A terminal has no end of file; ^D says it to a program that reads lines.
            await self._stdin.write(b"\x04")
        else:
            self._stdin.close()

    def resize(self, width: int, height: int) -> None:
        if self._terminal >= 0 and 0 < width < 65536 and 0 < height < 65536:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def signal(self, number: int) -> None:
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def kill_tree(self) -> None:
        if self._popen.returncode is not None:
            return
        # First, so that it cannot end by itself, as if nothing had happened, when its children are killed.
        self.signal(signal.SIGKILL)
        strays.kill_round({self.leader}, "", started=self._others, spared=self._keeper)
        for pid in self._keeper:
            # It ends what was born meanwhile, and itself.
            for number in (signal.SIGCONT, signal.SIGTERM):
                strays.send(pid, number)

    @property
    def _keeper(self) -> Collection[int]:
        """The leader, while it would end by itself."""
        return {self.leader} if self._keeps and self.pid != self.leader else ()

    def close(self) -> None:
        """Release the descriptors."""
        for reader in self._streams.values():
            reader.close()
        if self._stdin is not None:
            self._stdin.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


class ProcessTable:
    """All programs of one plane. `async with` it: leaving ends them all, and their orphans."""

    def __init__(self, pods_dir: Path, clock: Clock) -> None:
        self._pods_dir = pods_dir
        self._clock = clock
        self._running: dict[int, HostProcess] = {}
        self._sessions: set[int] = set()
        self._zombies: dict[strays.Stat, float] = {}
        self._tasks: anyio.abc.TaskGroup | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ProcessTable]:
        """End what an earlier plane left, start the watchdog, adopt orphans; on leaving end everything."""
        found = await anyio.to_thread.run_sync(strays.end_leftovers, self._pods_dir)
        if found:
            log.info("kubelet.leftovers_ended", processes=found)
        with _subreaper(), _watchdog(self._pods_dir):
            async with anyio.create_task_group() as tg:
                self._tasks = tg
                tg.start_soon(self._sweep_forever)
                tg.start_soon(self._watch_memory)
                try:
                    yield self
                finally:
                    self._tasks = None
                    with anyio.CancelScope(shield=True):
                        await self.end_all()
                    tg.cancel_scope.cancel()

    async def spawn(
        self,
        command: Command,
        *,
        root: str,
        stdin: bool = False,
        tty: bool = False,
        pidfile: Path | None = None,
        memory_bytes: int | None = None,
    ) -> HostProcess:
        """Start a program (see `Spawner`)."""
        if self._tasks is None:
            raise StartError("the kubelet is not running")
        process = self._start(command, root, stdin, tty, container=pidfile is not None)
        process.memory_bytes = memory_bytes
        if pidfile is not None:
            pidfile.parent.mkdir(parents=True, exist_ok=True)
            strays.write_pidfile(pidfile, process.leader)
        await process.begin()
        return process

    def _start(self, command: Command, root: str, stdin: bool, tty: bool, *, container: bool) -> HostProcess:
        assert self._tasks is not None
        joined = -1
        if command.join:
            joined = next((p.pidfd for p in self._running.values() if p.pid == command.join), -1)
            if joined < 0:
                raise StartError("the container's program has ended")
        started = start(command, mark=root, stdin=stdin, tty=tty, join_fd=joined, keep=container)
        keeps = container and not command.wrapper
        process = HostProcess(started, root=root, container=container, keeps=keeps, others=self._running.keys())
        self._running[process.leader] = process
        self._sessions.add(process.leader)
        self._tasks.start_soon(self._watch, process)
        return process

    def started(self, root: str) -> list[HostProcess]:
        """What runs with that root: a container's program, and what is executed beside it."""
        return [process for process in self._running.values() if process.root == root]

    async def end_all(self) -> None:
        """SIGKILL to everything, until nothing is left."""
        for _ in range(100):
            alive = strays.kill_round(set(self._running), str(self._pods_dir))
            if not alive:
                break
            await anyio.sleep(0.02)
        else:
            log.warning("kubelet.strays_survive", root=str(self._pods_dir))
        for process in list(self._running.values()):
            process.scope.cancel()
            process.collect()

    async def _watch(self, process: HostProcess) -> None:
        # Shielded: a plane that stops still wants to see its containers end.
        with process.scope:
            await process.watch()
        self._running.pop(process.leader, None)

    async def _sweep_forever(self) -> None:
        while True:
            await self._clock.sleep(_SWEEP_S)
            self.sweep()

    async def _watch_memory(self) -> None:
        while True:
            await self._clock.sleep(_MEMORY_S)
            limited = [process for process in self._running.values() if process.memory_bytes is not None]
            if not limited:
                continue
            children = strays.by_parent(strays.snapshot())
            for process in limited:
                below = strays.descendants(process.leader, children)
                used = sum(map(strays.memory_bytes, below - {process.leader} | {process.pid}))
                assert process.memory_bytes is not None
                if used > process.memory_bytes:
                    log.info("kubelet.out_of_memory", root=process.root, used=used, limit=process.memory_bytes)
                    process.out_of_memory = True
                    process.kill_tree()

    def sweep(self) -> None:
        """Reap inherited zombies, and end orphans whose container is over."""
        me, now = os.getpid(), self._clock.boottime()
        processes = strays.snapshot()
        roots = {process.root for process in self._running.values()}
        zombies: dict[strays.Stat, float] = {}
        for stat in processes.values():
            if stat.ppid != me or stat.pid in self._running:
                continue
            if stat.zombie:
                first_seen = self._zombies.get(stat, now)
                if stat.sid in self._sessions or now - first_seen > _FORGOTTEN_S:
                    strays.reap(stat.pid)
                else:
                    zombies[stat] = first_seen
                continue
            root = strays.pod_root(stat.pid)
            if root and strays.below(root, str(self._pods_dir)) and root not in roots:
                strays.send(stat.pid, signal.SIGKILL)
        self._zombies = zombies
        self._sessions &= {stat.sid for stat in processes.values()} | set(self._running)


@contextmanager
def _subreaper() -> Iterator[None]:
    """Orphaned descendants become children of this process instead of init's."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = ctypes.c_int(0)
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


@contextmanager
def _watchdog(pods_dir: Path) -> Iterator[None]:
    """A process of its own that ends the pods when this one is killed."""
    reader, writer = os.pipe()
    try:
        watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", strays.__file__, str(pods_dir)],
            stdin=reader,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={},
        )
    finally:
        os.close(reader)
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            os.write(writer, b"q")
        os.close(writer)
        try:
            watchdog.wait(timeout=5)
        except subprocess.TimeoutExpired:
            watchdog.kill()
            watchdog.wait()
