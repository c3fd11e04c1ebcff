"""Runs of tasks: one Job per run, never retried; its last line of output is the result.

Expected flow
    status.jobName, startTime → Job → pod, phase Running → Job ends → result from the log, else from the
    termination message → status → the Job gets a TTL.

Guarantees
    A Job that has been seen, or may have existed before a restart, is never made again: when it is
    gone, the run is over, reason JobLost. The Job outlives its result being read.
    A Job that cannot make its pod (quota, ServiceAccount, Pod Security) keeps trying until the deadline. Its status
    says nothing of that, so what its controller tells in Events is told on.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NoReturn

from agentops.api import labels
from agentops.api.conditions import ConditionType, Reason, RunPhase
from agentops.api.types import Agent
from agentops.controller import Client, EventRecorder, Result, RetryAfter
from agentops.controller.owners import is_controlled_by, set_controller_reference
from agentops.kube.errors import AlreadyExists, ApiError, BadRequest, Invalid, NotFound
from agentops.kube.kinds import CONFIG_MAP, EVENTS_V1, JOB, POD, SECRET
from agentops.operator import plan
from agentops.operator.joblog import read_task_result
from agentops.operator.objects import names
from agentops.operator.objects.env import Endpoints
from agentops.operator.objects.job import TTL_AFTER_HARVEST_S, TaskRun, fits_inline, job, prompt_config_map
from agentops.operator.results import Result as RunResult
from agentops.operator.results import failure, from_task, out_of_time, parse_termination_message
from agentops.operator.review import Reviewer
from agentops.operator.rollout import container_failure, pod_failure, scheduling_failure
from agentops.operator.run_work import RunWork, belongs_to_namesake, run_timeout_s
from agentops.operator.secrets import decode_value
from agentops.operator.task_end import lost, pod_end, termination_message
from agentops.telemetry.logging import get_logger

log = get_logger("operator.task")

EVENTS_BY_JOB = "job"
"""Index of the Events that a pod could not be made, by the uid of the Job."""
STOP_AFTER_S = 180.0
"""A Job whose pods do not go within their grace period and a minute is left behind."""


class TaskRuns:
    """See the module."""

    def __init__(self, client: Client, recorder: EventRecorder, endpoints: Endpoints) -> None:
        self._client = client
        self._recorder = recorder
        self._endpoints = endpoints
        self._reviewer = Reviewer(client)
        self._unconfirmed: set[str] = set()
        """Uids of runs whose Job this process decided to make and has not seen yet."""
        self._again_at: dict[str, datetime] = {}
        """When runs whose Job could not be made are tried again; giving up a try is a write that comes back as one."""

    async def advance(self, work: RunWork, agent: Agent) -> RunResult | Result | None:
        if work.run.status.job_name is None:
            wait_s = (self._again_at.get(work.uid, work.now) - work.now).total_seconds()
            return Result(requeue_after=wait_s) if wait_s > 0 else await self._start(work, agent)
        found = await self._job(work)
        if found is None:
            return await self._without_job(work, agent)
        if not is_controlled_by(found, work.obj):
            return await self._in_the_way(work, found)
        self._unconfirmed.discard(work.uid)
        ended = _job_end(found) or await self._pod_end(work)
        if ended is not None:
            return await self._harvest(work, ended)
        await self._watch(work, found)
        return None

    async def stop(self, work: RunWork, agent: Agent | None) -> RunResult | Result | None:
        stopping = work.draft.has(ConditionType.STOPPING) or {}
        found = await self._job(work)
        message = f"cancelled: {stopping.get('message', '')}"
        if found is None or not is_controlled_by(found, work.obj) or work.stopping_for_s() >= STOP_AFTER_S:
            return failure(Reason.CANCELLED, message)
        ended = _job_end(found)
        if ended is not None and not found["metadata"].get("deletionTimestamp"):
            result = await self._harvest(work, ended)
            if result.succeeded:
                return result
        if not found["metadata"].get("deletionTimestamp"):
            # Foreground: the Job is gone only when its pods are, and the slot is free only then.
            await self._delete(found)
        return Result(requeue_after=max(1.0, STOP_AFTER_S - work.stopping_for_s()))

    async def let_go(self, work: RunWork) -> Result | None:
        """The Job goes with the run, by its owner reference."""
        return None

    async def retire(self, work: RunWork) -> None:
        """The result is in the status: the Job may go."""
        self._unconfirmed.discard(work.uid)
        if work.run.status.job_name is None:
            return
        found = await self._client.try_get(JOB, _name(work), work.namespace)
        if found is None or not is_controlled_by(found, work.obj) or found["metadata"].get("deletionTimestamp"):
            return
        if found["spec"].get("ttlSecondsAfterFinished") is None:
            patch = {"spec": {"ttlSecondsAfterFinished": TTL_AFTER_HARVEST_S}}
            try:
                await self._client.patch(JOB, _name(work), patch, work.namespace)
            except NotFound:
                return

    # starting

    async def _start(self, work: RunWork, agent: Agent) -> RunResult | Result | None:
        work.draft.set(jobName=names.job(work.name), startTime=work.stamp(), model=agent.spec.model)
        await work.save(self._client)
        self._unconfirmed.add(work.uid)
        return await self._create(work, agent)

    async def _create(self, work: RunWork, agent: Agent) -> RunResult | Result | None:
        """The Job, and before it the prompt, if that does not fit a variable."""
        manifest = await self._manifest(work, agent)
        if isinstance(manifest, str):
            await self._take_back(work, manifest)
        try:
            if not fits_inline(work.run.spec.prompt):
                other = await self._create_prompt(work)
                if other is not None:
                    return await self._in_the_way(work, other)
            set_controller_reference(work.obj, manifest)
            await self._client.create(JOB, manifest)
        except AlreadyExists:
            return Result(requeue_after=0.1)
        except (Invalid, BadRequest) as error:
            return failure(Reason.JOB_REFUSED, f"Job {work.namespace}/{_name(work)} was refused: {error.message}")
        except ApiError as error:
            if error.code >= 500:
                raise
            await self._take_back(work, f"Job {work.namespace}/{_name(work)} was refused: {error.message}")
        log.info("task.job-created", run=work.name)
        self._unconfirmed.discard(work.uid)
        self._recorder.event(work.obj, "Normal", "Started", f"Made Job {_name(work)}")
        self._tell_no_pod(work, None)
        return None

    async def _manifest(self, work: RunWork, agent: Agent) -> dict[str, Any] | str:
        """The Job, or why it cannot be made now."""
        review = await self._reviewer.review(agent, await self._own_secret(agent))
        if not review.complete:
            return review.summary
        image = agent.spec.image or agent.status.runtime_image
        if image is None:
            return f"Agent {agent.metadata.name} has no runtime image yet"
        inputs = plan.pod_inputs(agent, review.inputs, image, agent.status.config_hash or "", self._endpoints)
        run = TaskRun(
            name=work.name,
            prompt=work.run.spec.prompt,
            timeout_s=run_timeout_s(agent),
            traceparent=work.dispatch_trace("task"),
            parent_agent=work.parent_agent,
        )
        return job(inputs, run)

    async def _own_secret(self, agent: Agent) -> dict[str, bytes]:
        """Bearer and salt of the agent; a Ready one has them."""
        name, namespace = names.token_secret(agent.metadata.name), agent.metadata.namespace
        secret = await self._client.try_get(SECRET, name, namespace) or {}
        data = secret.get("data") or {}
        return {key: decode_value(data.get(key, "")) for key in (names.TOKEN_KEY, names.SALT_KEY)}

    async def _create_prompt(self, work: RunWork) -> dict[str, Any] | None:
        """The ConfigMap of the prompt; what has its name instead, if something has."""
        manifest = prompt_config_map(work.run.spec.agent_ref, work.namespace, work.name, work.run.spec.prompt)
        set_controller_reference(work.obj, manifest)
        try:
            await self._client.create(CONFIG_MAP, manifest)
        except AlreadyExists:
            there = await self._client.get(CONFIG_MAP, manifest["metadata"]["name"], work.namespace)
            return None if is_controlled_by(there, work.obj) else there
        return None

    async def _in_the_way(self, work: RunWork, other: Mapping[str, Any]) -> RunResult:
        """What belongs to a deleted run of the same name goes with that, and is waited for."""
        what = f"{other.get('kind', JOB.kind)} {work.namespace}/{other['metadata']['name']}"
        if belongs_to_namesake(other, work.obj):
            await self._take_back(work, f"{what} of the deleted AgentRun of the same name is still there",
                                  reason=Reason.TERMINATING, retry_s=1.0)  # fmt: skip
        return failure(Reason.FOREIGN_OBJECT, f"{what} exists and is not this run's; create a run of another name")

    async def _take_back(
        self, work: RunWork, why: str, *, reason: Reason = Reason.JOB_REFUSED, retry_s: float = 10.0
    ) -> NoReturn:
        """Certainly nothing was made: the run keeps its slot and is tried again."""
        self._unconfirmed.discard(work.uid)
        self._again_at = {uid: at for uid, at in self._again_at.items() if at > work.now}
        self._again_at[work.uid] = work.now + timedelta(seconds=retry_s)
        work.draft.set(jobName=None, startTime=None)
        if work.draft.condition(ConditionType.AGENT_READY, False, reason, why):
            self._recorder.event(work.obj, "Warning", reason, why)
        await work.save(self._client)
        raise RetryAfter(retry_s, why)

    # while it runs, and when it is over

    async def _job(self, work: RunWork) -> dict[str, Any] | None:
        """From the cache; an absence is confirmed by the server, because so much follows from it."""
        found = await self._client.try_get(JOB, _name(work), work.namespace)
        if found is not None:
            return found
        try:
            return await self._client.live.get(JOB, _name(work), work.namespace)
        except NotFound:
            return None

    async def _without_job(self, work: RunWork, agent: Agent) -> RunResult | Result | None:
        if work.uid in self._unconfirmed:
            return await self._create(work, agent)
        message = f"Job {work.namespace}/{_name(work)} is gone, and with it what the run was doing"
        return failure(Reason.JOB_LOST, message)

    async def _watch(self, work: RunWork, found: Mapping[str, Any]) -> None:
        """Phase Running once there is a pod, and what keeps it from being made or from starting, if something does."""
        pod = await self._pod(work)
        if pod is None:
            if work.run.status.pod_name is None:
                self._tell_no_pod(work, await self._create_failure(found))
            return
        trouble = container_failure(pod) or scheduling_failure(pod)
        if trouble is not None:
            message = f"pod {pod['metadata']['name']}, {trouble[1]}"
            if work.draft.condition(ConditionType.AGENT_READY, False, trouble[0], message):
                self._recorder.event(work.obj, "Warning", trouble[0], message)
        else:
            work.draft.condition(ConditionType.AGENT_READY, True, Reason.READY, "the agent takes runs")
        work.draft.set(phase=RunPhase.RUNNING.value, podName=pod["metadata"]["name"])

    def _tell_no_pod(self, work: RunWork, cause: str | None) -> None:
        """There is a Job and no pod yet; `cause` is why it could not be made."""
        where = f"Job {work.namespace}/{_name(work)}"
        work.draft.set(phase=RunPhase.PENDING.value)
        if cause is None:
            message = f"{where} is making its pod"
            work.draft.condition(ConditionType.AGENT_READY, False, Reason.WAITING_FOR_POD, message)
            return
        message = f"{where} cannot make its pod, and goes on trying: {cause}"
        if work.draft.condition(ConditionType.AGENT_READY, False, Reason.FAILED_CREATE, message):
            self._recorder.event(work.obj, "Warning", Reason.FAILED_CREATE, message)

    async def _create_failure(self, found: Mapping[str, Any]) -> str | None:
        """What the Job's controller last said of a pod it could not make."""
        meta = found["metadata"]
        events = await self._client.list(EVENTS_V1, meta["namespace"], index=(EVENTS_BY_JOB, meta["uid"]))
        last = max(events, key=_last_seen, default={})
        return str(last.get("note") or "").removeprefix("Error creating: ") or None

    async def _pod_end(self, work: RunWork) -> tuple[bool, str, str] | None:
        """The end of a pod that is on its way out, and why the Job sent it there, if it did."""
        ended = pod_end(await self._pod(work))
        if ended is None or ended[0]:
            return ended
        try:
            found = await self._client.live.get(JOB, _name(work), work.namespace)
        except NotFound:
            return ended
        return _job_end(found, interim=True) or ended

    async def _harvest(self, work: RunWork, ended: tuple[bool, str, str]) -> RunResult:
        """What the runtime printed, else what the kubelet and the Job say."""
        succeeded, reason, message = ended
        pod = await self._pod(work)
        told = None
        if pod is not None:
            work.draft.set(podName=pod["metadata"]["name"])
            told = await read_task_result(
                self._client, work.namespace, pod["metadata"]["name"], labels.RUNTIME_CONTAINER
            ) or parse_termination_message(termination_message(pod), succeeded)
        late = reason == "DeadlineExceeded"
        if told is not None and (told.success or succeeded or not late):
            return from_task(told)
        if told is not None:
            return out_of_time(told, message or reason)
        if succeeded:
            return RunResult(
                succeeded=True, reason=Reason.SUCCEEDED, message="the Job succeeded", output="(no output captured)"
            )
        unknown = None if late else lost(pod, work.run.status.pod_name)
        if unknown is not None:
            return failure(Reason.LOST, unknown)
        trouble = pod_failure(pod) if pod is not None else None
        before = work.draft.has(ConditionType.AGENT_READY) or {}
        detail = trouble or (before.get("message", "") if before.get("status") == "False" else "")
        said = f"{message or reason or 'the Job failed'}{': ' + detail if detail else ''}"
        return failure(Reason.TIMEOUT, f"timed out: {said}") if late else failure(Reason.FAILED, said)

    async def _pod(self, work: RunWork) -> dict[str, Any] | None:
        """The Job's pod, the newest if there should be several."""
        selector = {labels.RUN: names.label_value(work.name), labels.COMPONENT: labels.COMPONENT_TASK_RUN}
        pods = await self._client.list(POD, work.namespace, labels=selector)
        return max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)

    async def _delete(self, found: Mapping[str, Any]) -> None:
        meta = found["metadata"]
        try:
            await self._client.delete(JOB, meta["name"], meta["namespace"], propagation="Foreground", uid=meta["uid"])
        except NotFound:
            return


def _name(work: RunWork) -> str:
    return work.run.status.job_name or names.job(work.name)


def _last_seen(event: Mapping[str, Any]) -> str:
    """When an Event was last observed; of the old kind, too, as Kubernetes' own controllers write it."""
    times = (
        (event.get("series") or {}).get("lastObservedTime"),
        event.get("deprecatedLastTimestamp"),
        event.get("eventTime"),
        event["metadata"].get("creationTimestamp"),
    )
    return next((str(time) for time in times if time), "")


def _job_end(found: Mapping[str, Any], *, interim: bool = False) -> tuple[bool, str, str] | None:
    """Whether it succeeded, and reason and message, once the Job is over; `interim` also once it is going to fail."""
    over = ("Complete", "Failed", "FailureTarget") if interim else ("Complete", "Failed")
    for condition in (found.get("status") or {}).get("conditions") or ():
        if condition.get("status") == "True" and condition.get("type") in over:
            said = str(condition.get("reason", "")), str(condition.get("message", ""))
            return condition["type"] == "Complete", *said
    return None
