"""CronJobs: a Job for every start of the schedule. `schedule` decides, this writes."""

from __future__ import annotations

import copy
from datetime import datetime

from agentops.controller import Builder, Controller, Manager, Request, Result
from agentops.kube.errors import AlreadyExists, NotFound
from agentops.kube.kinds import CRON_JOB, JOB
from agentops.local.controllers.claims import put_status, retrying_conflicts
from agentops.local.controllers.jobs import finished_at, is_job_finished
from agentops.local.controllers.pods import (
    Object,
    controller_ref,
    has_condition,
    is_deleting,
    make_controller_ref,
    name_of,
    namespace_of,
    uid_of,
)
from agentops.local.controllers.schedule import ScheduleError, due, is_too_late, job_name, surplus_history
from agentops.values.clock import rfc3339

SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"


class CronJobController:
    """Starts Jobs on time, keeps `status.active`, and prunes history."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._clock = manager.clock
        self._events = manager.legacy_recorder("cronjob-controller")

    def build(self) -> Controller:
        return (
            Builder(self._manager).named("cronjob").for_(CRON_JOB).owns(JOB).build(retrying_conflicts(self.reconcile))
        )

    async def reconcile(self, request: Request) -> Result | None:
        cron_job = await self._client.try_get(CRON_JOB, request.name, request.namespace)
        if cron_job is None:
            return None
        found = await self._client.list(JOB, request.namespace)
        jobs = [j for j in found if (controller_ref(j) or {}).get("uid") == uid_of(cron_job)]
        status = self._status(cron_job, jobs)
        wait_s = None
        if not is_deleting(cron_job) and not cron_job["spec"].get("suspend"):
            wait_s = await self._start_due(cron_job, jobs, status)
        await put_status(self._client, CRON_JOB, cron_job, status)
        for job in surplus_history(cron_job, jobs):
            await self._delete(cron_job, job)
        return Result(requeue_after=wait_s) if wait_s is not None else None

    def _status(self, cron_job: Object, jobs: list[Object]) -> Object:
        """The status as the Jobs make it; Jobs that ended since are told of."""
        status = copy.deepcopy(cron_job.get("status") or {})
        by_uid = {uid_of(j): j for j in jobs}
        for ref in status.get("active") or ():
            job = by_uid.get(ref.get("uid"))
            if job is None:
                text = f"Active job went missing: {ref.get('name')}"
                self._events.event(cron_job, "Normal", "MissingJob", text)
            elif is_job_finished(job):
                outcome = "Complete" if has_condition(job, "Complete") else "Failed"
                text = f"Saw completed job: {name_of(job)}, condition: {outcome}"
                self._events.event(cron_job, "Normal", "SawCompletedJob", text)
        active = [_reference(j) for j in jobs if not is_job_finished(j)]
        ends = [end for j in jobs if has_condition(j, "Complete") and (end := finished_at(j)) is not None]
        if ends and rfc3339(max(ends)) > str(status.get("lastSuccessfulTime") or ""):
            status["lastSuccessfulTime"] = rfc3339(max(ends))
        if active:
            status["active"] = sorted(active, key=lambda r: r["name"])
        else:
            status.pop("active", None)
        return status

    async def _start_due(self, cron_job: Object, jobs: list[Object], status: Object) -> float | None:
        """Make the Job that is due, as the concurrency policy allows; seconds until the next start."""
        now = self._clock.now()
        try:
            asked = due(cron_job, now)
        except ScheduleError as error:
            self._events.event(cron_job, "Warning", "UnparseableSchedule", str(error))
            return None
        wait_s = max(0.0, (asked.next_at - now).total_seconds()) + 0.1
        if asked.at is None:
            return wait_s
        if asked.missed > 100:
            text = "too many missed start times; set or shorten spec.startingDeadlineSeconds or check the clock"
            self._events.event(cron_job, "Warning", "TooManyMissedTimes", text)
        if is_too_late(cron_job, asked.at, now):
            text = f"Missed scheduled time to start a job: {rfc3339(asked.at)}"
            self._events.event(cron_job, "Warning", "MissSchedule", text)
            return wait_s
        policy = cron_job["spec"].get("concurrencyPolicy", "Allow")
        active = [j for j in jobs if not is_job_finished(j)]
        if policy == "Forbid" and active:
            text = "Not starting job because prior execution is running and concurrency policy is Forbid"
            self._events.event(cron_job, "Normal", "JobAlreadyActive", text)
            return wait_s
        for job in active if policy == "Replace" else ():
            await self._delete(cron_job, job)
            status["active"] = [r for r in status.get("active") or () if r["uid"] != uid_of(job)]
        created = await self._create(cron_job, asked.at)
        if created is not None:
            status["active"] = [*(status.get("active") or ()), _reference(created)]
        status["lastScheduleTime"] = rfc3339(asked.at)
        return wait_s

    async def _create(self, cron_job: Object, at: datetime) -> Object | None:
        template = cron_job["spec"]["jobTemplate"]
        meta = template.get("metadata") or {}
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": job_name(cron_job, at),
                "namespace": namespace_of(cron_job),
                "labels": dict(meta.get("labels") or {}),
                "annotations": {**(meta.get("annotations") or {}), SCHEDULED: rfc3339(at)},
                "ownerReferences": [make_controller_ref(cron_job, CRON_JOB)],
            },
            "spec": copy.deepcopy(template["spec"]),
        }
        try:
            created = await self._client.create(JOB, job)
        except AlreadyExists:
            return None  # made by an earlier try whose status was not written
        self._events.event(cron_job, "Normal", "SuccessfulCreate", f"Created job {name_of(created)}")
        return created

    async def _delete(self, cron_job: Object, job: Object) -> None:
        try:
            await self._client.delete(JOB, name_of(job), namespace_of(job), uid=uid_of(job))
        except NotFound:
            return
        self._events.event(cron_job, "Normal", "SuccessfulDelete", f"Deleted job {name_of(job)}")


def _reference(job: Object) -> Object:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "namespace": namespace_of(job),
        "name": name_of(job),
        "uid": uid_of(job),
    }
