"""Usage of real processes, from /proc to the API."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.apiserver import ManualClock
from support.node import BURN, a_pod, in_phase, node

from agentops.kube.errors import NotFound
from agentops.kube.kinds import NODE_METRICS, POD, POD_METRICS
from agentops.local.kubelet import strays
from agentops.local.kubelet.process import ProcessTable
from agentops.local.kubelet.starting import Command
from agentops.local.kubelet.usage import UsageMeter, Watched
from agentops.values.quantity import parse_quantity

pytestmark = pytest.mark.anyio

SLACK_TICKS = 10
"""A few of the children that a look at a moving tree may miss or see twice."""


def test_a_process_and_those_it_waited_for_have_the_times_the_system_tells() -> None:
    subprocess.run(["/bin/sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"], check=True)

    def ticks() -> tuple[int, int]:
        times, per_s = os.times(), os.sysconf("SC_CLK_TCK")
        own, collected = times.user + times.system, times.children_user + times.children_system
        return round(own * per_s), round(collected * per_s)

    (own, collected), stat, (own_after, _) = ticks(), strays.read_stat(os.getpid()), ticks()
    assert stat is not None
    assert own <= stat.cpu <= own_after
    assert stat.collected == collected > 0


async def test_what_ended_children_used_is_the_containers(processes: ProcessTable, tmp_path: Path) -> None:
    root = str(tmp_path / "pods/u/rootfs/c")
    command = Command(("/bin/sh", "-c", BURN), {"PATH": os.environ["PATH"], "AGENTOPS_ROOT": root}, tmp_path)
    process = await processes.spawn(command, root=root, pidfile=tmp_path / "pods/u/containers/c/pid.json")

    def ticks() -> int:
        found = strays.snapshot()
        tree = strays.descendants(process.leader, strays.by_parent(found))
        return sum(found[pid].cpu + found[pid].collected for pid in tree if pid in found)

    clock = ManualClock()
    clock.advance(3600)
    meter = UsageMeter(clock, lambda: [Watched("u", "c", 0.0, processes.started(root))])
    earliest = ticks()
    meter.sample()
    latest = ticks()
    with anyio.fail_after(60):
        while ticks() < latest + 10 * SLACK_TICKS:
            await anyio.sleep(0.02)
    least = ticks() - latest
    clock.advance(10)
    meter.sample()
    most = ticks() - earliest
    process.kill_tree()
    await process.wait()
    process.close()
    found = meter.pod("u")
    assert found is not None
    usage = found.containers["c"]
    used = usage.cpu_nanocores * 10 * os.sysconf("SC_CLK_TCK") / 1e9
    assert least - SLACK_TICKS <= used <= most + SLACK_TICKS
    assert 0 < usage.memory_bytes < 16 << 20


async def test_the_api_tells_of_pods_that_run_and_of_the_node(tmp_path: Path) -> None:
    async with node(tmp_path, usage_period_s=0.2) as (plane, kubelet):
        plane.server.node = kubelet
        await plane.client.create(POD, a_pod("busy", BURN))
        await plane.client.create(POD, a_pod("over", "true", restartPolicy="Never"))
        await in_phase(plane, "over", "Succeeded")

        async def busy() -> dict[str, Any] | None:
            found = await plane.client.get(POD_METRICS, "busy", "default")
            return found if parse_quantity(found["containers"][0]["usage"]["cpu"]) > 0 else None

        found = await plane.eventually(busy, timeout_s=20)
        assert [c["name"] for c in found["containers"]] == ["main"]
        assert parse_quantity(found["containers"][0]["usage"]["memory"]) > 0

        async def only_busy() -> bool:
            return [p["metadata"]["name"] for p in await plane.client.list(POD_METRICS)] == ["busy"]

        await plane.eventually(only_busy)
        machine = await plane.eventually(lambda: plane.client.get(NODE_METRICS, "local"))
        assert parse_quantity(machine["usage"]["memory"]) > 0
        await plane.client.delete(POD, "busy", "default", grace_s=0)
        with pytest.raises(NotFound, match='pods "busy" not found'):
            await plane.client.get(POD_METRICS, "busy", "default")
