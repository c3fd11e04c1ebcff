"""The Node object and its heartbeat.

The node says what it is: label `agentops.io/isolation` and condition `IsolationEnforced` carry the tier, so
that nobody takes this plane for a cluster.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentops._version import __version__
from agentops.controller import Client
from agentops.kube.errors import AlreadyExists, KubeError, NotFound
from agentops.kube.kinds import LEASE, NODE
from agentops.local.kubelet.isolation import Chosen
from agentops.local.kubelet.sandbox import ISOLATION_LABEL
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock, rfc3339

log = get_logger("kubelet.node")

Object = Mapping[str, Any]

LEASE_NAMESPACE = "kube-node-lease"
HEARTBEAT_S = 10.0
_LEASE_S = 40
_STATUS_S = 300.0
_RETRY_S = 1.0
MAX_PODS = 110
"""Of one node, as a kubelet has it if nobody says otherwise."""


def capacity(state_dir: Path, max_pods: int) -> dict[str, str]:
    """What this machine has, as quantities; pods write where `state_dir` is."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    disk = os.statvfs(state_dir)
    return {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{pages // 1024}Ki",
        "ephemeral-storage": f"{disk.f_blocks * disk.f_frsize // 1024}Ki",
        "pods": str(max_pods),
    }


def node_object(name: str, tier: str) -> dict[str, Any]:
    """The Node without its status."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "unknown"),
                "node-role.kubernetes.io/control-plane": "",
                ISOLATION_LABEL: tier,
            },
        },
    }


def node_status(
    name: str, tier: str, isolation: str, host_ip: str, has: Mapping[str, str], now: str, before: Object
) -> dict[str, Any]:
    """The status; `isolation` says in words what the tier lacks. Conditions keep their last change from `before`."""
    isolated = tier != "prefix"
    reason = "Tier" + "".join(word.capitalize() for word in tier.split("-"))
    wanted = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "the process kubelet does not watch memory"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "the process kubelet does not watch disks"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "the process kubelet does not watch processes"),
        ("IsolationEnforced", "True" if isolated else "False", reason, isolation),
        ("Ready", "True", "KubeletReady", "the process kubelet is posting ready status"),
    ]
    known = {c["type"]: c for c in before.get("conditions") or ()}
    return {
        "capacity": dict(has),
        "allocatable": dict(has),
        "addresses": [{"type": "InternalIP", "address": host_ip}, {"type": "Hostname", "address": name}],
        "nodeInfo": {
            "machineID": "",
            "systemUUID": "",
            "bootID": "",
            "kernelVersion": platform.release(),
            "osImage": f"{platform.system()} (host)",
            "containerRuntimeVersion": f"agentops://{__version__}",
            "kubeletVersion": f"v1.37.0+agentops-{__version__}",
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": node_object(name, tier)["metadata"]["labels"]["kubernetes.io/arch"],
        },
        "conditions": [_condition(*condition, known.get(condition[0]) or {}, now) for condition in wanted],
    }


def _condition(kind: str, status: str, reason: str, message: str, before: Object, now: str) -> dict[str, Any]:
    since = before.get("lastTransitionTime") if before.get("status") == status else None
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": now,
        "lastTransitionTime": since or now,
    }


class NodeReporter:
    """Registers the node, then keeps its lease and, more rarely, its status fresh."""

    def __init__(
        self, client: Client, clock: Clock, name: str, isolation: Chosen, host_ip: str, has: Mapping[str, str]
    ) -> None:
        self._api = client.live
        self._clock = clock
        self._name = name
        self._tier = isolation.sandbox.tier
        self._isolation = "; ".join([*isolation.sandbox.caveats, *filter(None, [isolation.shortfall])])
        self._host_ip = host_ip
        self._capacity = has

    async def run(self) -> None:
        """Until cancelled."""
        status_due = 0.0
        while True:
            try:
                if self._clock.boottime() >= status_due:
                    await self._report()
                    status_due = self._clock.boottime() + _STATUS_S
                await self._renew()
            except KubeError as error:
                log.warning("kubelet.node", error=str(error))
                await self._clock.sleep(_RETRY_S)
            else:
                await self._clock.sleep(HEARTBEAT_S)

    async def _report(self) -> None:
        wanted = node_object(self._name, self._tier)
        try:
            node = await self._api.get(NODE, self._name)
        except NotFound:
            node = await self._api.create(NODE, wanted)
        labels = wanted["metadata"]["labels"]
        if labels.items() - (node["metadata"].get("labels") or {}).items():
            node = await self._api.patch(NODE, self._name, {"metadata": {"labels": labels}})
        now = rfc3339(self._clock.now())
        status = node_status(
            self._name, self._tier, self._isolation, self._host_ip, self._capacity, now, node.get("status") or {}
        )
        await self._api.patch(NODE, self._name, {"status": status}, subresource="status")

    async def _renew(self) -> None:
        now = rfc3339(self._clock.now(), micro=True)
        try:
            await self._api.patch(LEASE, self._name, {"spec": {"renewTime": now}}, LEASE_NAMESPACE)
        except NotFound:
            lease = {
                "apiVersion": LEASE.api_version,
                "kind": LEASE.kind,
                "metadata": {"name": self._name, "namespace": LEASE_NAMESPACE},
                "spec": {"holderIdentity": self._name, "leaseDurationSeconds": _LEASE_S, "renewTime": now},
            }
            try:
                await self._api.create(LEASE, lease)
            except AlreadyExists:
                return
