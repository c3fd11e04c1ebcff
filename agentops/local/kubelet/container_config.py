"""From a container's spec to what is executed: environment, mounts, command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from agentops.local.kubelet.env import Sources, base_env, container_env, expand, references
from agentops.local.kubelet.errors import ContainerConfig
from agentops.local.kubelet.hosts import hostname_of
from agentops.local.kubelet.images import ImageSpec
from agentops.local.kubelet.pod_host import PodHost
from agentops.local.kubelet.sandbox import IMAGE_USER, Box
from agentops.local.kubelet.volumes import PodVolumes
from agentops.values.quantity import parse_quantity

Object = Mapping[str, Any]

_HOME = "/tmp"


@frozen(slots=True)
class Plan:
    """What a sandbox turns into a command."""

    box: Box
    argv: tuple[str, ...]
    env: Mapping[str, str]
    memory_bytes: int | None = None
    """`resources.limits.memory`."""


async def plan_container(
    pod: Object, container: Object, image: ImageSpec, volumes: PodVolumes, host: PodHost, *, pod_dir: Path, pod_ip: str
) -> Plan:
    """Read what the container refers to and put it together. Raises ContainerConfig naming what is missing."""
    namespace = str(pod["metadata"].get("namespace", ""))
    base = _base_env(pod, image, host, pod_ip)
    env = container_env(
        pod,
        container,
        base=base,
        services=await host.api.services(),
        sources=await _sources(pod, namespace, host),
        pod_ip=pod_ip,
        host_ip=host.host_ip,
        allocatable=host.allocatable,
    )
    user, group = run_as(pod, container)
    command = [expand(word, env) for word in container.get("command") or ()]
    args = [expand(word, env) for word in container.get("args") or ()]
    box = Box(
        pod_dir=pod_dir,
        container=str(container["name"]),
        mounts=volumes.mounts(container, env),
        working_dir=container.get("workingDir") or image.working_dir,
        termination_path=container.get("terminationMessagePath") or "/dev/termination-log",
        root_aware=image.root_aware and not command,
        literal=frozenset([*base.values(), *image.entrypoint]) - {_HOME},
        names=host.hosts.path(namespace),
        hosts=host.hosts.pod_path(pod_dir),
        hostname=base["HOSTNAME"],
        user=user,
        group=group,
        read_only_root=bool((container.get("securityContext") or {}).get("readOnlyRootFilesystem")),
    )
    return Plan(box, image.argv(command, args), env, memory_limit(container))


def memory_limit(container: Object) -> int | None:
    """Bytes of `resources.limits.memory`."""
    memory = ((container.get("resources") or {}).get("limits") or {}).get("memory")
    return None if memory is None else int(parse_quantity(str(memory)))


def run_as(pod: Object, container: Object) -> tuple[int, int]:
    """User and group of the container's program. Raises ContainerConfig when they contradict runAsNonRoot."""
    context = {**(pod["spec"].get("securityContext") or {}), **(container.get("securityContext") or {})}
    user = int(context.get("runAsUser", IMAGE_USER))
    if context.get("runAsNonRoot") and user == 0:
        raise ContainerConfig(
            f'container "{container["name"]}": securityContext.runAsUser 0 breaks runAsNonRoot; set another user'
        )
    return user, int(context.get("runAsGroup", IMAGE_USER))


async def _sources(pod: Object, namespace: str, host: PodHost) -> Sources:
    secrets, config_maps = references(pod["spec"])
    return Sources(
        {name: found for name in secrets if (found := await host.api.secret(namespace, name)) is not None},
        {name: found for name in config_maps if (found := await host.api.config_map(namespace, name)) is not None},
    )


def _base_env(pod: Object, image: ImageSpec, host: PodHost, pod_ip: str) -> dict[str, str]:
    """What the container's own spec adds to. The API server's address is the real one, not its Service's."""
    api_host, api_port = host.api_address
    return {
        **base_env(host.pod_env),
        **image.env,
        "HOSTNAME": hostname_of(pod),
        "KUBERNETES_SERVICE_HOST": api_host,
        "KUBERNETES_SERVICE_PORT": str(api_port),
        "KUBERNETES_SERVICE_PORT_HTTPS": str(api_port),
        "AGENTOPS_BIND_HOST": pod_ip,
    }
