"""One turn: a prompt in, model calls and tools until the model is done, events all along.

The state of a turn is this object, so that stopping it at any point (abort, shutdown, a provider
that fails) leaves what was done: `stop` closes what is open in the event grammar and completes the
messages with a marker, and `messages` is what joins the conversation either way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, Literal

import anyio
from attrs import define, field, frozen
from opentelemetry import trace

from agentops.api.codec import to_wire
from agentops.api.fep import EventType
from agentops.api.runs import Usage
from agentops.runtime.budget import Budget, estimate, trim
from agentops.runtime.errors import ProviderFault
from agentops.runtime.events import Emitter
from agentops.runtime.messages import (
    Message,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    assistant,
    user,
)
from agentops.runtime.metrics import RuntimeMetrics
from agentops.runtime.providers.base import (
    CallOptions,
    Delta,
    Finish,
    FinishReason,
    ProviderWarning,
    ReasoningDelta,
    ReasoningSignature,
    Source,
    SystemPrompt,
    TextDelta,
    ToolInputDelta,
    ToolInputStart,
)
from agentops.runtime.providers.chain import ModelChain, Switched, TurnModels
from agentops.runtime.spans import usage_attributes
from agentops.runtime.tools.box import ToolBox, ToolOutcome
from agentops.telemetry import tracing
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock

log = get_logger("runtime.turn")


@frozen
class TurnSetup:
    """What a turn is about. `history` is already trimmed, `system` complete."""

    prompt: str
    system: SystemPrompt
    history: tuple[Message, ...]
    budget: Budget
    options: CallOptions
    max_steps: int | None = None
    trace_id: str | None = None


class Steering:
    """What users say into a turn that is going, in their order."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._closed = False

    def add(self, message: str) -> bool:
        """False when the turn makes no more model calls."""
        if not self._closed:
            self._waiting.append(message)
        return not self._closed

    def take(self) -> list[str]:
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    def close(self) -> list[str]:
        """Take no more; what nobody will read."""
        self._closed = True
        return self.take()

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)


@define
class _Block:
    """A piece of the answer that is still growing, or was closed."""

    kind: Literal["text", "reasoning", "tool"]
    id: str
    tool_name: str = ""
    text: list[str] = field(factory=list)
    signature: ReasoningSignature | None = None
    closed: bool = False
    complete: bool = False
    """A tool call whose arguments ended, so that it may run."""

    @property
    def value(self) -> str:
        return "".join(self.text)


class Turn:
    """Runs once. `model`, `steps`, `tool_calls`, `usage`, `output` and `messages` are right at any time."""

    def __init__(
        self,
        setup: TurnSetup,
        *,
        chain: ModelChain,
        tools: ToolBox,
        emitter: Emitter,
        clock: Clock,
        metrics: RuntimeMetrics,
        new_id: Callable[[], str],
        steering: Steering | None = None,
    ) -> None:
        self._setup = setup
        self._steering = steering if steering is not None else Steering()
        self._models: TurnModels = chain.turn()
        self._tools = tools
        self._emitter = emitter
        self._clock = clock
        self._metrics = metrics
        self._new_id = new_id
        self._tracer = tracing.tracer("runtime.turn")
        self._used_ids = {call.tool_call_id for message in setup.history for call in message.tool_calls}
        self._renamed: dict[str, str] = {}
        self._blocks: list[_Block] = []
        self._results: dict[str, ToolResultPart] = {}
        self._counter = 0
        self._in_step = False
        self._streaming = False
        self._last = Finish("unknown")
        self._done: list[Message] = [user(setup.prompt)]
        self.dropped = 0
        """Messages of the history the model could not take; they leave the conversation."""
        self.steps = 0
        self.tool_calls = 0
        self.usage = Usage()
        self.output = ""

    @property
    def model(self) -> str:
        """`provider/model` that answers, or answered last."""
        return self._models.current.label

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt and everything since."""
        return tuple(self._done)

    @property
    def context_budget(self) -> dict[str, int]:
        """The estimate and, once a call ended, what the provider counted."""
        budget = self._setup.budget
        return {
            "context_window": budget.window,
            "budget_tokens": budget.budget,
            "system_prompt_tokens": budget.system,
            "tool_tokens": budget.tools,
            "memory_context_tokens": budget.memory,
            "conversation_tokens": estimate(self._history),
            "prompt_tokens": budget.prompt,
            "actual_input_tokens": self._last.usage.input_tokens,
            "actual_output_tokens": self._last.usage.output_tokens,
            "cache_read_tokens": self._last.usage.cache_read_tokens,
            "cache_write_tokens": self._last.usage.cache_creation_tokens,
        }

    async def run(self) -> None:
        """To the end of the answer. Raises ProviderFault when no model answers; then call `stop`."""
        self._emit(
            EventType.AGENT_START,
            prompt=self._setup.prompt,
            trace_id=self._setup.trace_id,
            context_budget=self.context_budget,
        )
        while await self._step():
            pass
        self._leave_unread()
        self._emit(EventType.AGENT_FINISH, total_usage=to_wire(self.usage), step_count=self.steps, model=self.model)

    def stop(self, marker: str, error: str, *, reason: str, retryable: bool) -> None:
        """End a turn that did not finish: close what is open, mark the conversation, emit `agent_error`.

        `marker` is the word the model will read in the conversation (`aborted`, `failed`, …).
        """
        self._leave_unread()
        if self._in_step:
            self._close_open(complete=False)
            unanswered = [block for block in self._calls() if block.id not in self._results]
            if self._streaming:
                self._finish_stream(Finish("error", Usage()))
            for block in unanswered:
                self._answered(block, ToolOutcome(f"not finished: the turn was {marker}", True, "{}"))
            self._note_output()
            self._record_step()
            self._finish_step("error")
        note = f"[{marker}: the turn ended here. {error}]"
        last = self._done[-1]
        if last.role == "assistant" and not last.tool_calls:
            self._done[-1] = Message("assistant", (*last.content, TextPart(f"\n{note}")))
        else:
            self._done.append(assistant(note))
        self._emit(EventType.AGENT_ERROR, error=error, reason=reason, retryable=retryable)

    async def _step(self) -> bool:
        """One model call and the tools it asks for. True when there is more to do."""
        self._blocks, self._results, self._renamed = [], {}, {}
        self._in_step = True
        for message in self._steering.take():
            self._done.append(user(message))
            self._emit(EventType.STEER_APPLIED, message=message)
        self._emit(EventType.STEP_START, step_number=self.steps)
        with self._tracer.start_as_current_span("agent.step", attributes={"step.number": self.steps}) as span:
            await self._call_model()
            calls = self._calls()
            await self._run_tools(calls)
            span.set_attribute("step.finish_reason", self._last.reason)
            span.set_attribute("step.tool_call_count", len(calls))
        self._note_output()
        self._record_step()
        self._finish_step(self._last.reason)
        return (bool(calls) or self._steering.waiting) and not self._limit_reached()

    def _leave_unread(self) -> None:
        for message in self._steering.close():
            self._warn(f"not read, because the turn ended: {message}")

    def _note_output(self) -> None:
        """The output of a turn is the text of its last step that had some."""
        self.output = "".join(block.value for block in self._blocks if block.kind == "text") or self.output

    def _limit_reached(self) -> bool:
        limit, used = self._setup.max_steps, self._last.usage.input_tokens
        if limit is not None and self.steps >= limit:
            self._warn(f"stopped after {self.steps} steps (maxSteps)")
            return True
        if used >= self._setup.budget.budget > 0:
            self._warn(f"stopped: the conversation uses {used} of {self._setup.budget.budget} tokens (budgetFraction)")
            return True
        return False

    async def _call_model(self) -> None:
        """One answer. A model that takes in less than was planned is asked again with half of the history."""
        while True:
            try:
                return await self._ask_model()
            except ProviderFault as fault:
                oldest = trim(self._history, estimate(self._history) // 2) or len(self._history)
                if fault.kind != "too_long" or self._blocks or not oldest:
                    raise
                self.dropped += oldest
                self._warn(f"the model cannot take the whole conversation: its oldest {oldest} messages are left out")

    @property
    def _history(self) -> tuple[Message, ...]:
        return self._setup.history[self.dropped :]

    async def _ask_model(self) -> None:
        conversation = [*self._history, *self._done]
        bound = self._models.current
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": bound.adapter.kind,
            "gen_ai.request.model": bound.model,
        }
        self._streaming = True
        with self._tracer.start_as_current_span(
            f"chat {bound.model}", kind=trace.SpanKind.CLIENT, attributes=attributes
        ) as span:
            started, waiting = self._clock.boottime(), True
            stream = self._models.stream(self._setup.system, conversation, self._tools.specs, self._setup.options)
            async with aclosing(stream) as deltas:
                async for delta in deltas:
                    if waiting and isinstance(delta, TextDelta | ReasoningDelta | ToolInputStart):
                        waiting = False
                        elapsed = self._clock.boottime() - started
                        self._metrics.first_token(elapsed)
                        span.add_event("gen_ai.first_token", {"gen_ai.server.time_to_first_token": elapsed})
                    self._take(delta)
            span.set_attributes(
                {
                    "gen_ai.response.model": self._models.current.model,
                    "gen_ai.response.id": self._last.response_id,
                    "gen_ai.response.finish_reasons": [self._last.reason],
                    **usage_attributes(self._last.usage),
                }
            )

    def _take(self, delta: Delta | Switched) -> None:
        match delta:
            case TextDelta(text):
                self._grow("text", text)
            case ReasoningDelta(text):
                self._grow("reasoning", text)
            case ReasoningSignature():
                self._sign(delta)
            case Source(source_id, source_type, url, title):
                self._emit(EventType.SOURCE, id=source_id, source_type=source_type, url=url, title=title)
            case ToolInputStart(call_id, name):
                self._close_open()
                block = _Block("tool", self._unique(call_id), name)
                self._blocks.append(block)
                self._emit(EventType.TOOL_INPUT_START, id=block.id, tool_name=name)
            case ToolInputDelta(call_id, text):
                self._grow_tool(self._renamed.get(call_id, call_id), text)
            case ProviderWarning(text):
                self._warn(text)
            case Switched():
                self._switch(delta)
            case Finish():
                self._close_open()
                self._finish_stream(delta)

    def _grow(self, kind: Literal["text", "reasoning"], text: str) -> None:
        block = self._growing(kind)
        block.text.append(text)
        self._emit(f"{kind}_delta", id=block.id, delta=text)

    def _growing(self, kind: Literal["text", "reasoning"]) -> _Block:
        block = self._blocks[-1] if self._blocks else None
        if block is None or block.closed or block.kind != kind:
            self._close_open()
            self._counter += 1
            block = _Block(kind, f"{kind[0]}{self._counter}")
            self._blocks.append(block)
            self._emit(f"{kind}_start", id=block.id)
        return block

    def _sign(self, signature: ReasoningSignature) -> None:
        """The thought is whole; what is hidden (redacted, or not shown) is a block without text."""
        if signature.redacted:
            self._close_open()
        self._growing("reasoning").signature = signature
        self._close_open()

    def _grow_tool(self, call_id: str, text: str) -> None:
        block = next((block for block in self._blocks if block.id == call_id), None)
        if block is None:
            return
        block.text.append(text)
        if not block.closed:
            self._emit(EventType.TOOL_INPUT_DELTA, id=call_id, delta=text)

    def _close_open(self, complete: bool = True) -> None:
        """End the block that is still growing. With `complete`, a tool call is announced."""
        block = self._blocks[-1] if self._blocks else None
        if block is None or block.closed:
            return
        block.closed = True
        if block.kind != "tool":
            self._emit(f"{block.kind}_end", id=block.id)
            return
        self._emit(EventType.TOOL_INPUT_END, id=block.id)
        if complete:
            block.complete = True
            self._emit(
                EventType.TOOL_CALL,
                id=block.id,
                tool_name=block.tool_name,
                input=block.value or "{}",
                provider_executed=False,
            )

    def _switch(self, switched: Switched) -> None:
        """Another model takes over: what the failed one showed is taken back."""
        self._close_open(complete=False)
        shown = [block.id for block in self._blocks]
        self._blocks, self._renamed = [], {}
        self._emit(
            EventType.MODEL_FALLBACK,
            **{"from": switched.source, "to": switched.target},
            error=switched.error,
            restarted=switched.restarted,
        )
        trace.get_current_span().add_event(
            "model.fallback", {"from": switched.source, "to": switched.target, "error": switched.error}
        )
        if shown:
            self._emit(EventType.TEXT_RESET, ids=shown)

    def _finish_stream(self, finish: Finish) -> None:
        self._streaming = False
        self._last = finish
        self.usage = self.usage + finish.usage
        self._metrics.tokens_used(finish.usage)
        self._emit(EventType.STREAM_FINISH, usage=to_wire(finish.usage), finish_reason=finish.reason)

    def _finish_step(self, reason: FinishReason) -> None:
        self._in_step = False
        self._emit(
            EventType.STEP_FINISH,
            step_number=self.steps,
            usage=to_wire(self._last.usage),
            finish_reason=reason,
            tool_call_count=len(self._calls()),
            context_budget=self.context_budget,
        )
        self.steps += 1

    async def _run_tools(self, calls: Sequence[_Block]) -> None:
        """In the model's order; neighbours that only read run together."""
        position = 0
        while position < len(calls):
            together = position + 1
            if self._tools.parallel_safe(calls[position].tool_name):
                while together < len(calls) and self._tools.parallel_safe(calls[together].tool_name):
                    together += 1
            async with anyio.create_task_group() as tasks:
                for block in calls[position:together]:
                    tasks.start_soon(self._run_tool, block)
            position = together

    async def _run_tool(self, block: _Block) -> None:
        self.tool_calls += 1

        def progress(text: str) -> None:
            self._emit(EventType.TOOL_PROGRESS, id=block.id, tool_name=block.tool_name, delta=text)

        self._answered(block, await self._tools.call(block.id, block.tool_name, block.value, progress))

    def _answered(self, block: _Block, outcome: ToolOutcome) -> None:
        self._results[block.id] = ToolResultPart(
            block.id, block.tool_name, outcome.text, outcome.is_error, outcome.metadata
        )
        self._emit(
            EventType.TOOL_RESULT,
            id=block.id,
            tool_name=block.tool_name,
            output=outcome.text,
            is_error=outcome.is_error,
            metadata=outcome.metadata,
        )

    def _record_step(self) -> None:
        """The step's answer and results as messages. A call that never completed leaves no trace."""
        parts: list[TextPart | ReasoningPart | ToolCallPart] = []
        for block in self._blocks:
            if block.kind == "tool":
                if block.complete:
                    parts.append(ToolCallPart(block.id, block.tool_name, block.value or "{}"))
            elif block.signature is not None:
                parts.append(ReasoningPart(block.value, block.signature.signature, block.signature.redacted))
            elif block.value:
                parts.append(TextPart(block.value) if block.kind == "text" else ReasoningPart(block.value))
        if parts:
            self._done.append(Message("assistant", tuple(parts)))
        results = [self._results[block.id] for block in self._calls() if block.id in self._results]
        if results:
            self._done.append(Message("tool", tuple(results)))

    def _calls(self) -> list[_Block]:
        return [block for block in self._blocks if block.kind == "tool" and block.complete]

    def _unique(self, call_id: str) -> str:
        """The provider's id, unless it is empty or the conversation already has it: some count from one in each
        answer."""
        chosen = call_id
        while not chosen or chosen in self._used_ids:
            chosen = f"call_{self._new_id()}"
        self._used_ids.add(chosen)
        self._renamed[call_id] = chosen
        return chosen

    def _warn(self, text: str) -> None:
        log.warning("turn.warning", text=text)
        self._emit(EventType.WARNINGS, warnings=[text])

    def _emit(self, kind: str, **data: Any) -> None:
        self._emitter.emit(str(kind), **data)
