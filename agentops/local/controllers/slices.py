"""Which addresses stand behind a Service. Pure: the Service and its pods in, Endpoints and EndpointSlices out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, field

from agentops.local.controllers.pods import (
    Object,
    annotations_of,
    is_deleting,
    is_finished,
    is_ready,
    labels_of,
    name_of,
    namespace_of,
    uid_of,
)

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
_PUBLISH_NOT_READY = "service.alpha.kubernetes.io/tolerate-unready-endpoints"

PortKey = tuple[tuple[str, int, str, str], ...]


@define(slots=True)
class _Group:
    """Pods that serve the same set of ports."""

    ports: PortKey
    pods: list[Object] = field(factory=list)


def target_port(service_port: Mapping[str, Any], pod: Mapping[str, Any]) -> int | None:
    """The pod's port a Service port leads to; `None` when the pod has no port of that name."""
    target = service_port.get("targetPort", service_port.get("port"))
    if isinstance(target, int):
        return target or int(service_port["port"])
    if str(target).isdigit():
        return int(str(target))
    spec = pod.get("spec") or {}
    sidecars = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    for container in [*(spec.get("containers") or ()), *sidecars]:
        for port in container.get("ports") or ():
            if port.get("name") == target and port.get("protocol", "TCP") == service_port.get("protocol", "TCP"):
                return int(port["containerPort"])
    return None


def _ports(service: Mapping[str, Any], pod: Mapping[str, Any]) -> PortKey:
    found = []
    for port in service["spec"].get("ports") or ():
        number = target_port(port, pod)
        if number is not None:
            row = (
                str(port.get("name", "")),
                number,
                str(port.get("protocol", "TCP")),
                str(port.get("appProtocol", "")),
            )
            found.append(row)
    return tuple(found)


def _groups(service: Mapping[str, Any], pods: Iterable[Object]) -> list[_Group]:
    groups: dict[PortKey, _Group] = {}
    for pod in sorted(pods, key=name_of):
        if is_finished(pod) or not (pod.get("status") or {}).get("podIP"):
            continue
        key = _ports(service, pod)
        if not key and service["spec"].get("clusterIP") != "None":
            continue
        groups.setdefault(key, _Group(key)).pods.append(pod)
    return [groups[key] for key in sorted(groups)]


def _publishes_not_ready(service: Mapping[str, Any]) -> bool:
    return bool(service["spec"].get("publishNotReadyAddresses")) or (
        annotations_of(service).get(_PUBLISH_NOT_READY) == "true"
    )


def _target_ref(pod: Mapping[str, Any]) -> Object:
    return {"kind": "Pod", "namespace": namespace_of(pod), "name": name_of(pod), "uid": uid_of(pod)}


def _hostname(service: Mapping[str, Any], pod: Mapping[str, Any]) -> str:
    spec = pod.get("spec") or {}
    same = spec.get("subdomain") == name_of(service) and namespace_of(pod) == namespace_of(service)
    return str(spec.get("hostname") or "") if same else ""


def endpoints_for(service: Mapping[str, Any], pods: Iterable[Object]) -> Object:
    """The legacy Endpoints object: ready addresses apart from the others; pods on their way out are in neither."""
    subsets = []
    for group in _groups(service, [p for p in pods if not is_deleting(p)]):
        ready: list[Object] = []
        waiting: list[Object] = []
        for pod in group.pods:
            address: Object = {"ip": pod["status"]["podIP"], "targetRef": _target_ref(pod)}
            if pod["spec"].get("nodeName"):
                address["nodeName"] = pod["spec"]["nodeName"]
            if hostname := _hostname(service, pod):
                address["hostname"] = hostname
            (ready if is_ready(pod) or _publishes_not_ready(service) else waiting).append(address)
        subset: Object = {}
        if ready:
            subset["addresses"] = ready
        if waiting:
            subset["notReadyAddresses"] = waiting
        subset["ports"] = [
            {
                **({"name": name} if name else {}),
                "port": number,
                "protocol": protocol,
                **({"appProtocol": app} if app else {}),
            }
            for name, number, protocol, app in group.ports
        ]
        if not subset["ports"]:
            del subset["ports"]
        subsets.append(subset)
    labels = labels_of(service)
    if service["spec"].get("clusterIP") == "None":
        labels["service.kubernetes.io/headless"] = ""
    metadata: Object = {"name": name_of(service), "namespace": namespace_of(service)}
    if labels:
        metadata["labels"] = labels
    result: Object = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata}
    if subsets:
        result["subsets"] = subsets
    return result


def endpoint_slices_for(service: Mapping[str, Any], pods: Iterable[Object]) -> list[Object]:
    """The Service's slices, one per distinct set of target ports, under names that follow from that set.

    A Service without matching pods keeps one empty slice, so that consumers can tell it from one never looked at.
    """
    groups = _groups(service, pods) or [_Group(())]
    slices = []
    for group in groups:
        endpoints = []
        for pod in group.pods:
            serving = is_ready(pod)
            leaving = is_deleting(pod)
            endpoint: Object = {
                "addresses": [pod["status"]["podIP"]],
                "conditions": {
                    "ready": (serving and not leaving) or _publishes_not_ready(service),
                    "serving": serving,
                    "terminating": leaving,
                },
                "targetRef": _target_ref(pod),
            }
            if pod["spec"].get("nodeName"):
                endpoint["nodeName"] = pod["spec"]["nodeName"]
            if hostname := _hostname(service, pod):
                endpoint["hostname"] = hostname
            endpoints.append(endpoint)
        labels = {
            **{k: v for k, v in labels_of(service).items() if not k.startswith("endpointslice.kubernetes.io/")},
            SERVICE_NAME: name_of(service),
            MANAGED_BY: MANAGER,
        }
        if service["spec"].get("clusterIP") == "None":
            labels["service.kubernetes.io/headless"] = ""
        slices.append(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{name_of(service)}-{_digest(group.ports)}",
                    "namespace": namespace_of(service),
                    "labels": labels,
                    "ownerReferences": [
                        {
                            "apiVersion": "v1",
                            "kind": "Service",
                            "name": name_of(service),
                            "uid": uid_of(service),
                            "controller": True,
                            "blockOwnerDeletion": True,
                        }
                    ],
                },
                "addressType": "IPv4",
                "endpoints": endpoints,
                "ports": [
                    {
                        "name": name,
                        "port": number,
                        "protocol": protocol,
                        **({"appProtocol": app} if app else {}),
                    }
                    for name, number, protocol, app in group.ports
                ],
            }
        )
    return slices


def _digest(ports: PortKey) -> str:
    return hashlib.sha256(repr(ports).encode()).hexdigest()[:5]
