"""The NetworkPolicy `<agent>-netpol`."""

from __future__ import annotations

from typing import Any

from agentops.api import labels
from agentops.kube.kinds import NETWORK_POLICY
from agentops.operator.objects import names
from agentops.operator.objects.meta import child_labels, manifest


def network_policy(agent: str, namespace: str, mode: str) -> dict[str, Any]:
    """A daemon is reached on its one port only; nothing reaches a task."""
    component = labels.COMPONENT_RUNTIME if mode == "daemon" else labels.COMPONENT_TASK_RUN
    spec: dict[str, Any] = {
        "podSelector": {"matchLabels": {labels.AGENT: agent, labels.COMPONENT: component}},
        "policyTypes": ["Ingress"],
    }
    if mode == "daemon":
        spec["ingress"] = [{"ports": [{"port": names.RUNTIME_PORT, "protocol": "TCP"}]}]
    return manifest(
        NETWORK_POLICY,
        namespace,
        names.network_policy(agent),
        child_labels(agent, labels.COMPONENT_NETWORK_POLICY),
        spec=spec,
    )
