"""ResourceQuotas: the status that says what is used. Refusing is the API server's."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from agentops.controller import Builder, Client, Controller, EnqueueMapped, Manager, ObjectEvent, Request, Result
from agentops.controller.predicates import Predicate
from agentops.kube.errors import NotFound
from agentops.kube.kinds import POD, PVC, RESOURCE_QUOTA, SERVICE
from agentops.local import quota as quotas
from agentops.local.controllers.claims import put_status, retrying_conflicts
from agentops.local.controllers.discovered import served_resources
from agentops.local.controllers.pods import Object, is_deleting
from agentops.values.kinds import Kind

_RESYNC_S = 10.0
"""Of kinds that are not watched: whatever else there is can be counted too."""
_WATCHED = {kind.resource: kind for kind in (POD, SERVICE, PVC)}


class ResourceQuotaController:
    """Counts again when a pod, a service or a claim comes, changes or goes; other kinds every ten seconds."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client: Client = manager.client

    def build(self) -> Controller:
        async def in_namespace(obj: Object) -> list[Request]:
            return [
                Request.of(quota) for quota in await self._client.list(RESOURCE_QUOTA, obj["metadata"]["namespace"])
            ]

        builder = Builder(self._manager).named("resourcequota").for_(RESOURCE_QUOTA)
        for kind in _WATCHED.values():
            builder = builder.watches(kind, EnqueueMapped(in_namespace), predicates=(_counts_differently(kind),))
        return builder.build(retrying_conflicts(self.reconcile))

    async def reconcile(self, request: Request) -> Result | None:
        quota = await self._client.try_get(RESOURCE_QUOTA, request.name, request.namespace)
        if quota is None or is_deleting(quota):
            return None
        hard = (quota.get("spec") or {}).get("hard") or {}
        used = dict.fromkeys(hard, Decimal(0))
        others = False
        for kind in await self._kinds(hard):
            others = others or kind.resource not in _WATCHED
            for obj in await self._objects(kind, request.namespace):
                if quotas.applies(quota, kind, obj):
                    for name, amount in quotas.usage(kind, obj).items():
                        if name in used:
                            used[name] += amount
        shown = {name: quotas.shown(name, amount) for name, amount in used.items()}
        await put_status(self._client, RESOURCE_QUOTA, quota, {"hard": dict(hard), "used": shown} if hard else {})
        return Result(requeue_after=_RESYNC_S) if others else None

    async def _kinds(self, hard: Iterable[str]) -> list[Kind]:
        """Those of which something is counted."""
        plain = [POD, SERVICE, PVC]
        if all(_is_watched(name) for name in hard):
            return plain
        served = [resource.kind for resource in await served_resources(self._client.live)]
        return [*plain, *(k for k in served if k.resource not in _WATCHED and quotas.usage(k, {}).keys() & set(hard))]

    async def _objects(self, kind: Kind, namespace: str) -> list[Object]:
        if kind.resource in _WATCHED:
            return await self._client.list(kind, namespace, read_only=True)
        try:
            return await self._client.live.list(kind, namespace, metadata_only=True)
        except NotFound:
            return []  # its CRD has just gone


def _is_watched(name: str) -> bool:
    plain = ("pods", "persistentvolumeclaims", "cpu", "memory", "ephemeral-storage", "count/pods", "count/services",
             "count/persistentvolumeclaims")  # fmt: skip
    return (
        name in plain or name.startswith(("requests.", "limits.", "services", "hugepages-")) or ".storageclass." in name
    )


def _counts_differently(kind: Kind) -> Predicate:
    def differs(event: ObjectEvent) -> bool:
        if event.type != "update" or event.old_object is None:
            return True
        return quotas.usage(kind, event.old_object) != quotas.usage(kind, event.object)

    return differs
