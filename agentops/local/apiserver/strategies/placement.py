"""Checks of where a pod may go and what it asks for: what a scheduler could not act on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.meta import qualified_name_problem, validate_labels
from agentops.values.quantity import parse_quantity

Object = dict[str, Any]

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_STANDARD = ("cpu", "memory", "ephemeral-storage")
_HUGE_PAGES = "hugepages-"
_NO_SELECTOR_OPERATOR = "not a valid selector operator"
_WANTS_VALUES = "must be specified when `operator` is 'In' or 'NotIn'"
_WANTS_NONE = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def validate_placement(spec: Object, path: str) -> Iterator[FieldError]:
    """Node selector, affinity, tolerations and topology spread of a pod spec."""
    yield from validate_labels(spec.get("nodeSelector") or {}, f"{path}.nodeSelector")
    affinity = spec.get("affinity") or {}
    yield from _node_affinity(affinity.get("nodeAffinity") or {}, f"{path}.affinity.nodeAffinity")
    for kind in ("podAffinity", "podAntiAffinity"):
        yield from _pod_affinity(affinity.get(kind) or {}, f"{path}.affinity.{kind}")
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        yield from _toleration(toleration, f"{path}.tolerations[{index}]")
    yield from _spread(spec.get("topologySpreadConstraints") or (), f"{path}.topologySpreadConstraints")


def validate_resources(holder: Object, at: str) -> Iterator[FieldError]:
    """Requests and limits of a container: known names, no negative amounts, no request above its limit."""
    resources = holder.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for section, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            yield from _resource_name(name, f"{at}.resources.{section}[{name}]")
            if parse_quantity(amount) < 0:
                yield errors.invalid_value(
                    f"{at}.resources.{section}[{name}]", str(amount), "must be greater than or equal to 0"
                )
            elif _whole(name) and parse_quantity(amount) % 1:
                yield errors.invalid_value(f"{at}.resources.{section}[{name}]", str(amount), "must be an integer")
    for name, amount in requests.items():
        limit = limits.get(name)
        if limit is None:
            if _whole(name):
                yield errors.required(f"{at}.resources.limits", "Limit must be set for non overcommitable resources")
        elif _whole(name) and parse_quantity(amount) != parse_quantity(limit):
            yield errors.invalid_value(
                f"{at}.resources.requests", str(amount), f"must be equal to {name} limit of {limit}"
            )
        elif parse_quantity(amount) > parse_quantity(limit):
            yield errors.invalid_value(
                f"{at}.resources.requests", str(amount), f"must be less than or equal to {name} limit of {limit}"
            )


def _resource_name(name: str, at: str) -> Iterator[FieldError]:
    if problem := qualified_name_problem(name):
        yield errors.invalid_value(at, name, problem)
    elif "/" not in name and name not in _STANDARD and not name.startswith(_HUGE_PAGES):
        yield errors.invalid_value(at, name, "must be a standard resource type or fully qualified")
        yield errors.invalid_value(at, name, "must be a standard resource for containers")


def _whole(name: str) -> bool:
    """Whether it is given in pieces that nobody shares."""
    return "/" in name or name.startswith(_HUGE_PAGES)


def _node_affinity(affinity: Object, at: str) -> Iterator[FieldError]:
    required = affinity.get(_REQUIRED)
    if required is not None:
        terms = required.get("nodeSelectorTerms") or ()
        where = f"{at}.{_REQUIRED}.nodeSelectorTerms"
        if not terms:
            yield errors.required(where, "must have at least one node selector term")
        for index, term in enumerate(terms):
            yield from _node_term(term, f"{where}[{index}]")
    for index, weighted in enumerate(affinity.get(_PREFERRED) or ()):
        where = f"{at}.{_PREFERRED}[{index}]"
        yield from _weight(weighted, where)
        yield from _node_term(weighted.get("preference") or {}, f"{where}.preference")


def _node_term(term: Object, at: str) -> Iterator[FieldError]:
    for index, wanted in enumerate(term.get("matchExpressions") or ()):
        where = f"{at}.matchExpressions[{index}]"
        yield from _requirement(wanted, where, compares=True)
    for index, wanted in enumerate(term.get("matchFields") or ()):
        where = f"{at}.matchFields[{index}]"
        operator, key = wanted.get("operator") or "", wanted.get("key") or ""
        if operator not in ("In", "NotIn"):
            yield errors.invalid_value(f"{where}.operator", operator, _NO_SELECTOR_OPERATOR)
        elif len(wanted.get("values") or ()) != 1:
            detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            yield errors.required(f"{where}.values", detail)
        if key != "metadata.name":
            yield errors.invalid_value(f"{where}.key", key, "not a valid field selector key")


def _requirement(wanted: Object, at: str, *, compares: bool) -> Iterator[FieldError]:
    operator, values = wanted.get("operator") or "", wanted.get("values") or ()
    if operator in ("In", "NotIn"):
        if not values:
            yield errors.required(f"{at}.values", _WANTS_VALUES)
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            yield errors.forbidden_field(f"{at}.values", _WANTS_NONE)
    elif compares and operator in ("Gt", "Lt"):
        if len(values) != 1:
            detail = "must be specified single value when `operator` is 'Lt' or 'Gt'"
            yield errors.required(f"{at}.values", detail)
    else:
        yield errors.invalid_value(f"{at}.operator", operator, _NO_SELECTOR_OPERATOR)
    key = wanted.get("key") or ""
    if problem := qualified_name_problem(key):
        yield errors.invalid_value(f"{at}.key", key, problem)


def _weight(weighted: Object, at: str) -> Iterator[FieldError]:
    weight = weighted.get("weight") or 0
    if not 1 <= weight <= 100:
        yield errors.invalid_value(f"{at}.weight", weight, "must be in the range 1-100")


def _pod_affinity(affinity: Object, at: str) -> Iterator[FieldError]:
    for index, term in enumerate(affinity.get(_REQUIRED) or ()):
        yield from _pod_term(term, f"{at}.{_REQUIRED}[{index}]")
    for index, weighted in enumerate(affinity.get(_PREFERRED) or ()):
        where = f"{at}.{_PREFERRED}[{index}]"
        yield from _weight(weighted, where)
        yield from _pod_term(weighted.get("podAffinityTerm") or {}, f"{where}.podAffinityTerm")


def _pod_term(term: Object, at: str) -> Iterator[FieldError]:
    yield from validate_label_selector(term.get("labelSelector"), f"{at}.labelSelector")
    yield from validate_label_selector(term.get("namespaceSelector"), f"{at}.namespaceSelector")
    yield from _topology_key(term, at)


def _topology_key(holder: Object, at: str) -> Iterator[FieldError]:
    key = holder.get("topologyKey") or ""
    if not key:
        yield errors.required(f"{at}.topologyKey", "can not be empty")
    elif problem := qualified_name_problem(key):
        yield errors.invalid_value(f"{at}.topologyKey", key, problem)


def validate_label_selector(selector: Mapping[str, Any] | None, at: str) -> Iterator[FieldError]:
    """Of a `LabelSelector`; None is none."""
    if selector is None:
        return
    yield from validate_labels(selector.get("matchLabels") or {}, f"{at}.matchLabels")
    for index, wanted in enumerate(selector.get("matchExpressions") or ()):
        where = f"{at}.matchExpressions[{index}]"
        yield from _requirement(wanted, where, compares=False)


def _toleration(toleration: Object, at: str) -> Iterator[FieldError]:
    key, operator, effect = (toleration.get(name) or "" for name in ("key", "operator", "effect"))
    if key and (problem := qualified_name_problem(key)):
        yield errors.invalid_value(f"{at}.key", key, problem)
    if not key and operator != "Exists":
        detail = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        yield errors.invalid_value(f"{at}.operator", operator, detail)
    if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
        detail = "effect must be 'NoExecute' when `tolerationSeconds` is set"
        yield errors.invalid_value(f"{at}.effect", effect, detail)
    if operator not in ("", "Equal", "Exists"):
        yield errors.not_supported(f"{at}.operator", operator, ("Equal", "Exists"))
    elif operator == "Exists" and toleration.get("value"):
        yield errors.invalid_value(f"{at}.operator", toleration, "value must be empty when `operator` is 'Exists'")
    if effect and effect not in _EFFECTS:
        yield errors.not_supported(f"{at}.effect", effect, _EFFECTS)


def _spread(rules: Iterable[Object], at: str) -> Iterator[FieldError]:
    seen: set[tuple[str, str]] = set()
    for index, rule in enumerate(rules):
        where = f"{at}[{index}]"
        if (rule.get("maxSkew") or 0) <= 0:
            yield errors.invalid_value(f"{where}.maxSkew", rule.get("maxSkew") or 0, "must be greater than zero")
        yield from _topology_key(rule, where)
        action = rule.get("whenUnsatisfiable") or ""
        if action not in ("DoNotSchedule", "ScheduleAnyway"):
            yield errors.not_supported(f"{where}.whenUnsatisfiable", action, ("DoNotSchedule", "ScheduleAnyway"))
        pair = (rule.get("topologyKey") or "", action)
        if pair in seen:
            yield errors.duplicate(f"{where}.{{topologyKey, whenUnsatisfiable}}", f"{{{pair[0]}, {pair[1]}}}")
        seen.add(pair)
        domains = rule.get("minDomains")
        if domains is not None and domains <= 0:
            yield errors.invalid_value(f"{where}.minDomains", domains, "must be greater than zero")
        elif domains is not None and action != "DoNotSchedule":
            detail = f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
            yield errors.invalid_value(f"{where}.minDomains", domains, detail)
        yield from validate_label_selector(rule.get("labelSelector"), f"{where}.labelSelector")
