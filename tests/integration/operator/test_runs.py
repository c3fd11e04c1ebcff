"""AgentRuns on a real API server; the test plays kubelet and agent pod."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.operator import NAMESPACE, agent_object, provider_object, run_object
from support.operator_plane import OperatorPlane, condition, has, operator_plane, phase

from agentops.api import labels
from agentops.api.codec import dumps
from agentops.api.kinds import AGENT, AGENT_RUN
from agentops.api.runs import RunRecord, RunState, TaskResult, Usage
from agentops.kube.errors import Invalid
from agentops.kube.kinds import CONFIG_MAP, JOB, POD, RESOURCE_QUOTA, SECRET
from agentops.operator.secrets import decode_value

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bare(tmp_path: Path) -> AsyncIterator[OperatorPlane]:
    async with operator_plane(tmp_path) as plane:
        yield plane


@pytest.fixture
async def plane(bare: OperatorPlane) -> AsyncIterator[OperatorPlane]:
    async with bare.operator():
        yield bare


@pytest.fixture
async def daemon(plane: OperatorPlane) -> OperatorPlane:
    await plane.create(provider_object(), agent_object())
    await plane.start_daemon()
    return plane


@pytest.fixture
async def task(plane: OperatorPlane) -> OperatorPlane:
    await plane.create(provider_object(), agent_object("scribe", mode="task", timeout="90s"))
    await plane.until(AGENT, "scribe", has("Ready", "True", "Ready"))
    return plane


def in_phase(wanted: str) -> Any:
    return lambda obj: phase(obj) == wanted


def result_line(**fields: Any) -> str:
    return dumps(TaskResult(**fields)).decode() + "\n"


# daemons


async def test_a_daemon_run_goes_to_a_ready_pod_and_brings_its_answer_back(daemon: OperatorPlane) -> None:
    await daemon.create(run_object())
    running = await daemon.until(AGENT_RUN, "hello-run", in_phase("Running"))
    status = running["status"]
    [pod] = await daemon.pods("runtime")
    assert (status["podName"], status["podUID"]) == (pod["metadata"]["name"], pod["metadata"]["uid"])
    assert status["admittedAt"] <= status["startTime"]
    assert status["mode"] == "daemon"
    assert labels.RUN_FINALIZER in running["metadata"]["finalizers"]
    assert running["metadata"]["labels"][labels.AGENT] == "hello"
    daemon.runtime.finish("hello-run", "Hello.", usage=Usage(input_tokens=3, output_tokens=2), trace_id="a" * 32)
    done = await daemon.until(AGENT_RUN, "hello-run", in_phase("Succeeded"))
    assert done["status"]["output"] == "Hello."
    assert done["status"]["tokensUsed"] == 5
    assert done["status"]["traceID"] == "a" * 32
    assert condition(done, "Complete")["reason"] == "Succeeded"
    assert done["status"]["completionTime"] >= status["startTime"]
    await daemon.until(AGENT_RUN, "hello-run", lambda obj: not obj["metadata"].get("finalizers"))
    assert daemon.runtime.prompts == ["hello-run"]
    assert daemon.runtime.headers[0]["authorization"].startswith("Bearer ")
    assert await daemon.quiet() == []


async def test_a_name_that_will_not_do_is_refused_with_its_field(plane: OperatorPlane) -> None:
    with pytest.raises(Invalid, match=r"invalid: metadata\.name: Invalid value: .*at most 63 characters"):
        await plane.create(run_object("r" * 64))
    with pytest.raises(Invalid, match=r"invalid: metadata\.name: Invalid value: .*starting with a letter"):
        await plane.create(agent_object("1st"))


async def test_a_run_waits_for_its_agent_to_exist_and_to_run(plane: OperatorPlane) -> None:
    await plane.create(run_object())
    waiting = await plane.until(AGENT_RUN, "hello-run", has("AgentReady", "False", "AgentNotFound"))
    assert phase(waiting) == "Pending"
    assert "Agent agents/hello does not exist" in condition(waiting, "AgentReady")["message"]
    await plane.create(agent_object(), provider_object())
    await plane.until(AGENT_RUN, "hello-run", has("AgentReady", "False", "AgentNotRunning"))
    await plane.start_daemon()
    await plane.until(AGENT_RUN, "hello-run", in_phase("Running"))


@pytest.mark.parametrize("cancel", [False, True])
async def test_a_run_whose_agent_ref_is_no_name_fails_at_once(plane: OperatorPlane, cancel: bool) -> None:
    """Such as a run from before the CRD said so."""
    with pytest.raises(Invalid, match=r"spec\.agentRef: Invalid value: .*is not the name of an object"):
        await plane.create(run_object(agent="No Such"))
    await plane.loosen(AGENT_RUN, lambda spec: spec["properties"]["agentRef"].pop("x-kubernetes-validations"))
    await plane.create(run_object(agent="No Such", cancel=cancel))
    failed = await plane.until(AGENT_RUN, "hello-run", in_phase("Failed"))
    complete = condition(failed, "Complete")
    assert complete["reason"] == "InvalidSpec"
    assert complete["message"].startswith("spec.agentRef: 'No Such' is not an object's name")
    assert await plane.quiet() == []


async def test_queued_run_starts_when_the_running_one_ends(daemon: OperatorPlane) -> None:
    await daemon.create(run_object("a"))
    await daemon.until(AGENT_RUN, "a", in_phase("Running"))
    await daemon.create(run_object("b"), run_object("c"))
    await daemon.until(AGENT_RUN, "b", in_phase("Queued"))
    await daemon.until(AGENT_RUN, "c", in_phase("Queued"))
    assert daemon.runtime.prompts == ["a"]
    daemon.runtime.finish("a")
    await daemon.until(AGENT_RUN, "b", in_phase("Running"))
    assert phase(await daemon.get(AGENT_RUN, "c")) == "Queued"
    daemon.runtime.finish("b")
    await daemon.until(AGENT_RUN, "c", in_phase("Running"))
    assert daemon.runtime.prompts == ["a", "b", "c"]


async def test_a_deleted_run_frees_its_slot(daemon: OperatorPlane) -> None:
    await daemon.create(run_object("a"))
    await daemon.until(AGENT_RUN, "a", in_phase("Running"))
    await daemon.create(run_object("b"))
    await daemon.until(AGENT_RUN, "b", in_phase("Queued"))
    await daemon.client.delete(AGENT_RUN, "a", NAMESPACE)
    await daemon.gone(AGENT_RUN, "a")
    assert daemon.runtime.aborted == ["a"]
    await daemon.until(AGENT_RUN, "b", in_phase("Running"))


async def test_a_busy_pod_keeps_the_run_queued(daemon: OperatorPlane) -> None:
    daemon.runtime.busy = True
    await daemon.create(run_object())
    waiting = await daemon.until(AGENT_RUN, "hello-run", has("AgentReady", "False", "AgentBusy"))
    assert phase(waiting) == "Queued"
    assert "podUID" not in waiting["status"]
    await daemon.until(AGENT_RUN, "hello-run", lambda obj: not obj["metadata"].get("finalizers"))
    daemon.runtime.busy = False
    await daemon.until(AGENT_RUN, "hello-run", in_phase("Running"))
    assert daemon.runtime.prompts == ["hello-run"]


def once(part: str, path: str, holds: Callable[[bytes], bool]) -> Callable[[str, bytes], str]:
    """For `WriteLog.lose`: a part of the first write to `path` whose body `holds`."""
    left = [part]
    return lambda to, body: left.pop() if left and to.endswith(path) and holds(body) else ""


async def test_a_run_is_sent_though_nobody_answered_that_its_pod_was_written_down(daemon: OperatorPlane) -> None:
    daemon.log.lose = once("answer", "/agentruns/hello-run/status", lambda body: b'"podUID":"' in body)
    await daemon.create(run_object())
    await daemon.until(AGENT_RUN, "hello-run", in_phase("Running"))
    assert daemon.runtime.prompts == ["hello-run"]
    daemon.runtime.finish("hello-run", "Hello.")
    await daemon.until(AGENT_RUN, "hello-run", in_phase("Succeeded"))


@pytest.mark.parametrize("part", ["request", "answer"])
async def test_a_run_that_a_busy_pod_refused_is_not_lost_when_giving_it_back_is_not_answered(
    daemon: OperatorPlane, part: str
) -> None:
    daemon.runtime.busy = True
    daemon.log.lose = once(part, "/agentruns/hello-run/status", lambda body: b'"podUID":null' in body)
    await daemon.create(run_object())
    await daemon.until(AGENT_RUN, "hello-run", has("AgentReady", "False", "AgentBusy"))
    daemon.runtime.busy = False
    await daemon.until(AGENT_RUN, "hello-run", in_phase("Running"))
    assert daemon.runtime.prompts == ["hello-run"]


async def test_a_run_that_a_pod_refused_goes_to_the_next_one_when_its_pod_goes(daemon: OperatorPlane) -> None:
    given_back = anyio.Event()

    def lose(path: str, body: bytes) -> str:
        if given_back.is_set() or b'"podUID":null' not in body:
            return ""
        given_back.set()
        return "request"

    daemon.runtime.busy = True
    daemon.log.lose = lose
    await daemon.create(run_object())
    await given_back.wait()
    [pod] = await daemon.pods("runtime")
    await daemon.client.delete(POD, pod["metadata"]["name"], NAMESPACE, grace_s=0)
    await daemon.until(AGENT_RUN, "hello-run", has("AgentReady", "False"))
    daemon.runtime.busy = False
    await daemon.start_daemon()
    running = await daemon.until(AGENT_RUN, "hello-run", in_phase("Running"))
    assert daemon.runtime.prompts == ["hello-run"]
    assert running["status"]["podName"] != pod["metadata"]["name"]


async def test_a_restarted_operator_follows_and_never_sends_again(bare: OperatorPlane) -> None:
    async with bare.operator():
        await bare.create(provider_object(), agent_object())
        await bare.start_daemon()
        await bare.create(run_object())
        await bare.until(AGENT_RUN, "hello-run", in_phase("Running"))
    bare.runtime.finish("hello-run", "still here")
    async with bare.operator():
        done = await bare.until(AGENT_RUN, "hello-run", in_phase("Succeeded"))
    assert done["status"]["output"] == "still here"
    assert bare.runtime.prompts == ["hello-run"]


async def test_the_run_in_progress_does_not_stand_in_line_behind_those_that_wait(bare: OperatorPlane) -> None:
    async with bare.operator():
        await bare.create(provider_object(), agent_object())
        await bare.start_daemon()
        await bare.create(run_object("z"))
        await bare.until(AGENT_RUN, "z", in_phase("Running"))
    bare.runtime.finish("z")
    waiting = [f"a-{number:02}" for number in range(60)]
    await bare.create(*(run_object(name) for name in waiting))
    before = len(bare.log.writes)
    async with bare.operator(run_workers=4):
        await bare.until(AGENT_RUN, waiting[0], in_phase("Running"))
    writes = [line for line in bare.log.writes[before:] if line.endswith("/status")]
    [ended] = [number for number, line in enumerate(writes) if line.endswith("/agentruns/z/status")]
    assert ended < 20, writes[: ended + 1]
    assert bare.runtime.prompts == ["z", waiting[0]]


async def test_a_run_whose_runtime_was_killed_says_by_what(daemon: OperatorPlane) -> None:
    await daemon.create(run_object())
    running = await daemon.until(AGENT_RUN, "hello-run", in_phase("Running"))
    [pod] = await daemon.pods("runtime")
    last = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": running["status"]["startTime"]}
    container = {"name": labels.RUNTIME_CONTAINER, "image": "x", "imageID": "", "ready": True, "restartCount": 1}
    status = {"containerStatuses": [{**container, "lastState": {"terminated": last}}]}
    await daemon.client.patch(POD, pod["metadata"]["name"], {"status": status}, NAMESPACE, subresource="status")
    daemon.runtime.records["hello-run"] = RunRecord(
        name="hello-run", state=RunState.FAILED, reason="Interrupted", error="the runtime stopped"
    )
    failed = await daemon.until(AGENT_RUN, "hello-run", in_phase("Failed"))
    told = condition(failed, "Complete")
    assert told["reason"] == "Interrupted"
    assert (
        told["message"] == "container agent-runtime was ended (OOMKilled, exit code 137, SIGKILL): the runtime stopped"
    )


async def test_a_pod_that_goes_loses_the_run(daemon: OperatorPlane) -> None:
    await daemon.create(run_object())
    await daemon.until(AGENT_RUN, "hello-run", in_phase("Running"))
    [pod] = await daemon.pods("runtime")
    await daemon.client.delete(POD, pod["metadata"]["name"], NAMESPACE, grace_s=0)
    lost = await daemon.until(AGENT_RUN, "hello-run", in_phase("Failed"))
    assert condition(lost, "Complete")["reason"] == "Lost"
    assert pod["metadata"]["name"] in lost["status"]["output"]
    assert daemon.runtime.prompts == ["hello-run"]


async def test_a_pod_without_the_record_loses_the_run(daemon: OperatorPlane) -> None:
    await daemon.create(run_object())
    await daemon.until(AGENT_RUN, "hello-run", in_phase("Running"))
    daemon.runtime.records.clear()
    lost = await daemon.until(AGENT_RUN, "hello-run", in_phase("Failed"))
    assert condition(lost, "Complete")["reason"] == "Lost"


async def test_a_new_bearer_loses_no_run_of_the_pod_that_knows_the_old_one(daemon: OperatorPlane) -> None:
    old = (await daemon.get(SECRET, "hello-token"))["data"]["token"]
    daemon.runtime.bearer = decode_value(old).decode()
    await daemon.create(run_object())
    await daemon.until(AGENT_RUN, "hello-run", in_phase("Running"))
    await daemon.client.delete(SECRET, "hello-token", NAMESPACE)
    await daemon.until(SECRET, "hello-token", lambda secret: secret["data"]["token"] != old)
    daemon.runtime.finish("hello-run", "answered to the old bearer")
    done = await daemon.until(AGENT_RUN, "hello-run", in_phase("Succeeded"))
    assert done["status"]["output"] == "answered to the old bearer"


async def test_cancel_aborts_and_tells_so(daemon: OperatorPlane) -> None:
    await daemon.create(run_object())
    await daemon.until(AGENT_RUN, "hello-run", in_phase("Running"))
    await daemon.patch(AGENT_RUN, "hello-run", {"spec": {"cancel": True}})
    done = await daemon.until(AGENT_RUN, "hello-run", in_phase("Failed"))
    assert condition(done, "Complete")["reason"] == "Cancelled"
    assert daemon.runtime.aborted == ["hello-run"]


async def test_a_waiting_run_can_be_cancelled(daemon: OperatorPlane) -> None:
    await daemon.create(run_object("a"))
    await daemon.until(AGENT_RUN, "a", in_phase("Running"))
    await daemon.create(run_object("b"))
    await daemon.until(AGENT_RUN, "b", in_phase("Queued"))
    await daemon.patch(AGENT_RUN, "b", {"spec": {"cancel": True}})
    done = await daemon.until(AGENT_RUN, "b", in_phase("Failed"))
    assert condition(done, "Complete")["reason"] == "Cancelled"
    assert daemon.runtime.aborted == []


async def test_a_run_that_takes_too_long_is_aborted(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object(timeout="1s"))
    await plane.start_daemon()
    await plane.create(run_object())
    done = await plane.until(AGENT_RUN, "hello-run", in_phase("Failed"))
    assert condition(done, "Complete")["reason"] == "Timeout"
    assert "1s" in done["status"]["conditions"][-1]["message"] or "1s" in condition(done, "Complete")["message"]
    assert plane.runtime.aborted == ["hello-run"]


async def test_reject_refuses_a_second_run(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object(concurrency={"policy": "reject"}))
    await plane.start_daemon()
    await plane.create(run_object("a"))
    await plane.until(AGENT_RUN, "a", in_phase("Running"))
    await plane.create(run_object("b"))
    refused = await plane.until(AGENT_RUN, "b", in_phase("Failed"))
    assert condition(refused, "Complete")["reason"] == "Rejected"
    assert phase(await plane.get(AGENT_RUN, "a")) == "Running"


async def test_replace_aborts_the_old_one_before_the_new_one_starts(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), agent_object(concurrency={"policy": "replace"}))
    await plane.start_daemon()
    await plane.create(run_object("a"))
    await plane.until(AGENT_RUN, "a", in_phase("Running"))
    await plane.create(run_object("b"))
    replaced = await plane.until(AGENT_RUN, "a", in_phase("Failed"))
    assert condition(replaced, "Complete")["reason"] == "Cancelled"
    assert "AgentRun b" in condition(replaced, "Complete")["message"]
    started = await plane.until(AGENT_RUN, "b", in_phase("Running"))
    assert started["status"]["admittedAt"] >= replaced["status"]["completionTime"]


async def test_an_answer_waits_until_the_config_map_of_a_deleted_namesake_is_gone(daemon: OperatorPlane) -> None:
    await daemon.create(run_object())
    gone = {"apiVersion": AGENT_RUN.api_version, "kind": "AgentRun", "name": "hello-run", "uid": "gone"}
    left = {"name": "hello-run-output", "namespace": NAMESPACE, "ownerReferences": [{**gone, "controller": True}]}
    await daemon.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": left, "data": {"output.txt": "old"}})
    await daemon.until(AGENT_RUN, "hello-run", in_phase("Running"))
    daemon.runtime.finish("hello-run", "x" * 20_000)
    done = await daemon.until(AGENT_RUN, "hello-run", in_phase("Succeeded"))
    stored = await daemon.get(CONFIG_MAP, "hello-run-output")
    assert len(stored["data"]["output.txt"]) == 20_000
    assert stored["metadata"]["ownerReferences"][0]["uid"] == done["metadata"]["uid"]


async def test_a_config_map_of_somebody_else_is_neither_written_nor_referred_to(daemon: OperatorPlane) -> None:
    meta = {"name": "hello-run-output", "namespace": NAMESPACE}
    await daemon.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"mine": "yes"}})
    await daemon.create(run_object())
    await daemon.until(AGENT_RUN, "hello-run", in_phase("Running"))
    daemon.runtime.finish("hello-run", "x" * 20_000)
    done = await daemon.until(AGENT_RUN, "hello-run", in_phase("Succeeded"))
    assert done["status"]["outputTruncated"] is True
    assert "outputRef" not in done["status"]
    lost = condition(done, "OutputStored")
    assert (lost["status"], lost["reason"]) == ("False", "ForeignObject")
    assert "ConfigMap agents/hello-run-output exists and is not this run's" in lost["message"]
    assert (await daemon.get(CONFIG_MAP, "hello-run-output"))["data"] == {"mine": "yes"}


async def test_a_long_answer_goes_into_a_config_map(daemon: OperatorPlane) -> None:
    await daemon.create(run_object())
    await daemon.until(AGENT_RUN, "hello-run", in_phase("Running"))
    daemon.runtime.finish("hello-run", "x" * 20_000)
    done = await daemon.until(AGENT_RUN, "hello-run", in_phase("Succeeded"))
    assert len(done["status"]["output"]) == 16 * 1024
    assert done["status"]["outputTruncated"] is True
    reference = done["status"]["outputRef"]
    stored = await daemon.get(CONFIG_MAP, reference["name"])
    assert len(stored["data"][reference["key"]]) == 20_000
    assert stored["metadata"]["ownerReferences"][0]["name"] == "hello-run"


async def test_a_finished_run_goes_when_its_time_has_come(daemon: OperatorPlane) -> None:
    await daemon.create(run_object(ttlSecondsAfterFinished=0))
    await daemon.until(AGENT_RUN, "hello-run", in_phase("Running"))
    daemon.runtime.finish("hello-run")
    await daemon.gone(AGENT_RUN, "hello-run")


async def test_deleting_the_agent_aborts_its_dispatched_run(daemon: OperatorPlane) -> None:
    await daemon.create(run_object())
    await daemon.until(AGENT_RUN, "hello-run", in_phase("Running"))
    await daemon.client.delete(AGENT, "hello", NAMESPACE)
    done = await daemon.until(AGENT_RUN, "hello-run", in_phase("Failed"))
    assert condition(done, "Complete")["reason"] == "Cancelled"
    assert "Agent agents/hello was deleted" in done["status"]["output"]


async def test_traceparent_and_parent_agent_travel_along(daemon: OperatorPlane) -> None:
    run = run_object()
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    run["metadata"]["annotations"] = {labels.TRACEPARENT: trace, labels.PARENT_AGENT: "boss"}
    await daemon.create(run)
    await daemon.until(AGENT_RUN, "hello-run", in_phase("Running"))
    assert "a" * 32 in daemon.runtime.headers[0]["traceparent"]
    assert daemon.runtime.headers[0]["x-agentops-parent-agent"] == "boss"


@pytest.mark.parametrize("text", ["\u00fcn\u00ef", "x\ny"])
async def test_annotations_that_are_no_trace_and_no_name_stay_where_they_are(daemon: OperatorPlane, text: str) -> None:
    run = run_object()
    run["metadata"]["annotations"] = {labels.TRACEPARENT: text, labels.PARENT_AGENT: text}
    await daemon.create(run)
    await daemon.until(AGENT_RUN, "hello-run", in_phase("Running"))
    assert text not in daemon.runtime.headers[0].values()


async def test_runs_are_counted_by_phase(bare: OperatorPlane) -> None:
    async with bare.operator() as operator:
        await bare.create(provider_object(), agent_object())
        await bare.start_daemon()
        await bare.create(run_object("a"))
        await bare.until(AGENT_RUN, "a", in_phase("Running"))
        await bare.create(run_object("b"))
        await bare.until(AGENT_RUN, "b", in_phase("Queued"))
        registry = operator.manager.registry
        await bare.plane.eventually(lambda: registry.value("agentops_agentruns", phase="Running") == 1)
        await bare.plane.eventually(lambda: registry.value("agentops_agentrun_queue_depth") == 1)
        bare.runtime.finish("a")
        await bare.until(AGENT_RUN, "b", in_phase("Running"))
        await bare.plane.eventually(
            lambda: registry.value("agentops_agentrun_duration_seconds_count", mode="daemon", phase="Succeeded") == 1
        )


# tasks


async def test_a_task_run_is_a_job_whose_last_line_is_the_answer(task: OperatorPlane) -> None:
    await task.create(run_object("scribe-run", "scribe"))
    running = await task.until(AGENT_RUN, "scribe-run", in_phase("Running"))
    assert running["status"]["jobName"] == "scribe-run"
    job = await task.get(JOB, "scribe-run")
    assert job["spec"]["backoffLimit"] == 0
    assert job["spec"]["activeDeadlineSeconds"] == 90
    assert "ttlSecondsAfterFinished" not in job["spec"]
    line = result_line(success=True, output="The sea.", usage=Usage(input_tokens=1, output_tokens=2), steps=2)
    await task.end_task("scribe-run", f'{{"event":"start"}}\n{line}{{"event":"exit"}}\n')
    done = await task.until(AGENT_RUN, "scribe-run", in_phase("Succeeded"))
    assert done["status"]["output"] == "The sea."
    assert done["status"]["tokensUsed"] == 3
    assert done["status"]["steps"] == 2
    await task.until(JOB, "scribe-run", lambda obj: obj["spec"].get("ttlSecondsAfterFinished") == 120)
    assert await task.quiet() == []


async def test_a_failed_task_tells_the_error_of_the_runtime(task: OperatorPlane) -> None:
    await task.create(run_object("scribe-run", "scribe"))
    await task.end_task("scribe-run", result_line(success=False, error="401 from the model"), phase="Failed")
    done = await task.until(AGENT_RUN, "scribe-run", in_phase("Failed"))
    assert condition(done, "Complete")["reason"] == "Failed"
    assert done["status"]["output"] == "401 from the model"


async def test_a_task_that_says_nothing_still_ends(task: OperatorPlane) -> None:
    await task.create(run_object("scribe-run", "scribe"))
    await task.end_task("scribe-run", "", phase="Failed")
    done = await task.until(AGENT_RUN, "scribe-run", in_phase("Failed"))
    assert condition(done, "Complete")["reason"] == "Failed"
    assert done["status"]["output"]


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({"reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}, "Evicted: The node was"),
        ({"containerStatuses": [{"reason": "OOMKilled", "exitCode": 137}]}, "OOMKilled, container agent-runtime"),
    ],
)
async def test_a_task_says_what_became_of_its_pod(task: OperatorPlane, status: dict[str, Any], says: str) -> None:
    await task.create(run_object("scribe-run", "scribe"))

    async def pod_of_run() -> Any:
        return next(iter(await task.pods("task-run", "scribe")), None)

    pod = await task.plane.eventually(pod_of_run)
    ended = {**(await task.plane.set_pod(NAMESPACE, pod["metadata"]["name"]))["status"], "phase": "Failed", **status}
    for item, container in zip(status.get("containerStatuses", ()), ended["containerStatuses"], strict=False):
        container.update(name="agent-runtime", image="x", imageID="", ready=False, restartCount=0)
        container["state"] = {"terminated": {key: item[key] for key in ("reason", "exitCode")}}
        del container["reason"], container["exitCode"]
    await task.patch(POD, pod["metadata"]["name"], {"status": ended}, subresource="status")
    done = await task.until(AGENT_RUN, "scribe-run", in_phase("Failed"))
    assert says in condition(done, "Complete")["message"]


async def test_a_task_that_its_deadline_stops_timed_out_whatever_its_last_words_are(task: OperatorPlane) -> None:
    await task.patch(AGENT, "scribe", {"spec": {"timeout": "3s"}})
    await task.create(run_object("scribe-run", "scribe"))

    async def pod_of_run(*, leaving: bool) -> Any:
        pods = [p for p in await task.client.list(POD, NAMESPACE) if labels.RUN in p["metadata"].get("labels", {})]
        return next((p for p in pods if bool(p["metadata"].get("deletionTimestamp")) is leaving), None)

    pod = await task.plane.eventually(lambda: pod_of_run(leaving=False))
    name = pod["metadata"]["name"]
    await task.plane.set_pod(NAMESPACE, name)
    await task.plane.eventually(lambda: pod_of_run(leaving=True))
    task.node.texts[name] = result_line(success=False, reason="Interrupted", error="told to stop")
    await task.plane.set_pod(NAMESPACE, name, phase="Failed")
    done = await task.until(AGENT_RUN, "scribe-run", in_phase("Failed"))
    assert condition(done, "Complete")["reason"] == "Timeout"
    assert "timed out" in condition(done, "Complete")["message"]


async def test_a_vanished_job_is_never_made_again(task: OperatorPlane) -> None:
    await task.create(run_object("scribe-run", "scribe"))
    await task.until(AGENT_RUN, "scribe-run", in_phase("Running"))
    await task.client.delete(JOB, "scribe-run", NAMESPACE)
    done = await task.until(AGENT_RUN, "scribe-run", in_phase("Failed"))
    assert condition(done, "Complete")["reason"] == "JobLost"
    await task.quiet()
    assert sum(write.startswith("POST") and "/jobs" in write for write in task.log.writes) == 1


async def test_a_run_made_anew_waits_for_the_job_of_the_old_one_and_runs_its_own_prompt(task: OperatorPlane) -> None:
    await task.create(run_object("scribe-run", "scribe", prompt="old " * 4000))
    await task.until(AGENT_RUN, "scribe-run", in_phase("Running"))
    old = await task.get(JOB, "scribe-run")
    await task.client.delete(AGENT_RUN, "scribe-run", NAMESPACE)
    await task.create(run_object("scribe-run", "scribe", prompt="new " * 4000))

    async def replaced() -> bool:
        for pod in await task.client.list(POD, NAMESPACE):
            if pod["metadata"].get("deletionTimestamp"):
                await task.plane.finish_deletion(NAMESPACE, pod["metadata"]["name"])
        return bool((await task.get(JOB, "scribe-run"))["metadata"]["uid"] != old["metadata"]["uid"])

    await task.plane.eventually(replaced)
    assert (await task.get(CONFIG_MAP, "scribe-run-prompt"))["data"]["prompt.txt"] == "new " * 4000
    await task.until(AGENT_RUN, "scribe-run", in_phase("Running"))


async def test_a_job_of_somebody_else_ends_the_run_and_is_left_alone(task: OperatorPlane) -> None:
    pod = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "mine"}]}
    meta = {"name": "scribe-run", "namespace": NAMESPACE}
    mine = {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": {"template": {"spec": pod}}}
    await task.client.create(JOB, mine)
    await task.create(run_object("scribe-run", "scribe"))
    done = await task.until(AGENT_RUN, "scribe-run", in_phase("Failed"))
    assert condition(done, "Complete")["reason"] == "ForeignObject"
    assert "Job agents/scribe-run" in condition(done, "Complete")["message"]
    assert not (await task.get(JOB, "scribe-run"))["metadata"].get("ownerReferences")


async def test_a_waiting_run_follows_its_agent_into_another_mode(plane: OperatorPlane) -> None:
    await plane.create(run_object())
    await plane.create(agent_object())
    await plane.until(AGENT_RUN, "hello-run", lambda run: run.get("status", {}).get("mode") == "daemon")
    await plane.client.delete(AGENT, "hello", NAMESPACE)
    await plane.gone(AGENT, "hello")
    await plane.create(agent_object(mode="task"), provider_object())
    await plane.until(AGENT_RUN, "hello-run", in_phase("Running"))
    assert (await plane.get(JOB, "hello-run"))["metadata"]["ownerReferences"][0]["name"] == "hello-run"


async def test_max_runs_jobs_run_at_once(task: OperatorPlane) -> None:
    await task.patch(AGENT, "scribe", {"spec": {"concurrency": {"maxRuns": 2}}})
    await task.create(*(run_object(f"r{number}", "scribe") for number in range(4)))
    await task.until(AGENT_RUN, "r0", in_phase("Running"))
    await task.until(AGENT_RUN, "r1", in_phase("Running"))
    await task.until(AGENT_RUN, "r3", in_phase("Queued"))
    assert len(await task.client.list(JOB, NAMESPACE)) == 2
    await task.end_task("r0", result_line(success=True, output="done"))
    await task.until(AGENT_RUN, "r2", in_phase("Running"))
    assert phase(await task.get(AGENT_RUN, "r3")) == "Queued"


async def test_cancel_deletes_the_job(task: OperatorPlane) -> None:
    await task.create(run_object("scribe-run", "scribe"))
    await task.until(AGENT_RUN, "scribe-run", in_phase("Running"))
    await task.patch(AGENT_RUN, "scribe-run", {"spec": {"cancel": True}})

    async def stopped() -> bool:
        for pod in await task.client.list(POD, NAMESPACE):
            if pod["metadata"].get("deletionTimestamp"):
                await task.plane.finish_deletion(NAMESPACE, pod["metadata"]["name"])
        return phase(await task.get(AGENT_RUN, "scribe-run")) == "Failed"

    await task.plane.eventually(stopped)
    done = await task.get(AGENT_RUN, "scribe-run")
    assert condition(done, "Complete")["reason"] == "Cancelled"
    assert await task.absent(JOB, "scribe-run")


async def test_a_long_prompt_travels_in_a_config_map(task: OperatorPlane) -> None:
    await task.create(run_object("scribe-run", "scribe", prompt="$(HOME) " * 2000))
    await task.until(AGENT_RUN, "scribe-run", in_phase("Running"))
    stored = await task.get(CONFIG_MAP, "scribe-run-prompt")
    assert stored["data"]["prompt.txt"] == "$(HOME) " * 2000
    environment = (await task.get(JOB, "scribe-run"))["spec"]["template"]["spec"]["containers"][0]["env"]
    assert "AGENT_PROMPT_FILE" in {item["name"] for item in environment}


async def test_a_restarted_operator_takes_a_task_up_where_it_was(bare: OperatorPlane) -> None:
    async with bare.operator():
        await bare.create(provider_object(), agent_object("scribe", mode="task"))
        await bare.until(AGENT, "scribe", has("Ready", "True", "Ready"))
        await bare.create(run_object("scribe-run", "scribe"))
        await bare.until(AGENT_RUN, "scribe-run", in_phase("Running"))
    await bare.end_task("scribe-run", result_line(success=True, output="done"))
    async with bare.operator():
        await bare.until(AGENT_RUN, "scribe-run", in_phase("Succeeded"))
    assert sum(write.startswith("POST") and "/jobs" in write for write in bare.log.writes) == 1


async def test_a_task_pod_that_cannot_start_is_told(task: OperatorPlane) -> None:
    await task.create(run_object("scribe-run", "scribe"))
    pods: list[dict[str, Any]] = []
    with anyio.fail_after(10):
        while not pods:
            pods = await task.pods("task-run", "scribe")
            await anyio.sleep(0.02)
    pods[0]["status"] = {
        "phase": "Pending",
        "containerStatuses": [
            {
                "name": "agent-runtime",
                "image": "x",
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": {"waiting": {"reason": "ErrImagePull", "message": "image x is not known"}},
            }
        ],
    }
    await task.client.update(POD, pods[0], subresource="status")
    found = await task.until(AGENT_RUN, "scribe-run", has("AgentReady", "False", "ErrImagePull"))
    assert "image x is not known" in condition(found, "AgentReady")["message"]


def no_room() -> dict[str, Any]:
    meta = {"name": "no-room", "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": {"pods": "0"}}}


async def test_a_task_whose_job_can_make_no_pod_says_why_and_does_not_claim_to_run(task: OperatorPlane) -> None:
    await task.client.create(RESOURCE_QUOTA, no_room())
    await task.create(run_object("scribe-run", "scribe"))
    stuck = await task.until(AGENT_RUN, "scribe-run", has("AgentReady", "False", "FailedCreate"))
    told = condition(stuck, "AgentReady")["message"]
    assert told.startswith("Job agents/scribe-run cannot make its pod")
    assert "exceeded quota: no-room" in told
    assert phase(stuck) == "Pending"

    async def warned() -> bool:
        return "FailedCreate" in await task.event_reasons("scribe-run")

    await task.plane.eventually(warned)
    await task.client.delete(RESOURCE_QUOTA, "no-room", NAMESPACE)
    healed = await task.until(AGENT_RUN, "scribe-run", in_phase("Running"))
    assert condition(healed, "AgentReady")["status"] == "True"


async def test_the_end_of_a_task_that_never_got_a_pod_says_why(task: OperatorPlane) -> None:
    await task.client.create(RESOURCE_QUOTA, no_room())
    await task.create(run_object("scribe-run", "scribe"))
    await task.until(AGENT_RUN, "scribe-run", has("AgentReady", "False", "FailedCreate"))
    await task.patch(JOB, "scribe-run", {"spec": {"activeDeadlineSeconds": 1}})
    done = await task.until(AGENT_RUN, "scribe-run", in_phase("Failed"))
    assert condition(done, "Complete")["reason"] == "Timeout"
    assert "exceeded quota: no-room" in condition(done, "Complete")["message"]
    assert "exceeded quota: no-room" in done["status"]["output"]


async def test_a_task_pod_that_no_node_takes_is_told(task: OperatorPlane) -> None:
    await task.create(run_object("scribe-run", "scribe"))
    running = await task.until(AGENT_RUN, "scribe-run", in_phase("Running"))
    why = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}
    await task.patch(POD, running["status"]["podName"], {"status": {"conditions": [why]}}, subresource="status")
    found = await task.until(AGENT_RUN, "scribe-run", has("AgentReady", "False", "Unschedulable"))
    assert "0/1 nodes are available" in condition(found, "AgentReady")["message"]
