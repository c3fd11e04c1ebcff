"""A control plane without nodes for each test, and the objects the tests put in."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.plane import ApiPlane, api_plane, eventually

from agentops.kube.kinds import NAMESPACE, POD, SERVICE_ACCOUNT


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ApiPlane]:
    """With namespace `ns`, ready for pods."""
    async with api_plane(tmp_path) as plane:
        await plane.client.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}})
        await eventually(lambda: plane.client.get(SERVICE_ACCOUNT, "default", "ns"))
        yield plane


@pytest.fixture
def pods(plane: ApiPlane) -> Any:
    """`await pods("app=web")`: the pods of `ns` with these labels, oldest first."""

    async def listing(labels: str = "") -> list[dict[str, Any]]:
        found = await plane.client.list(POD, "ns", labels=labels)
        return sorted(found, key=lambda p: (p["metadata"]["creationTimestamp"], p["metadata"]["name"]))

    return listing


TEMPLATE = {
    "metadata": {"labels": {"app": "web"}},
    "spec": {"containers": [{"name": "c", "image": "agentops:1"}], "terminationGracePeriodSeconds": 0},
}


@pytest.fixture
def deployment() -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "ns"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": copy.deepcopy(TEMPLATE),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        },
    }


@pytest.fixture
def job() -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "work", "namespace": "ns"},
        "spec": {
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "c", "image": "agentops:1"}],
                    "terminationGracePeriodSeconds": 0,
                }
            }
        },
    }
