"""The scheduler of a cluster with one node: bind, or say why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentops.controller import Builder, Client, EnqueueMapped, Manager, Request
from agentops.controller.informer import ObjectEvent
from agentops.controller.predicates import from_func
from agentops.kube.errors import Conflict, NotFound
from agentops.kube.kinds import NAMESPACE, NODE, POD, PVC, STORAGE_CLASS
from agentops.local.kubelet.fitting import Candidate, misfits, selects_namespaces
from agentops.local.podresources import pod_requests
from agentops.values.clock import Clock, rfc3339

Object = Mapping[str, Any]

SELECTED_NODE = "volume.kubernetes.io/selected-node"
DEFAULT_SCHEDULER = "default-scheduler"
_UNSCHEDULED = "unscheduled"
"""Index of waiting pods, by namespace and by `_ANYWHERE`."""
_ANYWHERE = "*"
_BOUND = "bound"
"""Index of pods that take room, by node."""


class Scheduler:
    """Binds pods to the node. One that cannot go there is looked at again when the node, its room or a claim change."""

    def __init__(self, manager: Manager, node_name: str) -> None:
        self._client: Client = manager.client
        self._clock: Clock = manager.clock
        self._node_name = node_name
        self._recorder = manager.recorder(DEFAULT_SCHEDULER)
        self._assumed: dict[tuple[str, str], Object] = {}
        """Bound by us, and not yet seen so by the cache: they take room nevertheless."""

        async def for_node(_: dict[str, Any]) -> list[Request]:
            return await self._unscheduled(_ANYWHERE)

        async def for_claim(claim: dict[str, Any]) -> list[Request]:
            return await self._unscheduled(claim["metadata"]["namespace"])

        Builder(manager).named("scheduler").for_(POD, predicates=(from_func(_waits),)).watches(
            NODE, EnqueueMapped(for_node), predicates=(from_func(self._is_node),)
        ).watches(PVC, EnqueueMapped(for_claim)).watches(
            POD, EnqueueMapped(for_node), predicates=(_changes_room,)
        ).with_options(leader_only=False).build(self.reconcile)
        manager.cache.add_index(
            POD, _UNSCHEDULED, lambda pod: [pod["metadata"]["namespace"], _ANYWHERE] if _waits(pod) else []
        )
        manager.cache.add_index(POD, _BOUND, lambda pod: [pod["spec"]["nodeName"]] if _takes_room(pod) else [])

    async def reconcile(self, request: Request) -> None:
        """Bind the pod when nothing stands in the way."""
        pod = await self._client.try_get(POD, request.name, request.namespace)
        if pod is None or not _waits(pod):
            return
        node = await self._client.try_get(NODE, self._node_name)
        if node is not None and not (node.get("status") or {}).get("allocatable"):
            return  # it has just come; its own event brings the pod back
        blocker = await self._node_blocker(pod, node) or await self._claims_blocker(pod)
        if blocker:
            await self._report(pod, blocker)
        elif await self._claims_bound(pod):
            await self._bind(pod)

    async def _node_blocker(self, pod: Object, node: Object | None) -> str:
        if node is None:
            return "no nodes available to schedule pods"
        pods = await self._sharing()
        namespaces: dict[str, Mapping[str, str]] = {}
        if selects_namespaces([pod, *pods]):
            for namespace in await self._client.list(NAMESPACE):
                namespaces[namespace["metadata"]["name"]] = namespace["metadata"].get("labels") or {}
        reasons = misfits(pod, Candidate(node, pods, namespaces))
        return f"0/1 nodes are available: {', '.join(f'1 {reason}' for reason in reasons)}." if reasons else ""

    async def _sharing(self) -> list[Object]:
        for (namespace, name), pod in list(self._assumed.items()):
            seen = await self._client.try_get(POD, name, namespace)
            if seen is None or seen["metadata"]["uid"] != pod["metadata"]["uid"] or seen["spec"].get("nodeName"):
                del self._assumed[namespace, name]
        bound = await self._client.list(POD, index=(_BOUND, self._node_name), read_only=True)
        return [*bound, *self._assumed.values()]

    async def _claims_blocker(self, pod: Object) -> str:
        for name in _claims(pod):
            claim = await self._client.try_get(PVC, name, pod["metadata"]["namespace"])
            if claim is None:
                return f'0/1 nodes are available: persistentvolumeclaim "{name}" not found.'
            if claim["metadata"].get("deletionTimestamp"):
                return f'0/1 nodes are available: persistentvolumeclaim "{name}" is being deleted.'
        return ""

    async def _claims_bound(self, pod: Object) -> bool:
        """Whether all are; those that wait for their first consumer are told where it will run."""
        bound = True
        for name in _claims(pod):
            claim = await self._client.get(PVC, name, pod["metadata"]["namespace"])
            if (claim.get("status") or {}).get("phase") == "Bound":
                continue
            bound = False
            chosen = (claim["metadata"].get("annotations") or {}).get(SELECTED_NODE)
            if not chosen and await self._waits_for_consumer(claim):
                patch = {"metadata": {"annotations": {SELECTED_NODE: self._node_name}}}
                await self._client.patch(PVC, name, patch, pod["metadata"]["namespace"])
        return bound

    async def _waits_for_consumer(self, claim: Object) -> bool:
        name = claim["spec"].get("storageClassName")
        if not name:
            return False
        try:
            storage_class = await self._client.live.get(STORAGE_CLASS, name)
        except NotFound:
            return False
        return storage_class.get("volumeBindingMode") == "WaitForFirstConsumer"

    async def _bind(self, pod: Object) -> None:
        meta = pod["metadata"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self._node_name},
        }
        try:
            await self._client.live.create(
                POD, binding, namespace=meta["namespace"], name=meta["name"], subresource="binding"
            )
        except (NotFound, Conflict):
            # Deleted or bound meanwhile: its own event brings it back if there is still something to do.
            return
        self._assumed[meta["namespace"], meta["name"]] = pod
        message = f"Successfully assigned {meta['namespace']}/{meta['name']} to {self._node_name}"
        self._recorder.event(pod, "Normal", "Scheduled", message, action="Binding")

    async def _report(self, pod: Object, blocker: str) -> None:
        self._recorder.event(pod, "Warning", "FailedScheduling", blocker, action="Scheduling")
        before = {c["type"]: c for c in (pod.get("status") or {}).get("conditions") or ()}.get("PodScheduled") or {}
        if before.get("status") == "False" and before.get("message") == blocker:
            return
        since = before.get("lastTransitionTime") if before.get("status") == "False" else None
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": blocker,
            "lastTransitionTime": since or rfc3339(self._clock.now()),
        }
        meta = pod["metadata"]
        seen = {"observedGeneration": meta["generation"]} if meta.get("generation") else {}
        body = {"metadata": {"uid": meta["uid"]}, "status": {"conditions": [condition | seen], **seen}}
        try:
            await self._client.patch(POD, meta["name"], body, meta["namespace"], type="strategic", subresource="status")
        except NotFound:
            return

    async def _unscheduled(self, where: str) -> list[Request]:
        waiting = await self._client.list(POD, index=(_UNSCHEDULED, where))
        waiting.sort(key=lambda pod: (-(pod["spec"].get("priority") or 0), pod["metadata"]["creationTimestamp"]))
        return [Request.of(pod) for pod in waiting]

    def _is_node(self, node: Object) -> bool:
        return bool(node["metadata"]["name"] == self._node_name)


def _waits(pod: Object) -> bool:
    spec = pod["spec"]
    return (
        not spec.get("nodeName")
        and not pod["metadata"].get("deletionTimestamp")
        and (spec.get("schedulerName") or DEFAULT_SCHEDULER) == DEFAULT_SCHEDULER
        and not spec.get("schedulingGates")
    )


def _takes_room(pod: Object) -> bool:
    phase = (pod.get("status") or {}).get("phase")
    return bool(pod["spec"].get("nodeName")) and phase not in ("Succeeded", "Failed")


def _changes_room(event: ObjectEvent) -> bool:
    """Whether a pod came to a node, left it, or was relabelled or resized there: others may fit now."""
    takes, old = _takes_room(event.object), event.old_object
    if event.type != "update" or old is None:
        return takes
    resized = takes and pod_requests(old) != pod_requests(event.object)
    return takes != _takes_room(old) or resized or (takes and _labels(old) != _labels(event.object))


def _labels(pod: Object) -> Mapping[str, str]:
    return pod["metadata"].get("labels") or {}


def _claims(pod: Object) -> list[str]:
    return [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["spec"].get("volumes") or ()
        if "persistentVolumeClaim" in volume
    ]
