"""What every cluster has from the first moment: namespaces, priorities, the Service that leads to the API server."""

from __future__ import annotations

import copy
import ipaddress
from typing import TYPE_CHECKING, Any

from agentops.kube import kinds
from agentops.local.apiserver.http import ADMIN
from agentops.local.apiserver.strategies.priority import SYSTEM_CLASSES
from agentops.local.apiserver.writes import WriteOptions
from agentops.values.kinds import Kind

if TYPE_CHECKING:
    from agentops.local.apiserver.server import ApiServer

Object = dict[str, Any]

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_WRITE = WriteOptions(ADMIN, "kube-apiserver")


def bootstrap(server: ApiServer) -> None:
    """Create what is missing; bring default/kubernetes up to date with the advertised port."""
    for name in NAMESPACES:
        _ensure(server, kinds.NAMESPACE, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for known in SYSTEM_CLASSES:
        _ensure(server, kinds.PRIORITY_CLASS, "", copy.deepcopy(known))
    options = server.options
    first = str(ipaddress.ip_network(options.service_cidr).network_address + 1)
    labels = {"component": "apiserver", "provider": "kubernetes"}
    port = {"name": "https", "protocol": "TCP", "port": options.port}
    meta = {"name": "kubernetes", "namespace": "default", "labels": labels}
    spec = {
        "clusterIP": first,
        "clusterIPs": [first],
        "type": "ClusterIP",
        "ports": [{**port, "targetPort": options.port}],
    }
    service = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}
    _ensure(server, kinds.SERVICE, "default", service, replace_on="spec")
    endpoints = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default",
                     "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": options.host}], "ports": [port]}],
    }  # fmt: skip
    _ensure(server, kinds.ENDPOINTS, "default", endpoints, replace_on="subsets")
    piece = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default",
                     "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [options.host], "conditions": {"ready": True}}],
        "ports": [port],
    }  # fmt: skip
    _ensure(server, kinds.ENDPOINT_SLICE, "default", piece, replace_on="ports")


def _ensure(server: ApiServer, kind: Kind, namespace: str, obj: Object, replace_on: str = "") -> None:
    resource = server.registry.find(kind.group, kind.version, kind.plural)
    assert resource is not None
    entry = server.store.get(resource.storage, namespace, obj["metadata"]["name"])
    if entry is None:
        server.writer.create(resource, namespace, obj, _WRITE)
        return
    if not replace_on:
        return
    name = obj["metadata"]["name"]
    live = entry.obj()
    if kind is kinds.SERVICE and (live.get("spec") or {}).get("clusterIP") != obj["spec"]["clusterIP"]:
        # The range moved (another slot): a clusterIP cannot change, so the Service is made anew.
        from agentops.local.apiserver.writes import DeleteOptions

        server.writer.delete(resource, namespace, name, DeleteOptions(propagation="Background"), _WRITE)
        server.writer.create(resource, namespace, obj, _WRITE)
        return

    def change(current: Object) -> Object:
        current[replace_on] = obj[replace_on]
        current["metadata"].pop("resourceVersion", None)
        return current

    server.writer.update(resource, namespace, name, change, _WRITE)
