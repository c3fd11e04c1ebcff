"""Jobs: pods that run to an end. `jobs` decides, this writes."""

from __future__ import annotations

from collections.abc import Mapping

from agentops.controller import Builder, Controller, Manager, Request, Result
from agentops.controller.finalizers import drop_finalizer
from agentops.kube.errors import ApiError, NotFound
from agentops.kube.kinds import JOB, POD
from agentops.local.controllers.claims import Children, put_status, retrying_conflicts
from agentops.local.controllers.jobs import (
    INDEX_ANNOTATION,
    INDEX_FAILURES,
    TRACKING_FINALIZER,
    JobStep,
    has_finalizer,
    is_job_finished,
    plan,
)
from agentops.local.controllers.pods import Object, controller_ref, name_of, pod_from_template, uid_of

_JOB_NAME_INDEX = "job-name"


def _by_job_name(pod: Object) -> list[str]:
    ref = controller_ref(pod)
    return [str(ref["name"])] if ref is not None and ref.get("kind") == JOB.kind else []


class JobController:
    """Carries out the steps of `jobs.plan`, and lets go of pods whose Job is gone.

    `backoff_scale` shortens the pause between retries.
    """

    def __init__(self, manager: Manager, *, backoff_scale: float = 1.0) -> None:
        self._manager = manager
        self._client = manager.client
        self._clock = manager.clock
        self._backoff_scale = backoff_scale
        self._events = manager.legacy_recorder("job-controller")
        self._pods = Children(manager.client, POD, JOB)
        manager.cache.informer(POD)
        manager.cache.add_index(POD, _JOB_NAME_INDEX, _by_job_name)

    def build(self) -> Controller:
        return (
            Builder(self._manager)
            .named("job")
            .for_(JOB)
            .owns(POD)
            .with_options(max_concurrent=4)
            .build(retrying_conflicts(self.reconcile))
        )

    async def reconcile(self, request: Request) -> Result | None:
        job = await self._client.try_get(JOB, request.name, request.namespace)
        pods = await self._client.list(POD, request.namespace, index=(_JOB_NAME_INDEX, request.name))
        owner = uid_of(job) if job is not None else ""
        strays = [p for p in pods if (controller_ref(p) or {}).get("uid") != owner]
        await self._release(strays)
        if job is None:
            return None
        mine = [p for p in pods if (controller_ref(p) or {}).get("uid") == owner]
        step = plan(job, mine, now=self._clock.now(), backoff_scale=self._backoff_scale)
        if not is_job_finished(job):
            await put_status(self._client, JOB, job, step.status)
        for type_, reason, message in step.events:
            self._events.event(job, type_, reason, message)
        await self._release(step.release)
        for pod in await self._pods.delete_all(step.deletes):
            self._events.event(job, "Normal", "SuccessfulDelete", f"Deleted pod: {name_of(pod)}", related=pod)
        await self._create(job, step)
        return Result(requeue_after=step.requeue_after_s) if step.requeue_after_s else None

    async def _release(self, pods: list[Object]) -> None:
        for pod in pods:
            if has_finalizer(pod):
                try:
                    await drop_finalizer(self._client, POD, pod, TRACKING_FINALIZER)
                except NotFound:
                    continue

    async def _create(self, job: Object, step: JobStep) -> None:
        indexes = iter(step.create)
        created, failure = await self._pods.create_all(
            lambda: _pod(job, next(indexes), step.failures), len(step.create)
        )
        for pod in created:
            self._events.event(job, "Normal", "SuccessfulCreate", f"Created pod: {name_of(pod)}", related=pod)
        if failure is not None:
            self._report_failure(job, failure)

    def _report_failure(self, job: Object, failure: ApiError) -> None:
        self._events.event(job, "Warning", "FailedCreate", f"Error creating: {failure}")
        raise failure


def _pod(job: Object, index: int | None, failures: Mapping[int, int]) -> Object:
    template = job["spec"]["template"]
    if index is None:
        return pod_from_template(template, job, JOB, finalizers=(TRACKING_FINALIZER,))
    prefix = f"{name_of(job)}-{index}-"
    pod = pod_from_template(template, job, JOB, generate_name=prefix, finalizers=(TRACKING_FINALIZER,))
    pod["metadata"].setdefault("annotations", {})[INDEX_ANNOTATION] = str(index)
    pod["metadata"]["labels"][INDEX_ANNOTATION] = str(index)
    if job["spec"].get("backoffLimitPerIndex") is not None:
        pod["metadata"]["annotations"][INDEX_FAILURES] = str(failures.get(index, 0))
    pod["spec"]["hostname"] = f"{name_of(job)}-{index}"[:63]
    field_ref = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX_ANNOTATION}']"}}
    for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
        env = container.setdefault("env", [])
        if not any(e.get("name") == "JOB_COMPLETION_INDEX" for e in env):
            env.append({"name": "JOB_COMPLETION_INDEX", "valueFrom": field_ref})
    return pod
