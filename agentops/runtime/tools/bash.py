"""The `bash` tool: a command in the workspace, with a deadline, its own process group and a clean environment."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Collection, Mapping
from contextlib import suppress

import anyio
import anyio.abc

from agentops.runtime.errors import ToolFault
from agentops.runtime.tools.base import Arguments, ToolOutput, schema
from agentops.runtime.tools.output import OutputSink, cut
from agentops.runtime.tools.workspace import Workspace
from agentops.values.clock import Clock

DEFAULT_TIMEOUT_S = 120
MAX_TIMEOUT_S = 1800
KILL_AFTER_S = 2.0
"""Between SIGTERM and SIGKILL."""
LINGER_S = 0.5
"""How long output is still read after the shell has ended, when a child keeps the pipe open."""

_ALLOWED = frozenset(
    {"PATH", "HOME", "LANG", "LANGUAGE", "TERM", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL", "SSL_CERT_FILE",
     "SSL_CERT_DIR", "AGENT_NAME", "AGENT_NAMESPACE", "AGENT_MODE", "WORKSPACE", "AGENTOPS_ROOT"}
)  # fmt: skip
_PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"})


def child_environment(env: Mapping[str, str], also: Collection[str] = ()) -> dict[str, str]:
    """What a child of the runtime may know of `env`: names on a list and `also`, never a key or a token.

    Proxy settings pass unless they carry credentials.
    """
    child = {
        name: value
        for name, value in env.items()
        if name in _ALLOWED or name in also or name.startswith("LC_") or (name.upper() in _PROXIES and "@" not in value)
    }
    child.setdefault("PATH", os.defpath)
    child.setdefault("HOME", "/tmp")
    child.setdefault("LANG", "C.UTF-8")
    return child


class BashTool:
    """Runs `bash -c` (or `sh -c` where there is no bash). Commands never overlap with other tools."""

    name = "bash"
    kind = "builtin"
    parallel_safe = False
    description = (
        "Run a shell command in the workspace and return what it prints (stdout and stderr together). "
        f"It is stopped after `timeout` seconds (default {DEFAULT_TIMEOUT_S}); "
        "processes it leaves in the background end with it."
    )
    schema = schema(
        {
            "command": {"type": "string", "description": "The command line."},
            "timeout": {"type": "integer", "description": f"Seconds, at most {MAX_TIMEOUT_S}."},
        },
        ("command",),
    )

    def __init__(
        self,
        workspace: Workspace,
        env: Mapping[str, str],
        clock: Clock,
        limit_chars: int,
        variables: Collection[str] = (),
    ) -> None:
        self._workspace = workspace
        self._env = child_environment(env, variables)
        self._clock = clock
        self._limit = limit_chars
        self._count = 0

    async def run(self, arguments: Arguments) -> ToolOutput:
        command = arguments["command"]
        timeout_s = arguments.get("timeout", DEFAULT_TIMEOUT_S)
        if timeout_s <= 0 or timeout_s > MAX_TIMEOUT_S:
            raise ToolFault(f"timeout must be between 1 and {MAX_TIMEOUT_S} seconds, got {timeout_s}")
        if "\0" in command:
            raise ToolFault("a command cannot contain a NUL byte")
        started = self._clock.boottime()
        self._count += 1
        sink = OutputSink(self._workspace.root, f"bash-{os.getpid()}-{self._count}", self._limit)
        try:
            code = await self._execute(command, timeout_s, sink)
        finally:
            sink.close()
        metadata = {
            "ui": "terminal",
            "command": command,
            "exitCode": code,
            "cwd": self._workspace.declared,
            "duration": round((self._clock.boottime() - started) * 1000),
        }
        if code is None:
            raise ToolFault(self._report(sink, f"[stopped: timed out after {timeout_s} s]"), metadata)
        if code != 0:
            how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            raise ToolFault(self._report(sink, f"[{how}]"), metadata)
        return ToolOutput(sink.text or "(no output)", metadata, sink.spilled, sink.total_chars)

    def _report(self, sink: OutputSink, ending: str) -> str:
        body = cut(sink.text, self._limit, sink.spilled, sink.total_chars).rstrip("\n")
        return f"{body}\n{ending}" if body else ending

    async def _execute(self, command: str, timeout_s: float, sink: OutputSink) -> int | None:
        """The exit code (negative for a signal), or None when the time ran out."""
        shell = shutil.which("bash", path=self._env["PATH"]) or "/bin/sh"
        try:
            process = await anyio.open_process(
                [shell, "-c", command],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.STDOUT,
                cwd=self._workspace.root,
                env={**self._env, "PWD": str(self._workspace.root)},
                start_new_session=True,
            )
        except OSError as error:
            raise ToolFault(f"cannot start {shell}: {error.strerror or error}") from error
        try:
            with anyio.move_on_after(timeout_s):
                await self._until_end(process, sink)
                return process.returncode
            _signal_group(process.pid, signal.SIGTERM)
            with anyio.move_on_after(KILL_AFTER_S):
                await self._until_end(process, sink)
            return None
        finally:
            _signal_group(process.pid, signal.SIGKILL)
            with anyio.move_on_after(5, shield=True):
                await process.wait()
            with anyio.move_on_after(1, shield=True):
                await process.aclose()

    async def _until_end(self, process: anyio.abc.Process, sink: OutputSink) -> None:
        """Read until the shell has ended; children that keep the pipe open are waited for only briefly."""
        assert process.stdout is not None
        stdout = process.stdout
        async with anyio.create_task_group() as tasks:

            async def read() -> None:
                with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
                    while True:
                        sink.write(await stdout.receive(65536))

            async def watch() -> None:
                await process.wait()
                await self._clock.sleep(LINGER_S)
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await read()
            await process.wait()
            tasks.cancel_scope.cancel()


def _signal_group(pid: int, number: signal.Signals) -> None:
    """To every process of the group; a group that is gone is what was wanted."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
