"""LimitRange admission: defaults for containers that name no amount, and bounds for pods and claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from agentops.kube.kinds import LIMIT_RANGE
from agentops.local.apiserver import errors
from agentops.local.apiserver.store import Store
from agentops.local.podresources import pod_limits, pod_requests, quantities
from agentops.local.quota import shown
from agentops.values.quantity import parse_quantity

Object = dict[str, Any]
Amounts = Mapping[str, Decimal]

_ANNOTATION = "kubernetes.io/limit-ranger"


def default_amounts(store: Store, pod: Object) -> None:
    """Give containers the requests and limits that the namespace's ranges have for them; an annotation says which."""
    told = []
    for item in _items(store, pod, "Container"):
        for field, prefix in (("initContainers", "init container"), ("containers", "container")):
            for container in pod["spec"].get(field) or ():
                for section, defaults in (("request", "defaultRequest"), ("limit", "default")):
                    given = _fill(container, f"{section}s", item.get(defaults) or {})
                    if given:
                        told.append(f"{', '.join(sorted(given))} {section} for {prefix} {container['name']}")
    if told:
        annotations = pod["metadata"].setdefault("annotations", {}) or {}
        annotations[_ANNOTATION] = f"LimitRanger plugin set: {'; '.join(told)}"
        pod["metadata"]["annotations"] = annotations


def check_pod(store: Store, pod: Object) -> errors.ApiFailure | None:
    """Why the namespace's ranges refuse a pod; None when they do not."""
    spec = pod["spec"]
    found: list[str] = []
    for item in _items(store, pod, "Container"):
        for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
            resources = container.get("resources") or {}
            asked, capped = quantities(resources.get("requests")), quantities(resources.get("limits"))
            found.extend(_beyond(item, "Container", asked, capped))
    for item in _items(store, pod, "Pod"):
        found.extend(_beyond(item, "Pod", pod_requests(pod), pod_limits(pod)))
    return _refusal("pods", pod, found)


def check_claim(store: Store, claim: Object) -> errors.ApiFailure | None:
    """The same of a PersistentVolumeClaim."""
    asked = quantities((claim["spec"].get("resources") or {}).get("requests"))
    found: list[str] = []
    for item in _items(store, claim, "PersistentVolumeClaim"):
        for word, bound, wrong in (("minimum", "min", -1), ("maximum", "max", 1)):
            for name, value in (item.get(bound) or {}).items():
                rule = f"{word} {name} usage per PersistentVolumeClaim is {value}"
                if name not in asked:
                    found.append(f"{rule}.  No request is specified")
                elif (asked[name] - parse_quantity(value)) * wrong > 0:
                    found.append(f"{rule}, but request is {claim['spec']['resources']['requests'][name]}")
    return _refusal("persistentvolumeclaims", claim, found)


def _items(store: Store, obj: Object, kind: str) -> Iterator[Object]:
    for entry in store.list(LIMIT_RANGE.resource, obj["metadata"]["namespace"]):
        for item in (entry.obj().get("spec") or {}).get("limits") or ():
            if item.get("type") == kind:
                yield item


def _fill(container: Object, section: str, defaults: Mapping[str, Any]) -> list[str]:
    resources = container.setdefault("resources", {})
    amounts = resources.get(section) or {}
    given = [name for name in defaults if name not in amounts]
    if given:
        resources[section] = {**amounts, **{name: defaults[name] for name in given}}
    return given


def _beyond(item: Object, kind: str, asked: Amounts, capped: Amounts) -> Iterator[str]:
    for name, text in (item.get("min") or {}).items():
        rule, least = f"minimum {name} usage per {kind} is {text}", parse_quantity(text)
        if name not in asked:
            yield f"{rule}.  No request is specified"
        elif asked[name] < least:
            yield f"{rule}, but request is {_text(name, asked)}"
        elif name in capped and capped[name] < least:
            yield f"{rule}, but limit is {_text(name, capped)}"
    for name, text in (item.get("max") or {}).items():
        rule, most = f"maximum {name} usage per {kind} is {text}", parse_quantity(text)
        if name not in capped:
            yield f"{rule}.  No limit is specified"
        elif capped[name] > most:
            yield f"{rule}, but limit is {_text(name, capped)}"
        elif name in asked and asked[name] > most:
            yield f"{rule}, but request is {_text(name, asked)}"
    for name, text in (item.get("maxLimitRequestRatio") or {}).items():
        rule = f"{name} max limit to request ratio per {kind} is {text}"
        if not asked.get(name):
            yield f"{rule}, but no request is specified or request is 0"
        elif not capped.get(name):
            yield f"{rule}, but no limit is specified or limit is 0"
        elif capped[name] / asked[name] > parse_quantity(text):
            yield f"{rule}, but provided ratio is {capped[name] / asked[name]:.6f}"


def _text(name: str, amounts: Amounts) -> str:
    return shown(name, amounts[name])


def _refusal(plural: str, obj: Object, found: list[str]) -> errors.ApiFailure | None:
    if not found:
        return None
    why = found[0] if len(found) == 1 else f"[{', '.join(found)}]"
    return errors.forbidden_object("", plural, obj["metadata"]["name"], why)
