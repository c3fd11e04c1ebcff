"""What the agent's tools can reach of the file system, enforced by the kernel where it can.

Deny by default: the workspace and a temporary directory can be written; system directories, what PATH
names and the agent's own tools can be read; nothing else exists for a tool, above all not the agent's
state and its tokens. `run` executes a function in a thread that is bound to this for ever (see
`landlock`), so what it starts is bound too; that costs nothing per call. Where the kernel has no
Landlock the same functions run unbound, and `kind` says so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import anyio.to_thread
from attrs import frozen

from agentops.runtime.tools import landlock
from agentops.runtime.tools.workspace import Workspace
from agentops.telemetry.logging import get_logger

log = get_logger("runtime.sandbox")

THREADS = 4
PRIVATE_TMP = ".agentops/tmp"
"""Relative to the workspace; where temporary files go when the system's directory holds what tools must not see."""

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt", "/proc", "/sys", "/run/systemd/resolve")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts",
            "/dev/shm")  # fmt: skip

_T = TypeVar("_T")


@frozen
class Reach:
    """Where tools may go. `tmp` is their temporary directory."""

    readable: tuple[Path, ...]
    writable: tuple[Path, ...]
    tmp: Path

    @property
    def rules(self) -> Iterator[tuple[Path, int]]:
        for path in self.readable:
            yield path, landlock.READ
        for path in self.writable:
            yield path, landlock.WRITE


def plan_reach(
    workspace: Workspace,
    environ: Mapping[str, str],
    *,
    secret: Iterable[Path],
    readable: Iterable[Path] = (),
) -> Reach:
    """The reach of an agent's tools. `secret` are files and directories that stay closed even where they lie
    below something open; `readable` is opened beside the system directories."""
    closed = [Path(os.path.realpath(path)) for path in secret]
    tmp = Path(os.path.realpath(environ.get("TMPDIR") or "/tmp"))
    if any(path.is_relative_to(tmp) or tmp.is_relative_to(path) for path in closed):
        tmp = workspace.root / PRIVATE_TMP
    search = [Path(entry) for entry in environ.get("PATH", os.defpath).split(os.pathsep) if entry.startswith("/")]
    wanted = [*map(Path, _SYSTEM), Path(sys.prefix), Path(sys.base_prefix), *search, *readable]
    opened = {part: None for path in wanted for part in _without(Path(os.path.realpath(path)), closed)}
    return Reach(tuple(opened), (workspace.root, tmp, *map(Path, _DEVICES)), tmp)


def _without(path: Path, closed: list[Path]) -> Iterator[Path]:
    """`path`, or what is in it beside the `closed` parts."""
    if any(path.is_relative_to(part) for part in closed) or path == Path("/"):
        return
    if not any(part.is_relative_to(path) for part in closed):
        yield path
        return
    with suppress(OSError):
        for child in sorted(path.iterdir()):
            if not child.is_symlink():
                yield from _without(child, closed)


class Sandbox:
    """A context manager; before it is entered, and where the kernel has no Landlock, nothing is enforced."""

    def __init__(self, reach: Reach | None) -> None:
        self._reach = reach
        self._threads: ThreadPoolExecutor | None = None
        self.kind = "none"
        """`landlock`, or `none` when nothing is enforced."""
        self.why = "no sandbox was asked for"
        """Why nothing is enforced, or the empty string."""

    def __enter__(self) -> Sandbox:
        if self._reach is None:
            return self
        self._reach.tmp.mkdir(parents=True, exist_ok=True)
        found = landlock.version()
        if not found:
            self.why = "the kernel has no Landlock (Linux 5.13 and the boot option lsm=landlock)"
            log.warning("sandbox.none", reason=self.why, meaning="tools can read what the agent's user can read")
            return self
        rules = tuple(self._reach.rules)
        refusals: list[OSError] = []

        def bind() -> None:
            try:
                landlock.restrict(rules)
            except OSError as error:
                refusals.append(error)
                raise

        threads = ThreadPoolExecutor(THREADS, "sandboxed", initializer=bind)
        try:
            threads.submit(os.getpid).result()
        except BrokenThreadPool:
            threads.shutdown()
            self.why = f"Landlock refused: {refusals[0].strerror}"
            log.error("sandbox.none", reason=self.why, meaning="tools can read what the agent's user can read")
            return self
        self._threads, self.kind, self.why = threads, "landlock", ""
        log.info("sandbox.landlock", version=found)
        return self

    def __exit__(self, *_: object) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    @property
    def status(self) -> dict[str, str]:
        """`{kind}`, and `reason` when nothing is enforced."""
        return {"kind": self.kind, **({"reason": self.why} if self.why else {})}

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """`env` with a TMPDIR and a HOME that can be used inside."""
        if self._threads is None or self._reach is None:
            return dict(env)
        home = Path(env.get("HOME", "/"))
        usable = any(home.is_relative_to(path) for path in self._reach.writable)
        return {**env, "TMPDIR": str(self._reach.tmp), "HOME": str(home if usable else self._reach.tmp)}

    async def run(self, work: Callable[[], _T], *, abandon_on_cancel: bool = False) -> _T:
        """The result of `work`, executed in a bound thread."""
        threads = self._threads
        if threads is None:
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=abandon_on_cancel)
        return await anyio.to_thread.run_sync(
            lambda: threads.submit(work).result(), abandon_on_cancel=abandon_on_cancel
        )
