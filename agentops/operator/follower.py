"""Dispatched daemon runs, followed in the background.

Expected flow
    The reconciler records the pod in the run's status, then calls `dispatch`. A task posts the prompt,
    then asks for the record until it is terminal, and wakes the run's reconcile at each step; the
    reconcile reads `observation` and writes the status. After a restart it calls `resume` instead.

Guarantees
    A prompt is posted only where it certainly was not received before: connections that were never
    made are tried again, anything later is resolved by asking for the record. No caller ever waits.

Assumptions
    The runtime keeps one record per run name, durable across its restarts, and `DELETE /abort`
    touches only the run named in its header.

Caveats
    Whether the pod still exists is the reconciler's business: as long as nobody calls `forget`, an
    unreachable pod is asked again.

Errors
    None are raised: what went wrong is an `Observation`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum

import anyio
import anyio.abc
from attrs import frozen

from agentops.api.runs import RunRecord, RunState
from agentops.clients.errors import (
    Busy,
    NotFound,
    NotSent,
    Refused,
    RuntimeClientError,
    Unanswered,
    Unauthorized,
)
from agentops.clients.runtime import RuntimeClient
from agentops.controller import Request
from agentops.operator.inbox import Inbox
from agentops.telemetry.logging import bind, get_logger
from agentops.values.clock import Clock

log = get_logger("operator.follower")

CONNECT_PATIENCE_S = 20.0
"""How long connections that are refused are tried again before the run is given back to the queue."""
FIRST_POLL_S = 0.25
LAST_POLL_S = 2.0
WAIT_S = 20
"""How long the runtime may hold its answer until the run has ended; one that does not is polled instead."""
ABORT_PATIENCE_S = 30.0
ABORT_EVERY_S = 2.0


class State(StrEnum):
    SENDING = "sending"
    FOLLOWING = "following"
    """The runtime has the run."""
    NOT_STARTED = "not-started"
    """Certainly nothing happened; the run may be dispatched again."""
    LOST = "lost"
    """The pod knows nothing of the run, though it may have been sent."""
    REFUSED = "refused"
    """The runtime will never take this run."""
    ENDED = "ended"
    """`record` is terminal."""


@frozen(slots=True, kw_only=True)
class Observation:
    """The last thing known about a dispatched run."""

    state: State
    message: str = ""
    record: RunRecord | None = None


@frozen(slots=True, kw_only=True)
class Target:
    """A run in a pod. `client` builds a client with the agent's current bearer; it may raise KubeError."""

    request: Request
    uid: str
    run: str
    client: Callable[[], Awaitable[RuntimeClient]]


@frozen(slots=True, kw_only=True)
class _Order:
    target: Target
    prompt: str | None = None
    headers: Mapping[str, str] = {}


class RunFollower:
    """The background side of daemon runs: add `run` to the manager, call the rest from reconciles."""

    def __init__(self, wake: Callable[[Request], None], clock: Clock) -> None:
        self._wake = wake
        self._clock = clock
        self._orders: Inbox[_Order] = Inbox()
        self._aborts: Inbox[Target] = Inbox()
        self._observations: dict[str, Observation] = {}
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._targets: dict[str, Target] = {}
        self._aborting: set[str] = set()
        self._told: set[str] = set()

    def dispatch(self, target: Target, prompt: str, headers: Mapping[str, str]) -> None:
        """Post the prompt, then follow. Does nothing for a run that is already followed."""
        self._start(_Order(target=target, prompt=prompt, headers=dict(headers)))

    def resume(self, target: Target) -> None:
        """Follow a run that was dispatched before; nothing is posted."""
        self._start(_Order(target=target))

    def observation(self, uid: str) -> Observation | None:
        """What is known about a run, by the AgentRun's uid; None when it is not followed."""
        return self._observations.get(uid)

    def abort(self, uid: str) -> None:
        """Ask the pod to stop the run, for up to 30 s. The terminal record wakes the run as ever."""
        target = self._targets.get(uid)
        if target is not None and uid not in self._aborting:
            self._aborting.add(uid)
            self._aborts.put(target)

    def told_to_stop(self, uid: str) -> bool:
        """Whether the pod had the run and has answered an abort: the turn is ending, nothing more will start."""
        return uid in self._told

    def forget(self, uid: str) -> None:
        """Stop following; safe for a run that is not followed."""
        self._observations.pop(uid, None)
        self._targets.pop(uid, None)
        self._aborting.discard(uid)
        self._told.discard(uid)
        scope = self._scopes.pop(uid, None)
        if scope is not None:
            scope.cancel()

    def statistics(self) -> dict[str, int]:
        """How many runs are followed and being aborted."""
        return {"following": len(self._targets), "aborting": len(self._aborting)}

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. The runs go on in their pods; the next leader resumes them."""
        async with anyio.create_task_group() as tasks:
            task_status.started()
            tasks.start_soon(self._abort_ordered, tasks)
            while True:
                order = await self._orders.get()
                if order.target.uid in self._targets:
                    tasks.start_soon(self._drive, order)

    def _start(self, order: _Order) -> None:
        uid = order.target.uid
        if uid in self._targets:
            return
        self._targets[uid] = order.target
        self._observations[uid] = Observation(state=State.FOLLOWING if order.prompt is None else State.SENDING)
        self._orders.put(order)

    async def _drive(self, order: _Order) -> None:
        target = order.target
        with anyio.CancelScope() as scope, bind(run=target.run):
            if self._targets.get(target.uid) is not target:
                return
            self._scopes[target.uid] = scope
            sent = order.prompt is None or await self._post(target, order.prompt, order.headers)
            if sent:
                await self._follow(target)

    async def _post(self, target: Target, prompt: str, headers: Mapping[str, str]) -> bool:
        """Whether there is now something to follow."""
        give_up = self._clock.boottime() + CONNECT_PATIENCE_S
        while True:
            try:
                client = await target.client()
                await client.start(target.run, prompt, headers, uid=target.uid)
            except NotSent as error:
                if self._clock.boottime() < give_up:
                    await self._clock.sleep(FIRST_POLL_S)
                    continue
                return self._observe(target, State.NOT_STARTED, str(error), follow=False)
            except (Busy, Unauthorized) as error:
                return self._observe(target, State.NOT_STARTED, str(error), follow=False)
            except Refused as error:
                if error.status >= 500:
                    return True
                return self._observe(target, State.REFUSED, str(error), follow=False)
            except Unanswered as error:
                log.warning("run.unanswered", error=str(error))
                return True
            return self._observe(target, State.FOLLOWING, "the agent has the run", follow=True)

    async def _follow(self, target: Target) -> None:
        pause_s = FIRST_POLL_S
        wait_s = 0  # the first answer says that the agent has the run; the next may take its time
        client: RuntimeClient | None = None
        while True:
            try:
                client = client or await target.client()
                asked = self._clock.boottime()
                record = await client.run(target.run, uid=target.uid, wait_s=wait_s)
            except NotFound as error:
                self._observe(target, State.LOST, str(error))
                return
            except RuntimeClientError as error:
                # The pod may be restarting, its record survives that; the reconciler says when it is gone.
                log.info("run.unreachable", error=str(error))
                client, wait_s = None, 0
            else:
                if record.state in RunState.TERMINAL:
                    self._observe(target, State.ENDED, record=record)
                    return
                if self._observations[target.uid].state is not State.FOLLOWING:
                    self._observe(target, State.FOLLOWING, "the agent has the run", record=record)
                if wait_s and self._clock.boottime() - asked >= LAST_POLL_S:
                    continue
                if not wait_s:
                    wait_s = WAIT_S
                    continue
            await self._clock.sleep(pause_s)
            pause_s = min(LAST_POLL_S, pause_s * 1.5)

    def _is_going(self, uid: str) -> bool:
        seen = self._observations.get(uid)
        return seen is not None and seen.state in (State.SENDING, State.FOLLOWING)

    async def _abort_ordered(self, tasks: anyio.abc.TaskGroup) -> None:
        while True:
            tasks.start_soon(self._abort, await self._aborts.get())

    async def _abort(self, target: Target) -> None:
        deadline = self._clock.boottime() + ABORT_PATIENCE_S
        while target.uid in self._aborting and self._is_going(target.uid) and self._clock.boottime() < deadline:
            try:
                has_it = self._observations[target.uid].state is State.FOLLOWING
                client = await target.client()
                await client.abort(target.run, uid=target.uid)
            except RuntimeClientError as error:
                log.info("run.abort-unanswered", run=str(target.request), error=str(error))
            else:
                if has_it and target.uid in self._aborting and target.uid not in self._told:
                    self._told.add(target.uid)
                    self._wake(target.request)
            # Again until the run is over: an abort may arrive before the prompt that is still on its way.
            await self._clock.sleep(ABORT_EVERY_S)

    def _observe(
        self, target: Target, state: State, message: str = "", *, record: RunRecord | None = None, follow: bool = False
    ) -> bool:
        if self._targets.get(target.uid) is target:
            self._observations[target.uid] = Observation(state=state, message=message, record=record)
            self._wake(target.request)
        return follow
