"""llama.cpp in a child process.

It is native code that may meet a CPU without the instructions it was built for, or weights it cannot read; either
kills only the child, and becomes one sentence here.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.abc
from anyio.streams.text import TextReceiveStream
from attrs import frozen

from agentops.model.errors import EngineFailed
from agentops.telemetry.logging import get_logger

log = get_logger("model.engine")

CONTEXT_TOKENS = 4096
"""The model could hold twice that, but a full prompt would then take half a minute on two cores."""
START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 3.0


@frozen(slots=True)
class Endpoint:
    """Where the engine answers, and the key it asks for."""

    url: str
    key: str


class Engine:
    """Run with `await engine.run()`; cancel to stop.

    `command` replaces the child's program, for tests: it gets the same arguments and speaks as `llama_server` does.
    """

    def __init__(
        self,
        weights: Path,
        *,
        context_tokens: int = CONTEXT_TOKENS,
        threads: int | None = None,
        command: Sequence[str] = (sys.executable, "-m", "agentops.model.llama_server"),
    ) -> None:
        threads = threads or engine_threads(len(os.sched_getaffinity(0)))
        self._command = [*command, str(weights), str(context_tokens), str(threads)]
        self._weights = weights
        self._said: deque[str] = deque(maxlen=20)

    async def run(self, *, task_status: anyio.abc.TaskStatus[Endpoint] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; `task_status` starts once it answers. Raises EngineFailed when the child ends."""
        if not self._weights.is_file():
            raise EngineFailed(f"weights {self._weights} are not a file")
        key = secrets.token_urlsafe(24)
        try:
            child = await anyio.open_process(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise EngineFailed(f"the model engine {self._command[0]} cannot be started: {error.strerror}") from error
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen_to, child)
                url = await self._start(child, key)
                log.info("engine.ready", pid=child.pid, weights=str(self._weights))
                task_status.started(Endpoint(url, key))
                code = await child.wait()
                tasks.cancel_scope.cancel()
            raise EngineFailed(self._epitaph(code))
        finally:
            await _stop(child)

    async def _start(self, child: anyio.abc.Process, key: str) -> str:
        assert child.stdin is not None
        assert child.stdout is not None
        told = ""
        try:
            with anyio.fail_after(START_TIMEOUT_S):
                await child.stdin.send(key.encode() + b"\n")
                async for text in TextReceiveStream(child.stdout):
                    told += text
                    if "\n" in told:
                        return str(json.loads(told.partition("\n")[0])["address"])
                raise EngineFailed(self._epitaph(await child.wait()))
        except TimeoutError as error:
            raise EngineFailed(f"the model engine did not start within {START_TIMEOUT_S:g} s") from error
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise EngineFailed(self._epitaph(await child.wait())) from error
        except (ValueError, KeyError, TypeError) as error:
            raise EngineFailed(f"the model engine said {told[:80]!r} instead of its address") from error

    async def _listen_to(self, child: anyio.abc.Process) -> None:
        assert child.stderr is not None
        async for text in TextReceiveStream(child.stderr, errors="replace"):
            self._said.extend(line for line in text.splitlines() if line.strip())

    def _epitaph(self, code: int) -> str:
        if code == -signal.SIGILL:
            return (
                "the model engine needs CPU instructions that this machine does not have (SIGILL); "
                "use --script, or point the Provider at a model elsewhere"
            )
        if code == -signal.SIGKILL:
            return "the model engine was killed (SIGKILL), perhaps for memory: it needs about 300 MiB"
        ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if any("No module named 'xllamacpp'" in line for line in self._said):
            return "xllamacpp is not installed; run `pip install 'agentops-platform[local]'`, or use --script"
        if any("libgomp.so.1" in line for line in self._said):
            return "the model engine needs libgomp.so.1; install it (Debian: libgomp1), or use --script"
        last = self._said[-1][:200] if self._said else "it said nothing"
        return f"the model engine ended with {ended} on {self._weights}: {last}"


def engine_threads(cores: int) -> int:
    """Half of the cores, at most 8.

    Its threads wait for one another after every layer: one that must share its core holds up all. On two busy cores,
    two threads were measured to write 1 to 10 tokens/s where one writes 90.
    """
    return max(1, min(cores // 2, 8))


async def _stop(child: anyio.abc.Process) -> None:
    """End of input asks it to leave; then it is killed."""
    with anyio.CancelScope(shield=True):
        if child.returncode is None:
            if child.stdin is not None:
                await child.stdin.aclose()
            with anyio.move_on_after(_STOP_TIMEOUT_S):
                await child.wait()
        if child.returncode is None:
            child.kill()
            await child.wait()
        await child.aclose()
