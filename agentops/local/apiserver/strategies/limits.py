"""ResourceQuota and LimitRange: their defaults and checks. What they refuse is in `quotas` and `limitranges`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.meta import qualified_name_problem
from agentops.local.apiserver.strategies.base import Context, Strategy
from agentops.values.quantity import parse_quantity

Object = dict[str, Any]

_STANDARD = frozenset({
    "cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory", "requests.storage",
    "requests.ephemeral-storage", "limits.cpu", "limits.memory", "limits.ephemeral-storage", "pods",
    "resourcequotas", "services", "replicationcontrollers", "secrets", "configmaps", "persistentvolumeclaims",
    "services.nodeports", "services.loadbalancers",
})  # fmt: skip
_FRACTIONS = ("cpu", "memory", "storage")
_SCOPES = ("Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass",
           "CrossNamespacePodAffinity")  # fmt: skip


class ResourceQuotaStrategy(Strategy):
    has_status = True

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        spec = obj.get("spec") or {}
        out: list[FieldError] = []
        for name, amount in (spec.get("hard") or {}).items():
            out.extend(_hard(name, amount, f"spec.hard[{name}]"))
        for index, scope in enumerate(spec.get("scopes") or ()):
            if scope not in _SCOPES:
                out.append(errors.invalid_value(f"spec.scopes[{index}]", scope, "unsupported scope"))
        for index, term in enumerate((spec.get("scopeSelector") or {}).get("matchExpressions") or ()):
            at = f"spec.scopeSelector.matchExpressions[{index}]"
            if term.get("scopeName") not in _SCOPES:
                out.append(errors.invalid_value(f"{at}.scopeName", term.get("scopeName"), "unsupported scope"))
            out.extend(_operator(term, at))
        return out

    def validate_update(self, ctx: Context, new: Object, old: Object) -> list[FieldError]:
        if sorted((new.get("spec") or {}).get("scopes") or ()) != sorted((old.get("spec") or {}).get("scopes") or ()):
            return [errors.invalid_value("spec.scopes", (new.get("spec") or {}).get("scopes"), "field is immutable")]
        return []


def _hard(name: str, amount: Any, at: str) -> Iterator[FieldError]:
    if problem := qualified_name_problem(name):
        yield errors.invalid_value(at, name, problem)
    elif "/" not in name and name not in _STANDARD and not name.startswith(("hugepages-", "requests.hugepages-")):
        yield errors.invalid_value(at, name, "must be a standard resource for quota")
    value = parse_quantity(amount)
    if value < 0:
        yield errors.invalid_value(at, str(amount), "must be greater than or equal to 0")
    elif not name.endswith(_FRACTIONS) and value % 1:
        yield errors.invalid_value(at, str(amount), "must be an integer")


def _operator(term: Object, at: str) -> Iterator[FieldError]:
    operator, values = term.get("operator"), term.get("values") or ()
    if operator in ("In", "NotIn"):
        if not values:
            yield errors.required(f"{at}.values", "must be at least one value when `operator` is 'In' or 'NotIn'")
    elif operator not in ("Exists", "DoesNotExist"):
        yield errors.invalid_value(f"{at}.operator", operator, "not a valid selector operator")
    elif values:
        detail = "must be no value when `operator` is 'Exists' or 'DoesNotExist'"
        yield errors.invalid_value(f"{at}.values", list(values), detail)
    if term.get("scopeName") not in ("PriorityClass", None) and operator != "Exists":
        yield errors.invalid_value(f"{at}.operator", operator, "must be 'Exist' when scope is any of " + ", ".join(
            scope for scope in _SCOPES if scope != "PriorityClass"))  # fmt: skip


class LimitRangeStrategy(Strategy):
    def default(self, obj: Object) -> None:
        for item in (obj.get("spec") or {}).get("limits") or ():
            if item.get("type") != "Container":
                continue
            # As Kubernetes does: what is not said follows from what is.
            limits = {**(item.get("max") or {}), **(item.get("default") or {})}
            requests = {**(item.get("min") or {}), **limits, **(item.get("defaultRequest") or {})}
            item.update({"default": limits} if limits else {}, **({"defaultRequest": requests} if requests else {}))

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        out: list[FieldError] = []
        kinds: set[str] = set()
        for index, item in enumerate((obj.get("spec") or {}).get("limits") or ()):
            at = f"spec.limits[{index}]"
            kind = item.get("type") or ""
            if kind not in ("Container", "Pod", "PersistentVolumeClaim") and "/" not in kind:
                out.append(errors.invalid_value(f"{at}.type", kind, "must be a standard limit type or fully qualified"))
            if kind in kinds:
                out.append(errors.duplicate(f"{at}.type", kind))
            kinds.add(kind)
            if kind == "Pod":
                out.extend(
                    errors.forbidden_field(f"{at}.{field}", "may not be specified when `type` is 'Pod'")
                    for field in ("default", "defaultRequest")
                    if item.get(field)
                )
            out.extend(_ordered(item, at))
        return out


def _ordered(item: Object, at: str) -> Iterator[FieldError]:
    """`min` ≤ `defaultRequest` ≤ `default` ≤ `max`."""
    words = {
        "min": "min value {a} is greater than {name} value {b}",
        "defaultRequest": "default request value {a} is greater than {name} value {b}",
        "default": "default value {a} is greater than {name} value {b}",
    }
    names = {"defaultRequest": "default request", "default": "default limit", "max": "max"}
    order = ("min", "defaultRequest", "default", "max")
    for low_at, low in enumerate(order[:-1]):
        for high in order[low_at + 1 :]:
            for resource, amount in (item.get(low) or {}).items():
                bound = (item.get(high) or {}).get(resource)
                if bound is not None and parse_quantity(amount) > parse_quantity(bound):
                    detail = words[low].format(a=amount, b=bound, name=names[high])
                    yield errors.invalid_value(f"{at}.{low}[{resource}]", str(amount), detail)
