"""Keeps the proxy and the hosts files as Services and their endpoints say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentops.controller import Builder, Client, EnqueueForObject, EnqueueMapped, Manager, Request
from agentops.kube.kinds import ENDPOINT_SLICE, ENDPOINTS, SERVICE
from agentops.local.kubelet import hosts
from agentops.local.kubelet.hosts import HostsFiles
from agentops.local.kubelet.proxy import ServiceProxy, frontends
from agentops.telemetry.logging import get_logger

log = get_logger("kubelet.services")

Object = Mapping[str, Any]

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
_BY_SERVICE = "service"


class ServiceNetwork:
    """A reconciler per Service. Hosts files are made for the namespaces that `add_namespace` names."""

    def __init__(self, manager: Manager, files: HostsFiles) -> None:
        self._client: Client = manager.client
        self._files = files
        self._namespaces: set[str] = set()
        self._recorder = manager.recorder("kube-proxy")
        self.proxy = ServiceProxy(manager.clock, self._report)
        Builder(manager).named("kube-proxy").for_(SERVICE).watches(
            ENDPOINT_SLICE, EnqueueMapped(_service_of_slice)
        ).watches(ENDPOINTS, EnqueueForObject()).with_options(leader_only=False).build(self.reconcile)
        manager.cache.add_index(ENDPOINT_SLICE, _BY_SERVICE, lambda piece: [str(r) for r in _service_of_slice(piece)])

    async def reconcile(self, request: Request) -> None:
        """Level-triggered: the proxy for this Service, and the names of all."""
        service = await self._client.try_get(SERVICE, request.name, request.namespace)
        if service is None:
            self.proxy.update(str(request), [])
        else:
            slices = await self._client.list(ENDPOINT_SLICE, request.namespace, index=(_BY_SERVICE, str(request)))
            endpoints = await self._client.try_get(ENDPOINTS, request.name, request.namespace)
            self.proxy.update(str(request), frontends(service, slices, endpoints))
        await self._write_names()

    async def add_namespace(self, namespace: str) -> None:
        """Make the names available to pods of a namespace."""
        if namespace not in self._namespaces:
            self._namespaces.add(namespace)
            await self._write_names()

    async def _write_names(self) -> None:
        services, slices = await self._client.list(SERVICE), await self._client.list(ENDPOINT_SLICE)
        for namespace in self._namespaces:
            self._files.write(namespace, hosts.render(namespace, services, slices))

    def _report(self, service: str, message: str) -> None:
        log.warning("kubelet.proxy.listen", service=service, error=message)
        namespace, _, name = service.partition("/")
        reference = {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name}}
        self._recorder.event(reference, "Warning", "FailedToListen", message)


def _service_of_slice(piece: Object) -> list[Request]:
    meta = piece["metadata"]
    name = (meta.get("labels") or {}).get(SERVICE_NAME_LABEL)
    return [Request(meta.get("namespace", ""), name)] if name else []
