"""The downward API: a pod's own fields and resources as text, for env and for files. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from agentops.values.quantity import parse_quantity

Object = Mapping[str, Any]

_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']*)'\]")


def field_value(pod: Object, path: str, live: Mapping[str, str]) -> str:
    """The value of a `fieldRef.fieldPath`. `live` holds what the kubelet knows before the status does.

    Raises ValueError for a path Kubernetes does not offer.
    """
    meta, spec, status = pod.get("metadata") or {}, pod.get("spec") or {}, pod.get("status") or {}
    match = _SUBSCRIPT.fullmatch(path)
    if match:
        return str((meta.get(match.group(1)) or {}).get(match.group(2), ""))
    if path in ("metadata.labels", "metadata.annotations"):
        entries: Mapping[str, str] = meta.get(path.partition(".")[2]) or {}
        return "\n".join(f"{key}={_quoted(value)}" for key, value in sorted(entries.items()))
    if path in ("metadata.name", "metadata.namespace", "metadata.uid"):
        return str(meta.get(path.partition(".")[2], ""))
    if path in ("spec.nodeName", "spec.serviceAccountName"):
        return str(spec.get(path.partition(".")[2], ""))
    if path in ("status.podIP", "status.podIPs"):
        return str(live.get("status.podIP") or status.get("podIP") or "")
    if path in ("status.hostIP", "status.hostIPs"):
        return str(live.get("status.hostIP") or status.get("hostIP") or "")
    raise ValueError(f"fieldPath {path!r} is not supported; see the downward API for the fields a pod can read")


def resource_value(pod: Object, container: Object, ref: Object, allocatable: Mapping[str, str]) -> str:
    """The value of a `resourceFieldRef`, rounded up to whole divisors. A missing limit is the node's allocatable.

    Raises ValueError for an unknown resource or container.
    """
    target = container
    name = ref.get("containerName")
    if name:
        spec = pod.get("spec") or {}
        named = [c for c in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())] if c["name"] == name]
        if not named:
            raise ValueError(f"resourceFieldRef names container {name!r}, which the pod does not have")
        target = named[0]
    section, _, resource = str(ref.get("resource", "")).partition(".")
    if section not in ("limits", "requests") or not resource:
        raise ValueError(
            f"resource {ref.get('resource')!r} is not supported; write limits.cpu, requests.memory and so on"
        )
    amounts = (target.get("resources") or {}).get(section) or {}
    amount = amounts.get(resource)
    if amount is None:
        amount = allocatable.get(resource, "0") if section == "limits" else "0"
    divisor = parse_quantity(ref.get("divisor") or "1") or Decimal(1)
    return str(math.ceil(parse_quantity(amount) / divisor))


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'
