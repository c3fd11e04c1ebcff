"""From container states to pod status."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from attrs import evolve
from support.kubelet import make_pod

from agentops.local.kubelet.status import (
    ContainerRecord,
    Running,
    Terminated,
    Waiting,
    pod_phase,
    pod_status,
    record_from_status,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUNNING = ContainerRecord("main", "i", Running(NOW), ready=True, started=True)


def done(code: int) -> ContainerRecord:
    return ContainerRecord("main", "i", Terminated(code, "Error" if code else "Completed", NOW, NOW))


def test_the_phase_is_final_only_when_the_pod_has_ended() -> None:
    pod = make_pod(restartPolicy="Never")
    assert pod_phase(pod, {"main": done(0)}) == "Running"
    assert pod_phase(pod, {"main": done(0)}, ended=True) == "Succeeded"
    assert pod_phase(pod, {"main": done(1)}, ended=True) == "Failed"


def test_a_container_between_runs_leaves_the_pod_running() -> None:
    record = evolve(done(1), state=Waiting("CrashLoopBackOff"), last=done(1).state)
    assert pod_phase(make_pod(), {"main": record}) == "Running"


def test_one_waiting_container_keeps_the_pod_pending() -> None:
    pod = make_pod({"name": "main"}, {"name": "b"})
    assert pod_phase(pod, {"main": RUNNING, "b": ContainerRecord("b", "i", Waiting("ContainerCreating"))}) == "Pending"


def test_condition_times_change_only_with_the_condition() -> None:
    pod = make_pod()
    pod["status"] = pod_status(pod, {"main": RUNNING}, now=NOW, sandbox_ready=True)
    later = NOW + timedelta(hours=1)
    unready = evolve(RUNNING, ready=False)
    conditions = {c["type"]: c for c in pod_status(pod, {"main": unready}, now=later, sandbox_ready=True)["conditions"]}
    assert conditions["Initialized"]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert conditions["Ready"]["lastTransitionTime"] == "2026-01-01T01:00:00Z"
    assert conditions["Ready"]["message"] == "containers with unready status: [main]"


def test_a_status_says_which_generation_it_is_of_and_what_containers_have_been_given() -> None:
    resources = {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}
    pod = make_pod({"name": "main", "resources": resources})
    pod["metadata"]["generation"] = 4
    pod.setdefault("status", {})["conditions"] = [{"type": "example.com/gate", "status": "False"}]
    status = pod_status(pod, {"main": RUNNING}, now=NOW)
    assert status["observedGeneration"] == 4
    assert {c["type"]: c.get("observedGeneration") for c in status["conditions"]} == {
        "PodReadyToStartContainers": 4, "Initialized": 4, "Ready": 4, "ContainersReady": 4, "PodScheduled": 4,
        "example.com/gate": None,
    }  # fmt: skip
    given = status["containerStatuses"][0]
    assert (given["resources"], given["allocatedResources"]) == (resources, {"cpu": "1"})


def test_a_closed_readiness_gate_keeps_the_pod_unready_and_foreign_conditions_stay() -> None:
    pod = make_pod(readinessGates=[{"conditionType": "example.com/gate"}])
    pod["status"]["conditions"] = [{"type": "example.com/gate", "status": "False"}]
    conditions = {c["type"]: c for c in pod_status(pod, {"main": RUNNING}, now=NOW)["conditions"]}
    assert conditions["ContainersReady"]["status"] == "True"
    assert conditions["Ready"]["reason"] == "ReadinessGatesNotReady"
    assert conditions["example.com/gate"]["status"] == "False"


def test_what_was_written_can_be_read_back_after_a_restart() -> None:
    record = ContainerRecord(
        "main",
        "shell:1",
        Waiting("CrashLoopBackOff", "back-off 10s"),
        last=done(3).state,
        image_id="sha256:1",
        container_id="agentops://2",
        restart_count=4,
    )
    status = pod_status(make_pod(), {"main": record}, now=NOW)["containerStatuses"][0]
    assert record_from_status(status) == record


def test_the_qos_class_the_server_chose_is_kept() -> None:
    pod = make_pod()
    pod["status"]["qosClass"] = "Burstable"
    assert pod_status(pod, {"main": RUNNING}, now=NOW)["qosClass"] == "Burstable"


def test_an_init_container_is_ready_when_it_has_done_its_work() -> None:
    pod = make_pod(initContainers=[{"name": "one"}, {"name": "two"}, {"name": "side", "restartPolicy": "Always"}])
    side = evolve(RUNNING, name="side", ready=False)
    records = {"main": RUNNING, "one": done(0), "two": done(1), "side": side}
    found = pod_status(pod, records, now=NOW)["initContainerStatuses"]
    assert [status["ready"] for status in found] == [True, False, False]
