"""The NetworkPolicy `<agent>-netpol`.

manifests/components/networkpolicy says the same for all agents at once. Policies add up, so what one of
them lets in the other cannot keep out: change both together.
"""

from __future__ import annotations

from typing import Any

from agentops.api import labels
from agentops.kube.kinds import NETWORK_POLICY
from agentops.operator.objects import names
from agentops.operator.objects.meta import child_labels, manifest


def network_policy(agent: str, namespace: str, mode: str, operator_namespace: str) -> dict[str, Any]:
    """A daemon is reached on its one port, and by those who talk to agents; nothing reaches a task."""
    component = labels.COMPONENT_RUNTIME if mode == "daemon" else labels.COMPONENT_TASK_RUN
    spec: dict[str, Any] = {
        "podSelector": {"matchLabels": {labels.AGENT: agent, labels.COMPONENT: component}},
        "policyTypes": ["Ingress"],
    }
    if mode == "daemon":
        ports = [{"port": names.RUNTIME_PORT, "protocol": "TCP"}]
        spec["ingress"] = [{"from": callers(operator_namespace), "ports": ports}]
    return manifest(
        NETWORK_POLICY,
        namespace,
        names.network_policy(agent),
        child_labels(agent, labels.COMPONENT_NETWORK_POLICY),
        spec=spec,
    )


def callers(operator_namespace: str) -> list[dict[str, Any]]:
    """Who may call a daemon: operator and console, the channels beside it, and namespaces that scrape metrics."""
    ours = [
        {"key": labels.NAME, "operator": "In", "values": ["agentops"]},
        {"key": labels.APP_COMPONENT, "operator": "In", "values": ["operator", "console"]},
    ]
    return [
        {
            "namespaceSelector": {"matchLabels": {labels.NAMESPACE_NAME: operator_namespace}},
            "podSelector": {"matchExpressions": ours},
        },
        {"podSelector": {"matchLabels": {labels.COMPONENT: labels.COMPONENT_CHANNEL}}},
        {"namespaceSelector": {"matchLabels": {labels.METRICS: labels.METRICS_ENABLED}}},
    ]
