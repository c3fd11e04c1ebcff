"""Jobs against the API server; the tests play the kubelet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.plane import ApiPlane, eventually

from agentops.kube.errors import NotFound
from agentops.kube.kinds import CRON_JOB, JOB, POD
from agentops.values.clock import rfc3339

pytestmark = pytest.mark.anyio


async def finish(plane: ApiPlane, pods: Any, phase: str) -> str:
    """End the one active pod; its name."""

    async def active() -> Any:
        found = [p for p in await pods() if p.get("status", {}).get("phase") in ("Pending", "Running")]
        return found[0] if len(found) == 1 else None

    pod = await eventually(active)
    await plane.set_pod("ns", pod["metadata"]["name"], phase=phase)
    return str(pod["metadata"]["name"])


def types(job: dict[str, Any]) -> list[str]:
    return [c["type"] for c in job.get("status", {}).get("conditions", ()) if c["status"] == "True"]


async def test_a_job_completes_and_lets_go_of_its_pod(plane: ApiPlane, pods: Any, job: dict[str, Any]) -> None:
    await plane.client.create(JOB, job)
    name = await finish(plane, pods, "Succeeded")

    async def complete() -> Any:
        current = await plane.client.get(JOB, "work", "ns")
        return current if "Complete" in types(current) else None

    done = await eventually(complete)
    assert types(done) == ["SuccessCriteriaMet", "Complete"]
    assert done["status"]["succeeded"] == 1
    assert done["status"]["completionTime"]
    assert done["status"]["ready"] == 0
    pod = await plane.client.get(POD, name, "ns")
    assert not pod["metadata"].get("finalizers")
    assert pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "work"


async def test_failures_are_retried_until_the_limit(plane: ApiPlane, pods: Any, job: dict[str, Any]) -> None:
    job["spec"]["backoffLimit"] = 1
    await plane.client.create(JOB, job)
    await finish(plane, pods, "Failed")
    await finish(plane, pods, "Failed")

    async def failed() -> Any:
        current = await plane.client.get(JOB, "work", "ns")
        return current if "Failed" in types(current) else None

    done = await eventually(failed)
    assert types(done) == ["FailureTarget", "Failed"]
    assert done["status"]["failed"] == 2
    assert {c["reason"] for c in done["status"]["conditions"]} == {"BackoffLimitExceeded"}
    assert len(await pods()) == 2


async def test_the_deadline_ends_a_running_job(plane: ApiPlane, pods: Any, job: dict[str, Any]) -> None:
    job["spec"]["activeDeadlineSeconds"] = 1
    await plane.client.create(JOB, job)

    async def failed() -> Any:
        current = await plane.client.get(JOB, "work", "ns")
        return current if "Failed" in types(current) else None

    done = await eventually(failed)
    assert {c["reason"] for c in done["status"]["conditions"]} == {"DeadlineExceeded"}
    assert await pods() == []


@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
async def test_deleting_a_running_job_removes_its_pods(
    plane: ApiPlane, pods: Any, job: dict[str, Any], propagation: str
) -> None:
    await plane.client.create(JOB, job)
    await eventually(pods)
    await plane.client.delete(JOB, "work", "ns", propagation=propagation)

    async def gone() -> bool:
        try:
            await plane.client.get(JOB, "work", "ns")
        except NotFound:
            return not await pods()
        return False

    await eventually(gone)


async def test_orphaned_pods_keep_running_and_are_released(plane: ApiPlane, pods: Any, job: dict[str, Any]) -> None:
    await plane.client.create(JOB, job)
    await eventually(pods)
    await plane.client.delete(JOB, "work", "ns", propagation="Orphan")

    async def released() -> bool:
        (pod,) = await pods()
        return not pod["metadata"].get("ownerReferences") and not pod["metadata"].get("deletionTimestamp")

    await eventually(released)


async def test_a_finished_job_with_a_ttl_goes_away(plane: ApiPlane, pods: Any, job: dict[str, Any]) -> None:
    job["spec"]["ttlSecondsAfterFinished"] = 1
    await plane.client.create(JOB, job)
    await finish(plane, pods, "Succeeded")

    async def gone() -> bool:
        return not await plane.client.list(JOB, "ns") and not await pods()

    await eventually(gone)


async def test_suspend_and_resume(plane: ApiPlane, pods: Any, job: dict[str, Any]) -> None:
    job["spec"]["suspend"] = True
    await plane.client.create(JOB, job)

    async def suspended() -> bool:
        return types(await plane.client.get(JOB, "work", "ns")) == ["Suspended"]

    await eventually(suspended)
    assert await pods() == []
    await plane.client.patch(JOB, "work", {"spec": {"suspend": False}}, "ns")
    await eventually(pods)


async def test_indexed_jobs_tell_each_pod_its_index(plane: ApiPlane, pods: Any, job: dict[str, Any]) -> None:
    job["spec"] |= {"completionMode": "Indexed", "completions": 2, "parallelism": 2}
    await plane.client.create(JOB, job)

    async def both() -> Any:
        found = await pods()
        return found if len(found) == 2 else None

    for pod in await eventually(both):
        index = pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]
        assert pod["metadata"]["name"].startswith(f"work-{index}-")
        assert any(e["name"] == "JOB_COMPLETION_INDEX" for e in pod["spec"]["containers"][0]["env"])
        await plane.set_pod("ns", pod["metadata"]["name"], phase="Succeeded")

    async def complete() -> bool:
        return (await plane.client.get(JOB, "work", "ns"))["status"].get("completedIndexes") == "0,1"

    await eventually(complete)


async def test_a_cron_job_starts_a_job_and_names_it_active(plane: ApiPlane, pods: Any, job: dict[str, Any]) -> None:
    cron = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "every", "namespace": "ns"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job["spec"]}},
    }
    created = await plane.client.create(CRON_JOB, cron)
    # A minute ago it would have been due: what was missed while nobody ran is made up for once.
    created["status"] = {"lastScheduleTime": rfc3339(datetime.now(UTC) - timedelta(minutes=2))}
    await plane.client.update(CRON_JOB, created, subresource="status")

    async def started() -> Any:
        current = await plane.client.get(CRON_JOB, "every", "ns")
        return current["status"].get("active")

    (active,) = await eventually(started)
    await eventually(pods)
    (made,) = await plane.client.list(JOB, "ns")
    assert made["metadata"]["name"] == active["name"]
    assert made["metadata"]["ownerReferences"][0]["kind"] == "CronJob"
