"""The Pod Security standard `restricted`, version latest, as its page states it: what a pod spec does against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_SECCOMP = {"RuntimeDefault", "Localhost"}
_SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}


def violations(spec: Mapping[str, Any]) -> list[str]:
    """One line per rule that the pod breaks; empty for a pod that a restricted namespace lets in."""
    return list(_pod(spec)) + [line for container in _containers(spec) for line in _container(container, spec)]


def _containers(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [item for group in ("initContainers", "containers", "ephemeralContainers") for item in spec.get(group) or ()]


def _pod(spec: Mapping[str, Any]) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is set"
    for volume in spec.get("volumes") or ():
        if foreign := set(volume) - {"name"} - _VOLUMES:
            yield f"volume {volume['name']} is of type {foreign}"
    context = spec.get("securityContext") or {}
    for sysctl in context.get("sysctls") or ():
        if sysctl["name"] not in _SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    yield from _context(context, "the pod")


def _container(container: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    name = f"container {container['name']}"
    context, pod = container.get("securityContext") or {}, spec.get("securityContext") or {}
    yield from _context(context, name)
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{name} may gain privileges"
    if context.get("privileged"):
        yield f"{name} is privileged"
    capabilities = context.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or ()):
        yield f"{name} keeps capabilities"
    if set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
        yield f"{name} adds capabilities {capabilities['add']}"
    if context.get("procMount", "Default") != "Default":
        yield f"{name} has procMount {context['procMount']}"
    if not context.get("runAsNonRoot", pod.get("runAsNonRoot")):
        yield f"{name} may run as root"
    if (context.get("seccompProfile") or pod.get("seccompProfile") or {}).get("type") not in _SECCOMP:
        yield f"{name} has no seccomp profile"
    if any(port.get("hostPort") for port in container.get("ports") or ()):
        yield f"{name} has a host port"


def _context(context: Mapping[str, Any], who: str) -> Iterator[str]:
    """What pods and containers are asked alike."""
    if context.get("runAsNonRoot") is False:
        yield f"{who} has runAsNonRoot false"
    if context.get("runAsUser") == 0:
        yield f"{who} runs as user 0"
    if "seccompProfile" in context and context["seccompProfile"].get("type") not in _SECCOMP:
        yield f"{who} has seccomp profile {context['seccompProfile']}"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield f"{who} is a host process"
    if (context.get("appArmorProfile") or {}).get("type") == "Unconfined":
        yield f"{who} is not confined by AppArmor"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type", "") not in _SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield f"{who} has SELinux options {selinux}"
