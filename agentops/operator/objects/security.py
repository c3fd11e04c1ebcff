"""The security floor: every pod AgentOps makes passes Pod Security `restricted`.

Overrides may raise or vary what the floor sets, never lower it. What they ask for and do not get is
told by `compute_violations`, so that the condition and the pod agree by construction.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from agentops.api.objects import encode
from agentops.api.types.shared import SecurityOverrides

NON_ROOT_ID = 65532
TMP_SIZE = "256Mi"
"""Also HOME, so tools' caches land here; past it the kubelet evicts the pod."""

_POD_FREE = ("runAsGroup", "fsGroup", "supplementalGroups", "fsGroupChangePolicy", "seLinuxOptions")
_CONTAINER_FREE = ("runAsGroup", "seLinuxOptions")
_SELINUX_TYPES = ("container_t", "container_init_t", "container_kvm_t", "container_engine_t")
_ALLOWED_SECCOMP = ("RuntimeDefault", "Localhost")


def compute_violations(overrides: SecurityOverrides | None) -> list[str]:
    """One text per override that the floor replaces, naming the field, its value and what stands instead."""
    pod, container = _wishes(overrides)
    return _pod_context(pod)[1] + _container_context(container)[1]


def apply_floor(spec: Mapping[str, Any], *, main: str, overrides: SecurityOverrides | None = None) -> dict[str, Any]:
    """`spec` (a PodSpec) with the floor under it. Container overrides reach only the container `main`.

    The pod gets no ServiceAccount token unless the overrides ask for one.
    """
    pod, container = _wishes(overrides)
    floored = copy.deepcopy(dict(spec))
    floored["securityContext"] = _pod_context(pod)[0]
    floored["automountServiceAccountToken"] = bool(overrides and overrides.automount_service_account_token)
    for group in ("initContainers", "containers"):
        for item in floored.get(group, ()):
            item["securityContext"] = _container_context(container if item["name"] == main else {})[0]
            _mount_tmp(item)
    volumes: list[dict[str, Any]] = floored.setdefault("volumes", [])
    if not any(volume["name"] == "tmp" for volume in volumes):
        volumes.append({"name": "tmp", "emptyDir": {"sizeLimit": TMP_SIZE}})
    return floored


def _wishes(overrides: SecurityOverrides | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Overrides of pod and container, as the API writes them."""
    if overrides is None:
        return {}, {}
    return encode(overrides.pod) if overrides.pod else {}, encode(overrides.container) if overrides.container else {}


def _mount_tmp(container: dict[str, Any]) -> None:
    mounts: list[dict[str, Any]] = container.setdefault("volumeMounts", [])
    if not any(mount["mountPath"] == "/tmp" for mount in mounts):
        mounts.append({"name": "tmp", "mountPath": "/tmp"})


def _pod_context(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    context: dict[str, Any] = {
        "runAsNonRoot": True,
        "runAsUser": NON_ROOT_ID,
        "runAsGroup": NON_ROOT_ID,
        "fsGroup": NON_ROOT_ID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    violations = _identity(overrides, context, "pod")
    _take(overrides, context, _POD_FREE)
    violations += _groups(overrides, context, "pod", ("runAsGroup", "fsGroup")) + _selinux(context, "pod")
    if 0 in context.get("supplementalGroups", ()):
        context["supplementalGroups"] = [group for group in context["supplementalGroups"] if group]
        violations.append("pod.supplementalGroups: 0 rejected: the root group is not allowed")
    return context, violations + _dropped(overrides, "pod", {*_POD_FREE, *_CHECKED_IDENTITY})


def _container_context(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    context: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL", "NET_RAW"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    violations = _identity(overrides, context, "container")
    _take(overrides, context, _CONTAINER_FREE)
    violations += _groups(overrides, context, "container", ("runAsGroup",)) + _selinux(context, "container")
    for name, refused in (("allowPrivilegeEscalation", True), ("privileged", True), ("readOnlyRootFilesystem", False)):
        if overrides.get(name) is refused:
            violations.append(f"container.{name}={str(refused).lower()} rejected: stays {str(not refused).lower()}")
    added = (overrides.get("capabilities") or {}).get("add") or ()
    if added:
        violations.append(f"container.capabilities.add={','.join(added)} rejected: all capabilities stay dropped")
    known = {*_CONTAINER_FREE, *_CHECKED_IDENTITY, "allowPrivilegeEscalation", "privileged", "readOnlyRootFilesystem"}
    return context, violations + _dropped(overrides, "container", known | {"capabilities"})


_CHECKED_IDENTITY = {"runAsNonRoot", "runAsUser", "seccompProfile"}


def _identity(overrides: Mapping[str, Any], context: dict[str, Any], where: str) -> list[str]:
    """What pod and container contexts share: user, non-root, seccomp."""
    violations = []
    if overrides.get("runAsNonRoot") is False:
        violations.append(f"{where}.runAsNonRoot=false rejected: stays true")
    user = overrides.get("runAsUser")
    if user == 0:
        violations.append(f"{where}.runAsUser=0 rejected: root is not allowed")
    elif user is not None:
        context["runAsUser"] = user
    seccomp = overrides.get("seccompProfile") or {}
    if seccomp.get("type") in _ALLOWED_SECCOMP:
        context["seccompProfile"] = dict(seccomp)
    elif seccomp:
        violations.append(f"{where}.seccompProfile.type={seccomp.get('type')} rejected: stays RuntimeDefault")
    return violations


def _groups(overrides: Mapping[str, Any], context: dict[str, Any], where: str, names: Sequence[str]) -> list[str]:
    """Group 0 can read what root's group can: refused, although Pod Security would let it pass."""
    violations = []
    for name in names:
        if overrides.get(name) == 0:
            if where == "pod":
                context[name] = NON_ROOT_ID
            else:
                context.pop(name, None)
            violations.append(f"{where}.{name}=0 rejected: the root group is not allowed")
    return violations


def _selinux(context: dict[str, Any], where: str) -> list[str]:
    """Only the level may be anything: user, role and other types reach what containers must not."""
    options = context.get("seLinuxOptions")
    if options is None:
        return []
    refused = {name: options.pop(name) for name in ("user", "role", "type") if _leads_out(name, options.get(name, ""))}
    if not any(options.values()):
        del context["seLinuxOptions"]
    return [
        f"{where}.seLinuxOptions.{name}={value} rejected: stays the container runtime's"
        for name, value in refused.items()
    ]


def _leads_out(name: str, value: str) -> bool:
    return bool(value) and not (name == "type" and value in _SELINUX_TYPES)


def _take(overrides: Mapping[str, Any], context: dict[str, Any], names: Sequence[str]) -> None:
    for name in names:
        if overrides.get(name) is not None:
            context[name] = copy.deepcopy(overrides[name])


def _dropped(overrides: Mapping[str, Any], where: str, known: set[str]) -> list[str]:
    return [
        f"{where}.{name} ignored: not one of the fields that may vary"
        for name in sorted(set(overrides) - known)
        if overrides[name] not in (None, {}, [])
    ]
