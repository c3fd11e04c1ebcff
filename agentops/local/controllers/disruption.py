"""PodDisruptionBudgets: how many of their pods may be evicted now. Evictions themselves are the API server's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from agentops.controller import Builder, Client, Controller, Manager, Request, Result
from agentops.kube.kinds import (
    DEPLOYMENT,
    POD,
    POD_DISRUPTION_BUDGET,
    REPLICA_SET,
    REPLICATION_CONTROLLER,
    STATEFUL_SET,
)
from agentops.local.controllers.claims import EnqueueSelecting, Selectors, put_status, retrying_conflicts
from agentops.local.controllers.pods import Object, controller_ref, is_deleting, is_ready, name_of, namespace_of
from agentops.values.clock import parse_rfc3339, rfc3339
from agentops.values.kinds import Kind
from agentops.values.selector import LabelSelector

EVICTION_TIMEOUT = timedelta(minutes=2)
"""An eviction that has not become a deletion by then does not count any more."""
_WITH_REPLICAS = (DEPLOYMENT, REPLICA_SET, REPLICATION_CONTROLLER, STATEFUL_SET)
_SCALED: Mapping[str, Kind] = {kind.kind: kind for kind in _WITH_REPLICAS}


def budget_selector(budget: Object) -> LabelSelector | None:
    """An empty selector selects every pod of the namespace, an absent one none."""
    selector = (budget.get("spec") or {}).get("selector")
    return None if selector is None else LabelSelector.from_dict(selector)


def budget_status(budget: Object, pods: list[Object], scale: int, now: datetime) -> Object:
    """The status. `scale` is how many replicas the owners of `pods` ask for."""
    before = budget.get("status") or {}
    evicted = pending_evictions(before, pods, now)
    healthy = sum(is_ready(p) and not is_deleting(p) and name_of(p) not in evicted for p in pods)
    expected, desired = _wanted(budget.get("spec") or {}, len(pods), scale)
    allowed = max(0, healthy - desired) if expected > 0 else 0
    generation = budget["metadata"].get("generation", 0)
    status: Object = {
        "observedGeneration": generation,
        "disruptionsAllowed": allowed,
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "expectedPods": expected,
        "conditions": [_condition(before, allowed > 0, generation, now)],
    }
    return {**status, "disruptedPods": evicted} if evicted else status


def pending_evictions(status: Object, pods: list[Object], now: datetime) -> dict[str, str]:
    """Pods that were evicted and are not being deleted yet, with the time."""
    alive = {name_of(pod) for pod in pods if not is_deleting(pod)}
    found = (status.get("disruptedPods") or {}).items()
    return {name: since for name, since in found if name in alive and parse_rfc3339(since) + EVICTION_TIMEOUT > now}


def _wanted(spec: Object, count: int, scale: int) -> tuple[int, int]:
    """How many pods there should be, and how many of them healthy."""
    if spec.get("maxUnavailable") is not None:
        return scale, max(0, scale - _amount(spec["maxUnavailable"], scale))
    least = spec.get("minAvailable")
    if isinstance(least, str):
        return scale, _amount(least, scale)
    return count, int(least or 0)


def _amount(value: Any, of: int) -> int:
    if isinstance(value, str) and value.endswith("%"):
        return math.ceil(of * int(value[:-1]) / 100)
    return int(value)


def _condition(before: Object, allowed: bool, generation: int, now: datetime) -> Object:
    status = "True" if allowed else "False"
    old: Object = next((c for c in before.get("conditions") or () if c["type"] == "DisruptionAllowed"), {})
    since = old.get("lastTransitionTime") if old.get("status") == status else None
    return {
        "type": "DisruptionAllowed",
        "status": status,
        "reason": "SufficientPods" if allowed else "InsufficientPods",
        "message": "",
        "lastTransitionTime": since or rfc3339(now),
        "observedGeneration": generation,
    }


class DisruptionController:
    """Keeps the status of budgets; each change of one of their pods or of the budget wakes it."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client: Client = manager.client
        self._clock = manager.clock
        self._selectors = Selectors(manager, POD_DISRUPTION_BUDGET, budget_selector)
        for kind in _SCALED.values():
            manager.cache.informer(kind)

    def build(self) -> Controller:
        return (
            Builder(self._manager)
            .named("disruption")
            .for_(POD_DISRUPTION_BUDGET)
            .watches(POD, EnqueueSelecting(self._selectors))
            .build(retrying_conflicts(self.reconcile))
        )

    async def reconcile(self, request: Request) -> Result | None:
        budget = await self._client.try_get(POD_DISRUPTION_BUDGET, request.name, request.namespace)
        if budget is None or is_deleting(budget):
            return None
        selector, now = budget_selector(budget), self._clock.now()
        pods = [] if selector is None else await self._client.list(POD, request.namespace, labels=selector)
        status = budget_status(budget, pods, await self._scale(pods), now)
        await put_status(self._client, POD_DISRUPTION_BUDGET, budget, status)
        ends = [parse_rfc3339(since) + EVICTION_TIMEOUT for since in status.get("disruptedPods", {}).values()]
        return Result(requeue_after=max(0.1, (min(ends) - now).total_seconds())) if ends else None

    async def _scale(self, pods: list[Object]) -> int:
        """The replicas that the owners of the pods ask for; a pod without such an owner asks for itself."""
        total, seen = 0, set()
        for pod in pods:
            owner = await self._owner(pod)
            if owner is None:
                total += 1
            elif owner["metadata"]["uid"] not in seen:
                seen.add(owner["metadata"]["uid"])
                replicas = owner["spec"].get("replicas")
                total += 1 if replicas is None else int(replicas)
        return total

    async def _owner(self, obj: Object) -> Object | None:
        """The outermost of the owners that have replicas."""
        ref = controller_ref(obj)
        kind = _SCALED.get(str(ref["kind"])) if ref else None
        if ref is None or kind is None:
            return None
        owner = await self._client.try_get(kind, ref["name"], namespace_of(obj))
        if owner is None or owner["metadata"]["uid"] != ref["uid"]:
            return None
        return await self._owner(owner) or owner
