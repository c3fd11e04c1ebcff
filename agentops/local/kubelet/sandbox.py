"""What a container may see of this machine: the seam between pods and isolation.

A `Sandbox` turns a container's view (its paths, command and environment) into a command of this machine.
`prefix` needs nothing and isolates nothing; a sandbox with mount namespaces stands beside it behind the
same protocol, and nothing else of the kubelet changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from attrs import frozen

from agentops.local.kubelet.errors import PodRefused
from agentops.local.kubelet.starting import Command

Object = Mapping[str, Any]

ISOLATION_LABEL = "agentops.io/isolation"
IMAGE_USER = 65532
"""User and group of the one image, where the pod does not say otherwise."""


@frozen(slots=True)
class Mount:
    """A path of the container and what stands behind it: a file or a directory of this machine."""

    path: str
    source: Path
    read_only: bool = False


@frozen(slots=True)
class Box:
    """One container's frame, the same for its program and for what is executed in it later."""

    pod_dir: Path
    container: str
    mounts: tuple[Mount, ...] = ()
    working_dir: str = ""
    termination_path: str = "/dev/termination-log"
    root_aware: bool = False
    """The program maps pod paths itself; see `ImageSpec`."""
    literal: frozenset[str] = frozenset()
    """Words and values that name things of this machine (the image's program, `--pod-env` values): never rewritten."""
    names: Path | None = None
    """Names of Services as seen from the pod's namespace; replaced as a whole when they change."""
    hosts: Path | None = None
    """The pod's /etc/hosts; written in place when it changes."""
    hostname: str = ""
    user: int = IMAGE_USER
    group: int = IMAGE_USER
    read_only_root: bool = False


class Sandbox(Protocol):
    """One way to run containers. Stateless: everything is in the box."""

    @property
    def tier(self) -> str:
        """The value of the node label `agentops.io/isolation`."""
        ...

    @property
    def caveats(self) -> tuple[str, ...]:
        """What no pod gets from it, in words for the node's condition."""
        ...

    def unenforced(self, pod: Object) -> list[str]:
        """What the pod asks for and this sandbox cannot give, as `field (container)`; the pod runs all the same."""
        ...

    def build(self, box: Box) -> None:
        """Make the container's file system afresh, before each start."""
        ...

    def command(self, box: Box, argv: Sequence[str], env: Mapping[str, str]) -> Command:
        """How to start the container's program."""
        ...

    def exec_command(self, box: Box, argv: Sequence[str], env: Mapping[str, str], leader: int) -> Command:
        """How to run something else beside the program, whose pid is `leader`."""
        ...

    def root(self, box: Box) -> str:
        """The AGENTOPS_ROOT of the container's processes; unique to the container, it marks them."""
        ...

    def host_path(self, box: Box, path: str) -> Path:
        """Where a path of the container is on this machine."""
        ...


def containers(pod: Object) -> list[Object]:
    """All containers of a pod, init containers first."""
    spec = pod.get("spec") or {}
    return [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]


def check_allowed(pod: Object) -> None:
    """Raises PodRefused for what no sandbox of this node gives, whatever its tier."""
    spec = pod.get("spec") or {}
    for volume in spec.get("volumes") or ():
        if "hostPath" in volume:
            raise PodRefused(
                f'volume "{volume["name"]}": hostPath is refused by the process kubelet; use emptyDir or a claim'
            )
    for container in containers(pod):
        if (container.get("securityContext") or {}).get("privileged"):
            raise PodRefused(
                f'container "{container["name"]}": securityContext.privileged is refused by the process kubelet'
            )
