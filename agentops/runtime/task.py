"""`agentops runtime task`: one prompt, one answer, then exit.

Standard output carries lines only: `{"agentops.event": …}` for every event as it happens, and last
`{"agentops.result": 1, …}`, without control characters (`without_controls`): kubectl shows them as YAML with the
pod. The termination log gets the same result, cut so that it is valid JSON of at
most 4,096 bytes.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import orjson
from attrs import evolve

from agentops.api.codec import dumps
from agentops.api.runs import (
    TASK_EVENT_KEY,
    TERMINATION_LOG_BYTES,
    RunFailure,
    RunRecord,
    RunState,
    TaskResult,
)
from agentops.net.paths import pod_path
from agentops.net.serve import find_usage_error
from agentops.runtime.agent import Agent, RunRequest
from agentops.runtime.assembly import open_agent
from agentops.runtime.errors import ConfigFault
from agentops.runtime.events import EventLog
from agentops.runtime.settings import Settings
from agentops.telemetry.logging import get_logger
from agentops.telemetry.metrics import Registry
from agentops.values.clock import Clock, SystemClock
from agentops.values.text import without_controls

log = get_logger("runtime.task")

TERMINATION_LOG = "/dev/termination-log"
GRACE_S = 2.0
"""A task that is told to stop has nothing to wait for: its answer is partial either way."""

RESULT_OUTPUT_BYTES = 1 << 20
"""Of the output in the result line: a little more than an AgentRun's ConfigMap holds. Who reads the line takes no more
than 4 MiB of it, and JSON escapes may double it."""

Write = Callable[[bytes], None]


class Task:
    """Runs the prompt of the environment once; `run` returns the exit code."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None, write: Write | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._write = write or _write_stdout
        self._agent: Agent | None = None
        self._told_to_stop = False

    async def run(self) -> int:
        """0 when the model answered, 1 when not, 2 when the settings are wrong (UsageError is reported, not raised)."""
        try:
            async with anyio.create_task_group() as tasks:
                await tasks.start(self._watch_signals)
                result = await self._run()
                tasks.cancel_scope.cancel()
            code = 0 if result.success else 1
        except BaseExceptionGroup as group:
            error = find_usage_error(group)
            if error is None:
                raise
            sys.stderr.write(f"agentops: {error}\n")
            why = without_controls(str(error))
            result, code = TaskResult(success=False, reason=RunFailure.ERROR, error=why), 2
        await anyio.to_thread.run_sync(self._write, dumps(result) + b"\n")
        self._terminate(result)
        return code

    async def _run(self) -> TaskResult:
        environ = self._settings.environ
        request = RunRequest(
            prompt=read_prompt(environ),
            name=environ.get("AGENT_RUN_NAME", ""),
            traceparent=environ.get("TRACEPARENT"),
            parent_agent=environ.get("AGENT_RUN_SOURCE_AGENT", ""),
        )
        async with (
            open_agent(self._settings, mode="task", registry=Registry(), clock=self._clock) as agent,
            anyio.create_task_group() as tasks,
        ):
            await tasks.start(agent.run)
            self._agent = agent
            run = await agent.submit(request)
            if self._told_to_stop:  # while all this was put together
                agent.interrupt()
            assert run.log is not None
            await self._print(run.log)
            await run.done.wait()
            await agent.drain(GRACE_S)
            result = task_result(run.record)
            tasks.cancel_scope.cancel()
        return result

    async def _watch_signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for received in signals:
                log.info("signal.received", signal=signal.Signals(received).name)
                self._told_to_stop = True
                if self._agent is not None:
                    self._agent.interrupt()

    async def _print(self, events: EventLog) -> None:
        """One line an event; what came meanwhile is written together."""
        reader = events.reader(0)
        while True:
            lines = [b'{"%s":%s}\n' % (TASK_EVENT_KEY.encode(), event.body) for event in reader.take()]
            if lines:
                await anyio.to_thread.run_sync(self._write, b"".join(lines))
            if reader.ended:
                return
            await reader.wait()

    def _terminate(self, result: TaskResult) -> None:
        environ = self._settings.environ
        shown = environ.get("AGENTOPS_TERMINATION_LOG") or TERMINATION_LOG
        path = Path(shown) if environ.get("AGENTOPS_TERMINATION_LOG") else pod_path(shown, environ)
        try:
            path.write_bytes(termination_message(result))
        except OSError as error:
            log.warning("task.no_termination_log", path=shown, error=error.strerror)


def read_prompt(environ: Mapping[str, str]) -> str:
    """`AGENT_PROMPT`, else the file `AGENT_PROMPT_FILE` names. Raises ConfigFault."""
    prompt = environ.get("AGENT_PROMPT", "")
    shown = environ.get("AGENT_PROMPT_FILE", "")
    if not prompt and shown:
        try:
            prompt = pod_path(shown, environ).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigFault(f"AGENT_PROMPT_FILE {shown}: {why}") from None
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise ConfigFault("AGENT_PROMPT: not UTF-8 text") from None
    if not prompt.strip():
        raise ConfigFault("the prompt is empty: set AGENT_PROMPT, or AGENT_PROMPT_FILE to a file that holds it")
    return prompt


def task_result(record: RunRecord) -> TaskResult:
    """What a task says of its run. An output of more than `RESULT_OUTPUT_BYTES` is cut, and `truncated` set."""
    output = without_controls(record.output)
    kept = output.encode()[:RESULT_OUTPUT_BYTES].decode("utf-8", "ignore")
    return TaskResult(
        success=record.state == RunState.SUCCEEDED,
        output=kept,
        truncated=kept != output,
        reason=record.reason,
        error=without_controls(record.error) if record.error is not None else None,
        model=record.model,
        steps=record.steps,
        tool_calls=record.tool_calls,
        usage=record.usage,
        cost=record.cost,
        trace_id=record.trace_id,
        outcome=record.outcome,
    )


def termination_message(result: TaskResult, limit: int = TERMINATION_LOG_BYTES) -> bytes:
    """`result` as JSON of at most `limit` bytes: `output` is cut first, then `error`, and `truncated` says so."""
    whole = dumps(result)
    if len(whole) <= limit:
        return whole
    cut = evolve(result, truncated=True, error=_longest(result.error or "", 1024) or None)
    low, high = 0, len(cut.output)
    while low < high:  # JSON escapes make the length of a prefix unpredictable, but it grows with it
        middle = (low + high + 1) // 2
        if len(dumps(evolve(cut, output=cut.output[:middle]))) <= limit:
            low = middle
        else:
            high = middle - 1
    message = dumps(evolve(cut, output=cut.output[:low]))
    if len(message) > limit:  # an outcome with many artifacts: its summary is in the result line
        message = dumps(evolve(cut, output="", outcome=None, error=_longest(result.error or "", 256) or None))
    orjson.loads(message)
    return message


def _longest(text: str, limit: int) -> str:
    """The longest prefix whose JSON form has at most `limit` bytes."""
    while len(orjson.dumps(text)) > limit:
        text = text[: len(text) * 3 // 4]
    return text


def _write_stdout(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
