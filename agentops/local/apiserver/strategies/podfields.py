"""Checks of single fields of a pod: what a kubelet could not act on, or must not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.strategies.addresses import PROTOCOLS, validate_port_name, validate_port_number
from agentops.local.apiserver.strategies.base import label_name

Object = dict[str, Any]

_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_MAX_GRACE_S = 2**31 - 1
_MAX_ID = 2**31 - 1
_POD_CHOICES = {
    "dnsPolicy": ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
    "preemptionPolicy": ("Never", "PreemptLowerPriority"),
}
_CONTAINER_CHOICES = {
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "terminationMessagePolicy": ("FallbackToLogsOnError", "File"),
}
_SECCOMP = ("Localhost", "RuntimeDefault", "Unconfined")


def validate_grace(spec: Object, path: str) -> list[FieldError]:
    seconds = spec.get("terminationGracePeriodSeconds")
    if isinstance(seconds, int) and seconds > _MAX_GRACE_S:
        at = f"{path}.terminationGracePeriodSeconds"
        return [errors.invalid_value(at, seconds, f"must be less than or equal to {_MAX_GRACE_S}")]
    return []


def validate_choices(spec: Object, path: str) -> Iterator[FieldError]:
    """Fields of a pod spec that take one of a few words, names of the pod's host, and its deadline."""
    yield from _choices(spec, path, _POD_CHOICES)
    if spec.get("dnsPolicy") == "None" and not (spec.get("dnsConfig") or {}).get("nameservers"):
        yield errors.required(f"{path}.dnsConfig", "must provide `dnsConfig` when `dnsPolicy` is None")
    seconds = spec.get("activeDeadlineSeconds")
    if isinstance(seconds, int) and not 0 < seconds <= _MAX_GRACE_S:
        detail = f"must be between 1 and {_MAX_GRACE_S}, inclusive"
        yield errors.invalid_value(f"{path}.activeDeadlineSeconds", seconds, detail)
    for name in ("hostname", "subdomain"):
        value = spec.get(name)
        if value and (problem := label_name(value)):
            yield errors.invalid_value(f"{path}.{name}", value, problem)
    yield from _security(spec.get("securityContext") or {}, f"{path}.securityContext")


def validate_container_choices(container: Object, at: str) -> Iterator[FieldError]:
    """The same of one container."""
    yield from _choices(container, at, _CONTAINER_CHOICES)
    yield from _security(container.get("securityContext") or {}, f"{at}.securityContext")


def _choices(holder: Object, at: str, choices: Mapping[str, tuple[str, ...]]) -> Iterator[FieldError]:
    for name, allowed in choices.items():
        if holder.get(name) and holder[name] not in allowed:
            yield errors.not_supported(f"{at}.{name}", holder[name], allowed)


def _security(context: Object, at: str) -> Iterator[FieldError]:
    given = [(name, context.get(name)) for name in ("runAsUser", "runAsGroup", "fsGroup")]
    given += [(f"supplementalGroups[{i}]", group) for i, group in enumerate(context.get("supplementalGroups") or ())]
    for name, number in given:
        if isinstance(number, int) and not 0 <= number <= _MAX_ID:
            yield errors.invalid_value(f"{at}.{name}", number, f"must be between 0 and {_MAX_ID}, inclusive")
    if context.get("privileged") and context.get("allowPrivilegeEscalation") is False:
        detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
        yield errors.invalid_value(at, context, detail)
    profile = context.get("seccompProfile") or {}
    yield from _choices(profile, f"{at}.seccompProfile", {"type": _SECCOMP})
    if profile.get("type") == "Localhost" and not profile.get("localhostProfile"):
        yield errors.required(f"{at}.seccompProfile.localhostProfile", "must be set when seccomp type is Localhost")


def validate_ports(container: Object, at: str) -> Iterator[FieldError]:
    """Numbers in range, names that a Service can refer to and no port can share, protocols there are."""
    names: set[str] = set()
    for index, port in enumerate(container.get("ports") or ()):
        where = f"{at}.ports[{index}]"
        for field in ("containerPort", "hostPort"):
            number = port.get(field) or 0
            if number or field == "containerPort":
                yield from validate_port_number(number, f"{where}.{field}")
        yield from _choices(port, where, {"protocol": PROTOCOLS})
        name = port.get("name")
        if not name:
            continue
        yield from validate_port_name(name, f"{where}.name")
        if name in names:
            yield errors.duplicate(f"{where}.name", name)
        names.add(name)


def validate_probes(container: Object, at: str) -> list[FieldError]:
    """Probes and hooks of one container: one handler each, ports and figures in range."""
    out: list[FieldError] = []
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(name)
        if not isinstance(probe, dict):
            continue
        out.extend(_handler(probe, f"{at}.{name}"))
        for figure in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold",
                       "failureThreshold"):  # fmt: skip
            value = probe.get(figure)
            if isinstance(value, int) and not 0 <= value <= _MAX_GRACE_S:
                detail = "must be greater than or equal to 0" if value < 0 else f"must be at most {_MAX_GRACE_S}"
                out.append(errors.invalid_value(f"{at}.{name}.{figure}", value, detail))
        if name != "readinessProbe" and probe.get("successThreshold") not in (None, 1):
            out.append(errors.invalid_value(f"{at}.{name}.successThreshold", probe["successThreshold"], "must be 1"))
    for name, hook in (container.get("lifecycle") or {}).items():
        if isinstance(hook, dict):
            out.extend(_handler(hook, f"{at}.lifecycle.{name}"))
    return out


def _handler(handler: Object, at: str) -> list[FieldError]:
    given = [name for name in _HANDLERS if handler.get(name) is not None]
    if not given:
        return [errors.required(at, "must specify a handler type")]
    out = [errors.forbidden_field(f"{at}.{name}", "may not specify more than 1 handler type") for name in given[1:]]
    action = handler[given[0]]
    if given[0] in ("httpGet", "tcpSocket", "grpc") and isinstance(action, dict):
        port = action.get("port")
        if isinstance(port, int) and not 0 < port < 65536:
            where = f"{at}.{given[0]}.port"
            out.append(errors.invalid_value(where, port, "must be between 1 and 65535, inclusive"))
    if given[0] == "exec" and not (action or {}).get("command"):
        out.append(errors.required(f"{at}.exec.command"))
    return out


def validate_sub_path(mount: Object, at: str) -> list[FieldError]:
    """A mount's subPath stays inside its volume."""
    return [
        error
        for field in ("subPath", "subPathExpr")
        if mount.get(field)
        for error in _inside(mount[field], f"{at}.{field}")
    ]


def validate_volume_paths(volume: Object, at: str) -> list[FieldError]:
    """The files a volume makes stay inside it; a host path names its target plainly."""
    out: list[FieldError] = []
    for item, where in _files(volume, at):
        path = item.get("path") or ""
        out.extend(_inside(path, f"{where}.path") if path else [errors.required(f"{where}.path")])
    host = (volume.get("hostPath") or {}).get("path") or ""
    if ".." in host.split("/"):
        out.append(errors.invalid_value(f"{at}.hostPath.path", host, "must not contain '..'"))
    return out


def _files(volume: Object, at: str) -> Iterator[tuple[Object, str]]:
    """Everything with a `path` in the volume, and where it stands."""
    sources = [(volume, at)]
    projected = (volume.get("projected") or {}).get("sources") or ()
    sources += [(source, f"{at}.projected.sources[{i}]") for i, source in enumerate(projected)]
    for source, where in sources:
        for kind in ("configMap", "secret", "downwardAPI"):
            for index, item in enumerate((source.get(kind) or {}).get("items") or ()):
                yield item, f"{where}.{kind}.items[{index}]"
        if isinstance(source.get("serviceAccountToken"), dict):
            yield source["serviceAccountToken"], f"{where}.serviceAccountToken"


def _inside(path: str, at: str) -> list[FieldError]:
    out: list[FieldError] = []
    if path.startswith("/"):
        out.append(errors.invalid_value(at, path, "must be a relative path"))
    parts = path.split("/")
    if ".." in parts:
        out.append(errors.invalid_value(at, path, "must not contain '..'"))
    elif parts[0].startswith(".."):
        out.append(errors.invalid_value(at, path, "must not start with '..'"))
    if "\0" in path:
        out.append(errors.invalid_value(at, path, "must not contain a NUL character"))
    return out
