"""Every tool call goes through here: parsed, checked, traced, timed, counted, cut to size.

A call never raises: whatever goes wrong becomes an error result that the model reads. Cancellation
passes through.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from attrs import frozen
from opentelemetry.trace import Status, StatusCode

from agentops.runtime.errors import ToolFault
from agentops.runtime.metrics import RuntimeMetrics
from agentops.runtime.providers.base import ToolSpec
from agentops.runtime.spans import content
from agentops.runtime.tools.base import Progress, ShowingTool, Tool, ToolOutput, check_arguments
from agentops.runtime.tools.output import cut, printable, spill
from agentops.runtime.tools.sandbox import Sandbox
from agentops.runtime.tools.workspace import Workspace
from agentops.telemetry import tracing
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock

log = get_logger("runtime.tools")


@frozen
class ToolOutcome:
    """The result of one call. `metadata` is JSON text, as events and working memory carry it."""

    text: str
    is_error: bool
    metadata: str


class ToolBox:
    """The tools of one agent. `max_result_chars` bounds what a single result adds to the conversation."""

    def __init__(
        self,
        tools: Iterable[Tool],
        *,
        workspace: Workspace,
        max_result_chars: int,
        clock: Clock,
        metrics: RuntimeMetrics,
        sandbox: Sandbox | None = None,
    ) -> None:
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            if tool.name in self._tools:
                raise ValueError(f"two tools are named {tool.name}")
            self._tools[tool.name] = tool
        self._workspace = workspace
        self.sandbox = sandbox or Sandbox(None)
        self._limit = max_result_chars
        self._clock = clock
        self._metrics = metrics
        self._tracer = tracing.tracer("runtime.tools")

    def __len__(self) -> int:
        return len(self._tools)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tools)

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        return tuple(ToolSpec(tool.name, tool.description, tool.schema) for tool in self._tools.values())

    def parallel_safe(self, name: str) -> bool:
        tool = self._tools.get(name)
        return tool is not None and tool.parallel_safe

    async def call(
        self, call_id: str, name: str, arguments: str, progress: Progress = lambda text: None
    ) -> ToolOutcome:
        """Run one call with the arguments the model wrote; `progress` gets what tools show before they are done."""
        tool = self._tools.get(name)
        label = name if tool else "unknown"
        started = self._clock.boottime()
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.call.id": call_id,
            "tool.name": name,
            "tool.type": tool.kind if tool else "unknown",
        }
        with self._tracer.start_as_current_span(f"tool.execute: {label}", attributes=attributes) as span:
            content(span, "gen_ai.tool.input", arguments)
            try:
                output = await self._run(tool, name, arguments, progress)
                outcome = ToolOutcome(self._fit(call_id, output), False, _metadata(output.metadata))
            except ToolFault as fault:
                text = str(fault) if fault.fitted else cut(str(fault), self._limit)
                outcome = ToolOutcome(text, True, _metadata({**fault.metadata, "error": str(fault)[:200]}))
            except Exception as error:  # a defect in a tool must not end the turn; it is logged with its trace
                log.exception("tool.crashed", tool=label)
                outcome = ToolOutcome(f"the tool {name} failed: {error or type(error).__name__}", True, _metadata({}))
            outcome = ToolOutcome(printable(outcome.text), outcome.is_error, printable(outcome.metadata))
            milliseconds = round((self._clock.boottime() - started) * 1000)
            span.set_attribute("tool.duration_ms", milliseconds)
            span.set_attribute("tool.error", outcome.is_error)
            content(span, "gen_ai.tool.output", outcome.text)
            if outcome.is_error:
                span.set_status(Status(StatusCode.ERROR))
        self._metrics.tool_called(label, "error" if outcome.is_error else "ok")
        log.info("tool.call", tool=label, error=outcome.is_error, duration_ms=milliseconds)
        return outcome

    async def _run(self, tool: Tool | None, name: str, arguments: str, progress: Progress) -> ToolOutput:
        if tool is None:
            have = ", ".join(self._tools) or "none"
            raise ToolFault(f"there is no tool named {name!r}; available: {have}")
        try:
            raw = orjson.loads(arguments) if arguments.strip() else {}
            checked = check_arguments(raw, tool.schema)
        except orjson.JSONDecodeError as error:
            raise ToolFault(f"the arguments of {name} are not valid JSON ({error}); send them again") from None
        except ValueError as error:
            raise ToolFault(f"{name}: {error}") from None
        if isinstance(tool, ShowingTool):
            return await tool.run_showing(checked, progress)
        return await tool.run(checked)

    def _fit(self, call_id: str, output: ToolOutput) -> str:
        if output.fitted or len(output.text) <= self._limit:
            return output.text
        return cut(output.text, self._limit, output.whole_in or spill(self._workspace.root, call_id, output.text))


def _metadata(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"), default=str)
