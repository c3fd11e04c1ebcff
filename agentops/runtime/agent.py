"""The agent of a process: one conversation, one turn at a time, records that outlive it.

Expected flow
    `submit` writes a record and starts the turn in the agent's own task group; whoever submitted may
    go away. The turn ends by itself, by `abort`, or by `drain` when the process must stop. Then record,
    events and conversation are written together, the agent is free again, and `session_idle` is shown.
Guarantees
    One turn at a time: the next is refused (BusyFault) until the task of the previous one has ended.
    A run name is executed at most once, also across restarts: submitting it again gives its record.
    What a stopped turn did stays in the conversation, with a marker.
Caveats
    A run that was going when the process died is failed at the next start, never repeated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import anyio
import anyio.abc
import attrs
from attrs import define, field, frozen
from opentelemetry import trace

from agentops.api.fep import EventType
from agentops.api.runs import RunFailure, RunRecord, RunState
from agentops.runtime.aside import Aside, Extracted
from agentops.runtime.budget import Budget, context_window, plan
from agentops.runtime.compaction import Eviction, fit
from agentops.runtime.context import SystemText, memory_block, resource_block
from agentops.runtime.errors import BusyFault, ProviderFault, RunConflict, StoreFault
from agentops.runtime.events import (
    BROADCAST_BYTES,
    BROADCAST_CAPACITY,
    RUN_CAPACITY,
    Emitter,
    Encoded,
    EventLog,
    Numbering,
)
from agentops.runtime.memory import AgentMemory
from agentops.runtime.messages import Message
from agentops.runtime.metrics import RuntimeMetrics
from agentops.runtime.providers.base import CallOptions
from agentops.runtime.providers.chain import ModelChain
from agentops.runtime.spans import close_turn, content
from agentops.runtime.store import Store, StoredRun
from agentops.runtime.tools.box import ToolBox
from agentops.runtime.turn import Steering, Turn, TurnSetup
from agentops.telemetry import tracing
from agentops.telemetry.logging import bind, get_logger
from agentops.values.clock import Clock

log = get_logger("runtime.agent")

PERSIST_TIMEOUT_S = 15.0


@frozen
class AgentIdentity:
    """Who the agent is. `name` is also the `session_id` of its events."""

    name: str = "default"
    namespace: str = "default"
    mode: str = "daemon"


@frozen
class TurnLimits:
    """What config.json says about turns."""

    options: CallOptions = field(factory=CallOptions)
    max_steps: int | None = None
    budget_fraction: float = 0.75
    context_windows: Mapping[str, int] = field(factory=dict)


@frozen
class RunRequest:
    """A prompt and where it came from. Without `name` one is made up."""

    prompt: str
    name: str = ""
    uid: str = ""
    context: tuple[Mapping[str, Any], ...] = ()
    traceparent: str | None = None
    parent_agent: str = ""

    @property
    def prompt_sha256(self) -> str:
        return hashlib.sha256(self.prompt.encode()).hexdigest()


@define
class Run:
    """A run being executed or remembered. `log` is None when its events are only in the store."""

    record: RunRecord
    log: EventLog | None = None
    uid: str = ""
    done: anyio.Event = field(factory=anyio.Event)


@frozen
class _Unwritten:
    """A turn that ended and whose end the disk refused: `write` tries again."""

    run: Run
    write: Callable[[], Awaitable[None]]


class Agent:
    """Inert until `run`. Everything but `run` may be called from any task once it has started."""

    def __init__(
        self,
        identity: AgentIdentity,
        *,
        chain: ModelChain,
        tools: ToolBox,
        system: SystemText,
        limits: TurnLimits,
        store: Store,
        memory: AgentMemory | None,
        aside: Aside,
        metrics: RuntimeMetrics,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self.identity = identity
        self.broadcast = EventLog(BROADCAST_CAPACITY, BROADCAST_BYTES)
        self._chain = chain
        self._tools = tools
        self._system = system
        self._limits = limits
        self._store = store
        self._memory = memory
        self._aside = aside
        self._metrics = metrics
        self._clock = clock
        self._new_id = new_id
        self._tracer = tracing.tracer("runtime.agent")
        self._numbering = Numbering()
        self._conversation: list[Message] = []
        self._turns = 0
        self._total_steps = 0
        self._last_model = chain.primary.label
        self._last_trace: str | None = None
        self._last_budget: dict[str, int] = {}
        self._active: Run | None = None
        self._turn: Turn | None = None
        self._scope: anyio.CancelScope | None = None
        self._steering = Steering()
        self._stop_reason = ""
        self._draining = False
        self._unwritten: _Unwritten | None = None
        self._admission = anyio.Lock()
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Restore what an earlier process left, then own the turns until cancelled. Raises StoreFault."""
        restored = await self._store.recover(self.identity.name)
        self._conversation = list(restored.messages)
        self._turns = restored.turns
        self._numbering = Numbering(restored.next_seq)
        for name in restored.lost:
            log.warning("run.lost", run=name)
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            if self._memory is not None:
                await tasks.start(self._memory.run)
            task_status.started()
            await anyio.sleep_forever()

    @property
    def busy(self) -> bool:
        return self._active is not None

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def conversation(self) -> tuple[Message, ...]:
        return tuple(self._conversation)

    def status(self) -> dict[str, Any]:
        """The body of `GET /status`."""
        steps = self._total_steps + (self._turn.steps if self._turn else 0)
        status: dict[str, Any] = {
            "agent": self.identity.name,
            "model": self._last_model,
            "steps": steps,
            "total_steps": steps,
            "busy": self.busy,
            "status": "busy" if self.busy else "idle",
            "messages": len(self._conversation),
            "turns": self._turns,
            "memory_enabled": self._memory is not None,
            "context_budget": self._turn.context_budget if self._turn else self._last_budget,
            "tools": list(self._tools.names),
            "sandbox": self._tools.sandbox.status,
        }
        if self._active is not None:
            status["run"] = self._active.record.name
        if self._last_trace is not None:
            status["trace_id"] = self._last_trace
        if self._memory is not None and self._memory.error is not None:
            status["memory_error"] = self._memory.error
        if self._memory is not None and self._memory.waiting:
            status["memory_writes_waiting"] = self._memory.waiting
        return status

    async def submit(self, request: RunRequest) -> Run:
        """Start a turn, or find the run of that name.

        Raises BusyFault when another turn is going or the process is stopping, RunConflict when the
        name belongs to a run with another prompt, StoreFault when the record cannot be written.
        """
        with anyio.CancelScope(shield=True):  # who asked may go away; a half-made run must not stay
            async with self._admission:
                run = await self._admit(request)
        return run

    async def _admit(self, request: RunRequest) -> Run:
        assert self._tasks is not None, "run the agent first"
        if request.name and (known := await self._known(request)) is not None:
            return known
        if self._active is not None or self._draining:
            raise BusyFault(self._active.record.name if self._active else "")
        name = request.name or f"prompt-{self._new_id()}"
        record = RunRecord(name=name, model=self._chain.primary.label, started_at=self._clock.now())
        run = self._active = Run(record, EventLog(RUN_CAPACITY), request.uid)
        scope = self._scope = anyio.CancelScope()  # from here on the run can be stopped
        self._stop_reason = ""
        self._steering = Steering()
        try:
            await self._settle()
            await self._store.begin(StoredRun(record, request.uid, request.prompt_sha256))
        except BaseException:
            self._active = self._scope = None
            run.done.set()
            raise
        self._tasks.start_soon(self._execute, run, request, scope)
        return run

    async def find(self, name: str, uid: str = "") -> Run | None:
        """The run of that name, going or finished; with `uid`, not that of another object of the name."""
        if self._active is not None and self._active.record.name == name:
            found: Run | None = self._active
        elif self._unwritten is not None and self._unwritten.run.record.name == name:
            found = self._unwritten.run
        else:
            stored = await self._store.get(name)
            found = _finished(stored.record, stored.uid) if stored is not None else None
        return found if found is not None and _same(uid, found.uid) else None

    async def _known(self, request: RunRequest) -> Run | None:
        """The run `request` already made, if it did. Raises RunConflict when another made it."""
        stored = await self._store.get(request.name)
        if stored is None or not _same(request.uid, stored.uid):
            return None
        if request.prompt_sha256 != stored.prompt_sha256:
            raise RunConflict(f"run {request.name} exists with another prompt; a run name is executed once")
        return await self.find(request.name)

    async def events_of(self, run: Run) -> EventLog | None:
        """The events of a run to follow; None when they are no longer kept."""
        if run.log is not None:
            return run.log
        kept = await self._store.events(run.record.name)
        if kept is None:
            return None
        replay = EventLog(RUN_CAPACITY)
        for event in kept:
            replay.append(event)
        replay.close()
        return replay

    def abort(self, run: str = "", uid: str = "") -> bool:
        """Stop the turn that is going, or with `run` (and `uid`) only that one's; False when there is none such.

        The agent stays busy until the turn's task has ended.
        """
        active = self._active
        if active is None or (run and active.record.name != run) or not _same(uid, active.uid):
            return False
        return self._stop(RunFailure.ABORTED)

    async def extract(self, focus: str, kind: str) -> Extracted | None:
        """What of the conversation is worth keeping, or None when there is none. Raises ProviderFault."""
        if not self._conversation:
            return None
        return await self._aside.extract(self._conversation, focus, kind)

    def steer(self, message: str) -> bool:
        """Give the model `message` before its next call of this turn; False when no turn takes it any more."""
        return self._active is not None and self._steering.add(message)

    def interrupt(self) -> bool:
        """Stop the turn because the process must go; what it did is kept as interrupted."""
        return self._stop(RunFailure.INTERRUPTED)

    async def drain(self, grace_s: float) -> None:
        """Take no more prompts, let the turn finish within `grace_s`, then interrupt it. Returns when idle."""
        self._draining = True
        if self._active is not None:
            log.info("agent.draining", run=self._active.record.name, grace_s=grace_s)
            done = self._active.done
            with anyio.move_on_after(grace_s):
                await done.wait()
            if not done.is_set():
                self._stop(RunFailure.INTERRUPTED)
                await done.wait()
        self.broadcast.close()
        try:
            await self._settle()
        except StoreFault as fault:
            log.error("run.not_written", error=str(fault))
        if self._memory is not None:
            await self._memory.close()

    async def clear_conversation(self) -> None:
        """Forget the conversation ("new chat"). Raises BusyFault during a turn, StoreFault."""
        async with self._admission:
            if self._active is not None:
                raise BusyFault(self._active.record.name)
            await self._settle()
            await self._store.clear_conversation()
            self._conversation, self._turns = [], 0

    def _stop(self, reason: str) -> bool:
        if self._active is None or self._scope is None:
            return False
        self._stop_reason = self._stop_reason or reason
        self._scope.cancel()
        return True

    async def _execute(self, run: Run, request: RunRequest, scope: anyio.CancelScope) -> None:
        """The task of one turn, from the first event to the last."""
        assert run.log is not None
        name = run.record.name
        emitter = Emitter(
            session_id=self.identity.name,
            run=name,
            clock=self._clock,
            numbering=self._numbering,
            broadcast=self.broadcast,
            log=run.log,
        )
        emitter.announce(EventType.SESSION_STATUS, status="busy")
        attributes = {
            "agent.name": self.identity.name,
            "agent.mode": self.identity.mode,
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": self.identity.name,
            "gen_ai.agent.id": f"{self.identity.namespace}/{self.identity.name}",
            "gen_ai.conversation.id": self.identity.name,
            "gen_ai.provider.name": self._chain.primary.adapter.kind,
            "gen_ai.request.model": self._chain.primary.model,
            "agentops.run": name,
        }
        if request.parent_agent:
            attributes["agentops.parent_agent"] = request.parent_agent
        parent = tracing.extract(request.traceparent)
        with (
            bind(run=name),
            self._tracer.start_as_current_span("agent.prompt", context=parent, attributes=attributes) as span,
        ):
            context = span.get_span_context()
            trace_id = trace.format_trace_id(context.trace_id) if context.is_valid else None
            content(span, "gen_ai.user.message", request.prompt)
            log.info("turn.start", model=self._chain.primary.label)
            try:
                record, evicted = await self._turn_to_record(run.record, request, emitter, scope, trace_id)
                close_turn(span, record)
                log.info("turn.end", state=record.state, reason=record.reason, steps=record.steps)
                messages = await self._close(run, record, emitter, evicted)
            except Exception as defect:  # a defect must end the turn in a record, not the daemon
                log.exception("turn.crashed")
                await self._abandon(run, f"internal error: {type(defect).__name__}: {defect}", emitter)
                messages = ()
        if self._memory is not None:
            await self._memory.turn_ended(messages)

    async def _turn_to_record(
        self,
        record: RunRecord,
        request: RunRequest,
        emitter: Emitter,
        scope: anyio.CancelScope,
        trace_id: str | None,
    ) -> tuple[RunRecord, Eviction]:
        """Run the turn to whatever end. Returns its terminal record and what leaves the history."""
        evicted = Eviction()
        error: str | None = None
        reason: str | None = None
        retryable = False
        with scope:
            try:
                setup, evicted = await self._prepare(request, trace_id)
                self._turn = self._make_turn(setup, emitter)
                await self._turn.run()
            except ProviderFault as fault:
                error, reason, retryable = str(fault), RunFailure.ERROR, fault.retryable
            except Exception as defect:  # what was done so far is kept
                log.exception("turn.crashed")
                error, reason = f"internal error: {type(defect).__name__}: {defect}", RunFailure.ERROR
        if scope.cancelled_caught:
            reason, retryable = self._stop_reason, self._stop_reason == RunFailure.INTERRUPTED
            error = (
                "the turn was aborted on request"
                if reason == RunFailure.ABORTED
                else "the agent was told to stop while the turn was going"
            )
        if self._turn is None:  # stopped before the first event
            setup = self._setup(request, "", evicted, trace_id)
            self._turn = self._make_turn(setup, emitter)
            emitter.emit(EventType.AGENT_START, prompt=request.prompt, trace_id=trace_id)
        turn = self._turn
        if error is not None and reason is not None:
            marker = {RunFailure.ABORTED: "aborted", RunFailure.INTERRUPTED: "interrupted"}.get(reason, "failed")
            turn.stop(marker, error, reason=reason, retryable=retryable)
        self._metrics.turn_ended(
            {None: "succeeded", RunFailure.ABORTED: "aborted", RunFailure.INTERRUPTED: "interrupted"}.get(
                reason, "failed"
            )
        )
        return (
            attrs.evolve(
                record,
                state=RunState.FAILED if error is not None else RunState.SUCCEEDED,
                reason=reason,
                error=error,
                output=turn.output,
                model=turn.model,
                steps=turn.steps,
                tool_calls=turn.tool_calls,
                usage=turn.usage,
                trace_id=trace_id,
                finished_at=self._clock.now(),
            ),
            evicted.and_more(turn.dropped),
        )

    async def _prepare(self, request: RunRequest, trace_id: str | None) -> tuple[TurnSetup, Eviction]:
        """Fetch memory and cut the conversation to what fits."""
        memory = ""
        if self._memory is not None:
            memory = memory_block(await self._memory.context(request.prompt))
        evicted = await fit(self._conversation, self._budget(request, memory).conversation, self._aside)
        return self._setup(request, memory, evicted, trace_id), evicted

    def _setup(self, request: RunRequest, memory: str, evicted: Eviction, trace_id: str | None) -> TurnSetup:
        return TurnSetup(
            prompt=request.prompt,
            system=self._system.render(memory, resource_block(request.context)),
            history=evicted.of(self._conversation),
            budget=self._budget(request, memory),
            options=self._limits.options,
            max_steps=self._limits.max_steps,
            trace_id=trace_id,
        )

    def _budget(self, request: RunRequest, memory: str) -> Budget:
        return plan(
            window=context_window(self._chain.primary.model, self._limits.context_windows),
            fraction=self._limits.budget_fraction,
            system=self._system.render("", resource_block(request.context)).text,
            tool_count=len(self._tools),
            memory=memory,
            prompt=request.prompt,
        )

    def _make_turn(self, setup: TurnSetup, emitter: Emitter) -> Turn:
        return Turn(
            setup,
            chain=self._chain,
            tools=self._tools,
            emitter=emitter,
            clock=self._clock,
            metrics=self._metrics,
            new_id=self._new_id,
            steering=self._steering,
        )

    async def _close(self, run: Run, record: RunRecord, emitter: Emitter, evicted: Eviction) -> tuple[Message, ...]:
        """Write the end of a turn, free the agent, then show `session_idle`: in that order, so that who
        sees it may send the next prompt and finds the record."""
        assert self._turn is not None
        turn, idle = self._turn, emitter.make(EventType.SESSION_IDLE)
        await self._persist(run, record, idle, evicted, turn.messages)
        self._conversation = [*evicted.of(self._conversation), *turn.messages]
        self._turns += 1
        self._total_steps += turn.steps
        self._last_model, self._last_trace, self._last_budget = turn.model, record.trace_id, turn.context_budget
        self._release(run, record, idle, emitter)
        return turn.messages

    async def _abandon(self, run: Run, why: str, emitter: Emitter) -> None:
        """The end of a turn that could not be closed: a failed record, and nothing of it in the conversation."""
        record = attrs.evolve(
            run.record, state=RunState.FAILED, reason=RunFailure.ERROR, error=why, finished_at=self._clock.now()
        )
        assert run.log is not None
        if not any(event.type in (EventType.AGENT_FINISH, EventType.AGENT_ERROR) for event in run.log.events[-1:]):
            emitter.emit(EventType.AGENT_ERROR, error=why, reason=RunFailure.ERROR, retryable=False)
        idle = emitter.make(EventType.SESSION_IDLE)
        await self._persist(run, record, idle, Eviction(), ())
        self._release(run, record, idle, emitter)

    def _release(self, run: Run, record: RunRecord, idle: Encoded, emitter: Emitter) -> None:
        assert run.log is not None
        run.record = record
        self._active = self._scope = self._turn = None
        emitter.publish(idle)
        emitter.announce(EventType.SESSION_STATUS, status="idle")
        run.log.close()
        run.done.set()

    async def _persist(
        self, run: Run, record: RunRecord, idle: Encoded, evicted: Eviction, messages: Sequence[Message]
    ) -> None:
        """Write the end of a turn. What the disk refuses is kept in memory and written before the next turn
        begins; should the process end before, the run reads Interrupted."""
        assert run.log is not None
        ending = partial(
            self._store.finish,
            record,
            events=(*run.log.events, idle),
            drop=evicted.drop,
            summary=evicted.summary,
            messages=tuple(messages),
            next_seq=self._numbering.next,
        )
        error = "the disk did not answer in time"
        with anyio.move_on_after(PERSIST_TIMEOUT_S, shield=True):
            try:
                await ending()
                return
            except StoreFault as fault:
                error = str(fault)
        log.error("run.not_written", run=record.name, error=error)
        self._unwritten = _Unwritten(Run(record, run.log, run.uid, run.done), ending)

    async def _settle(self) -> None:
        """Write what the disk refused. Raises StoreFault when it still does."""
        if self._unwritten is not None:
            await self._unwritten.write()
            log.info("run.written_late", run=self._unwritten.run.record.name)
            self._unwritten = None


def _finished(record: RunRecord, uid: str) -> Run:
    run = Run(record, uid=uid)
    run.done.set()
    return run


def _same(asked: str, known: str) -> bool:
    """Whether two uids may be of one object: a side that gave none does not object."""
    return not asked or not known or asked == known
