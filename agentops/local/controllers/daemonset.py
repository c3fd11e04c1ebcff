"""DaemonSets: one pod on every node that takes it. `daemons` decides, this writes.

Every template is kept as a ControllerRevision, see `revisions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from agentops.controller import Builder, Controller, EnqueueMapped, Manager, ObjectEvent, Request, Result
from agentops.kube.errors import ApiError, NotFound
from agentops.kube.kinds import CONTROLLER_REVISION, DAEMON_SET, NODE, POD
from agentops.local.controllers.claims import Children, Selectors, pod_selector, put_status, retrying_conflicts
from agentops.local.controllers.daemons import DaemonStep, plan, pod_for
from agentops.local.controllers.pods import (
    Object,
    controller_ref,
    is_deleting,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)
from agentops.local.controllers.revisions import REVISION_LABEL, Revisions
from agentops.values.clock import Clock

_BURST = 250
"""Pods made in one step."""
_BACKOFF_S = 1.0
_BACKOFF_MAX_S = 900.0


class DaemonSetController:
    """Carries out the steps of `daemons.plan`, one per reconcile.

    `backoff_scale` shortens the pause before a pod that failed again is replaced.
    """

    def __init__(self, manager: Manager, *, backoff_scale: float = 1.0) -> None:
        self._manager = manager
        self._client = manager.client
        self._clock = manager.clock
        self._events = manager.legacy_recorder("daemonset-controller")
        self._pods = Children(manager.client, POD, DAEMON_SET)
        self._revisions = Revisions(manager.client, DAEMON_SET, REVISION_LABEL)
        self._selectors = Selectors(manager, DAEMON_SET, pod_selector)
        self._failures = FailureBackoff(manager.clock, backoff_scale)

    def build(self) -> Controller:
        return (
            Builder(self._manager)
            .named("daemonset")
            .for_(DAEMON_SET)
            .owns(POD)
            .owns(CONTROLLER_REVISION)
            .watches(POD, EnqueueMapped(self._for_orphan))
            .watches(NODE, EnqueueMapped(self._for_node), predicates=(_changes_placement,))
            .with_options(max_concurrent=2)
            .build(retrying_conflicts(self.reconcile))
        )

    async def reconcile(self, request: Request) -> Result | None:
        daemon_set = await self._client.try_get(DAEMON_SET, request.name, request.namespace)
        if daemon_set is None or is_deleting(daemon_set) or (selector := pod_selector(daemon_set)) is None:
            return None  # what a deleted set leaves is the garbage collector's
        revisions = await self._revisions.claim(daemon_set, selector)
        current = await self._revisions.current(daemon_set, revisions)
        if current is None:
            return None
        revision_hash = labels_of(current)[REVISION_LABEL]
        pods = await self._pods.claim(daemon_set, selector)
        step = plan(
            daemon_set,
            await self._client.list(NODE, read_only=True),
            pods,
            revision_hash=revision_hash,
            now=self._clock.now(),
            held_s=lambda node: self._failures.wait_s((uid_of(daemon_set), node)),
        )
        await self._delete(daemon_set, step)
        failure = await self._create(daemon_set, step, revision_hash)
        in_use = {revision_hash, *(labels_of(pod).get(REVISION_LABEL, "") for pod in pods)}
        kept = {name_of(r) for r in revisions if labels_of(r).get(REVISION_LABEL) in in_use}
        await self._revisions.prune(daemon_set, revisions, kept)
        await put_status(self._client, DAEMON_SET, daemon_set, step.status)
        if failure is not None:
            raise failure
        return Result(requeue_after=step.requeue_after_s) if step.requeue_after_s else None

    def _for_orphan(self, pod: Object) -> list[Request]:
        if controller_ref(pod) is not None:
            return []
        return self._selectors.matching(namespace_of(pod), labels_of(pod))

    async def _for_node(self, _node: Object) -> list[Request]:
        return [Request.of(daemon_set) for daemon_set in await self._client.list(DAEMON_SET, read_only=True)]

    async def _delete(self, daemon_set: Object, step: DaemonStep) -> None:
        for type_, reason, message in step.events:
            self._events.event(daemon_set, type_, reason, message)
        for node in step.failed:
            self._failures.note((uid_of(daemon_set), node))
        deleted = await self._pods.delete_all(step.deletes)
        deleted += await self._pods.delete_all([p for p in step.lost if await self._is_lost(p)], grace_s=0)
        for pod in deleted:
            text = f"Deleted pod: {name_of(pod)}"
            self._events.event(daemon_set, "Normal", "SuccessfulDelete", text, related=pod)

    async def _is_lost(self, pod: Object) -> bool:
        """Our cache may have the pod before its node."""
        try:
            await self._client.live.get(NODE, pod["spec"]["nodeName"])
        except NotFound:
            return True
        return False

    async def _create(self, daemon_set: Object, step: DaemonStep, revision_hash: str) -> ApiError | None:
        nodes = iter(step.create)
        created, failure = await self._pods.create_all(
            lambda: pod_for(daemon_set, next(nodes), revision_hash, DAEMON_SET), min(len(step.create), _BURST)
        )
        for pod in created:
            text = f"Created pod: {name_of(pod)}"
            self._events.event(daemon_set, "Normal", "SuccessfulCreate", text, related=pod)
        if failure is not None:
            self._events.event(daemon_set, "Warning", "FailedCreate", f"Error creating: {failure}")
        return failure


class FailureBackoff:
    """How long a failed pod stays before it is replaced: the first not at all, then 1 s doubling to 15 minutes.

    Half an hour without a failure forgives the past. Keys are (uid of the set, node).
    """

    def __init__(self, clock: Clock, scale: float = 1.0) -> None:
        self._clock = clock
        self._scale = scale
        self._failed: dict[tuple[str, str], _Failure] = {}

    def wait_s(self, key: tuple[str, str]) -> float:
        """Seconds until the next failure may be acted upon."""
        last = self._failed.get(key)
        return 0.0 if last is None else max(0.0, last.at_s + last.delay_s - self._clock.boottime())

    def note(self, key: tuple[str, str]) -> None:
        """A failed pod is replaced now."""
        now = self._clock.boottime()
        forgiven = now - 2 * _BACKOFF_MAX_S * self._scale
        self._failed = {k: failure for k, failure in self._failed.items() if failure.at_s > forgiven}
        last = self._failed.get(key)
        longest = _BACKOFF_MAX_S * self._scale
        delay_s = _BACKOFF_S * self._scale if last is None else min(2 * last.delay_s, longest)
        self._failed[key] = _Failure(now, delay_s)


@frozen(slots=True)
class _Failure:
    at_s: float
    delay_s: float


def _changes_placement(event: ObjectEvent) -> bool:
    """Whether a node came, went, or changed what decides who may be on it; its heartbeats do not."""
    if event.type != "update" or event.old_object is None:
        return True
    return _placement(event.old_object) != _placement(event.object)


def _placement(node: Mapping[str, Any]) -> Iterable[Any]:
    return labels_of(node), (node.get("spec") or {}).get("taints") or []
