"""What a finished run leaves in its status.

A daemon's `RunRecord` and a task's `TaskResult` say the same things in two shapes; `Result` is the one the
reconciler writes, without characters that `kubectl get -o yaml` fails at. Output stays within
`OUTPUT_MAX_BYTES` in the status, the whole goes to a ConfigMap.
"""

from __future__ import annotations

import hashlib
from typing import Any

from attrs import evolve, field, frozen

from agentops.api.codec import WireError, loads, to_wire
from agentops.api.conditions import Reason
from agentops.api.runs import TASK_RESULT_KEY, Outcome, RunFailure, RunRecord, RunState, TaskResult, Usage
from agentops.api.types.agentrun import OUTPUT_MAX_BYTES
from agentops.operator.objects import names
from agentops.values.text import without_controls

WHOLE_OUTPUT_MAX_BYTES = 900 * 1024
"""What fits a ConfigMap, whose limit is 1 MiB with everything around it."""


@frozen(slots=True, kw_only=True)
class Result:
    """How a run ended. `reason` is that of its Complete condition; `message` one line."""

    succeeded: bool
    reason: str
    message: str = field(default="", converter=without_controls)
    output: str = field(default="", converter=without_controls)
    cut: bool = False
    """Whether `output` was cut before it got here."""
    model: str | None = None
    steps: int | None = None
    tool_calls: int | None = None
    usage: Usage | None = None
    cost: str | None = None
    trace_id: str | None = None
    outcome: Outcome | None = None


def failure(reason: str, message: str) -> Result:
    """A run that ended without the agent's own account of it."""
    return Result(succeeded=False, reason=reason, message=message, output=message)


_REASONS = {
    RunFailure.ABORTED: Reason.CANCELLED,
    RunFailure.INTERRUPTED: Reason.INTERRUPTED,
    RunFailure.ERROR: Reason.FAILED,
    None: Reason.FAILED,
}


def from_record(record: RunRecord) -> Result:
    """A terminal record of a daemon."""
    return _result(record, record.state == RunState.SUCCEEDED, record.reason, record.output, record.error)


def from_task(result: TaskResult) -> Result:
    found = _result(result, result.success, result.reason, result.output, result.error)
    return evolve(found, cut=result.truncated)


def out_of_time(result: TaskResult, why: str) -> Result:
    """A task the Job's deadline stopped: what it had got so far, and the deadline for a reason."""
    message = f"timed out: {why}"
    return evolve(from_task(result), reason=Reason.TIMEOUT, message=_line(message), output=result.output or message)


def _result(
    source: RunRecord | TaskResult, succeeded: bool, reason: str | None, output: str, error: str | None
) -> Result:
    failed_as = _REASONS.get(reason) or str(reason)
    message = "the agent answered" if succeeded else error or "the agent failed and did not say why"
    return Result(
        succeeded=succeeded,
        reason=Reason.SUCCEEDED if succeeded else failed_as,
        message=_line(message),
        output=output if succeeded else output or error or message,
        model=source.model,
        steps=source.steps,
        tool_calls=source.tool_calls,
        usage=source.usage,
        cost=source.cost,
        trace_id=source.trace_id,
        outcome=source.outcome,
    )


def parse_task_line(text: str) -> TaskResult | None:
    """The last line of `text` that is a task result; None when there is none that can be read.

    The container's standard error is in the same log, so lines after it are not a surprise.
    """
    marker = f'{{"{TASK_RESULT_KEY}"'
    for line in reversed(text.splitlines()):
        if line.lstrip().startswith(marker):
            try:
                return loads(TaskResult, line)
            except WireError:
                continue
    return None


def parse_termination_message(text: str, succeeded: bool) -> TaskResult | None:
    """The summary a task leaves in its termination log; other text is the output of one that succeeded."""
    text = text.strip()
    if not text:
        return None
    found = parse_task_line(text)
    if found is not None:
        return found
    return TaskResult(success=True, output=text) if succeeded else None


def status_fields(result: Result, run: str | None) -> dict[str, Any]:
    """The status keys of a finished run, but for phase, times and conditions.

    `outputRef` names the ConfigMap of `run` that must exist before this is written (see `whole_output`); with
    None there is none.
    """
    fields: dict[str, Any] = {"output": truncate(result.output, OUTPUT_MAX_BYTES)}
    if result.cut or needs_config_map(result):
        fields["outputTruncated"] = True
    if run is not None and needs_config_map(result):
        fields["outputRef"] = {"name": names.output_config_map(run), "key": names.OUTPUT_KEY}
    if result.output:
        fields["outputDigest"] = "sha256:" + hashlib.sha256(result.output.encode()).hexdigest()
    known = {
        "model": result.model,
        "steps": result.steps,
        "toolCalls": result.tool_calls,
        "cost": result.cost,
        "traceID": result.trace_id,
        "outcome": _clean(to_wire(result.outcome)) if result.outcome else None,
    }
    fields |= {key: value for key, value in known.items() if value is not None}
    if result.usage is not None:
        usage = {_camel(key): value for key, value in to_wire(result.usage).items()}
        total = result.usage.total_tokens or result.usage.input_tokens + result.usage.output_tokens
        fields["usage"] = {**usage, "totalTokens": total}
        fields["tokensUsed"] = total
    return fields


def needs_config_map(result: Result) -> bool:
    return len(result.output.encode()) > OUTPUT_MAX_BYTES


def whole_output(result: Result) -> str:
    """What the output ConfigMap holds: all of it, or as much as fits."""
    return truncate(result.output, WHOLE_OUTPUT_MAX_BYTES)


def truncate(text: str, limit_bytes: int) -> str:
    """At most `limit_bytes` of UTF-8, never half a character."""
    data = text.encode()
    return text if len(data) <= limit_bytes else data[:limit_bytes].decode("utf-8", "ignore")


def _camel(key: str) -> str:
    head, *rest = key.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _clean(data: Any) -> Any:
    """JSON data whose strings are fit for YAML."""
    if isinstance(data, dict):
        return {key: _clean(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_clean(value) for value in data]
    return without_controls(data) if isinstance(data, str) else data


def _line(text: str) -> str:
    return truncate(" ".join(text.split()), 1024)
