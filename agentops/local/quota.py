"""What objects count for under a ResourceQuota. The API server refuses by it, a controller shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from agentops.kube.kinds import POD, PVC, SERVICE
from agentops.local.podresources import pod_limits, pod_requests, quantities
from agentops.values.kinds import Kind
from agentops.values.quantity import format_quantity
from agentops.values.selector import LabelSelector

Object = Mapping[str, Any]

_BY_NAME = frozenset({
    "configmaps", "persistentvolumeclaims", "pods", "replicationcontrollers", "resourcequotas", "secrets", "services",
})  # fmt: skip
"""Resources of the core group that are counted under their own name too."""
_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_MUST_BE_GIVEN = {
    "cpu": ("requests", "cpu"),
    "memory": ("requests", "memory"),
    "requests.cpu": ("requests", "cpu"),
    "requests.memory": ("requests", "memory"),
    "limits.cpu": ("limits", "cpu"),
    "limits.memory": ("limits", "memory"),
}
_CLASS = ".storageclass.storage.k8s.io/"
_BINARY = ("memory", "storage")
_KINDS = {kind.resource: kind for kind in (POD, SERVICE, PVC)}


def usage(kind: Kind, obj: Object) -> dict[str, Decimal]:
    """What one object counts for, by the names that `spec.hard` of a quota uses."""
    counted = {count_name(kind): Decimal(1)}
    if kind.resource == POD.resource:
        return counted if _over(obj) else counted | _pod(obj)
    if not kind.group and kind.plural in _BY_NAME:
        counted[kind.plural] = Decimal(1)
    if kind.resource == SERVICE.resource:
        counted |= _service(obj.get("spec") or {})
    if kind.resource == PVC.resource:
        counted |= _claim(obj)
    return counted


def is_constant(kind: Kind) -> bool:
    """Whether every object of the kind counts for the same."""
    return kind.resource not in _KINDS


def count_name(kind: Kind) -> str:
    """`count/pods`, `count/deployments.apps`."""
    return f"count/{kind.plural}.{kind.group}" if kind.group else f"count/{kind.plural}"


def applies(quota: Object, kind: Kind, obj: Object) -> bool:
    """Whether the quota's scopes take the object in. With scopes it is about pods only."""
    spec = quota["spec"]
    terms = [{"scopeName": name, "operator": "Exists"} for name in spec.get("scopes") or ()]
    terms += (spec.get("scopeSelector") or {}).get("matchExpressions") or []
    if not terms:
        return True
    return kind.resource == POD.resource and all(_in_scope(term, obj) for term in terms)


def unspecified(hard: Iterable[str], pod: Object) -> str:
    """What containers leave out though the quota counts it: `cpu for: main; memory for: main`, or nothing."""
    spec = pod["spec"]
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    missing = []
    for name in sorted(set(hard) & _MUST_BE_GIVEN.keys()):
        section, resource = _MUST_BE_GIVEN[name]
        without = sorted(c["name"] for c in containers if resource not in _section(c, section))
        if without and resource not in _section(spec, section):
            missing.append(f"{name} for: {','.join(without)}")
    return "; ".join(missing)


def shown(name: str, amount: Decimal) -> str:
    """An amount as the quota's status has it."""
    return format_quantity(amount, binary=name.endswith(_BINARY))


def _section(holder: Object, section: str) -> Object:
    found: Object = (holder.get("resources") or {}).get(section) or {}
    return found


def _over(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _pod(pod: Object) -> dict[str, Decimal]:
    counted = {"pods": Decimal(1)}
    for name, amount in pod_requests(pod).items():
        counted[f"requests.{name}"] = amount
        if name in _COMPUTE or name.startswith("hugepages-"):
            counted[name] = amount
    for name, amount in pod_limits(pod).items():
        if name in _COMPUTE:
            counted[f"limits.{name}"] = amount
    return counted


def _service(spec: Object) -> dict[str, Decimal]:
    balanced = spec.get("type") == "LoadBalancer"
    on_nodes = spec.get("type") == "NodePort" or (balanced and spec.get("allocateLoadBalancerNodePorts") is not False)
    return {
        "services.loadbalancers": Decimal(int(balanced)),
        "services.nodeports": Decimal(len(spec.get("ports") or ()) if on_nodes else 0),
    }


def _claim(claim: Object) -> dict[str, Decimal]:
    spec = claim.get("spec") or {}
    asked = quantities((spec.get("resources") or {}).get("requests")).get("storage", Decimal(0))
    counted = {"requests.storage": asked}
    if name := spec.get("storageClassName"):
        counted |= {f"{name}{_CLASS}requests.storage": asked, f"{name}{_CLASS}persistentvolumeclaims": Decimal(1)}
    return counted


def _in_scope(term: Object, pod: Object) -> bool:
    spec, scope = pod["spec"], term["scopeName"]
    if scope == "PriorityClass":
        labels = {"class": spec["priorityClassName"]} if spec.get("priorityClassName") else {}
        wanted = {"key": "class", "operator": term["operator"], "values": term.get("values") or ()}
        return LabelSelector.from_dict({"matchExpressions": [wanted]}).matches(labels)
    best_effort = (pod.get("status") or {}).get("qosClass") == "BestEffort"
    return {
        "Terminating": spec.get("activeDeadlineSeconds") is not None,
        "NotTerminating": spec.get("activeDeadlineSeconds") is None,
        "BestEffort": best_effort,
        "NotBestEffort": not best_effort,
        "CrossNamespacePodAffinity": _crosses_namespaces(spec),
    }.get(scope, False)


def _crosses_namespaces(spec: Object) -> bool:
    affinity = spec.get("affinity") or {}
    for kind in ("podAffinity", "podAntiAffinity"):
        for name, terms in (affinity.get(kind) or {}).items():
            for term in terms or ():
                plain = term.get("podAffinityTerm") or {} if name.startswith("preferred") else term
                if plain.get("namespaces") or plain.get("namespaceSelector") is not None:
                    return True
    return False
