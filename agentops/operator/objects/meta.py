"""Metadata every child shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentops.api import labels
from agentops.values.kinds import Kind


def child_labels(agent: str, component: str, **extra: str) -> dict[str, str]:
    """The labels by which children are selected, swept and cached."""
    return {
        labels.AGENT: agent,
        labels.COMPONENT: component,
        labels.MANAGED_BY: labels.OPERATOR,
        **extra,
    }


def manifest(
    kind: Kind,
    namespace: str,
    name: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str] | None = None,
    **body: Any,
) -> dict[str, Any]:
    """A manifest without an owner: the reconciler sets that when it applies."""
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "labels": dict(labels)}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **body}
