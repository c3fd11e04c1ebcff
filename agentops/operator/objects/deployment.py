"""The Deployment `<agent>` of a daemon."""

from __future__ import annotations

from typing import Any

from agentops.api import labels
from agentops.kube.kinds import DEPLOYMENT
from agentops.operator.objects.meta import child_labels, manifest
from agentops.operator.objects.pod import PodInputs, daemon_template


def deployment(inputs: PodInputs) -> dict[str, Any]:
    """One replica, always: a daemon is one conversation."""
    agent = inputs.agent
    spec: dict[str, Any] = {
        "replicas": 1,
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": selector(agent)},
        "template": daemon_template(inputs),
    }
    if inputs.spec.storage is not None:
        # Two pods cannot hold one ReadWriteOnce volume: the old one has to go first.
        spec["strategy"] = {"type": "Recreate"}
    return manifest(DEPLOYMENT, inputs.namespace, agent, child_labels(agent, labels.COMPONENT_RUNTIME), spec=spec)


def selector(agent: str) -> dict[str, str]:
    """The labels that select a daemon's pods; immutable once a Deployment has them."""
    return {labels.AGENT: agent, labels.COMPONENT: labels.COMPONENT_RUNTIME}
