"""Claims and volumes: which claim gets which volume, and what a provisioned one looks like. Pure.

The plane has one provisioner: a directory below the state directory, made when the first pod wants it (as the
default classes of kind and k3s do).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agentops.local.controllers.pods import (
    Object,
    annotations_of,
    is_deleting,
    is_finished,
    labels_of,
    name_of,
    namespace_of,
    phase_of,
    uid_of,
)
from agentops.values.quantity import parse_quantity
from agentops.values.selector import LabelSelector

STORAGE_CLASS_NAME = "local-path"
PROVISIONER = "local.agentops.io/host-path"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
PVC_PROTECTION = "kubernetes.io/pvc-protection"
PV_PROTECTION = "kubernetes.io/pv-protection"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
"""Set by the scheduler on a claim that waits for its first pod."""


def default_storage_class() -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS_NAME, "annotations": {DEFAULT_CLASS: "true"}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
    }


def class_of(claim: Mapping[str, Any]) -> str:
    return str((claim.get("spec") or {}).get("storageClassName") or "")


def claims_of(pod: Mapping[str, Any]) -> list[str]:
    """Names of the claims a pod mounts, those of its ephemeral volumes included."""
    names = []
    for volume in (pod.get("spec") or {}).get("volumes") or ():
        if "persistentVolumeClaim" in volume:
            names.append(str(volume["persistentVolumeClaim"].get("claimName", "")))
        elif "ephemeral" in volume:
            names.append(f"{name_of(pod)}-{volume.get('name', '')}")
    return names


def uses_claim(pod: Mapping[str, Any], claim: str) -> bool:
    """Whether a pod that has not ended mounts the claim."""
    return not is_finished(pod) and claim in claims_of(pod)


def volume_path(root: Path, claim: Mapping[str, Any]) -> Path:
    """The directory of a claim's volume: readable, and never that of an earlier claim of the same name."""
    digest = hashlib.sha256(uid_of(claim).encode()).hexdigest()[:8]
    return root / f"{namespace_of(claim)}-{name_of(claim)}-{digest}"


def claim_ref(claim: Mapping[str, Any]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": namespace_of(claim),
        "name": name_of(claim),
        "uid": uid_of(claim),
    }


def provisioned_volume(claim: Mapping[str, Any], storage_class: Mapping[str, Any], path: Path) -> Object:
    """The volume to create for a claim of one of our classes."""
    spec = claim.get("spec") or {}
    requests = (spec.get("resources") or {}).get("requests") or {}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": f"pvc-{uid_of(claim)}",
            "annotations": {PROVISIONED_BY: PROVISIONER},
            "finalizers": [PV_PROTECTION],
        },
        "spec": {
            "capacity": {"storage": requests.get("storage", "1Gi")},
            "accessModes": list(spec.get("accessModes") or ["ReadWriteOnce"]),
            "volumeMode": spec.get("volumeMode", "Filesystem"),
            "persistentVolumeReclaimPolicy": storage_class.get("reclaimPolicy") or "Delete",
            "storageClassName": name_of(storage_class),
            "hostPath": {"path": str(path), "type": "DirectoryOrCreate"},
            "claimRef": claim_ref(claim),
        },
    }


def is_bound_to(volume: Mapping[str, Any], claim: Mapping[str, Any]) -> bool:
    ref = (volume.get("spec") or {}).get("claimRef") or {}
    same = ref.get("namespace") == namespace_of(claim) and ref.get("name") == name_of(claim)
    return same and ref.get("uid") in (None, "", uid_of(claim))


def match_volume(claim: Mapping[str, Any], volumes: Iterable[Object]) -> Object | None:
    """The existing volume for a claim: the one reserved for it, else the smallest free one that satisfies it."""
    spec = claim.get("spec") or {}
    wanted = parse_quantity(((spec.get("resources") or {}).get("requests") or {}).get("storage", "0"))
    selector = LabelSelector.from_dict(spec["selector"]) if spec.get("selector") else None
    fitting: list[tuple[Any, str, Object]] = []
    for volume in volumes:
        vspec = volume.get("spec") or {}
        if is_deleting(volume):
            continue
        if is_bound_to(volume, claim):
            return volume
        if spec.get("volumeName") and spec["volumeName"] != name_of(volume):
            continue
        if vspec.get("claimRef") or phase_of(volume) not in ("", "Pending", "Available"):
            continue
        if str(vspec.get("storageClassName") or "") != class_of(claim):
            continue
        if not set(spec.get("accessModes") or ()) <= set(vspec.get("accessModes") or ()):
            continue
        if vspec.get("volumeMode", "Filesystem") != spec.get("volumeMode", "Filesystem"):
            continue
        if selector is not None and not selector.matches(labels_of(volume)):
            continue
        size = parse_quantity((vspec.get("capacity") or {}).get("storage", "0"))
        if size >= wanted:
            fitting.append((size, name_of(volume), volume))
    return min(fitting, key=lambda f: f[:2])[2] if fitting else None


def is_ours(volume: Mapping[str, Any]) -> bool:
    return annotations_of(volume).get(PROVISIONED_BY) == PROVISIONER
