"""AgentRun: wait for the agent, wait for a slot, run once, keep the result for a while.

Guarantees
    Runs of one agent are reconciled one at a time under a lock, so admission sees every decision made
    before it. `admittedAt` is written before any side effect, `podName`/`podUID` or `jobName` before the
    prompt leaves. A finished run stays as it is. Finishing, and vanishing, admits the next.

Errors
    Conflict and transport errors are raised: the key is tried again with a growing wait.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import Protocol
from weakref import WeakValueDictionary

import anyio

from agentops.api import labels
from agentops.api.conditions import AgentPhase, ConditionType, Reason, RunPhase
from agentops.api.defaults import RUN_TTL_S, max_runs, run_ttl_s
from agentops.api.kinds import AGENT, AGENT_RUN
from agentops.api.objects import decode
from agentops.api.types import Agent
from agentops.api.validation import validate_run
from agentops.controller import Client, EventRecorder, Request, Result, RetryAfter
from agentops.controller.owners import is_controlled_by, set_controller_reference
from agentops.kube.errors import AlreadyExists, NotFound
from agentops.kube.kinds import CONFIG_MAP
from agentops.operator.objects import names
from agentops.operator.objects.config import output_config_map
from agentops.operator.queue import Admission, admit
from agentops.operator.reconcilers.fields import report_fields
from agentops.operator.results import Result as RunResult
from agentops.operator.results import failure, needs_config_map, status_fields, whole_output
from agentops.operator.run_metrics import RunMetrics
from agentops.operator.run_work import RunWork, belongs_to_namesake, run_timeout_s, view
from agentops.operator.status import StatusDraft
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock, parse_rfc3339, rfc3339
from agentops.values.duration import format_duration

log = get_logger("operator.run")

RUNS_BY_AGENT = "agent"
"""Index of the AgentRuns that are not over by `spec.agentRef`."""
SLOTS_BY_AGENT = "slots"
"""Index of those of them that are admitted."""

Step = RunResult | Result | None
"""A result: the run is over. A `controller.Result` or None: come back then, or when something changes."""


class Mode(Protocol):
    """How runs of one kind of agent are executed."""

    async def advance(self, work: RunWork, agent: Agent) -> Step:
        """One step of an admitted run."""
        ...

    async def stop(self, work: RunWork, agent: Agent | None) -> Step:
        """One step of stopping a dispatched run; a result, or True progress, as `advance`."""
        ...

    async def let_go(self, work: RunWork) -> Result | None:
        """A deleted run that holds the finalizer: stop it; None when the finalizer may go."""
        ...

    async def retire(self, work: RunWork) -> None:
        """A finished run: free what only a running one needs."""
        ...


class _Turns:
    """One at a time; of those that may not go ahead only one stands at the door, the others in line behind it."""

    def __init__(self) -> None:
        self._door = anyio.Lock()
        self._line = anyio.Lock()

    @asynccontextmanager
    async def take(self, *, ahead: bool) -> AsyncIterator[None]:
        async with nullcontext() if ahead else self._line, self._door:
            yield


class AgentRunReconciler:
    """The part of a run's life that does not depend on the mode of its agent."""

    def __init__(
        self,
        client: Client,
        recorder: EventRecorder,
        metrics: RunMetrics,
        clock: Clock,
        modes: Mapping[str, Mode],
        *,
        ttl_s: int = RUN_TTL_S,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._metrics = metrics
        self._clock = clock
        self._modes = modes
        self._ttl_s = ttl_s
        self._turns: WeakValueDictionary[tuple[str, str], _Turns] = WeakValueDictionary()
        """By agent; they live as long as a reconcile has its turn or waits for it."""
        self._agent_of: dict[Request, tuple[str, str]] = {}

    async def reconcile(self, request: Request) -> Result | None:
        found = await self._client.try_get(AGENT_RUN, request.name, request.namespace)
        agent_key = (request.namespace, found["spec"]["agentRef"]) if found else self._agent_of.get(request)
        if agent_key is None:
            return None
        async with self._turns_of(agent_key).take(ahead=found is None or view(found).holds_slot):
            work = await self._open(request, agent_key)
            if work is None:
                await self._vanished(request, agent_key)
                return None
            if work.deleting:
                return await self._let_go(work)
            if work.finished:
                return await self._keep_for_a_while(work)
            agent = await self._agent(work)
            step = await self._start_or_stop(work, agent)
            return await self._finish(work, step) if isinstance(step, RunResult) else step

    def _turns_of(self, agent_key: tuple[str, str]) -> _Turns:
        turns = self._turns.get(agent_key)
        if turns is None:
            turns = self._turns[agent_key] = _Turns()
        return turns

    async def _open(self, request: Request, agent_key: tuple[str, str]) -> RunWork | None:
        """The run as it is now that the lock is held."""
        found = await self._client.try_get(AGENT_RUN, request.name, request.namespace)
        if found is None:
            return None
        work = RunWork(found, self._clock.now())
        self._agent_of[request] = agent_key
        self._metrics.seen(request, work.phase)
        return work

    async def _agent(self, work: RunWork) -> Agent | None:
        found = await self._client.try_get(AGENT, work.run.spec.agent_ref, work.namespace)
        return decode(Agent, found) if found is not None else None

    async def _start_or_stop(self, work: RunWork, agent: Agent | None) -> Step:
        """One step towards the end, and the status that says so."""
        await self._mark(work)
        if agent is not None:
            # An Agent that was made anew in the meantime may be of the other mode.
            work.draft.set(mode=work.run.status.mode if work.dispatched else agent.spec.mode)
        report_fields(work.draft, work.run)
        if not work.dispatched and (problems := validate_run(work.run, agent)):
            return failure(Reason.INVALID_SPEC, "; ".join(str(problem) for problem in problems))
        if self._should_stop(work, agent):
            return await self._stop(work, agent)
        if not work.admitted:
            step = await self._queue(work, agent)
        elif agent is None:
            return failure(Reason.AGENT_NOT_FOUND, f"Agent {work.namespace}/{work.run.spec.agent_ref} was deleted")
        else:
            step = await self._mode(work, agent).advance(work, agent)
        if not isinstance(step, RunResult):
            await work.save(self._client)
        return step

    async def _mark(self, work: RunWork) -> None:
        """The labels that people and dashboards select runs by."""
        wanted = {labels.AGENT: names.label_value(work.run.spec.agent_ref), labels.SOURCE: work.run.spec.source}
        missing = {key: value for key, value in wanted.items() if work.run.metadata.labels.get(key) != value}
        if missing:
            patch = {"metadata": {"resourceVersion": work.run.metadata.resource_version, "labels": missing}}
            work.adopt(await self._client.patch(AGENT_RUN, work.name, patch, work.namespace))

    def _mode(self, work: RunWork, agent: Agent | None) -> Mode:
        if agent is not None and not work.dispatched:
            return self._modes[agent.spec.mode]
        return self._modes[work.run.status.mode or "daemon"]

    # waiting

    async def _queue(self, work: RunWork, agent: Agent | None) -> Step:
        """Wait for the agent, then for a slot."""
        waits = why_not_usable(work, agent)
        if waits is not None or agent is None:
            reason, message = waits or (Reason.AGENT_NOT_FOUND, "")
            if work.draft.condition(ConditionType.AGENT_READY, False, reason, message):
                self._recorder.event(work.obj, "Warning", reason, message)
            work.draft.set(phase=RunPhase.PENDING.value)
            return None
        work.draft.condition(ConditionType.AGENT_READY, True, agent.status.phase or "", "the agent takes runs")
        decision = await self._admit(work.agent_key, agent, work)
        if work.name in decision.admit:
            return await self._mode(work, agent).advance(work, agent)
        policy = f"concurrency.policy {agent.spec.concurrency.policy} of Agent {agent.metadata.name}"
        if work.name in decision.reject:
            message = f"rejected by {policy}: {max_runs(agent)} run(s) at a time, and as many are running"
            return failure(Reason.REJECTED, message)
        winner = dict(decision.replace).get(work.name)
        if winner is not None:
            return failure(Reason.CANCELLED, f"cancelled by {policy} before it started: AgentRun {winner} is newer")
        work.draft.set(phase=RunPhase.QUEUED.value)
        return None

    async def _admit(self, agent_key: tuple[str, str], agent: Agent, work: RunWork | None = None) -> Admission:
        """Hand out the slots that are free, and mark who gives way.

        `work` is the run being reconciled, if it is waiting; the others are woken by their own change.
        """
        namespace, name = agent_key
        policy, slots = agent.spec.concurrency.policy, max_runs(agent)
        if policy == "queue" and await self._taken(agent_key) >= slots:
            return Admission()  # as `admit` would say, without a look at every run that waits
        runs = {
            obj["metadata"]["name"]: obj
            for obj in await self._client.list(AGENT_RUN, namespace, index=(RUNS_BY_AGENT, name))
        }
        decision = admit(map(view, runs.values()), policy, slots)
        now = self._clock.now()
        for chosen in decision.admit:
            if work is not None and chosen == work.name:
                work.draft.set(admittedAt=work.stamp())  # not later than the startTime that follows from it
                await work.save(self._client)
            else:
                draft = StatusDraft(AGENT_RUN, runs[chosen], now)
                draft.set(admittedAt=rfc3339(now))
                await draft.save(self._client)
            log.info("run.admitted", namespace=namespace, run=chosen, agent=name)
        for loser, winner in decision.replace:
            if view(runs[loser]).admitted:
                draft = StatusDraft(AGENT_RUN, runs[loser], now)
                if draft.has(ConditionType.STOPPING) is None:
                    draft.condition(ConditionType.STOPPING, True, Reason.REPLACED, f"replaced by AgentRun {winner}")
                    await draft.save(self._client)
        return decision

    async def _taken(self, agent_key: tuple[str, str]) -> int:
        """How many slots runs hold."""
        namespace, name = agent_key
        return len(await self._client.list(AGENT_RUN, namespace, index=(SLOTS_BY_AGENT, name), read_only=True))

    async def _admit_next(self, agent_key: tuple[str, str]) -> None:
        """A slot may be free."""
        found = await self._client.try_get(AGENT, agent_key[1], agent_key[0])
        if found is None:
            return
        agent = decode(Agent, found)
        if is_usable(agent):
            await self._admit(agent_key, agent)

    # stopping

    def _should_stop(self, work: RunWork, agent: Agent | None) -> bool:
        """Asked to, replaced, out of time, or without its Agent; kept in a condition, which also says since when."""
        draft = work.draft
        if draft.has(ConditionType.STOPPING) is not None:
            return True
        if work.run.spec.cancel:
            draft.condition(ConditionType.STOPPING, True, Reason.CANCEL_REQUESTED, "spec.cancel is true")
        elif agent is None and work.dispatched:
            message = f"Agent {work.namespace}/{work.run.spec.agent_ref} was deleted"
            draft.condition(ConditionType.STOPPING, True, Reason.AGENT_DELETED, message)
        elif work.run.status.pod_uid is not None and work.left_s(agent) <= 0:
            message = f"longer than the timeout of {format_duration(run_timeout_s(agent))} of its Agent"
            draft.condition(ConditionType.STOPPING, True, Reason.TIMEOUT, message)
        else:
            return False
        return True

    async def _stop(self, work: RunWork, agent: Agent | None) -> Step:
        stopping = work.draft.has(ConditionType.STOPPING) or {}
        if not work.dispatched:
            return failure(Reason.CANCELLED, f"cancelled before it started: {stopping.get('message')}")
        await work.save(self._client)
        step = await self._mode(work, agent).stop(work, agent)
        if not isinstance(step, RunResult):
            await work.save(self._client)
        return step

    # ending

    async def _finish(self, work: RunWork, result: RunResult) -> Result | None:
        """Write the end, once; then let the next one in."""
        stored = not needs_config_map(result) or await self._store_output(work, result)
        phase = RunPhase.SUCCEEDED if result.succeeded else RunPhase.FAILED
        draft = work.draft
        draft.set(
            phase=phase.value, completionTime=work.stamp(), **status_fields(result, work.name if stored else None)
        )
        draft.condition(ConditionType.COMPLETE, True, result.reason, result.message)
        draft.drop_condition(ConditionType.STOPPING)
        mode, elapsed_s = work.run.status.mode or "", work.elapsed_s()
        await work.save(self._client)
        self._metrics.seen(work.request, phase)
        if work.run.status.start_time is not None:
            self._metrics.finished(mode, phase, elapsed_s)
        self._recorder.event(work.obj, "Normal" if result.succeeded else "Warning", result.reason, result.message)
        log.info(
            "run.finished",
            run=work.name,
            reason=result.reason,
            seconds=round(elapsed_s, 3),
            **({"trace_id": result.trace_id} if result.trace_id else {}),
        )
        return await self._keep_for_a_while(work)

    async def _store_output(self, work: RunWork, result: RunResult) -> bool:
        """The whole output, before the status that refers to it; whether there was a place for it."""
        config_map = output_config_map(
            names.label_value(work.run.spec.agent_ref), work.namespace, work.name, whole_output(result)
        )
        set_controller_reference(work.obj, config_map)
        try:
            await self._client.create(CONFIG_MAP, config_map)
        except AlreadyExists:
            name = config_map["metadata"]["name"]
            there = await self._client.get(CONFIG_MAP, name, work.namespace)
            if is_controlled_by(there, work.obj):
                return True
            if not belongs_to_namesake(there, work.obj):
                message = (
                    f"ConfigMap {work.namespace}/{name} exists and is not this run's, so only the beginning of the "
                    "answer is kept, in status.output; name the next run otherwise, or remove the ConfigMap"
                )
                work.draft.condition(ConditionType.OUTPUT_STORED, False, Reason.FOREIGN_OBJECT, message)
                self._recorder.event(work.obj, "Warning", Reason.FOREIGN_OBJECT, message)
                return False
            raise RetryAfter(1.0, f"ConfigMap {name} of the deleted AgentRun of the same name is still there") from None
        return True

    async def _keep_for_a_while(self, work: RunWork) -> Result | None:
        """A finished run holds nothing back, lets the next one in, and goes when its time has come."""
        await self._mode(work, None).retire(work)
        if work.holds_finalizer:
            await work.release(self._client)
        await self._admit_next(work.agent_key)
        ended = work.run.status.completion_time
        left_s = run_ttl_s(work.run, self._ttl_s) - (
            (work.now - parse_rfc3339(ended)).total_seconds() if ended else 0.0
        )
        if left_s > 0:
            return Result(requeue_after=left_s)
        try:
            await self._client.delete(AGENT_RUN, work.name, work.namespace, uid=work.uid)
        except NotFound:
            return None
        log.info("run.expired", run=work.name)
        return None

    async def _let_go(self, work: RunWork) -> Result | None:
        """Deleted: stop it if it is dispatched, then release it."""
        if not work.holds_finalizer:
            return None
        if work.dispatched and not work.finished:
            wait = await self._mode(work, None).let_go(work)
            if wait is not None:
                return wait
        await work.release(self._client)
        return None

    async def _vanished(self, request: Request, agent_key: tuple[str, str]) -> None:
        """Gone for good: its slot is free."""
        self._agent_of.pop(request, None)
        self._metrics.gone(request)
        await self._admit_next(agent_key)


def is_usable(agent: Agent) -> bool:
    """Whether the Agent takes runs: its status is about this spec, and says so."""
    current = agent.status.observed_generation == agent.metadata.generation
    return current and agent.status.phase in (AgentPhase.RUNNING, AgentPhase.READY)


def why_not_usable(work: RunWork, agent: Agent | None) -> tuple[str, str] | None:
    """Reason and message of AgentReady while the run has to wait; None when it need not."""
    where = f"Agent {work.namespace}/{work.run.spec.agent_ref}"
    if agent is None:
        return Reason.AGENT_NOT_FOUND, f"{where} does not exist; create it, or correct spec.agentRef in another run"
    if is_usable(agent):
        return None
    if agent.status.observed_generation != agent.metadata.generation:
        return Reason.AGENT_NOT_RUNNING, f"{where} is being brought up to date"
    return Reason.AGENT_NOT_RUNNING, f"{where} is {agent.status.phase}: {agent.status.message or 'see its status'}"
