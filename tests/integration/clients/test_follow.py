"""Following a run on a real API server, without anybody to run it."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from support.operator import NAMESPACE
from support.operator_plane import operator_plane

from agentops.api.kinds import AGENT_RUN
from agentops.clients.runs import RunClient, RunDeleted

pytestmark = pytest.mark.anyio


async def test_a_run_that_is_deleted_ends_the_following_with_its_name(tmp_path: Path) -> None:
    async with operator_plane(tmp_path) as plane:
        runs = RunClient(plane.client, NAMESPACE)
        name = await runs.create("hello", "Say hello.")
        seen = anyio.Event()
        ended: list[str] = []
        async with anyio.create_task_group() as tasks:

            async def follow() -> None:
                try:
                    await runs.follow(name, on_phase=lambda _: seen.set())
                except RunDeleted as error:
                    ended.append(str(error))

            tasks.start_soon(follow)
            with anyio.fail_after(10):
                await seen.wait()
                await plane.client.delete(AGENT_RUN, name, NAMESPACE)
    assert ended == [f"AgentRun {NAMESPACE}/{name} was deleted while it was followed"]


async def test_the_end_of_a_run_ends_the_following(tmp_path: Path) -> None:
    async with operator_plane(tmp_path) as plane:
        runs = RunClient(plane.client, NAMESPACE)
        name = await runs.create("hello", "Say hello.")
        status = {"phase": "Succeeded", "output": "hi"}
        await plane.client.patch(AGENT_RUN, name, {"status": status}, NAMESPACE, subresource="status")
        with anyio.fail_after(10):
            finished = await runs.follow(name)
    assert (finished.phase, finished.output) == ("Succeeded", "hi")
