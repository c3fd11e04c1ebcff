"""Checks of claims and volumes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.strategies.base import subdomain_name
from agentops.values.quantity import parse_quantity

Object = dict[str, Any]

_ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_VOLUME_MODES = ("Block", "Filesystem")
_RECLAIM = ("Delete", "Recycle", "Retain")
_SOURCES = (
    "awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "csi", "fc", "flexVolume", "flocker",
    "gcePersistentDisk", "glusterfs", "hostPath", "iscsi", "local", "nfs", "photonPersistentDisk", "portworxVolume",
    "quobyte", "rbd", "scaleIO", "storageos", "vsphereVolume",
)  # fmt: skip
_POSITIVE = "must be greater than zero"


def validate_claim(spec: Object) -> Iterator[FieldError]:
    """Of a PersistentVolumeClaim."""
    if not spec.get("accessModes"):
        yield errors.required("spec.accessModes", "at least 1 access mode is required")
    yield from _access(spec)
    amount = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if amount is None or amount == "":
        yield errors.required("spec.resources[storage]")
    elif parse_quantity(amount) <= 0:
        yield errors.invalid_value("spec.resources[storage]", str(amount), _POSITIVE)
    yield from _class(spec)


def validate_volume(spec: Object) -> Iterator[FieldError]:
    """Of a PersistentVolume: what it is, how much of it there is and who may mount it."""
    if not spec.get("accessModes"):
        yield errors.required("spec.accessModes")
    yield from _access(spec)
    capacity = spec.get("capacity") or {}
    if not capacity:
        yield errors.required("spec.capacity")
    elif list(capacity) != ["storage"]:
        yield errors.not_supported("spec.capacity", capacity, ("storage",))
    for name, amount in capacity.items():
        if parse_quantity(amount) <= 0:
            yield errors.invalid_value(f"spec.capacity[{name}]", str(amount), _POSITIVE)
    policy = spec.get("persistentVolumeReclaimPolicy")
    if policy and policy not in _RECLAIM:
        yield errors.not_supported("spec.persistentVolumeReclaimPolicy", policy, _RECLAIM)
    given = [source for source in _SOURCES if spec.get(source) is not None]
    if not given:
        yield errors.required("spec", "must specify a volume type")
    for source in given[1:]:
        yield errors.forbidden_field(f"spec.{source}", "may not specify more than 1 volume type")
    path = (spec.get("hostPath") or {}).get("path")
    if "hostPath" in given and not path:
        yield errors.required("spec.hostPath.path")
    elif path and ".." in path.split("/"):
        yield errors.invalid_value("spec.hostPath.path", path, "must not contain '..'")
    if "local" in given and not (spec.get("nodeAffinity") or {}).get("required"):
        yield errors.required("spec.nodeAffinity", "Local volume requires node affinity")
    yield from _class(spec)


def _access(spec: Object) -> Iterator[FieldError]:
    modes = spec.get("accessModes") or ()
    for mode in modes:
        if mode not in _ACCESS_MODES:
            yield errors.not_supported("spec.accessModes", mode, _ACCESS_MODES)
    if "ReadWriteOncePod" in modes and len(set(modes)) > 1:
        detail = "may not use ReadWriteOncePod with other access modes"
        yield errors.forbidden_field("spec.accessModes", detail)
    if spec.get("volumeMode") and spec["volumeMode"] not in _VOLUME_MODES:
        yield errors.not_supported("spec.volumeMode", spec["volumeMode"], _VOLUME_MODES)


def _class(spec: Object) -> Iterator[FieldError]:
    name = spec.get("storageClassName")
    if name and (problem := subdomain_name(name)):
        yield errors.invalid_value("spec.storageClassName", name, problem)
