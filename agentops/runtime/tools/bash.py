"""The `bash` tool: a command in the workspace, with a deadline, its own process group and a clean environment."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Collection, Mapping

import anyio

from agentops.runtime.errors import ToolFault
from agentops.runtime.tools.base import Arguments, Progress, ToolOutput, schema
from agentops.runtime.tools.output import OutputSink
from agentops.runtime.tools.processes import nothing_left, running
from agentops.runtime.tools.sandbox import Sandbox
from agentops.runtime.tools.workspace import Workspace
from agentops.values.clock import Clock

DEFAULT_TIMEOUT_S = 120
MAX_TIMEOUT_S = 1800
KILL_AFTER_S = 2.0
"""Between SIGTERM and SIGKILL."""

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
        "processes it leaves in the background end with it. "
        "Write only to the workspace and the temporary directory ($TMPDIR)."
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
        sandbox: Sandbox | None = None,
    ) -> None:
        self._workspace = workspace
        self._sandbox = sandbox or Sandbox(None)
        self._env = self._sandbox.environment(child_environment(env, variables))
        self._clock = clock
        self._limit = limit_chars

    async def run(self, arguments: Arguments) -> ToolOutput:
        return await self.run_showing(arguments, lambda text: None)

    async def run_showing(self, arguments: Arguments, progress: Progress) -> ToolOutput:
        command = arguments["command"]
        timeout_s = arguments.get("timeout", DEFAULT_TIMEOUT_S)
        if timeout_s <= 0 or timeout_s > MAX_TIMEOUT_S:
            raise ToolFault(f"timeout must be between 1 and {MAX_TIMEOUT_S} seconds, got {timeout_s}")
        if "\0" in command:
            raise ToolFault("a command cannot contain a NUL byte")
        started = self._clock.boottime()
        shown = _Shown(progress, self._limit)
        sink = OutputSink(self._workspace.root, f"bash-{secrets.token_hex(4)}", self._limit, shown.take)
        try:
            code = await self._execute(command, timeout_s, sink, shown)
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
            raise ToolFault(_report(sink, f"[stopped: timed out after {timeout_s} s]"), metadata, fitted=True)
        if code != 0:
            how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            raise ToolFault(_report(sink, f"[{how}]"), metadata, fitted=True)
        return ToolOutput(sink.text or "(no output)", metadata, fitted=True)

    async def _execute(self, command: str, timeout_s: float, sink: OutputSink, shown: _Shown) -> int | None:
        """The exit code (negative for a signal), or None when the time ran out."""
        shell = shutil.which("bash", path=self._env["PATH"]) or "/bin/sh"
        root = self._workspace.root
        env = {**self._env, "PWD": str(root)}
        async with nothing_left(), running([shell, "-c", command], sandbox=self._sandbox, cwd=root, env=env) as process:
            with anyio.move_on_after(timeout_s):
                return await process.read_until_end(sink.write, shown.tick)
            process.terminate()
            with anyio.move_on_after(KILL_AFTER_S):
                await process.read_until_end(sink.write)
        return None


def _report(sink: OutputSink, ending: str) -> str:
    body = sink.text.rstrip("\n")
    return f"{body}\n{ending}" if body else ending


class _Shown:
    """Passes output on as progress, in pieces that are not too many and, together, not too long."""

    def __init__(self, progress: Progress, limit_chars: int) -> None:
        self._progress = progress
        self._left = limit_chars
        self._waiting: list[str] = []
        self._fresh = True

    def take(self, text: str) -> None:
        """The first piece after a quiet moment goes out at once, the next with the tick."""
        self._waiting.append(text[: self._left])
        self._left -= len(self._waiting[-1])
        if self._fresh:
            self.tick()
            self._fresh = False

    def tick(self) -> None:
        text = "".join(self._waiting)
        self._waiting.clear()
        self._fresh = not text
        if text:
            self._progress(text)
