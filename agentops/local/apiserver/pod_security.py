"""Pod Security admission: what a namespace's `pod-security.kubernetes.io` labels let in.

`enforce` refuses pods; `warn` warns about pods and about what makes pods. The standards are those of the
Kubernetes documentation, version latest (another `-version` is named in the answer and judged the same);
the words are kube-apiserver's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.values.kinds import Kind

Object = dict[str, Any]
Container = Object
Check = Callable[[Object, Sequence[Container]], str]

PREFIX = "pod-security.kubernetes.io/"
_LEVELS = ("privileged", "baseline", "restricted")
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_CAPABILITIES = {"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
                 "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}  # fmt: skip
_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}  # fmt: skip
_TEMPLATE = ("spec", "template", "spec")
_SPECS = {
    ("", "Pod"): ("spec",),
    ("", "ReplicationController"): _TEMPLATE,
    **{("apps", kind): _TEMPLATE for kind in ("DaemonSet", "Deployment", "ReplicaSet", "StatefulSet")},
    ("batch", "Job"): _TEMPLATE,
    ("batch", "CronJob"): ("spec", "jobTemplate", *_TEMPLATE),
}
_SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def refused(namespace: Object, pod: Object, name: str) -> errors.ApiFailure | None:
    """Why the namespace does not let this pod in; None when it does."""
    level, version = _policy(namespace, "enforce")
    found = violations(level, pod.get("spec") or {})
    if not found:
        return None
    return errors.forbidden_object("", "pods", name, f'violates PodSecurity "{level}:{version}": {", ".join(found)}')


def warning(namespace: Object, spec: Object) -> str:
    """What `warn` has to say about a pod spec, "" when nothing."""
    level, version = _policy(namespace, "warn")
    found = violations(level, spec)
    return f'would violate PodSecurity "{level}:{version}": {", ".join(found)}' if found else ""


def pod_spec(kind: Kind, obj: Object) -> Object | None:
    """The spec of a pod, or of the pods that an object makes; None for everything else."""
    path = _SPECS.get((kind.group, kind.kind))
    found: Any = obj if path is not None else None
    for key in path or ():
        found = (found or {}).get(key)
    return found if isinstance(found, dict) else None


def label_errors(labels: Object) -> list[FieldError]:
    """Labels of a namespace that name no level."""
    found = []
    for mode in ("enforce", "warn", "audit"):
        value = labels.get(PREFIX + mode)
        if value is not None and value not in _LEVELS:
            detail = "must be one of privileged, baseline, restricted"
            found.append(errors.invalid_value(f"metadata.labels[{PREFIX}{mode}]", value, detail))
    return found


def violations(level: str, spec: Object) -> list[str]:
    """What a pod spec does that `level` forbids, one text a rule."""
    if level == "privileged":
        return []
    containers = [c for key in ("initContainers", "containers", "ephemeralContainers") for c in spec.get(key) or ()]
    checks = _BASELINE + (_RESTRICTED if level == "restricted" else _BASELINE_ONLY)
    return [text for check in checks if (text := check(spec, containers))]


def _policy(namespace: Object, mode: str) -> tuple[str, str]:
    labels = namespace["metadata"].get("labels") or {}
    level = labels.get(PREFIX + mode, "privileged")
    return level if level in _LEVELS else "restricted", labels.get(f"{PREFIX}{mode}-version", "latest")


# baseline


def _host_namespaces(spec: Object, containers: Sequence[Container]) -> str:
    used = [f"{name}=true" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    return f"host namespaces ({', '.join(used)})" if used else ""


def _privileged(spec: Object, containers: Sequence[Container]) -> str:
    bad = [c for c in containers if _context(c).get("privileged")]
    return f"privileged ({_named(bad)} must not set securityContext.privileged=true)" if bad else ""


def _host_path(spec: Object, containers: Sequence[Container]) -> str:
    bad = [volume["name"] for volume in spec.get("volumes") or () if "hostPath" in volume]
    return f"hostPath volumes ({_plural('volume', bad)})" if bad else ""


def _host_ports(spec: Object, containers: Sequence[Container]) -> str:
    bad = [c for c in containers if _ports(c)]
    ports = sorted({port for c in bad for port in _ports(c)})
    many = "s" if len(ports) > 1 else ""
    return f"hostPort ({_named(bad)} uses hostPort{many} {', '.join(map(str, ports))})" if bad else ""


def _proc_mount(spec: Object, containers: Sequence[Container]) -> str:
    bad = [c for c in containers if _context(c).get("procMount", "Default") != "Default"]
    kinds = ", ".join(sorted({f'"{_context(c)["procMount"]}"' for c in bad}))
    return f"procMount ({_named(bad)} must not set securityContext.procMount to {kinds})" if bad else ""


def _selinux(spec: Object, containers: Sequence[Container]) -> str:
    for context in (spec.get("securityContext") or {}, *map(_context, containers)):
        options = context.get("seLinuxOptions") or {}
        if options.get("type", "") not in _SELINUX_TYPES or options.get("user") or options.get("role"):
            return "seLinuxOptions (pod or containers set forbidden securityContext.seLinuxOptions)"
    return ""


def _sysctls(spec: Object, containers: Sequence[Container]) -> str:
    set_here = (spec.get("securityContext") or {}).get("sysctls") or ()
    bad = sorted({str(sysctl.get("name")) for sysctl in set_here} - _SYSCTLS)
    return f"forbidden sysctls ({', '.join(bad)})" if bad else ""


def _probe_hosts(spec: Object, containers: Sequence[Container]) -> str:
    bad = [c for c in containers if any(_hosts(c))]
    hosts = ", ".join(sorted({f'"{host}"' for c in bad for host in _hosts(c)}))
    return f"probe or lifecycle host ({_named(bad)} uses probe or lifecycle host {hosts})" if bad else ""


def _default_capabilities(spec: Object, containers: Sequence[Container]) -> str:
    bad = [c for c in containers if _added(c) - _CAPABILITIES]
    extra = sorted({name for c in bad for name in _added(c) - _CAPABILITIES})
    return f"non-default capabilities ({_not_added(bad, extra)})" if bad else ""


def _confined(spec: Object, containers: Sequence[Container]) -> str:
    whom = []
    if _seccomp(spec) == "Unconfined":
        whom.append("pod")
    bad = [c for c in containers if _seccomp(c) == "Unconfined"]
    if bad:
        whom.append(_named(bad))
    must = 'must not set securityContext.seccompProfile.type to "Unconfined"'
    return f"seccompProfile ({' and '.join(whom)} {must})" if whom else ""


# restricted


def _no_escalation(spec: Object, containers: Sequence[Container]) -> str:
    bad = [c for c in containers if _context(c).get("allowPrivilegeEscalation") is not False]
    must = "must set securityContext.allowPrivilegeEscalation=false"
    return f"allowPrivilegeEscalation != false ({_named(bad)} {must})" if bad else ""


def _no_capabilities(spec: Object, containers: Sequence[Container]) -> str:
    parts = []
    keeping = [c for c in containers if "ALL" not in ((_context(c).get("capabilities") or {}).get("drop") or ())]
    if keeping:
        parts.append(f'{_named(keeping)} must set securityContext.capabilities.drop=["ALL"]')
    adding = [c for c in containers if _added(c) - {"NET_BIND_SERVICE"}]
    if adding:
        extra = sorted({name for c in adding for name in _added(c) - {"NET_BIND_SERVICE"}})
        parts.append(_not_added(adding, extra))
    return f"unrestricted capabilities ({'; '.join(parts)})" if parts else ""


def _volume_types(spec: Object, containers: Sequence[Container]) -> str:
    bad = {v["name"]: kind for v in spec.get("volumes") or () for kind in set(v) - {"name"} - _VOLUMES}
    kinds = ", ".join(sorted({f'"{kind}"' for kind in bad.values()}))
    uses = "uses restricted volume type" if len(bad) == 1 else "use restricted volume types"
    return f"restricted volume types ({_plural('volume', list(bad))} {uses} {kinds})" if bad else ""


def _not_root(spec: Object, containers: Sequence[Container]) -> str:
    pod = (spec.get("securityContext") or {}).get("runAsNonRoot")
    wrong = [c for c in containers if _context(c).get("runAsNonRoot") is False]
    if wrong:
        return f"runAsNonRoot != true ({_named(wrong)} must not set securityContext.runAsNonRoot=false)"
    bad = [c for c in containers if _context(c).get("runAsNonRoot") is None and not pod]
    return f"runAsNonRoot != true (pod or {_named(bad)} must set securityContext.runAsNonRoot=true)" if bad else ""


def _not_user_0(spec: Object, containers: Sequence[Container]) -> str:
    whom = ["pod"] if (spec.get("securityContext") or {}).get("runAsUser") == 0 else []
    bad = [c for c in containers if _context(c).get("runAsUser") == 0]
    if bad:
        whom.append(_named(bad))
    return f"runAsUser=0 ({' and '.join(whom)} must not set runAsUser=0)" if whom else ""


def _seccomp_profile(spec: Object, containers: Sequence[Container]) -> str:
    wrong = _confined(spec, containers)
    if wrong:
        return wrong
    bad = [c for c in containers if not _seccomp(c) and not _seccomp(spec)]
    must = 'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
    return f"seccompProfile (pod or {_named(bad)} {must})" if bad else ""


# what they look at, and how they name it


def _context(container: Container) -> Object:
    return container.get("securityContext") or {}


def _seccomp(holder: Object) -> str:
    return str((_context(holder).get("seccompProfile") or {}).get("type", ""))


def _added(container: Container) -> set[str]:
    return set((_context(container).get("capabilities") or {}).get("add") or ())


def _ports(container: Container) -> list[int]:
    return [port["hostPort"] for port in container.get("ports") or () if port.get("hostPort")]


def _hosts(container: Container) -> Iterator[str]:
    lifecycle = container.get("lifecycle") or {}
    probes = [container.get(key) for key in ("livenessProbe", "readinessProbe", "startupProbe")]
    for holder in (*probes, lifecycle.get("postStart"), lifecycle.get("preStop")):
        for action in ("httpGet", "tcpSocket"):
            host = ((holder or {}).get(action) or {}).get("host")
            if host:
                yield str(host)


def _not_added(containers: Sequence[Container], extra: list[str]) -> str:
    names = ", ".join(f'"{name}"' for name in extra)
    return f"{_named(containers)} must not include {names} in securityContext.capabilities.add"


def _named(containers: Sequence[Container]) -> str:
    return _plural("container", [str(container.get("name", "")) for container in containers])


def _plural(word: str, names: Sequence[str]) -> str:
    return f"{word}{'s' if len(names) > 1 else ''} " + ", ".join(f'"{name}"' for name in names)


_BASELINE: tuple[Check, ...] = (
    _host_namespaces, _privileged, _host_path, _host_ports, _proc_mount, _selinux, _sysctls, _probe_hosts,
)  # fmt: skip
_BASELINE_ONLY: tuple[Check, ...] = (_default_capabilities, _confined)
_RESTRICTED: tuple[Check, ...] = (
    _no_escalation, _no_capabilities, _volume_types, _not_root, _not_user_0, _seccomp_profile,
)  # fmt: skip
