"""Task runs whose pod was killed, deleted or told to stop; the test plays the kubelet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.operator import NAMESPACE, agent_object, provider_object, run_object
from support.operator_plane import OperatorPlane, condition, has, operator_plane, phase
from support.plane import eventually

from agentops.api.codec import dumps
from agentops.api.kinds import AGENT, AGENT_RUN
from agentops.api.runs import TaskResult
from agentops.kube.kinds import POD

pytestmark = pytest.mark.anyio

LOG = """{"ts":"x","level":"info","logger":"runtime.agent","event":"turn.start","run":"scribe-run"}
{"agentops.event":{"type":"text_delta","delta":"three"}}
"""


@pytest.fixture
async def task(tmp_path: Path) -> AsyncIterator[OperatorPlane]:
    async with operator_plane(tmp_path) as plane, plane.operator():
        await plane.create(provider_object(), agent_object("scribe", mode="task"))
        await plane.until(AGENT, "scribe", has("Ready", "True", "Ready"))
        await plane.create(run_object("scribe-run", "scribe"))
        await eventually(lambda: plane.pods("task-run", "scribe"))
        await plane.plane.set_pod(NAMESPACE, await pod_of(plane))
        yield plane


async def pod_of(task: OperatorPlane) -> str:
    return str((await task.pods("task-run", "scribe"))[0]["metadata"]["name"])


async def ends_with(
    task: OperatorPlane, name: str, code: int, message: str, *, phase: str = "Failed", **more: Any
) -> None:
    """The container of the pod has ended."""
    task.node.texts[name] = message
    (container,) = (await task.get(POD, name))["status"]["containerStatuses"]
    ended = {"terminated": {"exitCode": code, "reason": "Error", "message": message, **more}}
    status = {"phase": phase, "containerStatuses": [{**container, "ready": False, "state": ended}]}
    await task.patch(POD, name, {"status": status}, subresource="status")


async def failed(task: OperatorPlane) -> tuple[str, str, str]:
    """Reason, message and output of the run, once it has failed."""
    run = await task.until(AGENT_RUN, "scribe-run", lambda obj: phase(obj) == "Failed")
    complete = condition(run, "Complete")
    return complete["reason"], complete["message"], run["status"]["output"]


async def test_a_task_that_was_killed_is_lost_and_not_explained_by_its_log(task: OperatorPlane) -> None:
    pod = await pod_of(task)
    await ends_with(task, pod, 137, LOG)
    reason, message, output = await failed(task)
    assert reason == "Lost"
    assert f"pod {pod}, container agent-runtime: exit code 137, SIGKILL" in message
    assert "a second time" in message
    assert "turn.start" not in message + output and "text_delta" not in message + output


async def test_a_task_that_ran_out_of_memory_has_failed(task: OperatorPlane) -> None:
    await ends_with(task, await pod_of(task), 137, LOG, reason="OOMKilled")
    reason, message, _ = await failed(task)
    assert reason == "Failed"
    assert "OOMKilled" in message


async def test_a_task_whose_pod_was_deleted_is_lost(task: OperatorPlane) -> None:
    name = await pod_of(task)
    await task.client.delete(POD, name, NAMESPACE, grace_s=0)
    reason, message, _ = await failed(task)
    assert reason == "Lost"
    assert f"pod {name} is gone" in message and "a second time" in message


async def test_what_a_task_says_when_it_is_told_to_stop_is_kept_though_its_pod_goes(task: OperatorPlane) -> None:
    said = TaskResult(success=False, output="one two", reason="Interrupted", error="told to stop")
    name = await pod_of(task)
    await task.client.delete(POD, name, NAMESPACE, grace_s=30)
    await ends_with(task, name, 1, dumps(said).decode(), phase="Running")
    assert await failed(task) == ("Interrupted", "told to stop", "one two")


async def test_a_task_that_cannot_start_tells_the_line_it_ended_with(task: OperatorPlane) -> None:
    await ends_with(task, await pod_of(task), 2, LOG + "agentops: AGENT_TOKEN_FILE is not set\n")
    reason, message, _ = await failed(task)
    assert reason == "Failed"
    assert message.endswith("agentops: AGENT_TOKEN_FILE is not set (exit code 2)")
