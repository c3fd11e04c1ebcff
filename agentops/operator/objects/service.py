"""The Service `<agent>` of a daemon."""

from __future__ import annotations

from typing import Any

from agentops.api import labels
from agentops.kube.kinds import SERVICE
from agentops.operator.objects.deployment import selector
from agentops.operator.objects.meta import child_labels, manifest
from agentops.operator.objects.names import RUNTIME_PORT


def service(agent: str, namespace: str) -> dict[str, Any]:
    """ClusterIP, port `http`, with the annotations Prometheus scrapes by."""
    annotations = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(RUNTIME_PORT),
        "prometheus.io/path": "/metrics",
    }
    port = {"name": "http", "port": RUNTIME_PORT, "targetPort": RUNTIME_PORT, "protocol": "TCP"}
    spec = {"type": "ClusterIP", "selector": selector(agent), "ports": [port]}
    return manifest(SERVICE, namespace, agent, child_labels(agent, labels.COMPONENT_SERVICE), annotations, spec=spec)
