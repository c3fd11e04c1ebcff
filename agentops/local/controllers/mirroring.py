"""EndpointSlices for the Endpoints that somebody writes by hand, behind Services without a selector.

Who follows slices only would not see those addresses. Source: Kubernetes' EndpointSlice mirroring controller.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from typing import Any

from agentops.controller import Builder, Controller, EnqueueMapped, Manager, Request
from agentops.kube.errors import AlreadyExists, NotFound
from agentops.kube.kinds import ENDPOINT_SLICE, ENDPOINTS, SERVICE
from agentops.local.controllers.claims import retrying_conflicts
from agentops.local.controllers.pods import (
    Object,
    annotations_of,
    is_deleting,
    labels_of,
    make_controller_ref,
    name_of,
    namespace_of,
)
from agentops.local.controllers.slices import MANAGED_BY, SERVICE_NAME

MIRROR = "endpointslicemirroring-controller.k8s.io"
SKIP = "endpointslice.kubernetes.io/skip-mirror"
_LEADER = "control-plane.alpha.kubernetes.io/leader"
"""Endpoints that are a lock, from before there were Leases."""
_NOT_COPIED = (
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
)
_FIELDS = ("endpoints", "ports")


class MirroringController:
    """Keeps the slices of Endpoints as those are; they go with the Endpoints, or when the Service has a selector."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client = manager.client

    def build(self) -> Controller:
        return (
            Builder(self._manager)
            .named("endpointslicemirroring")
            .for_(ENDPOINTS)
            .owns(ENDPOINT_SLICE)
            .watches(SERVICE, EnqueueMapped(lambda service: [Request.of(service)]))
            .build(retrying_conflicts(self.reconcile))
        )

    async def reconcile(self, request: Request) -> None:
        endpoints = await self._client.try_get(ENDPOINTS, request.name, request.namespace)
        service = await self._client.try_get(SERVICE, request.name, request.namespace)
        wanted = mirrored_slices(endpoints) if endpoints is not None and _mirrors(endpoints, service) else []
        labels = f"{SERVICE_NAME}={request.name},{MANAGED_BY}={MIRROR}"
        known = {name_of(s): s for s in await self._client.list(ENDPOINT_SLICE, request.namespace, labels=labels)}
        for piece in wanted:
            await self._put(piece, known.pop(name_of(piece), None))
        for name in known:
            try:
                await self._client.delete(ENDPOINT_SLICE, name, request.namespace)
            except NotFound:
                continue

    async def _put(self, desired: Object, live: Object | None) -> None:
        if live is None:
            try:
                await self._client.create(ENDPOINT_SLICE, desired)
            except AlreadyExists:
                return  # somebody else's, or one that is on its way out: its end wakes this controller
            return
        notes = annotations_of(desired)
        same = all((live.get(f) or []) == desired[f] for f in _FIELDS) and annotations_of(live) == notes
        refs = desired["metadata"]["ownerReferences"]
        if same and labels_of(live) == labels_of(desired) and live["metadata"].get("ownerReferences") == refs:
            return
        metadata = {
            **live["metadata"],
            "labels": labels_of(desired),
            "annotations": notes,
            "ownerReferences": refs,
        }
        await self._client.update(ENDPOINT_SLICE, {**live, **{f: desired[f] for f in _FIELDS}, "metadata": metadata})


def _mirrors(endpoints: Object, service: Object | None) -> bool:
    if service is None or (service.get("spec") or {}).get("selector") or is_deleting(endpoints):
        return False
    return labels_of(endpoints).get(SKIP) != "true" and _LEADER not in annotations_of(endpoints)


def mirrored_slices(endpoints: Mapping[str, Any]) -> list[Object]:
    """One slice per address family and set of ports. Pure; what is no IP address is left out."""
    groups: dict[tuple[str, str], tuple[list[Object], list[Object]]] = {}
    for subset in endpoints.get("subsets") or ():
        ports = [_port(port) for port in subset.get("ports") or ()]
        for field, ready in (("addresses", True), ("notReadyAddresses", False)):
            for address in subset.get(field) or ():
                try:
                    family = f"IPv{ipaddress.ip_address(address['ip']).version}"
                except ValueError:
                    continue
                groups.setdefault((family, repr(ports)), (ports, []))[1].append(_endpoint(address, ready))
    labels = {**labels_of(endpoints), SERVICE_NAME: name_of(endpoints), MANAGED_BY: MIRROR}
    notes = {name: text for name, text in annotations_of(endpoints).items() if name not in _NOT_COPIED}
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{name_of(endpoints)}-{hashlib.sha256(repr((MIRROR, *key)).encode()).hexdigest()[:5]}",
                "namespace": namespace_of(endpoints),
                "labels": dict(labels),
                "annotations": dict(notes),
                "ownerReferences": [make_controller_ref(endpoints, ENDPOINTS)],
            },
            "addressType": key[0],
            "endpoints": found,
            "ports": ports,
        }
        for key, (ports, found) in sorted(groups.items())
    ]


def _port(port: Mapping[str, Any]) -> Object:
    app = {"appProtocol": port["appProtocol"]} if port.get("appProtocol") else {}
    return {"name": port.get("name") or "", "port": port["port"], "protocol": port.get("protocol") or "TCP", **app}


def _endpoint(address: Mapping[str, Any], ready: bool) -> Object:
    kept = {name: address[name] for name in ("hostname", "nodeName", "targetRef") if address.get(name)}
    return {"addresses": [address["ip"]], "conditions": {"ready": ready}, **kept}
