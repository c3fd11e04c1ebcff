"""Runs as they cross the wire between operator, runtime and command line.

A daemon answers `POST /prompt` with `Prefer: respond-async` by 202 and keeps a `RunRecord` that
`GET /runs/{name}` returns; a task prints a `TaskResult` as its last line of standard output.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from attrs import field, frozen

from agentops.api.codec import wire

RUN_NAME_HEADER = "X-AgentOps-Run-Name"
RUN_UID_HEADER = "X-AgentOps-Run-UID"
"""Tells AgentRuns of the same name apart: a finished record of another uid gives way to the new run."""
PARENT_AGENT_HEADER = "X-AgentOps-Parent-Agent"
TOKEN_HEADER = "X-AgentOps-Token"
"""The bearer again, for callers behind pods/proxy: the API server keeps `Authorization` for itself."""

TASK_RESULT_KEY = "agentops.result"
TASK_EVENT_KEY = "agentops.event"
TERMINATION_LOG_BYTES = 4096


class RunState:
    """The states of a run record. Terminal ones never change again."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TERMINAL = frozenset({SUCCEEDED, FAILED})


class RunFailure:
    """Why a run record is `failed`: `reason` of the record, a condition reason of the AgentRun."""

    ERROR = "Error"
    """The model, a tool set-up or the runtime failed; `error` says what."""
    ABORTED = "Aborted"
    INTERRUPTED = "Interrupted"
    """The runtime was told to stop, or died, while the turn ran."""
    BUDGET = "BudgetExceeded"


@frozen(slots=True, kw_only=True)
class Usage:
    """Tokens of one or more model calls."""

    input_tokens: int = wire("input_tokens", always=True, default=0)
    output_tokens: int = wire("output_tokens", always=True, default=0)
    total_tokens: int = wire("total_tokens", always=True, default=0)
    reasoning_tokens: int = wire("reasoning_tokens", always=True, default=0)
    cache_creation_tokens: int = wire("cache_creation_tokens", always=True, default=0)
    cache_read_tokens: int = wire("cache_read_tokens", always=True, default=0)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            cache_creation_tokens=self.cache_creation_tokens + other.cache_creation_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
        )


@frozen(slots=True, kw_only=True)
class PromptRequest:
    """The body of `POST /prompt` and `POST /prompt/stream`."""

    prompt: str
    context: tuple[dict[str, Any], ...] = ()


@frozen(slots=True, kw_only=True)
class SteerRequest:
    """The body of `POST /steer`."""

    message: str


@frozen(slots=True, kw_only=True)
class ExtractRequest:
    """The body of `POST /memory/extract`: what to look for, and the type of what is found."""

    focus: str = ""
    type: str = ""


@frozen(slots=True, kw_only=True)
class Artifact:
    """Something a run made. `kind` is one of pr, mr, issue, memory, commit."""

    kind: str
    provider: str | None = None
    url: str | None = None
    ref: str | None = None
    title: str | None = None


@frozen(slots=True, kw_only=True)
class Outcome:
    """What a run amounted to. `intent` is one of change, plan, incident, discovery, noop."""

    intent: str
    artifacts: tuple[Artifact, ...] = ()
    summary: str | None = None


@frozen(slots=True, kw_only=True)
class RunRecord:
    """What a daemon knows of one run, durable across its restarts."""

    name: str
    state: str = wire("state", always=True, default=RunState.RUNNING)
    reason: str | None = None
    """Set when failed: one of `RunFailure`."""
    output: str = wire("output", always=True, default="")
    error: str | None = None
    model: str | None = None
    steps: int = wire("steps", always=True, default=0)
    tool_calls: int = wire("toolCalls", always=True, default=0)
    usage: Usage = wire("usage", always=True, factory=Usage)
    cost: str | None = None
    trace_id: str | None = wire("traceID", default=None)
    outcome: Outcome | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


@frozen(slots=True, kw_only=True)
class TaskResult:
    """A task's last line on standard output, `{"agentops.result": 1, …}`, and its termination log.

    The termination log holds the same object with `output` cut to fit 4,096 bytes and `truncated` set.
    """

    version: int = wire(TASK_RESULT_KEY, always=True, default=1)
    success: bool = wire("success", always=True, default=False)
    output: str = wire("output", always=True, default="")
    truncated: bool = False
    reason: str | None = None
    error: str | None = None
    model: str | None = None
    steps: int = wire("steps", always=True, default=0)
    tool_calls: int = wire("toolCalls", always=True, default=0)
    usage: Usage = wire("usage", always=True, factory=Usage)
    cost: str | None = None
    trace_id: str | None = wire("traceID", default=None)
    outcome: Outcome | None = None


@frozen(slots=True, kw_only=True)
class AcceptedRun:
    """The 202 body of an asynchronous prompt."""

    run: str = field()
