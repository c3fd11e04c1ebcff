"""ResourceQuota admission: the last word before an object is stored.

Usage is counted in the store itself in the step that writes, so nothing slips in between and `status` may lag.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from agentops.kube.kinds import POD, RESOURCE_QUOTA
from agentops.local import quota as quotas
from agentops.local.apiserver import errors
from agentops.local.apiserver.resources import Resource
from agentops.local.apiserver.store import Store
from agentops.local.podresources import quantities

Object = dict[str, Any]


def check_quotas(store: Store, resource: Resource, new: Object, old: Object | None) -> None:
    """Raises ApiFailure 403 when a quota of the namespace has no room for what `new` counts for beyond `old`."""
    kind, namespace = resource.kind, new["metadata"].get("namespace") or ""
    if not kind.namespaced:
        return
    for entry in store.list(RESOURCE_QUOTA.resource, namespace):
        quota = entry.obj()
        if not quotas.applies(quota, kind, new):
            continue
        hard = quantities((quota.get("spec") or {}).get("hard"))
        asked = quotas.usage(kind, new)
        before = quotas.usage(kind, old) if old is not None else {}
        more = {name: asked[name] - before.get(name, Decimal(0)) for name in asked if name in hard}
        if kind.resource == POD.resource and old is None and (missing := quotas.unspecified(hard, new)):
            raise _refusal(resource, new, f"failed quota: {entry.name}: must specify {missing}")
        more = {name: amount for name, amount in sorted(more.items()) if amount > 0}
        if not more:
            continue
        used = _used(store, resource, quota, namespace, more)
        over = [name for name, amount in more.items() if used[name] + amount > hard[name]]
        if over:
            raise _refusal(
                resource,
                new,
                f"exceeded quota: {entry.name}, requested: {_listed(over, more)}, used: {_listed(over, used)}, "
                f"limited: {_listed(over, hard)}",
            )


def _used(
    store: Store, resource: Resource, quota: Object, namespace: str, names: dict[str, Decimal]
) -> dict[str, Decimal]:
    entries = store.list(resource.storage, namespace)
    if quotas.is_constant(resource.kind):
        return dict.fromkeys(names, Decimal(sum(1 for _ in entries)))
    used = dict.fromkeys(names, Decimal(0))
    for entry in entries:
        obj = entry.obj()
        if quotas.applies(quota, resource.kind, obj):
            for name, amount in quotas.usage(resource.kind, obj).items():
                if name in used:
                    used[name] += amount
    return used


def _listed(names: list[str], amounts: dict[str, Decimal]) -> str:
    return ",".join(f"{name}={quotas.shown(name, amounts[name])}" for name in names)


def _refusal(resource: Resource, obj: Object, why: str) -> errors.ApiFailure:
    return errors.forbidden_object(resource.group, resource.plural, obj["metadata"]["name"], why)
