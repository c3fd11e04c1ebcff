"""A kubelet that uses what the test says."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from support.apiserver import EPOCH, PODS, Api, pod

from agentops.local.apiserver.node import NodeUsage, PodUsage, Usage

METRICS = "/apis/metrics.k8s.io/v1beta1"
UNTIL = EPOCH + timedelta(minutes=5)


class Metered:
    """The part of a kubelet that is asked for usage; pods by uid, nodes by name."""

    def __init__(self) -> None:
        self.pods: dict[str, PodUsage] = {}
        self.nodes: dict[str, NodeUsage] = {}

    def pod_usage(self, uid: str) -> PodUsage | None:
        return self.pods.get(uid)

    def node_usage(self, name: str) -> NodeUsage | None:
        return self.nodes.get(name)


async def metered(api: Api) -> Metered:
    """Three pods and two nodes in the store; `new` and `far` have not been measured."""
    kubelet = Metered()
    api.server.node = kubelet  # type: ignore[assignment]
    await api.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}})
    for namespace, name, usages in (
        ("default", "web", {"app": Usage(1_250_000_000, 64 << 20), "side": Usage(1_234_567, 12_345 << 10)}),
        ("default", "new", None),
        ("other", "db", {"app": Usage(0, 100)}),
    ):
        body: dict[str, Any] = pod(name)
        body["metadata"]["labels"] = {"app": name}
        body["spec"]["containers"] = [{"name": c, "image": "agentops:1"} for c in usages or ("app",)]
        made = await api.post(PODS.replace("default", namespace), body)
        assert made.status == 201, made.message
        if usages is not None:
            kubelet.pods[made.body["metadata"]["uid"]] = PodUsage(UNTIL, 15.002, usages)
    for name in ("local", "far"):
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"disk": name}}}
        assert (await api.post("/api/v1/nodes", node)).status == 201
        amounts = {"cpu": "2", "memory": "4Gi"}
        await api.patch(f"/api/v1/nodes/{name}/status", {"status": {"capacity": amounts, "allocatable": amounts}})
    kubelet.nodes["local"] = NodeUsage(UNTIL, 75.0, Usage(500_000_000, 1 << 30))
    return kubelet
