"""StatefulSets: pods with a number, a name and a volume of their own. `ordinals` decides, this writes.

Every template is kept as a ControllerRevision, which is what `kubectl rollout history` and `undo` read.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from agentops.controller import Builder, Controller, Manager, Request, Result
from agentops.kube.errors import AlreadyExists, ApiError
from agentops.kube.kinds import CONTROLLER_REVISION, POD, PVC, STATEFUL_SET
from agentops.local.controllers.claims import Children, pod_selector, put_status, retrying_conflicts
from agentops.local.controllers.ordinals import claims_for, plan, pod_for, revision_for
from agentops.local.controllers.pods import (
    Object,
    controller_ref,
    labels_of,
    make_controller_ref,
    name_of,
    namespace_of,
    template_hash,
    uid_of,
)


class StatefulSetController:
    """Carries out the steps of `ordinals.plan`, one per reconcile."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._clock = manager.clock
        self._events = manager.recorder("statefulset-controller")
        self._pods = Children(manager.client, POD, STATEFUL_SET)

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
        if stateful_set is None or (selector := pod_selector(stateful_set)) is None:
            return None
        pods = await self._pods.claim(stateful_set, selector)
        update = await self._revision(stateful_set)
        current = str((stateful_set.get("status") or {}).get("currentRevision") or name_of(update))
        step = plan(stateful_set, pods, current=current, update=name_of(update), now=self._clock.now())
        for pod in await self._pods.delete_all(step.deletes):
            self._tell(stateful_set, "SuccessfulDelete", f"delete Pod {name_of(pod)} in StatefulSet", "successful")
        for ordinal in step.create:
            revision = revision_for(stateful_set, ordinal, current, name_of(update))
            await self._create(stateful_set, ordinal, revision)
        await put_status(self._client, STATEFUL_SET, stateful_set, step.status)
        return Result(requeue_after=step.requeue_after_s) if step.requeue_after_s else None

    async def _revision(self, stateful_set: Object) -> Object:
        """The ControllerRevision of the current template, made or renumbered when it is not the newest."""
        template = {**copy.deepcopy(stateful_set["spec"]["template"]), "$patch": "replace"}
        data = {"spec": {"template": template}}
        known = await self._revisions(stateful_set)
        newest = max((int(r.get("revision") or 0) for r in known), default=0)
        for revision in known:
            if revision.get("data") == data:
                if int(revision.get("revision") or 0) < newest:
                    return await self._client.update(CONTROLLER_REVISION, {**revision, "revision": newest + 1})
                return revision
        digest = template_hash(data)
        created = {
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {
                "name": f"{name_of(stateful_set)}-{digest}",
                "namespace": namespace_of(stateful_set),
                "labels": {**labels_of(stateful_set["spec"]["template"]), "controller.kubernetes.io/hash": digest},
                "ownerReferences": [make_controller_ref(stateful_set, STATEFUL_SET)],
            },
            "data": data,
            "revision": newest + 1,
        }
        try:
            return await self._client.create(CONTROLLER_REVISION, created)
        except AlreadyExists:
            return await self._client.live.get(CONTROLLER_REVISION, name_of(created), namespace_of(stateful_set))

    async def _revisions(self, stateful_set: Object) -> list[Object]:
        found = await self._client.list(CONTROLLER_REVISION, namespace_of(stateful_set))
        return [r for r in found if (controller_ref(r) or {}).get("uid") == uid_of(stateful_set)]

    async def _template(self, stateful_set: Object, revision: str) -> Mapping[str, Any]:
        for known in await self._revisions(stateful_set):
            if name_of(known) == revision:
                template = dict(known["data"]["spec"]["template"])
                template.pop("$patch", None)
                return template
        return dict(stateful_set["spec"]["template"])

    async def _create(self, stateful_set: Object, ordinal: int, revision: str) -> None:
        for claim in claims_for(stateful_set, ordinal):
            try:
                await self._client.create(PVC, claim)
            except AlreadyExists:
                continue
            text = f"create Claim {name_of(claim)} Pod {name_of(stateful_set)}-{ordinal} in StatefulSet"
            self._tell(stateful_set, "SuccessfulCreate", text, "success")
        template = await self._template(stateful_set, revision)
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
