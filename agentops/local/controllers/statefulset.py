"""StatefulSets: pods with a number, a name and a volume of their own. `ordinals` decides, this writes.

Every template is kept as a ControllerRevision, see `revisions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentops.controller import Builder, Controller, Manager, Request, Result
from agentops.kube.errors import AlreadyExists, ApiError
from agentops.kube.kinds import CONTROLLER_REVISION, POD, PVC, STATEFUL_SET
from agentops.local.controllers.claims import Children, pod_selector, put_status, retrying_conflicts
from agentops.local.controllers.ordinals import claims_for, plan, pod_for, revision_for
from agentops.local.controllers.pods import Object, is_deleting, labels_of, name_of
from agentops.local.controllers.revisions import REVISION_LABEL, Revisions, template_of


class StatefulSetController:
    """Carries out the steps of `ordinals.plan`, one per reconcile."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._clock = manager.clock
        self._events = manager.recorder("statefulset-controller")
        self._pods = Children(manager.client, POD, STATEFUL_SET)
        self._revisions = Revisions(manager.client, STATEFUL_SET, "controller.kubernetes.io/hash")

    def build(self) -> Controller:
        return (
            Builder(self._manager)
            .named("statefulset")
            .for_(STATEFUL_SET)
            .owns(POD)
            .owns(CONTROLLER_REVISION)
            .with_options(max_concurrent=2)
            .build(retrying_conflicts(self.reconcile))
        )

    async def reconcile(self, request: Request) -> Result | None:
        stateful_set = await self._client.try_get(STATEFUL_SET, request.name, request.namespace)
        if stateful_set is None or is_deleting(stateful_set) or (selector := pod_selector(stateful_set)) is None:
            return None  # what a deleted set leaves is the garbage collector's
        pods = await self._pods.claim(stateful_set, selector)
        revisions = await self._revisions.claim(stateful_set, selector)
        update = await self._revisions.current(stateful_set, revisions)
        if update is None:
            return None
        templates = {name_of(revision): template_of(revision) for revision in (*revisions, update)}
        current = str((stateful_set.get("status") or {}).get("currentRevision") or name_of(update))
        step = plan(stateful_set, pods, current=current, update=name_of(update), now=self._clock.now())
        for pod in await self._pods.delete_all(step.deletes):
            self._tell(stateful_set, "SuccessfulDelete", f"delete Pod {name_of(pod)} in StatefulSet", "successful")
        for ordinal in step.create:
            revision = revision_for(stateful_set, ordinal, current, name_of(update))
            template = templates.get(revision, stateful_set["spec"]["template"])
            await self._create(stateful_set, ordinal, revision, template)
        in_use = {current, name_of(update), *(labels_of(pod).get(REVISION_LABEL, "") for pod in pods)}
        await self._revisions.prune(stateful_set, revisions, in_use)
        await put_status(self._client, STATEFUL_SET, stateful_set, step.status)
        return Result(requeue_after=step.requeue_after_s) if step.requeue_after_s else None

    async def _create(self, stateful_set: Object, ordinal: int, revision: str, template: Mapping[str, Any]) -> None:
        for claim in claims_for(stateful_set, ordinal):
            try:
                await self._client.create(PVC, claim)
            except AlreadyExists:
                continue
            text = f"create Claim {name_of(claim)} Pod {name_of(stateful_set)}-{ordinal} in StatefulSet"
            self._tell(stateful_set, "SuccessfulCreate", text, "success")
        pod = pod_for(stateful_set, template, ordinal, revision, STATEFUL_SET)
        try:
            await self._client.create(POD, pod)
        except AlreadyExists:
            return
        except ApiError as error:
            text = f"create Pod {name_of(pod)} in StatefulSet {name_of(stateful_set)} failed error: {error}"
            self._events.event(stateful_set, "Warning", "FailedCreate", text)
            raise
        self._tell(stateful_set, "SuccessfulCreate", f"create Pod {name_of(pod)} in StatefulSet", "successful")

    def _tell(self, stateful_set: Object, reason: str, what: str, how: str) -> None:
        self._events.event(stateful_set, "Normal", reason, f"{what} {name_of(stateful_set)} {how}")
