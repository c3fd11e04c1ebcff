"""A kubelet on the API server of a test: real watches, real processes, no controllers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from support.kubelet import SHELL
from support.plane import ApiPlane, api_plane

from agentops.controller import Manager, ManagerOptions
from agentops.kube.errors import NotFound
from agentops.kube.kinds import POD
from agentops.local.kubelet import ImageMap, Kubelet, KubeletOptions
from agentops.local.kubelet.isolation import Chosen
from agentops.local.kubelet.sandbox import Sandbox

BURN = "while :; do (i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done); done"
"""A script that uses a core, nearly all of it in children that end soon."""


@asynccontextmanager
async def kubelet_on(
    plane: ApiPlane, state_dir: Path, sandbox: Sandbox | None = None, **more: Any
) -> AsyncIterator[Kubelet]:
    """`more` are those of `KubeletOptions`."""
    manager = Manager(plane.transport, ManagerOptions(name="kubelet-test", grace_s=10.0))
    options = KubeletOptions(
        state_dir=state_dir,
        api_host="127.0.0.1",
        api_port=6443,
        pod_cidr="127.67.0.0/16",
        images=ImageMap({"shell": SHELL}),
        backoff_scale=0.01,
        stop_grace_s=1.0,
        **more,
    )
    kubelet = Kubelet(manager, options, isolation=Chosen(sandbox) if sandbox else None)
    async with anyio.create_task_group() as tg:
        await tg.start(manager.run)
        yield kubelet
        tg.cancel_scope.cancel()


@asynccontextmanager
async def node(tmp_path: Path, sandbox: Sandbox | None = None, **more: Any) -> AsyncIterator[tuple[ApiPlane, Kubelet]]:
    async with (
        api_plane(tmp_path, controllers=False, require_service_account=False) as plane,
        kubelet_on(plane, tmp_path / "state", sandbox, **more) as kubelet,
    ):
        yield plane, kubelet


def a_pod(name: str, script: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "shell:1", "args": [script], **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {
            "containers": [container],
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            **spec,
        },
    }


async def in_phase(plane: ApiPlane, name: str, phase: str) -> dict[str, Any]:
    async def check() -> dict[str, Any] | None:
        pod = await plane.client.get(POD, name, "default")
        return pod if pod["status"].get("phase") == phase else None

    return await plane.eventually(check, timeout_s=20)


async def gone(plane: ApiPlane, name: str) -> None:
    async def check() -> bool:
        try:
            await plane.client.get(POD, name, "default")
        except NotFound:
            return True
        return False

    await plane.eventually(check, timeout_s=20)
