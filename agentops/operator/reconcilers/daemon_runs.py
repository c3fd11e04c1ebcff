"""Runs of daemons: pick a pod, record it, hand the prompt over, follow the record.

Expected flow
    finalizer → status.podName, podUID, startTime → POST /prompt (202) → phase Running → GET /runs/{name}
    until terminal → result. The HTTP side is the follower's; a reconcile only reads what it has seen.

Guarantees
    The pod is written before the prompt leaves, so after a restart the run is followed, never sent
    again. A record that is not there, or a pod that is gone, ends the run as Lost; but not when it was
    this process that wrote the pod down, was not answered, and so has sent nothing.

Caveats
    A pod that answers 429 or 503, or cannot be dialled, has certainly not taken the prompt: the run
    gives the pod back, keeps its slot and tries again with a growing wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs

from agentops.api import labels
from agentops.api.conditions import ConditionType, Reason, RunPhase
from agentops.api.runs import PARENT_AGENT_HEADER
from agentops.api.types import Agent
from agentops.clients.errors import NotSent
from agentops.clients.runtime import RuntimeClient
from agentops.controller import Client, EventRecorder, Result
from agentops.kube.errors import KubeError, NotFound
from agentops.kube.kinds import DEPLOYMENT, POD, SECRET
from agentops.operator.follower import Observation, RunFollower, State, Target
from agentops.operator.objects import names
from agentops.operator.objects.deployment import selector
from agentops.operator.results import Result as RunResult
from agentops.operator.results import failure, from_record
from agentops.operator.rollout import pick_pod, restart_cause, template_hash
from agentops.operator.run_work import RunWork
from agentops.operator.secrets import decode_value
from agentops.operator.task_end import NOT_AGAIN
from agentops.values.clock import Clock

RELEASE_AFTER_S = 30.0
"""A deleted, cancelled or timed-out run is let go at the latest then, whether or not the pod answered."""
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 30.0

ClientFor = Callable[[str, str | None], RuntimeClient]
"""A client for a base URL and a bearer."""


class DaemonRuns:
    """See the module. `client_for` makes the HTTP client of a pod."""

    def __init__(
        self,
        client: Client,
        recorder: EventRecorder,
        follower: RunFollower,
        clock: Clock,
        client_for: ClientFor,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._follower = follower
        self._clock = clock
        self._client_for = client_for
        self._retries: dict[str, tuple[int, float]] = {}
        """By run uid: how often a pod did not take it, and when (boot time, seconds) it may be tried again."""
        self._unsent: dict[str, str] = {}
        """By run uid: the uid of a pod that may stand in its status though this process knows that it has nothing."""

    async def advance(self, work: RunWork, agent: Agent) -> RunResult | Result | None:
        if not work.dispatched:
            return await self._dispatch(work, agent)
        pod = await self._pod(work)
        if self._unsent.get(work.uid) == work.run.status.pod_uid:
            return await self._send_at_last(work, agent, pod)
        seen = self._observe(work, pod)
        if seen.state is State.ENDED and seen.record is not None:
            return _with_cause(from_record(seen.record), work, pod)
        if seen.state is State.LOST:
            return failure(Reason.LOST, _gone(work) if pod is None else _unknown(work, seen.message))
        if seen.state is State.REFUSED:
            return failure(Reason.REFUSED, seen.message)
        if seen.state is State.NOT_STARTED:
            return await self._give_back(work, seen.message)
        if pod is None:
            return failure(Reason.LOST, _gone(work))
        if seen.state is State.FOLLOWING and work.phase is not RunPhase.RUNNING:
            work.draft.set(phase=RunPhase.RUNNING.value)
            self._recorder.event(work.obj, "Normal", "Started", f"Pod {work.run.status.pod_name} has the prompt")
        return Result(requeue_after=max(0.1, work.left_s(agent)))

    async def stop(self, work: RunWork, agent: Agent | None) -> RunResult | Result | None:
        stopping = work.draft.has(ConditionType.STOPPING) or {}
        pod = await self._pod(work)
        seen = self._observe(work, pod)
        timed_out = stopping.get("reason") == Reason.TIMEOUT
        reason = Reason.TIMEOUT if timed_out else Reason.CANCELLED
        message = f"{'timed out' if timed_out else 'cancelled'}: {stopping.get('message', '')}"
        if seen.state is State.ENDED and seen.record is not None:
            ended = from_record(seen.record)
            if ended.succeeded:
                return ended
            # With what it had got so far; why it was stopped says more than that it was.
            return attrs.evolve(ended, reason=reason, message=message, output=seen.record.output or message)
        settled = seen.state in (State.LOST, State.REFUSED, State.NOT_STARTED)
        if pod is None or settled or work.stopping_for_s() >= RELEASE_AFTER_S:
            return failure(reason, message)
        self._follower.abort(work.uid)
        return Result(requeue_after=max(0.1, RELEASE_AFTER_S - work.stopping_for_s()))

    async def let_go(self, work: RunWork) -> Result | None:
        pod = await self._pod(work)
        seen = self._observe(work, pod)
        # An answered abort is enough: the uninstall that deletes the run may take our rights away next.
        over = seen.state not in (State.SENDING, State.FOLLOWING) or self._follower.told_to_stop(work.uid)
        if pod is None or over or work.stopping_for_s() >= RELEASE_AFTER_S:
            self._forget(work)
            return None
        self._follower.abort(work.uid)
        return Result(requeue_after=max(0.1, RELEASE_AFTER_S - work.stopping_for_s()))

    async def retire(self, work: RunWork) -> None:
        self._forget(work)

    # dispatch

    async def _dispatch(self, work: RunWork, agent: Agent) -> RunResult | Result | None:
        wait_s = self._wait_s(work)
        if wait_s > 0:
            return Result(requeue_after=wait_s)
        name, namespace = agent.metadata.name, agent.metadata.namespace
        deployment = await self._client.try_get(DEPLOYMENT, name, namespace)
        pods = await self._client.list(POD, namespace, labels=selector(name))
        pod = pick_pod(pods, template_hash(deployment) if deployment else None)
        if pod is None:
            message = f"no pod of Agent {namespace}/{name} is ready"
            work.draft.condition(ConditionType.AGENT_READY, False, Reason.WAITING_FOR_POD, message)
            return None
        await work.hold(self._client)
        work.draft.condition(ConditionType.AGENT_READY, True, Reason.RUNNING, "the agent takes runs")
        work.draft.set(
            podName=pod["metadata"]["name"],
            podUID=pod["metadata"]["uid"],
            startTime=work.stamp(),
            model=agent.spec.model,
        )
        self._unsent[work.uid] = pod["metadata"]["uid"]
        await work.save(self._client)
        return self._send(work, agent, pod)

    def _send(self, work: RunWork, agent: Agent, pod: Mapping[str, Any]) -> Result:
        self._unsent.pop(work.uid, None)
        self._follower.dispatch(self._target(work, pod), work.run.spec.prompt, _headers(work))
        return Result(requeue_after=max(0.1, work.left_s(agent)))

    async def _send_at_last(self, work: RunWork, agent: Agent, pod: Mapping[str, Any] | None) -> Result:
        """A write of the status was not answered, and was carried out, or not: the pod stands there and has nothing."""
        if pod is None:
            return await self._give_back(work, f"pod {work.run.status.pod_name} went before it was sent the run")
        wait_s = self._wait_s(work)
        return Result(requeue_after=wait_s) if wait_s > 0 else self._send(work, agent, pod)

    def _wait_s(self, work: RunWork) -> float:
        """Seconds until a run that a pod did not take may be tried again; negative when it may."""
        return self._retries.get(work.uid, (0, 0.0))[1] - self._clock.boottime()

    async def _give_back(self, work: RunWork, message: str) -> Result:
        """Nothing was started: take the pod back out of the status and try again later."""
        self._follower.forget(work.uid)
        self._unsent[work.uid] = work.run.status.pod_uid or ""
        count = self._retries.get(work.uid, (0, 0.0))[0]
        wait_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2**count)
        self._retries[work.uid] = (count + 1, self._clock.boottime() + wait_s)
        work.draft.set(phase=RunPhase.QUEUED.value, podName=None, podUID=None, startTime=None)
        work.draft.condition(ConditionType.AGENT_READY, False, Reason.AGENT_BUSY, message)
        await work.save(self._client)
        del self._unsent[work.uid]
        await work.release(self._client)
        return Result(requeue_after=wait_s)

    # following

    async def _pod(self, work: RunWork) -> dict[str, Any] | None:
        """The pod that has the run; None when that very pod is gone or has ended."""
        name = work.run.status.pod_name or ""
        pod = await self._client.try_get(POD, name, work.namespace)
        if pod is None or pod["metadata"]["uid"] != work.run.status.pod_uid:
            return None
        return None if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed") else pod

    def _observe(self, work: RunWork, pod: Mapping[str, Any] | None) -> Observation:
        """What the follower knows; a run nobody follows, after a restart, is taken up again."""
        seen = self._follower.observation(work.uid)
        if seen is None and pod is not None:
            self._follower.resume(self._target(work, pod))
            seen = Observation(state=State.SENDING)
        return seen or Observation(state=State.LOST, message=_gone(work))

    def _target(self, work: RunWork, pod: Mapping[str, Any]) -> Target:
        address = (pod.get("status") or {}).get("podIP", "")
        host = f"[{address}]" if ":" in address else address
        base_url = f"http://{host}:{names.RUNTIME_PORT}"
        agent, namespace = work.run.spec.agent_ref, work.namespace
        make = self._client_of(agent, namespace, base_url)
        return Target(request=work.request, uid=work.uid, run=work.name, client=make)

    def _client_of(self, agent: str, namespace: str, base_url: str) -> Callable[[], Awaitable[RuntimeClient]]:
        known: list[str] = []
        calls = 0

        async def make() -> RuntimeClient:
            """With the bearer as it is now, or was: a pod that goes because of a new one, or outlives it, has the last.

            Who asks again was not answered well; the bearers take turns then.
            """
            nonlocal calls
            try:
                secret = await self._client.live.get(SECRET, names.token_secret(agent), namespace)
            except NotFound:
                secret = {}
            except KubeError as error:
                raise NotSent(f"the bearer of Agent {namespace}/{agent} cannot be read: {error}") from error
            found = decode_value((secret.get("data") or {}).get(names.TOKEN_KEY, "")).decode("ascii", "ignore").strip()
            if found and found not in known:
                known.insert(0, found)
                calls = 0
            calls += 1
            return self._client_for(base_url, known[(calls - 1) % len(known)] if known else None)

        return make

    def _forget(self, work: RunWork) -> None:
        self._follower.forget(work.uid)
        self._retries.pop(work.uid, None)
        self._unsent.pop(work.uid, None)


def _headers(work: RunWork) -> dict[str, str]:
    """Trace and origin of the run."""
    trace, parent = work.dispatch_trace("daemon"), work.parent_agent
    return {**({"Traceparent": trace} if trace else {}), **({PARENT_AGENT_HEADER: parent} if parent else {})}


def _with_cause(ended: RunResult, work: RunWork, pod: Mapping[str, Any] | None) -> RunResult:
    """The runtime that starts again knows that it was ended in the middle of a run; why, only its pod knows."""
    if pod is None or ended.reason != Reason.INTERRUPTED:
        return ended
    cause = restart_cause(pod, labels.RUNTIME_CONTAINER, work.started_at)
    if cause is None:
        return ended
    return attrs.evolve(ended, message=f"container {labels.RUNTIME_CONTAINER} was ended ({cause}): {ended.message}")


def _gone(work: RunWork) -> str:
    status = work.run.status
    return f"pod {status.pod_name} (uid {status.pod_uid}) is gone, and with it what the run was doing; {NOT_AGAIN}"


def _unknown(work: RunWork, answer: str) -> str:
    return (
        f"pod {work.run.status.pod_name} was sent the prompt but does not know the run: it restarted before it took "
        f"it, or its state is lost; {NOT_AGAIN} ({answer})"
    )
