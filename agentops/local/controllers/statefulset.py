"""StatefulSets: pods with a number, a name and a volume of their own. `ordinals` decides, this writes.

Every template is kept as a ControllerRevision, see `revisions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentops.controller import Builder, Controller, EnqueueMapped, Manager, ObjectEvent, Request, Result
from agentops.kube.errors import AlreadyExists, ApiError
from agentops.kube.kinds import CONTROLLER_REVISION, POD, PVC, STATEFUL_SET
from agentops.local.controllers.claims import Children, pod_selector, put_status, retrying_conflicts
from agentops.local.controllers.ordinals import (
    claim_owners,
    claims_for,
    is_stale,
    ordinal_of,
    ordinals_of,
    plan,
    pod_for,
    revision_for,
)
from agentops.local.controllers.pods import Object, is_deleting, labels_of, name_of, namespace_of
from agentops.local.controllers.revisions import REVISION_LABEL, Revisions, template_of


class StatefulSetController:
    """Carries out the steps of `ordinals.plan`, one per reconcile."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._clock = manager.clock
        self._events = manager.legacy_recorder("statefulset-controller")
        self._pods = Children(manager.client, POD, STATEFUL_SET)
        self._revisions = Revisions(manager.client, STATEFUL_SET, "controller.kubernetes.io/hash")

    def build(self) -> Controller:
        return (
            Builder(self._manager)
            .named("statefulset")
            .for_(STATEFUL_SET)
            .owns(POD)
            .owns(CONTROLLER_REVISION)
            .watches(PVC, EnqueueMapped(self._for_claim), predicates=(_is_deletion,))
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
        await self._own_claims(stateful_set, pods)
        for pod in await self._pods.delete_all(step.deletes):
            self._tell(stateful_set, "SuccessfulDelete", f"delete Pod {name_of(pod)} in StatefulSet", "successful")
        for ordinal in step.create:
            revision = revision_for(stateful_set, ordinal, current, name_of(update))
            if await self._waits_for_claim(stateful_set, ordinal):
                continue
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
            created = await self._client.create(POD, pod)
        except AlreadyExists:
            return
        except ApiError as error:
            text = f"create Pod {name_of(pod)} in StatefulSet {name_of(stateful_set)} failed error: {error}"
            self._events.event(stateful_set, "Warning", "FailedCreate", text)
            raise
        await self._own_claims(stateful_set, [created])
        self._tell(stateful_set, "SuccessfulCreate", f"create Pod {name_of(pod)} in StatefulSet", "successful")

    async def _own_claims(self, stateful_set: Object, pods: list[Object]) -> None:
        """Give the pods' claims the owners that the retention policy wants; before a pod goes, not after."""
        for pod in pods:
            ordinal = ordinal_of(pod, name_of(stateful_set))
            if ordinal is None or (is_deleting(pod) and ordinal in ordinals_of(stateful_set)):
                continue
            for wanted in claims_for(stateful_set, ordinal):
                claim = await self._client.try_get(PVC, name_of(wanted), namespace_of(stateful_set))
                if claim is None:
                    continue
                owners = claim_owners(claim, stateful_set, STATEFUL_SET, pod, POD)
                if owners != (claim["metadata"].get("ownerReferences") or []):
                    metadata = {**claim["metadata"], "ownerReferences": owners}
                    await self._client.update(PVC, {**claim, "metadata": metadata})

    async def _waits_for_claim(self, stateful_set: Object, ordinal: int) -> bool:
        """Whether a claim that is on its way out must be gone first; its deletion wakes this controller."""
        pod_name = f"{name_of(stateful_set)}-{ordinal}"
        for wanted in claims_for(stateful_set, ordinal):
            claim = await self._client.try_get(PVC, name_of(wanted), namespace_of(stateful_set))
            if claim is None or not is_stale(claim, pod_name):
                continue
            if is_deleting(claim):
                text = f"create Pod {pod_name} in StatefulSet {name_of(stateful_set)} failed error: "
                text += f"pvc {name_of(claim)} is being deleted"
                self._events.event(stateful_set, "Warning", "FailedCreate", text)
            return True
        return False

    async def _for_claim(self, claim: Object) -> list[Request]:
        """The sets whose claim this is, by its name."""
        return [
            Request.of(stateful_set)
            for stateful_set in await self._client.list(STATEFUL_SET, namespace_of(claim), read_only=True)
            for template in stateful_set["spec"].get("volumeClaimTemplates") or ()
            if ordinal_of(claim, f"{template['metadata']['name']}-{name_of(stateful_set)}") is not None
        ]

    def _tell(self, stateful_set: Object, reason: str, what: str, how: str) -> None:
        self._events.event(stateful_set, "Normal", reason, f"{what} {name_of(stateful_set)} {how}")


def _is_deletion(event: ObjectEvent) -> bool:
    return event.type == "delete"
