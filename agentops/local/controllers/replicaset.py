"""ReplicaSets and ReplicationControllers: as many pods of one template as `spec.replicas` says."""

from __future__ import annotations

import copy
from datetime import datetime
from typing import Any

from agentops.controller import Builder, Controller, Manager, Request, Result
from agentops.controller.handlers import EnqueueMapped
from agentops.controller.predicates import spec_or_deletion_changed
from agentops.kube.errors import ApiError
from agentops.kube.kinds import POD, REPLICA_SET, REPLICATION_CONTROLLER
from agentops.local.controllers.claims import Children, Selectors, pod_selector, put_status, retrying_conflicts
from agentops.local.controllers.pods import (
    Object,
    available_in_s,
    controller_ref,
    deletion_order,
    is_active,
    is_deleting,
    is_ready,
    is_terminating,
    labels_of,
    name_of,
    namespace_of,
    pod_from_template,
)
from agentops.local.controllers.rollout import replicas_of
from agentops.values.clock import rfc3339
from agentops.values.kinds import Kind

_BURST = 500
_RECORDERS = {REPLICA_SET: "replicaset-controller", REPLICATION_CONTROLLER: "replication-controller"}


class ReplicaSetController:
    """Creates, deletes, adopts and counts pods for the objects of one kind."""

    def __init__(self, manager: Manager, kind: Kind = REPLICA_SET) -> None:
        self._kind = kind
        self._manager = manager
        self._client = manager.client
        self._clock = manager.clock
        self._events = manager.legacy_recorder(_RECORDERS[kind])
        self._pods = Children(manager.client, POD, kind)
        self._selectors = Selectors(manager, kind, pod_selector)

    def build(self) -> Controller:
        return (
            Builder(self._manager)
            .named(self._kind.kind.lower())
            .for_(self._kind, predicates=(spec_or_deletion_changed,))
            .owns(POD)
            .watches(POD, EnqueueMapped(self._for_orphan))
            .with_options(max_concurrent=4)
            .build(retrying_conflicts(self.reconcile))
        )

    async def reconcile(self, request: Request) -> Result | None:
        replica_set = await self._client.try_get(self._kind, request.name, request.namespace)
        if replica_set is None or (selector := pod_selector(replica_set)) is None:
            return None
        pods = await self._pods.claim(replica_set, selector)
        failure = None
        if not is_deleting(replica_set):
            pods, failure = await self._scale(replica_set, pods)
        status, wait_s = next_status(replica_set, pods, failure, self._clock.now())
        await put_status(self._client, self._kind, replica_set, status)
        if failure is not None:
            raise failure
        return Result(requeue_after=wait_s) if wait_s else None

    def _for_orphan(self, pod: Object) -> list[Request]:
        if controller_ref(pod) is not None:
            return []
        return self._selectors.matching(namespace_of(pod), labels_of(pod))

    async def _scale(self, replica_set: Object, pods: list[Object]) -> tuple[list[Object], ApiError | None]:
        active = [p for p in pods if is_active(p)]
        missing = replicas_of(replica_set) - len(active)
        if missing > 0:
            template = replica_set["spec"]["template"]
            created, failure = await self._pods.create_all(
                lambda: pod_from_template(template, replica_set, self._kind), min(missing, _BURST)
            )
            for pod in created:
                self._events.event(
                    replica_set, "Normal", "SuccessfulCreate", f"Created pod: {name_of(pod)}", related=pod
                )
            if failure is not None:
                self._events.event(replica_set, "Warning", "FailedCreate", f"Error creating: {failure}")
            return [*pods, *created], failure
        if missing < 0:
            deleted = await self._pods.delete_all(deletion_order(active)[:-missing])
            for pod in deleted:
                self._events.event(
                    replica_set, "Normal", "SuccessfulDelete", f"Deleted pod: {name_of(pod)}", related=pod
                )
            names = {name_of(p) for p in deleted}
            pods = [
                p if name_of(p) not in names else {**p, "metadata": {**p["metadata"], "deletionTimestamp": "now"}}
                for p in pods
            ]
        return pods, None


def next_status(
    replica_set: Object, pods: list[Object], failure: Exception | None, now: datetime
) -> tuple[Object, float | None]:
    """The status that `pods` make, and in how many seconds the next of them becomes available. Pure."""
    min_ready_s = int(replica_set["spec"].get("minReadySeconds") or 0)
    template_labels = (replica_set["spec"]["template"].get("metadata") or {}).get("labels") or {}
    active = [p for p in pods if is_active(p)]
    waits = [w for p in active if (w := available_in_s(p, min_ready_s, now)) is not None]
    counters = {
        "fullyLabeledReplicas": len([p for p in active if template_labels.items() <= labels_of(p).items()]),
        "readyReplicas": len([p for p in active if is_ready(p)]),
        "availableReplicas": len([w for w in waits if w == 0]),
    }
    if replica_set.get("kind") != REPLICATION_CONTROLLER.kind:  # which has no such field
        counters["terminatingReplicas"] = len([p for p in pods if is_terminating(p)])
    status: Object = {
        "replicas": len(active),
        "observedGeneration": int(replica_set["metadata"].get("generation") or 0),
        **{name: value for name, value in counters.items() if value},
    }
    conditions: list[dict[str, Any]] = copy.deepcopy((replica_set.get("status") or {}).get("conditions") or [])
    others = [c for c in conditions if c.get("type") != "ReplicaFailure"]
    if failure is not None:
        current = next((c for c in conditions if c.get("type") == "ReplicaFailure"), None)
        fresh = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": str(failure)}
        # A standing failure keeps its first message: each refusal names another random pod, and writing them all
        # would wake this controller without end.
        others.append(current or {**fresh, "lastTransitionTime": rfc3339(now)})
    if others:
        status["conditions"] = others
    return status, min((w for w in waits if w > 0), default=None)
