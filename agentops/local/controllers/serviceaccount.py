"""What every namespace has before a pod can run in it: the ServiceAccount `default` and the CA's ConfigMap."""

from __future__ import annotations

from collections.abc import Iterable

from agentops.controller import Builder, Controller, Manager, ObjectEvent, Request
from agentops.kube.errors import AlreadyExists, Forbidden, NotFound
from agentops.kube.kinds import CONFIG_MAP, NAMESPACE, SERVICE_ACCOUNT
from agentops.local.controllers.claims import retrying_conflicts

ACCOUNT = "default"
ROOT_CA = "kube-root-ca.crt"
_NOTE = {
    "kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver "
    "when using internal endpoints such as the internal service IP."
}


class _NamespaceOf:
    """Handler: the namespace of an object with one of these names."""

    def __init__(self, name: str) -> None:
        self._name = name

    def requests(self, event: ObjectEvent) -> Iterable[Request]:
        meta = event.entry.meta
        return [Request(namespace="", name=meta.namespace)] if meta.name == self._name else []


class ServiceAccountController:
    """Makes both when they are missing, and repairs the ConfigMap. `ca_pem` is what pods trust."""

    def __init__(self, manager: Manager, ca_pem: bytes) -> None:
        self._manager = manager
        self._client = manager.client
        self._data = {"ca.crt": ca_pem.decode()}

    def build(self) -> Controller:
        return (
            Builder(self._manager)
            .named("serviceaccount")
            .for_(NAMESPACE)
            .watches(SERVICE_ACCOUNT, _NamespaceOf(ACCOUNT))
            .watches(CONFIG_MAP, _NamespaceOf(ROOT_CA))
            .build(retrying_conflicts(self.reconcile))
        )

    async def reconcile(self, request: Request) -> None:
        namespace = await self._client.try_get(NAMESPACE, request.name)
        if namespace is None or namespace["metadata"].get("deletionTimestamp"):
            return
        try:
            await self._ensure_account(request.name)
            await self._ensure_root_ca(request.name)
        except (Forbidden, NotFound):
            return  # the namespace is going away; its own event tells how it ended

    async def _ensure_account(self, namespace: str) -> None:
        if await self._client.try_get(SERVICE_ACCOUNT, ACCOUNT, namespace) is None:
            account = {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": ACCOUNT, "namespace": namespace},
            }
            try:
                await self._client.create(SERVICE_ACCOUNT, account)
            except AlreadyExists:
                return

    async def _ensure_root_ca(self, namespace: str) -> None:
        live = await self._client.try_get(CONFIG_MAP, ROOT_CA, namespace)
        if live is not None and live.get("data") == self._data:
            return
        if live is not None:
            await self._client.update(CONFIG_MAP, {**live, "data": self._data})
            return
        metadata = {"name": ROOT_CA, "namespace": namespace, "annotations": _NOTE}
        config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": self._data}
        try:
            await self._client.create(CONFIG_MAP, config_map)
        except AlreadyExists:
            return
