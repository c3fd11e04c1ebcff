"""Namespaces on their way out: delete everything in them, of every resource, then let go of the namespace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import define, field

from agentops.controller import Builder, Controller, Manager, Request, Result
from agentops.kube.errors import ApiError, NotFound
from agentops.kube.kinds import NAMESPACE
from agentops.local.controllers.claims import put_status, retrying_conflicts
from agentops.local.controllers.discovered import Served, served_resources
from agentops.local.controllers.pods import Object, name_of
from agentops.values.clock import parse_rfc3339, rfc3339

FINALIZER = "kubernetes"
GRACE_S = 5.0
"""How long a terminating namespace keeps its content, as in kube-controller-manager, which gives replicated API
servers time to see the deletion. `kubectl delete -k` relies on it: it names the namespace before what is in it."""
_QUICK_S, _QUICK_FOR_S, _SLOW_S = 0.2, 15.0, 1.0


@define(slots=True)
class Remains:
    """What one sweep left behind. Counters are by resource and by finalizer."""

    discovery_error: str = ""
    content_errors: list[str] = field(factory=list)
    resources: Counter[str] = field(factory=Counter)
    finalizers: Counter[str] = field(factory=Counter)

    @property
    def clean(self) -> bool:
        return not (self.discovery_error or self.content_errors or self.resources)


class NamespaceController:
    """Sweeps a terminating namespace, `grace_s` after its deletion, until nothing is left."""

    def __init__(self, manager: Manager, *, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._manager = manager
        self._client = manager.client
        self._clock = manager.clock

    def build(self) -> Controller:
        return (
            Builder(self._manager)
            .named("namespace")
            .for_(NAMESPACE)
            .with_options(max_concurrent=4)
            .build(retrying_conflicts(self.reconcile))
        )

    async def reconcile(self, request: Request) -> Result | None:
        namespace = await self._client.try_get(NAMESPACE, request.name)
        if namespace is None or not namespace["metadata"].get("deletionTimestamp"):
            return None
        if FINALIZER not in (namespace["spec"].get("finalizers") or ()):
            return None
        age_s = (self._clock.now() - parse_rfc3339(namespace["metadata"]["deletionTimestamp"])).total_seconds()
        if age_s < self._grace_s:
            return Result(requeue_after=self._grace_s - age_s)
        remains = await self._sweep(request.name)
        status = next_status(namespace, remains, self._clock.now())
        namespace = await put_status(self._client, NAMESPACE, namespace, status)
        if remains.clean:
            await self._finalize(namespace)
            return None
        return Result(requeue_after=_QUICK_S if age_s < _QUICK_FOR_S else _SLOW_S)

    async def _sweep(self, namespace: str) -> Remains:
        remains = Remains()
        try:
            served = await served_resources(self._client.live)
        except ApiError as error:
            remains.discovery_error = str(error)
            return remains
        for resource in served:
            if resource.kind.namespaced and "delete" in resource.verbs:
                try:
                    await self._empty(namespace, resource, remains)
                except NotFound:
                    continue  # its CRD went while we were looking
                except ApiError as error:
                    remains.content_errors.append(f"{resource.kind.resource}: {error}")
        return remains

    async def _empty(self, namespace: str, resource: Served, remains: Remains) -> None:
        live = self._client.live
        left = await live.list(resource.kind, namespace, metadata_only=True)
        fresh = [o for o in left if not o["metadata"].get("deletionTimestamp")]
        if fresh and "deletecollection" in resource.verbs:
            await live.delete_collection(resource.kind, namespace)
        for obj in fresh if "deletecollection" not in resource.verbs else ():
            try:
                await live.delete(resource.kind, name_of(obj), namespace)
            except NotFound:
                continue
        if not left:
            return
        for obj in await live.list(resource.kind, namespace, metadata_only=True):
            remains.resources[resource.kind.resource] += 1
            remains.finalizers.update(obj["metadata"].get("finalizers") or ())

    async def _finalize(self, namespace: Object) -> None:
        finalizers = [f for f in namespace["spec"].get("finalizers") or () if f != FINALIZER]
        spec = {**namespace["spec"], "finalizers": finalizers}
        try:
            await self._client.update(NAMESPACE, {**namespace, "spec": spec}, subresource="finalize")
        except NotFound:
            return


def next_status(namespace: Mapping[str, Any], remains: Remains, now: datetime) -> Object:
    """The status of a terminating namespace. Pure; the texts are Kubernetes'."""
    status = dict(namespace.get("status") or {})
    status["phase"] = "Terminating"
    content = ", ".join(f"{name} has {n} resource instances" for name, n in sorted(_dotted(remains.resources).items()))
    holding = ", ".join(f"{name} in {n} resource instances" for name, n in sorted(remains.finalizers.items()))
    errors = f"{len(remains.content_errors)} remaining: {', '.join(sorted(remains.content_errors))}"
    wanted = [
        (
            "NamespaceDeletionDiscoveryFailure",
            ("True", "DiscoveryFailed", remains.discovery_error)
            if remains.discovery_error
            else ("False", "ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            ("False", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            ("True", "ContentDeletionFailed", f"Failed to delete all resource types, {errors}")
            if remains.content_errors
            else ("False", "ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            ("True", "SomeResourcesRemain", f"Some resources are remaining: {content}")
            if content
            else ("False", "ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            ("True", "SomeFinalizersRemain", f"Some content in the namespace has finalizers remaining: {holding}")
            if holding
            else ("False", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ]
    before = {c.get("type"): c for c in status.get("conditions") or ()}
    conditions = []
    for type_, (value, reason, message) in wanted:
        old = before.get(type_)
        stamp = old["lastTransitionTime"] if old and old.get("status") == value else rfc3339(now)
        conditions.append(
            {"type": type_, "status": value, "reason": reason, "message": message, "lastTransitionTime": stamp}
        )
    status["conditions"] = conditions
    return status


def _dotted(resources: Mapping[str, int]) -> dict[str, int]:
    """By `resource.group`, with the dot also where the group is empty, as kube-controller-manager writes it."""
    return {name if "." in name else f"{name}.": n for name, n in resources.items()}
