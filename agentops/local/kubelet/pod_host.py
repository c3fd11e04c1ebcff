"""What all pods of a node share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from agentops.local.kubelet.addresses import PodAddresses
from agentops.local.kubelet.api import PodApi
from agentops.local.kubelet.hosts import HostsFiles
from agentops.local.kubelet.images import ImageMap
from agentops.local.kubelet.process import Spawner
from agentops.local.kubelet.sandbox import Sandbox
from agentops.values.clock import Clock


@frozen(slots=True)
class PodHost:
    """The node's parts and settings, as a pod's worker needs them."""

    api: PodApi
    clock: Clock
    sandbox: Sandbox
    spawner: Spawner
    images: ImageMap
    addresses: PodAddresses
    hosts: HostsFiles
    state_dir: Path
    node_name: str
    host_ip: str
    api_address: tuple[str, int]
    """Where the API server really listens."""
    pod_env: Mapping[str, str]
    allocatable: Mapping[str, str]
    backoff_scale: float
    stop_grace_s: float
    """What containers get between SIGTERM and SIGKILL when the plane itself stops."""
