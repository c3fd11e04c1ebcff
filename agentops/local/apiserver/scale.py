"""The scale subresource: autoscaling/v1 Scale over replicas fields of built-ins and CRDs."""

from __future__ import annotations

from typing import Any

from agentops.kube.kinds import REPLICATION_CONTROLLER
from agentops.local.apiserver import errors, jsonpath
from agentops.local.apiserver.resources import Resource
from agentops.values.selector import LabelSelector, SelectorError

Object = dict[str, Any]


def scale_of(resource: Resource, obj: Object) -> Object:
    """The Scale of an object."""
    rule = resource.scale or {}
    meta = obj["metadata"]
    spec: Object = {}
    replicas = jsonpath.first(obj, rule.get("specReplicasPath", ".spec.replicas"))
    if replicas is not None:
        spec["replicas"] = replicas
    status: Object = {"replicas": jsonpath.first(obj, rule.get("statusReplicasPath", ".status.replicas")) or 0}
    if resource.custom:
        selector_path = rule.get("labelSelectorPath")
        selector = jsonpath.first(obj, selector_path) if selector_path else None
        if selector:
            status["selector"] = str(selector)
    else:
        raw = (obj.get("spec") or {}).get("selector")
        if resource.kind == REPLICATION_CONTROLLER:
            raw = {"matchLabels": raw}
        try:
            status["selector"] = str(LabelSelector.from_dict(raw))
        except SelectorError:
            status["selector"] = ""
    kept = {k: meta[k] for k in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp") if k in meta}
    return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept, "spec": spec, "status": status}


def write_scale(resource: Resource, obj: Object, scale: Object) -> Object:
    """`obj` with the replicas (and the version precondition) of `scale`. Raises ApiFailure 422."""
    if not isinstance(scale, dict) or not all(isinstance(scale.get(k) or {}, dict) for k in ("spec", "metadata")):
        raise errors.bad_request("Scale cannot be handled: it, its metadata and its spec must be objects")
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        detail = "must be greater than or equal to 0"
        found = [errors.invalid_value("spec.replicas", replicas, detail)]
        raise errors.invalid("autoscaling", "Scale", obj["metadata"]["name"], found)
    jsonpath.set_path(obj, (resource.scale or {}).get("specReplicasPath", ".spec.replicas"), replicas)
    wanted = (scale.get("metadata") or {}).get("resourceVersion")
    if wanted:
        obj["metadata"]["resourceVersion"] = wanted
    else:
        obj["metadata"].pop("resourceVersion", None)
    return obj
