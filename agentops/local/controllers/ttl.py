"""Deletes finished Jobs `ttlSecondsAfterFinished` after their end."""

from __future__ import annotations

from agentops.controller import Builder, Controller, Manager, Request, Result
from agentops.kube.errors import Conflict, NotFound
from agentops.kube.kinds import JOB
from agentops.local.controllers.jobs import finished_at
from agentops.local.controllers.pods import Object, is_deleting, uid_of


def expires_in_s(job: Object, now_s: float) -> float | None:
    """Seconds until the Job may be deleted; `None` when it never is, or not yet known. Pure."""
    ttl, end = job["spec"].get("ttlSecondsAfterFinished"), finished_at(job)
    if ttl is None or end is None or is_deleting(job):
        return None
    return max(0.0, end.timestamp() + int(ttl) - now_s)


class TtlController:
    """Looks at each finished Job when its time has come, and once more at the server before deleting."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._clock = manager.clock

    def build(self) -> Controller:
        return Builder(self._manager).named("ttl-after-finished").for_(JOB).build(self.reconcile)

    async def reconcile(self, request: Request) -> Result | None:
        job = await self._client.try_get(JOB, request.name, request.namespace)
        wait_s = self._wait_s(job)
        if wait_s is None:
            return None
        if wait_s > 0:
            return Result(requeue_after=wait_s)
        try:
            live = await self._client.live.get(JOB, request.name, request.namespace)
            if self._wait_s(live) == 0:
                await self._client.delete(
                    JOB,
                    request.name,
                    request.namespace,
                    propagation="Foreground",
                    uid=uid_of(live),
                    resource_version=live["metadata"]["resourceVersion"],
                )
        except NotFound:
            return None
        except Conflict:
            return Result(requeue_after=0.05)
        return None

    def _wait_s(self, job: Object | None) -> float | None:
        return None if job is None else expires_in_s(job, self._clock.now().timestamp())
