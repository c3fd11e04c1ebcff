"""metrics.k8s.io/v1beta1: what nodes and pods use, as a metrics-server answers it.

Names and labels are those of the stored nodes and pods, numbers come from the kubelet when somebody asks. What the
kubelet has not watched for a whole window yet is left out of lists and not found by name.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from agentops.kube.kinds import NODE, NODE_METRICS, POD
from agentops.local.apiserver import errors
from agentops.local.apiserver.http import Request, Response, json_response
from agentops.local.apiserver.node import NodeStreams, NodeUsage, PodUsage, Usage
from agentops.local.apiserver.node_streams import NodeDoor
from agentops.local.apiserver.reads import Selection
from agentops.local.apiserver.render import Renderer, negotiate
from agentops.local.apiserver.resources import Resource
from agentops.local.apiserver.routing import Route
from agentops.local.apiserver.store import Entry, Store
from agentops.values.clock import Clock, rfc3339
from agentops.values.duration import format_duration
from agentops.values.kinds import Kind
from agentops.values.quantity import format_quantity

Object = dict[str, Any]


class UsageMetrics:
    """Answers get and list of both kinds."""

    def __init__(self, store: Store, clock: Clock, door: NodeDoor) -> None:
        self._store = store
        self._clock = clock
        self._door = door

    def answer(self, request: Request, resource: Resource, route: Route, verb: str) -> Response:
        """Raises ApiFailure 400, 404, 405, 503 without a kubelet, and PathNotFound."""
        if route.subresource or (route.name and resource.kind.namespaced and not route.namespace):
            raise errors.PathNotFound
        if verb not in resource.verbs:
            raise errors.method_not_allowed()
        node = self._door.kubelet()
        renderer = Renderer(resource, negotiate(request), self._clock)
        if verb == "get":
            return json_response(renderer.single(self._one(node, resource, route)))
        selection = Selection.of(request, resource)
        entries = filter(selection.matches, self._store.list(_subject(resource).plural, route.namespace))
        measured = (self._measured(node, resource, entry) for entry in entries)
        return json_response(renderer.list((found for found in measured if found is not None), {}))

    def _one(self, node: NodeStreams, resource: Resource, route: Route) -> Object:
        entry = self._store.get(_subject(resource).plural, route.namespace, route.name)
        if entry is None:
            raise errors.not_found("", _subject(resource).plural, route.name)
        found = self._measured(node, resource, entry)
        if found is None:
            name = f"{route.namespace}/{route.name}" if route.namespace else route.name
            raise errors.not_found(resource.group, resource.singular, name)
        return found

    def _measured(self, node: NodeStreams, resource: Resource, entry: Entry) -> Object | None:
        """The object, if there are numbers for it."""
        if resource.kind == NODE_METRICS:
            machine = node.node_usage(entry.name)
            if machine is None:
                return None
            return self._head(resource, entry, machine) | {"usage": _usage(machine.usage)}
        pod = node.pod_usage(entry.obj()["metadata"]["uid"])
        if pod is None:
            return None
        containers = [{"name": name, "usage": _usage(usage)} for name, usage in pod.containers.items()]
        return self._head(resource, entry, pod) | {"containers": containers}

    def _head(self, resource: Resource, entry: Entry, measured: PodUsage | NodeUsage) -> Object:
        meta: Object = {"name": entry.name, "creationTimestamp": rfc3339(self._clock.now())}
        if entry.namespace:
            meta["namespace"] = entry.namespace
        if entry.labels:
            meta["labels"] = entry.labels
        return {
            "kind": resource.kind.kind,
            "apiVersion": resource.kind.api_version,
            "metadata": meta,
            "timestamp": rfc3339(measured.until),
            "window": format_duration(measured.window_s),
        }


def _subject(resource: Resource) -> Kind:
    """The kind of what is measured."""
    return NODE if resource.kind == NODE_METRICS else POD


def _usage(usage: Usage) -> Object:
    cpu = Decimal(usage.cpu_nanocores).scaleb(-9)
    return {"cpu": format_quantity(cpu), "memory": format_quantity(Decimal(usage.memory_bytes), binary=True)}
