"""PriorityClasses, and the two that every cluster has."""

from __future__ import annotations

from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.strategies.base import Context, Strategy, immutable

Object = dict[str, Any]

_PREFIX = "system-"
_HIGHEST = 1_000_000_000
_POLICIES = ("Never", "PreemptLowerPriority")


def _system_class(name: str, value: int, description: str) -> Object:
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
        "description": description,
    }


SYSTEM_CLASSES: tuple[Object, ...] = (
    _system_class(
        "system-node-critical",
        2 * _HIGHEST + 1000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    _system_class(
        "system-cluster-critical",
        2 * _HIGHEST,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
)
SYSTEM_NAMES = tuple(known["metadata"]["name"] for known in SYSTEM_CLASSES)


class PriorityClassStrategy(Strategy):
    def default(self, obj: Object) -> None:
        obj.setdefault("preemptionPolicy", "PreemptLowerPriority")

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        out: list[FieldError] = []
        name, value, policy = obj["metadata"].get("name") or "", obj.get("value") or 0, obj.get("preemptionPolicy")
        if name.startswith(_PREFIX):
            if problem := _system_problem(obj, name, value):
                detail = f"priority class names with '{_PREFIX}' prefix are reserved for system use only. error: "
                out.append(errors.forbidden_field("metadata.name", detail + problem))
        elif value > _HIGHEST:
            detail = f"maximum allowed value of a user defined priority is {_HIGHEST}"
            out.append(errors.forbidden_field("value", detail))
        if policy is not None and policy not in _POLICIES:
            out.append(errors.not_supported("preemptionPolicy", policy, _POLICIES))
        return out

    def validate_update(self, ctx: Context, new: Object, old: Object) -> list[FieldError]:
        out = immutable(new, old, "preemptionPolicy") if "preemptionPolicy" in old else []
        if (new.get("value") or 0) != (old.get("value") or 0):
            out.insert(0, errors.forbidden_field("value", "may not be changed in an update."))
        return out


def _system_problem(obj: Object, name: str, value: int) -> str | None:
    known = next((known for known in SYSTEM_CLASSES if known["metadata"]["name"] == name), None)
    if known is None:
        return f"{name} is not a known system priority class"
    if value != known["value"]:
        return f"value of {name} PriorityClass must be {known['value']}"
    return f"globalDefault of {name} PriorityClass must be false" if obj.get("globalDefault") else None
