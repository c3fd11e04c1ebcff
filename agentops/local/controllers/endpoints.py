"""Endpoints and EndpointSlices of Services with a selector. `slices` decides, this writes."""

from __future__ import annotations

from collections.abc import Iterable

from agentops.controller import Builder, Controller, Manager, ObjectEvent, Request
from agentops.kube.errors import AlreadyExists, NotFound
from agentops.kube.kinds import ENDPOINT_SLICE, ENDPOINTS, POD, SERVICE
from agentops.local.controllers.claims import (
    CONTROLLER_INDEX,
    EnqueueSelecting,
    Selectors,
    by_controller,
    retrying_conflicts,
)
from agentops.local.controllers.pods import Object, labels_of, name_of, namespace_of, uid_of
from agentops.local.controllers.slices import MANAGED_BY, MANAGER, endpoint_slices_for, endpoints_for
from agentops.values.kinds import Kind
from agentops.values.selector import LabelSelector


def service_selector(service: Object) -> LabelSelector | None:
    """Which pods stand behind a Service; `None` for those whose endpoints somebody else writes."""
    spec = service.get("spec") or {}
    if not spec.get("selector") or spec.get("type") == "ExternalName":
        return None
    return LabelSelector.from_labels(spec["selector"])


class EndpointsController:
    """Keeps both forms of a Service's endpoints; writes only what differs."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client
        self._selectors = Selectors(manager, SERVICE, service_selector)
        manager.cache.informer(ENDPOINT_SLICE)
        manager.cache.add_index(ENDPOINT_SLICE, CONTROLLER_INDEX, by_controller)

    def build(self) -> Controller:
        return (
            Builder(self._manager)
            .named("endpoints")
            .for_(SERVICE)
            .owns(ENDPOINT_SLICE)
            .watches(ENDPOINTS, _SameName())
            .watches(POD, EnqueueSelecting(self._selectors))
            .with_options(max_concurrent=2)
            .build(retrying_conflicts(self.reconcile))
        )

    async def reconcile(self, request: Request) -> None:
        service = await self._client.try_get(SERVICE, request.name, request.namespace)
        if service is None:
            await self._drop_endpoints(request)
            return
        selector = service_selector(service)
        if selector is None or service["metadata"].get("deletionTimestamp"):
            return
        pods = await self._client.list(POD, request.namespace, labels=selector)
        await self._put(ENDPOINTS, endpoints_for(service, pods), "subsets")
        wanted = endpoint_slices_for(service, pods)
        for endpoint_slice in wanted:
            await self._put(ENDPOINT_SLICE, endpoint_slice, "endpoints", "ports")
        await self._drop_others(service, {name_of(s) for s in wanted})

    async def _put(self, kind: Kind, desired: Object, *fields: str) -> None:
        live = await self._client.try_get(kind, name_of(desired), namespace_of(desired))
        if live is None:
            try:
                await self._client.create(kind, desired)
            except AlreadyExists:
                live = await self._client.live.get(kind, name_of(desired), namespace_of(desired))
            else:
                return
        same = all((live.get(f) or []) == (desired.get(f) or []) for f in fields)
        if same and labels_of(live) == labels_of(desired):
            return
        changed = {**live, **{f: desired.get(f) or [] for f in fields}}
        changed["metadata"] = {**live["metadata"], "labels": labels_of(desired)}
        await self._client.update(kind, changed)

    async def _drop_others(self, service: Object, keep: set[str]) -> None:
        index = (CONTROLLER_INDEX, uid_of(service))
        for live in await self._client.list(ENDPOINT_SLICE, namespace_of(service), index=index):
            if name_of(live) not in keep and labels_of(live).get(MANAGED_BY) == MANAGER:
                await self._delete(ENDPOINT_SLICE, name_of(live), namespace_of(live))

    async def _drop_endpoints(self, request: Request) -> None:
        if await self._client.try_get(ENDPOINTS, request.name, request.namespace) is not None:
            await self._delete(ENDPOINTS, request.name, request.namespace)

    async def _delete(self, kind: Kind, name: str, namespace: str) -> None:
        try:
            await self._client.delete(kind, name, namespace)
        except NotFound:
            return


class _SameName:
    """Handler: Endpoints belong to the Service of their name."""

    def requests(self, event: ObjectEvent) -> Iterable[Request]:
        meta = event.entry.meta
        return [Request(namespace=meta.namespace, name=meta.name)]
