"""Schemas of metrics.k8s.io/v1beta1, which the definitions of the built-in kinds do not have."""

from __future__ import annotations

from typing import Any

from agentops.local.apiserver.schema.structural import Schema
from agentops.values.kinds import Kind

_USAGE: dict[str, Any] = {
    "type": "object",
    "description": "Usage by resource: cpu is the average over the window, memory the working set at its end.",
    "additionalProperties": {"x-kubernetes-int-or-string": True},
}
_WINDOW: dict[str, Any] = {
    "timestamp": {"type": "string", "format": "date-time", "description": "When the window ended."},
    "window": {"type": "string", "description": "How long the window was, such as 15s."},
}
_CONTAINERS: dict[str, Any] = {
    "type": "array",
    "description": "The running containers.",
    "items": {
        "type": "object",
        "required": ["name", "usage"],
        "properties": {
            "name": {"type": "string", "description": "The container's name in the pod's spec."},
            "usage": _USAGE,
        },
    },
}
_PROPERTIES: dict[str, dict[str, Any]] = {
    "NodeMetrics": {**_WINDOW, "usage": _USAGE},
    "PodMetrics": {**_WINDOW, "containers": _CONTAINERS},
}


def usage_schema(kind: Kind) -> Schema:
    """The schema of NodeMetrics or PodMetrics."""
    properties = _PROPERTIES[kind.kind]
    return Schema(
        {
            "type": "object",
            "description": f"{kind.kind} says what a {kind.plural.removesuffix('s')} uses.",
            "required": [*properties],
            "properties": properties,
        }
    )
