"""The PersistentVolumeClaim `<agent>-storage` of a daemon."""

from __future__ import annotations

from typing import Any

from agentops.api import labels
from agentops.api.types.agent import StorageSpec
from agentops.kube.kinds import PVC
from agentops.operator.objects import names
from agentops.operator.objects.meta import child_labels, manifest

DEFAULT_SIZE = "1Gi"


def storage(agent: str, namespace: str, spec: StorageSpec) -> dict[str, Any]:
    """ReadWriteOnce. Its spec is written at creation only, because the API server keeps it fixed."""
    claim: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": spec.size or DEFAULT_SIZE}},
    }
    if spec.storage_class:
        claim["storageClassName"] = spec.storage_class
    return manifest(PVC, namespace, names.storage(agent), child_labels(agent, labels.COMPONENT_STORAGE), spec=claim)
