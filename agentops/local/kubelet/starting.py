"""From a command to a process with its descriptors: the part of starting a program that knows of file descriptors.

`start` forks and executes `launch.py`; `greet` waits until that is the program itself, and says which process it is.
"""

from __future__ import annotations

import marshal
import os
import pty
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio
import anyio.lowlevel
from attrs import frozen

from agentops.local.kubelet import launch
from agentops.local.kubelet.errors import StartError

_UCRED = struct.Struct("iII")
_MESSAGE_BYTES = 4096


@frozen(slots=True)
class Command:
    """What to execute on this machine."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    """Where it starts; within the sandbox, if there is one."""
    wrapper: tuple[str, ...] = ()
    """The sandbox program and its options, with which the command is started; its options stay out of `ps`."""
    join: int = 0
    """The pid of a container's program (`Process.pid`), whose namespaces the command enters."""


class Reader:
    """Reads a pipe or a terminal without blocking the loop."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd

    async def read(self) -> bytes:
        """The next bytes; empty at the end."""
        while self._fd >= 0:
            # A program that never pauses must not keep the loop from everybody else.
            await anyio.lowlevel.checkpoint()
            try:
                return os.read(self._fd, 65536)
            except BlockingIOError:
                try:
                    await anyio.wait_readable(self._fd)
                except (anyio.ClosedResourceError, ValueError):
                    return b""
            except OSError:
                # EIO: the last program on the terminal is gone.
                return b""
        return b""

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            anyio.notify_closing(fd)
            os.close(fd)


class Writer:
    """Writes to a pipe or a terminal without blocking the loop."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._lock = anyio.Lock()

    async def write(self, data: bytes) -> None:
        """Everything, or nothing more once the other end is gone."""
        view = memoryview(data)
        async with self._lock:
            while view and self._fd >= 0:
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    try:
                        await anyio.wait_writable(self._fd)
                    except (anyio.ClosedResourceError, ValueError):
                        return
                except OSError:
                    return

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            anyio.notify_closing(fd)
            os.close(fd)


@frozen(slots=True)
class Started:
    """A launcher that runs, and our ends of its descriptors. `terminal` is -1 without one."""

    popen: subprocess.Popen[bytes]
    channel: socket.socket
    streams: Mapping[str, Reader]
    stdin: Writer | None
    terminal: int


def start(command: Command, *, mark: str, stdin: bool, tty: bool, join_fd: int = -1, keep: bool = False) -> Started:
    """Fork and execute the launcher, with `mark` as its AGENTOPS_ROOT. Raises StartError.

    With `keep` and no wrapper, what the program starts ends with it, however it detaches itself.
    """
    opened: list[int] = []
    child_side: list[int] = []

    def pipe() -> tuple[int, int]:
        reader, writer = os.pipe()
        opened.extend((reader, writer))
        return reader, writer

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    try:
        streams: dict[str, Reader] = {}
        stdin_writer: Writer | None = None
        terminal = -1
        if tty:
            terminal, slave = pty.openpty()
            opened.extend((terminal, slave))
            child_side.append(slave)
            child_in = child_out = child_err = slave
            keyboard = os.dup(terminal)
            opened.append(keyboard)
            streams["stdout"] = Reader(terminal)
            stdin_writer = Writer(keyboard)
        else:
            out_read, child_out = pipe()
            err_read, child_err = pipe()
            child_side.extend((child_out, child_err))
            streams = {"stdout": Reader(out_read), "stderr": Reader(err_read)}
            if stdin:
                child_in, in_write = pipe()
                stdin_writer = Writer(in_write)
            else:
                child_in = os.open(os.devnull, os.O_RDONLY)
                opened.append(child_in)
            child_side.append(child_in)
        plan = _plan_file(command, theirs.fileno(), tty, join_fd, keep)
        opened.append(plan)
        child_side.append(plan)
        popen = subprocess.Popen(
            [sys.executable, "-I", "-S", launch.__file__, str(plan)],
            stdin=child_in,
            stdout=child_out,
            stderr=child_err,
            # Not the container's: a sandbox program must not load what a pod names.
            env={"AGENTOPS_ROOT": mark} if mark else {},
            start_new_session=True,
            pass_fds=(plan, theirs.fileno(), *((join_fd,) if join_fd >= 0 else ())),
        )
    except (OSError, ValueError) as error:
        for fd in opened:
            os.close(fd)
        ours.close()
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise StartError(f'exec: "{command.argv[0] if command.argv else ""}": {reason}') from error
    finally:
        theirs.close()
    for fd in child_side:
        os.close(fd)
    ours.setblocking(False)
    return Started(popen, ours, streams, stdin_writer, terminal)


def _plan_file(command: Command, channel: int, tty: bool, join_fd: int, keep: bool) -> int:
    """What `launch.py` reads. Raises ValueError for a NUL byte, which no argument or variable can hold."""
    texts = [*command.argv, *command.wrapper, *command.env, *command.env.values(), str(command.cwd)]
    if any("\0" in text for text in texts):
        raise ValueError("the command, or a variable of its environment, holds a null byte")
    plan = {
        "parent": os.getpid(),
        "channel": channel,
        "tty": tty,
        "join": join_fd,
        "keep": keep,
        "argv": list(command.argv),
        "env": dict(command.env),
        "cwd": str(command.cwd),
        "wrapper": list(command.wrapper),
        "python": sys.executable,
        "launch": launch.__file__,
    }
    fd = os.memfd_create("plan")
    with open(fd, "wb", closefd=False) as file:
        file.write(marshal.dumps(plan))
    return fd


async def greet(channel: socket.socket, leader: int) -> tuple[int, int]:
    """Let the program begin; its pid, and a pidfd for it. Raises StartError with what the launcher said, else ""."""
    message, pid = await _receive(channel)
    if message != launch.READY:
        raise StartError(message.decode("utf-8", "replace"))
    # It waits for the answer, so the pid is its own; the kernel translated it from its namespace.
    pidfd = os.pidfd_open(pid or leader)
    try:
        channel.send(b"\0")
        message, _ = await _receive(channel)
    except OSError:
        message = b""
    except BaseException:
        os.close(pidfd)
        raise
    if message:
        os.close(pidfd)
        raise StartError(message.decode("utf-8", "replace"))
    return pid, pidfd


async def _receive(channel: socket.socket) -> tuple[bytes, int]:
    """A message and its sender's pid; no bytes at the end."""
    while True:
        try:
            data, ancillary, _, _ = channel.recvmsg(_MESSAGE_BYTES, socket.CMSG_SPACE(_UCRED.size))
        except BlockingIOError:
            await anyio.wait_readable(channel)
            continue
        except OSError:
            return b"", 0
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                return data, int(_UCRED.unpack(content[: _UCRED.size])[0])
        return data, 0
