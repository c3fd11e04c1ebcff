"""Deployments: one ReplicaSet per template, rolled from one to the next. `rollout` decides, this writes."""

from __future__ import annotations

from agentops.controller import Builder, Controller, Manager, Request, Result
from agentops.kube.errors import AlreadyExists, NotFound
from agentops.kube.kinds import DEPLOYMENT, POD, REPLICA_SET
from agentops.local.controllers.claims import (
    CONTROLLER_INDEX,
    Children,
    Selectors,
    pod_selector,
    put_status,
    retrying_conflicts,
)
from agentops.local.controllers.pods import (
    Object,
    controller_ref,
    is_finished,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)
from agentops.local.controllers.rollout import Change, Step, count, find_new, plan, replicas_of, strategy_of


class DeploymentController:
    """Carries out the steps of `rollout.plan`, one per reconcile."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._clock = manager.clock
        self._events = manager.legacy_recorder("deployment-controller")
        self._replica_sets = Children(manager.client, REPLICA_SET, DEPLOYMENT)
        self._selectors = Selectors(manager, DEPLOYMENT, pod_selector)

    def build(self) -> Controller:
        from agentops.controller.handlers import EnqueueMapped

        return (
            Builder(self._manager)
            .named("deployment")
            .for_(DEPLOYMENT)
            .owns(REPLICA_SET)
            .watches(REPLICA_SET, EnqueueMapped(self._for_orphan))
            .watches(POD, EnqueueMapped(self._for_recreate))
            .with_options(max_concurrent=4)
            .build(retrying_conflicts(self.reconcile))
        )

    async def reconcile(self, request: Request) -> Result | None:
        deployment = await self._client.try_get(DEPLOYMENT, request.name, request.namespace)
        if deployment is None or (selector := pod_selector(deployment)) is None:
            return None
        replica_sets = await self._replica_sets.claim(deployment, selector)
        step = plan(
            deployment,
            replica_sets,
            kind=DEPLOYMENT,
            now=self._clock.now(),
            old_pods_running=await self._old_pods_running(deployment, replica_sets),
        )
        if step.create is not None and not await self._create(deployment, step.create):
            await self._count_collision(deployment)
            return None
        for change in step.changes:
            await self._change(deployment, change)
        await self._replica_sets.delete_all(step.deletes)
        await self._put(deployment, step)
        return Result(requeue_after=step.requeue_after_s) if step.requeue_after_s else None

    def _for_orphan(self, replica_set: Object) -> list[Request]:
        if controller_ref(replica_set) is not None:
            return []
        return self._selectors.matching(namespace_of(replica_set), labels_of(replica_set))

    def _for_recreate(self, pod: Object) -> list[Request]:
        """A Recreate rollout goes on when the last old pod is gone, which no ReplicaSet status tells."""
        if not (pod["metadata"].get("deletionTimestamp") or is_finished(pod)):
            return []
        ref = controller_ref(pod)
        if ref is None or ref.get("kind") != REPLICA_SET.kind:
            return []
        return self._selectors.matching(namespace_of(pod), labels_of(pod))

    async def _old_pods_running(self, deployment: Object, replica_sets: list[Object]) -> bool:
        if strategy_of(deployment) != "Recreate":
            return False
        new = find_new(deployment, replica_sets)
        for replica_set in replica_sets:
            if new is not None and uid_of(replica_set) == uid_of(new):
                continue
            index = (CONTROLLER_INDEX, uid_of(replica_set))
            pods = await self._client.list(POD, namespace_of(deployment), index=index)
            if any(not is_finished(p) for p in pods):
                return True
        return False

    async def _create(self, deployment: Object, replica_set: Object) -> bool:
        """False when another object has taken the name: the hash has to change."""
        try:
            await self._client.create(REPLICA_SET, replica_set)
        except AlreadyExists:
            live = await self._client.live.get(REPLICA_SET, name_of(replica_set), namespace_of(replica_set))
            ref = controller_ref(live)
            return ref is not None and ref["uid"] == uid_of(deployment) and find_new(deployment, [live]) is not None
        if size := replicas_of(replica_set):
            self._tell_scaled(deployment, replica_set, 0, size)
        return True

    async def _count_collision(self, deployment: Object) -> None:
        status = {**(deployment.get("status") or {}), "collisionCount": count(deployment, "collisionCount") + 1}
        await put_status(self._client, DEPLOYMENT, deployment, status)

    async def _change(self, deployment: Object, change: Change) -> None:
        replica_set = dict(change.replica_set)
        patch: Object = {"metadata": {"resourceVersion": replica_set["metadata"].get("resourceVersion")}}
        if change.annotations:
            patch["metadata"]["annotations"] = dict(change.annotations)
        spec = {"replicas": change.replicas, "minReadySeconds": change.min_ready_s}
        patch["spec"] = {name: value for name, value in spec.items() if value is not None}
        try:
            await self._client.patch(REPLICA_SET, name_of(replica_set), patch, namespace_of(replica_set))
        except NotFound:
            return
        if change.replicas is not None:
            self._tell_scaled(deployment, replica_set, replicas_of(replica_set), change.replicas)

    def _tell_scaled(self, deployment: Object, replica_set: Object, before: int, after: int) -> None:
        way = "up" if after > before else "down"
        message = f"Scaled {way} replica set {name_of(replica_set)} from {before} to {after}"
        action = f"Scale{way.capitalize()}To{after}"
        self._events.event(deployment, "Normal", "ScalingReplicaSet", message, action, related=replica_set)

    async def _put(self, deployment: Object, step: Step) -> None:
        if step.annotations:
            metadata = {
                "annotations": dict(step.annotations),
                "resourceVersion": deployment["metadata"].get("resourceVersion"),
            }
            patch = {"metadata": metadata}
            deployment = await self._client.patch(DEPLOYMENT, name_of(deployment), patch, namespace_of(deployment))
        await put_status(self._client, DEPLOYMENT, deployment, step.status)
