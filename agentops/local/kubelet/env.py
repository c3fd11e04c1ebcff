"""A container's environment: pure, from the pod and what was read for it.

It starts empty (nothing of the plane's own environment, which holds its user's secrets) and is laid
in layers, later ones winning: base, image, service links, envFrom, env. Values expand `$(NAME)` from
the layers below them, as the Kubernetes kubelet does.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from agentops.local.kubelet.downward import field_value, resource_value
from agentops.local.kubelet.errors import ContainerConfig
from agentops.values.names import is_env_name

Object = Mapping[str, Any]

_REFERENCE = re.compile(r"\$\$|\$\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@frozen(slots=True)
class Sources:
    """The Secrets and ConfigMaps a pod refers to, by name; an absent one is simply not there."""

    secrets: Mapping[str, Object] = field(factory=dict)
    config_maps: Mapping[str, Object] = field(factory=dict)


def references(pod_spec: Object) -> tuple[set[str], set[str]]:
    """Names of the Secrets and of the ConfigMaps that the environments of a pod's containers need."""
    secrets: set[str] = set()
    config_maps: set[str] = set()
    for container in [*(pod_spec.get("initContainers") or ()), *(pod_spec.get("containers") or ())]:
        for source in container.get("envFrom") or ():
            if "secretRef" in source:
                secrets.add(source["secretRef"].get("name", ""))
            if "configMapRef" in source:
                config_maps.add(source["configMapRef"].get("name", ""))
        for item in container.get("env") or ():
            value_from = item.get("valueFrom") or {}
            if "secretKeyRef" in value_from:
                secrets.add(value_from["secretKeyRef"].get("name", ""))
            if "configMapKeyRef" in value_from:
                config_maps.add(value_from["configMapKeyRef"].get("name", ""))
    return secrets, config_maps


def base_env(pod_env: Mapping[str, str]) -> dict[str, str]:
    """What every container starts from: `--pod-env` names, then PATH (venv first), HOME and LANG."""
    return {
        **pod_env,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{SYSTEM_PATH}",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
    }


def service_links(services: Iterable[Object], pod_namespace: str) -> dict[str, str]:
    """The Docker-style variables of every Service with an address in the pod's namespace."""
    env: dict[str, str] = {}
    for service in services:
        meta, spec = service["metadata"], service.get("spec") or {}
        ip, ports = spec.get("clusterIP") or "None", spec.get("ports") or []
        if meta.get("namespace") != pod_namespace or ip == "None" or not ports:
            continue
        prefix = str(meta["name"]).replace("-", "_").upper()
        env[f"{prefix}_SERVICE_HOST"] = ip
        env[f"{prefix}_SERVICE_PORT"] = str(ports[0]["port"])
        for port in ports:
            if port.get("name"):
                env[f"{prefix}_SERVICE_PORT_{port['name'].replace('-', '_').upper()}"] = str(port["port"])
        for index, port in enumerate(ports):
            protocol = str(port.get("protocol") or "TCP")
            url = f"{protocol.lower()}://{ip}:{port['port']}"
            stem = f"{prefix}_PORT_{port['port']}_{protocol}"
            if index == 0:
                env[f"{prefix}_PORT"] = url
            env[stem] = url
            env[f"{stem}_PROTO"] = protocol.lower()
            env[f"{stem}_PORT"] = str(port["port"])
            env[f"{stem}_ADDR"] = ip
    return env


def container_env(
    pod: Object,
    container: Object,
    *,
    base: Mapping[str, str],
    services: Iterable[Object] = (),
    sources: Sources = Sources(),
    pod_ip: str = "",
    host_ip: str = "",
    allocatable: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The whole environment. Raises ContainerConfig naming what is missing."""
    spec = pod.get("spec") or {}
    env = dict(base)
    if spec.get("enableServiceLinks", True):
        links = service_links(services, pod["metadata"].get("namespace", ""))
        # The base holds where the API server really listens, which is not the Service's address.
        env = {**links, **env}
    for source in container.get("envFrom") or ():
        env.update(_env_from(source, sources))
    downward = {"status.podIP": pod_ip, "status.hostIP": host_ip}
    for item in container.get("env") or ():
        name = item["name"]
        if item.get("valueFrom"):
            value = _value_from(pod, container, item["valueFrom"], sources, downward, allocatable or {})
            if value is not None:
                env[name] = value
        else:
            env[name] = expand(str(item.get("value") or ""), env)
    return env


def expand(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` becomes its value, `$$` a dollar; unknown names stay as written."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            return "$"
        return env.get(name, match.group(0))

    return _REFERENCE.sub(replace, text)


def _env_from(source: Object, sources: Sources) -> dict[str, str]:
    prefix = source.get("prefix") or ""
    if "secretRef" in source:
        ref, kind = source["secretRef"], "secret"
        found = sources.secrets.get(ref.get("name", ""))
        data = {} if found is None else {key: _decode(value) for key, value in (found.get("data") or {}).items()}
    elif "configMapRef" in source:
        ref, kind = source["configMapRef"], "configmap"
        found = sources.config_maps.get(ref.get("name", ""))
        data = {} if found is None else dict(found.get("data") or {})
    else:
        return {}
    if found is None and not ref.get("optional"):
        raise ContainerConfig(f'{kind} "{ref.get("name", "")}" not found')
    return {prefix + key: value for key, value in data.items() if is_env_name(prefix + key)}


def _value_from(
    pod: Object,
    container: Object,
    value_from: Object,
    sources: Sources,
    downward: Mapping[str, str],
    allocatable: Mapping[str, str],
) -> str | None:
    if "secretKeyRef" in value_from:
        return _key(value_from["secretKeyRef"], "secret", sources.secrets, decode=True, pod=pod)
    if "configMapKeyRef" in value_from:
        return _key(value_from["configMapKeyRef"], "configmap", sources.config_maps, decode=False, pod=pod)
    try:
        if "fieldRef" in value_from:
            return field_value(pod, value_from["fieldRef"].get("fieldPath", ""), downward)
        if "resourceFieldRef" in value_from:
            return resource_value(pod, container, value_from["resourceFieldRef"], allocatable)
    except ValueError as error:
        raise ContainerConfig(str(error)) from error
    raise ContainerConfig(f"valueFrom with {', '.join(sorted(value_from)) or 'nothing'} is not supported")


def _key(ref: Object, kind: str, objects: Mapping[str, Object], *, decode: bool, pod: Object) -> str | None:
    name, key = ref.get("name", ""), ref.get("key", "")
    found = objects.get(name)
    if found is None:
        if ref.get("optional"):
            return None
        raise ContainerConfig(f'{kind} "{name}" not found')
    data = found.get("data") or {}
    if key not in data:
        if ref.get("optional"):
            return None
        title = "Secret" if kind == "secret" else "ConfigMap"
        raise ContainerConfig(f"couldn't find key {key} in {title} {pod['metadata'].get('namespace', '')}/{name}")
    return _decode(data[key]) if decode else str(data[key])


def _decode(value: str) -> str:
    try:
        return base64.b64decode(value).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        return ""
