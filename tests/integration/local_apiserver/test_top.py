"""kubectl top, and kubectl get of what it reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.apiserver import Api
from support.usage import METRICS, Metered, metered

pytestmark = pytest.mark.anyio


@pytest.fixture
async def kubelet(cluster: Any) -> Metered:
    return await metered(Api(cluster.server))


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


async def test_top_shows_pods_containers_and_nodes(cluster: Any, kubelet: Metered) -> None:
    async def top(*args: str) -> list[list[str]]:
        return rows((await cluster.kubectl("top", *args)).stdout)

    assert await top("pods") == [["NAME", "CPU(cores)", "MEMORY(bytes)"], ["web", "1252m", "76Mi"]]
    assert await top("pod", "web", "--containers") == [
        ["POD", "NAME", "CPU(cores)", "MEMORY(bytes)"],
        ["web", "app", "1250m", "64Mi"],
        ["web", "side", "2m", "12Mi"],
    ]
    assert [row[1] for row in await top("pods", "-A", "--sort-by=cpu", "--no-headers")] == ["web", "db"]
    assert [row[1] for row in await top("pods", "-A", "-l", "app=db", "--no-headers")] == ["db"]
    assert await top("nodes") == [
        ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"],
        ["local", "500m", "25%", "1024Mi", "25%"],
        ["far", "<unknown>", "<unknown>", "<unknown>", "<unknown>"],
    ]


async def test_get_prints_them_and_their_raw_form_is_an_object(cluster: Any, kubelet: Metered) -> None:
    pods = (await cluster.kubectl("get", "podmetrics")).stdout
    assert rows(pods) == [["NAME", "CPU", "MEMORY", "WINDOW"], ["web", "1251234567n", "77881Ki", "15.002s"]]
    nodes = (await cluster.kubectl("get", "nodes.metrics.k8s.io", "--no-headers")).stdout
    assert rows(nodes) == [["local", "500m", "1Gi", "1m15s"]]
    raw = json.loads((await cluster.kubectl("get", "--raw", f"{METRICS}/nodes/local")).stdout)
    assert raw["usage"] == {"cpu": "500m", "memory": "1Gi"}


async def test_what_is_not_measured_yet_is_said_to_be_so(cluster: Any, kubelet: Metered) -> None:
    named = await cluster.kubectl("top", "pod", "new", ok=False)
    assert 'podmetrics.metrics.k8s.io "default/new" not found' in named.stderr
    listed = await cluster.kubectl("top", "pod", "-l", "app=new", ok=False)
    kubelet.nodes.clear()
    machine = await cluster.kubectl("top", "nodes", ok=False)
    assert named.returncode == 1
    for refused in (listed, machine):
        assert (refused.returncode, refused.stderr) == (1, "error: metrics not available yet\n")


async def test_pods_are_still_pods(cluster: Any, kubelet: Metered) -> None:
    assert "READY" in (await cluster.kubectl("get", "pods")).stdout
    assert "VERSION" in (await cluster.kubectl("get", "nodes")).stdout
    refused = await cluster.kubectl("delete", "podmetrics", "web", ok=False)
    assert "the server does not allow this method on the requested resource" in refused.stderr
