"""pods/resize: CPU and memory of containers that run, and nothing else of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.strategies.podspec import qos_class

Object = dict[str, Any]

_RESIZABLE = ("cpu", "memory")
_KEPT_METADATA = ("labels", "annotations", "finalizers", "ownerReferences")


def keep_the_rest(new: Object, old: Object) -> None:
    """A resize writes no metadata."""
    for name in _KEPT_METADATA:
        if name in old["metadata"]:
            new["metadata"][name] = old["metadata"][name]
        else:
            new["metadata"].pop(name, None)


def validate_resize(new: Object, old: Object) -> Iterator[FieldError]:
    """What a resize may not do: all but changing amounts of CPU and memory within the pod's QoS class."""
    for field in ("initContainers", "containers"):
        before, after = old["spec"].get(field) or (), new["spec"].get(field) or ()
        if [c.get("name") for c in before] != [c.get("name") for c in after]:
            yield errors.forbidden_field(f"spec.{field}", "containers may not be renamed or reordered on resize")
            return
        for index, (was, is_) in enumerate(zip(before, after, strict=True)):
            at = f"spec.{field}[{index}].resources"
            plain_init = field == "initContainers" and was.get("restartPolicy") != "Always"
            if plain_init and is_.get("resources") != was.get("resources"):
                yield errors.forbidden_field(at, "resources for non-sidecar init containers are immutable")
            for section in ("limits", "requests"):
                had, has = ((c.get("resources") or {}).get(section) or {} for c in (was, is_))
                if any(name in had and name not in has for name in _RESIZABLE):
                    yield errors.forbidden_field(f"{at}.{section}", f"resource {section} cannot be removed")
    if _without_amounts(new) != _without_amounts(old):
        yield errors.forbidden_field("spec", "only cpu and memory resources are mutable")
    if (quality := qos_class(new["spec"])) != qos_class(old["spec"]):
        detail = "Pod QOS Class may not change as a result of resizing"
        yield errors.invalid_value("spec", quality, detail)


def _without_amounts(pod: Object) -> Object:
    spec: Object = copy.deepcopy(pod["spec"])
    for field in ("initContainers", "containers"):
        for container in spec.get(field) or ():
            resources = container.get("resources") or {}
            for section in ("limits", "requests"):
                left = {name: v for name, v in (resources.pop(section, None) or {}).items() if name not in _RESIZABLE}
                if left:
                    resources[section] = left
    return spec
