"""Defaults and checks of pod specs, shared by pods and everything with a pod template."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.strategies.base import label_name
from agentops.local.apiserver.strategies.placement import validate_placement, validate_resources
from agentops.local.apiserver.strategies.podfields import (
    validate_choices,
    validate_container_choices,
    validate_grace,
    validate_ports,
    validate_probes,
    validate_sub_path,
    validate_volume_paths,
)
from agentops.values.names import is_dns1123_label, is_env_name

Object = dict[str, Any]

_MODES = ("secret", "configMap", "projected", "downwardAPI")


def default_pod_spec(spec: Object) -> None:
    """In place, as on every write of a pod or a template."""
    spec.setdefault("restartPolicy", "Always")
    grace_s = spec.setdefault("terminationGracePeriodSeconds", 30)
    if isinstance(grace_s, int) and grace_s < 0:
        spec["terminationGracePeriodSeconds"] = 1
    spec.setdefault("dnsPolicy", "ClusterFirst")
    if spec.get("securityContext") is None:
        spec["securityContext"] = {}
    spec.setdefault("schedulerName", "default-scheduler")
    if spec.get("serviceAccountName"):
        spec["serviceAccount"] = spec["serviceAccountName"]
    elif spec.get("serviceAccount"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(field) or ():
            default_container(container)
    for volume in spec.get("volumes") or ():
        if not any(key != "name" for key in volume):
            volume["emptyDir"] = {}
        for source in _MODES:
            if isinstance(volume.get(source), dict):
                volume[source].setdefault("defaultMode", 420)
        for item in (volume.get("downwardAPI") or {}).get("items") or ():
            _default_field_ref(item)
        for source in (volume.get("projected") or {}).get("sources") or ():
            if "serviceAccountToken" in source:
                source["serviceAccountToken"].setdefault("expirationSeconds", 3600)
            for item in (source.get("downwardAPI") or {}).get("items") or ():
                _default_field_ref(item)
        if isinstance(volume.get("hostPath"), dict):
            volume["hostPath"].setdefault("type", "")
    if spec.get("hostNetwork"):
        for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
            for port in container.get("ports") or ():
                port.setdefault("hostPort", port.get("containerPort"))


def _default_field_ref(item: Object) -> None:
    """Of an `env` or of an item of a downwardAPI volume."""
    if isinstance(item.get("fieldRef"), dict):
        item["fieldRef"].setdefault("apiVersion", "v1")
    if isinstance(item.get("resourceFieldRef"), dict):
        # Typed clients write it back like this: without it `rollout undo` would make a template of its own.
        item["resourceFieldRef"].setdefault("divisor", "0")


def default_container(container: Object) -> None:
    if container.get("resources") is None:
        container["resources"] = {}
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    if not container.get("imagePullPolicy") and container.get("image"):
        container["imagePullPolicy"] = "Always" if _tag(container["image"]) == "latest" else "IfNotPresent"
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
    for env in container.get("env") or ():
        if env.get("valueFrom"):
            _default_field_ref(env["valueFrom"])
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if isinstance(container.get(name), dict):
            _default_probe(container[name])
    for hook in (container.get("lifecycle") or {}).values():
        if isinstance(hook, dict) and isinstance(hook.get("httpGet"), dict):
            _default_http(hook["httpGet"])


def _default_probe(probe: Object) -> None:
    if isinstance(probe.get("httpGet"), dict):
        _default_http(probe["httpGet"])
    if isinstance(probe.get("grpc"), dict):
        probe["grpc"].setdefault("service", "")
    for key, value in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        if not probe.get(key):
            probe[key] = value


def _default_http(action: Object) -> None:
    if not action.get("path"):
        action["path"] = "/"
    if not action.get("scheme"):
        action["scheme"] = "HTTP"


def _tag(image: str) -> str:
    """The image's tag; `latest` when it has none, empty when it has a digest only."""
    name, at, _ = image.partition("@")
    _, colon, tag = name.rpartition("/")[2].partition(":")
    return tag if colon else "" if at else "latest"


def default_requests(spec: Object) -> None:
    """Limits become requests where there is none: for pods, not for templates."""
    for field in ("initContainers", "containers"):
        for container in spec.get(field) or ():
            resources = container.get("resources") or {}
            limits = resources.get("limits") or {}
            if limits:
                requests = resources.setdefault("requests", {})
                for name, amount in limits.items():
                    requests.setdefault(name, amount)


def qos_class(spec: Object) -> str:
    """Guaranteed, Burstable or BestEffort, by cpu and memory of all containers."""
    requests: set[str] = set()
    guaranteed = True
    any_set = False
    for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        resources = container.get("resources") or {}
        limits = {k: v for k, v in (resources.get("limits") or {}).items() if k in ("cpu", "memory")}
        asked = {k: v for k, v in (resources.get("requests") or {}).items() if k in ("cpu", "memory")}
        any_set = any_set or bool(limits or asked)
        requests |= set(asked)
        if set(limits) != {"cpu", "memory"} or any(asked.get(k, v) != v for k, v in limits.items()):
            guaranteed = False
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def validate_pod_spec(
    spec: Object, path: str, *, restart: tuple[str, ...] | None = None, claims: Iterable[str] = ()
) -> list[FieldError]:
    """What the schema does not say: names, references between volumes and mounts, one source a volume.

    `claims` are volumes that somebody adds to the spec later.
    """
    out: list[FieldError] = []
    if not spec.get("containers"):
        out.append(errors.required(f"{path}.containers"))
    policy = spec.get("restartPolicy")
    allowed = restart or ("Always", "OnFailure", "Never")
    if policy and policy not in allowed:
        out.append(errors.not_supported(f"{path}.restartPolicy", policy, sorted(allowed)))
    volumes: set[str] = set()
    for index, volume in enumerate(spec.get("volumes") or ()):
        at = f"{path}.volumes[{index}]"
        name = volume.get("name") or ""
        if not name:
            out.append(errors.required(f"{at}.name"))
        elif not is_dns1123_label(name):
            out.append(errors.invalid_value(f"{at}.name", name, "a lowercase RFC 1123 label is needed"))
        elif name in volumes:
            out.append(errors.duplicate(f"{at}.name", name))
        volumes.add(name)
        if sum(key != "name" for key in volume) > 1:
            out.append(errors.forbidden_field(at, "may not specify more than 1 volume type"))
        out.extend(validate_volume_paths(volume, at))
    out.extend(validate_grace(spec, path))
    out.extend(validate_choices(spec, path))
    out.extend(validate_placement(spec, path))
    volumes.update(claims)
    seen: set[str] = set()
    for field in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(field) or ()):
            at = f"{path}.{field}[{index}]"
            out.extend(_validate_container(container, at, volumes, seen))
    return out


def _validate_container(container: Object, at: str, volumes: set[str], seen: set[str]) -> list[FieldError]:
    out: list[FieldError] = []
    name = container.get("name") or ""
    if not name:
        out.append(errors.required(f"{at}.name"))
    elif not is_dns1123_label(name):
        out.append(errors.invalid_value(f"{at}.name", name, label_name(name) or ""))
    elif name in seen:
        out.append(errors.duplicate(f"{at}.name", name))
    seen.add(name)
    image = container.get("image")
    if not image:
        out.append(errors.required(f"{at}.image"))
    elif image.strip() != image:
        out.append(errors.invalid_value(f"{at}.image", image, "must not have leading or trailing whitespace"))
    out.extend(validate_container_choices(container, at))
    out.extend(validate_ports(container, at))
    out.extend(validate_resources(container, at))
    for index, env in enumerate(container.get("env") or ()):
        if not env.get("name"):
            out.append(errors.required(f"{at}.env[{index}].name"))
        elif "=" in env["name"] or not is_env_name(env["name"]):
            out.append(
                errors.invalid_value(f"{at}.env[{index}].name", env["name"], "a valid environment variable name")
            )
        if env.get("value") and env.get("valueFrom"):
            out.append(
                errors.invalid_value(
                    f"{at}.env[{index}].valueFrom", "", "may not be specified when `value` is not empty"
                )
            )
    mounted: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        if mount.get("name") not in volumes:
            out.append(FieldError("FieldValueNotFound", f"{at}.volumeMounts[{index}].name", "", mount.get("name")))
        where = mount.get("mountPath")
        if not where:
            out.append(errors.required(f"{at}.volumeMounts[{index}].mountPath"))
        elif where in mounted:
            out.append(errors.invalid_value(f"{at}.volumeMounts[{index}].mountPath", where, "must be unique"))
        mounted.add(where or "")
        out.extend(validate_sub_path(mount, f"{at}.volumeMounts[{index}]"))
    out.extend(validate_probes(container, at))
    return out
