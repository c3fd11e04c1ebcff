"""What Deployments and pods mean for an Agent."""

from __future__ import annotations

from typing import Any

from agentops.api import labels
from agentops.operator.rollout import container_failure, observe, pick_pod


def deployment(hash_: str = "new", *, generation: int = 2, observed: int = 2, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "hello", "generation": generation},
        "spec": {"replicas": 1, "template": {"metadata": {"annotations": {labels.CONFIG_HASH: hash_}}}},
        "status": {"observedGeneration": observed, **status},
    }


def pod(
    name: str = "p", hash_: str = "new", *, ready: bool = True, created: str = "2026-01-01T00:00:00Z", **container: Any
) -> dict[str, Any]:
    status: dict[str, Any] = {
        "podIP": "10.0.0.1",
        "conditions": [{"type": "Ready", "status": str(ready)}],
        "containerStatuses": [{"name": labels.RUNTIME_CONTAINER, "ready": ready, **container}],
    }
    return {
        "metadata": {"name": name, "annotations": {labels.CONFIG_HASH: hash_}, "creationTimestamp": created},
        "status": status,
    }


def test_running_means_every_replica_is_current_and_ready() -> None:
    assert observe(deployment(updatedReplicas=1, readyReplicas=1), []).running


def test_a_surge_is_not_running_until_the_old_pod_is_gone() -> None:
    found = observe(deployment(replicas=2, updatedReplicas=1, readyReplicas=1), [])
    assert not found.running
    assert found.message.endswith("1 ready; 1 of an older one still there")


def test_a_template_the_controller_has_not_seen_is_not_running() -> None:
    assert not observe(deployment(observed=1, updatedReplicas=1, readyReplicas=1), []).running


def test_a_ready_pod_of_the_old_template_is_not_running() -> None:
    found = observe(deployment(updatedReplicas=0, readyReplicas=1), [pod(hash_="old")])
    assert not found.running
    assert found.reason == "RollingOut"


def test_no_replicas_at_all_is_not_running() -> None:
    assert not observe(deployment(updatedReplicas=0, readyReplicas=0), []).running


def test_a_crash_loop_tells_the_last_termination_message() -> None:
    state = {
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
        "lastState": {"terminated": {"exitCode": 2, "reason": "Error", "message": "config.json: not JSON\n"}},
    }
    found = observe(deployment(), [pod(ready=False, **state)])
    assert found.failing
    assert found.reason == "CrashLoopBackOff"
    assert "config.json: not JSON (exit code 2)" in found.message


def test_an_image_that_cannot_be_pulled_is_named() -> None:
    state = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": 'pulling "x:1"'}}}
    found = observe(deployment(), [pod(ready=False, **state)])
    assert found.reason == "ImagePullBackOff"
    assert "x:1" in found.message


def test_a_restarted_container_that_is_not_ready_yet_is_still_failing() -> None:
    state = {"state": {"running": {}}, "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    assert container_failure(pod(ready=False, **state)) == (
        "OOMKilled",
        f"container {labels.RUNTIME_CONTAINER}: exit code 137, SIGKILL",
    )


def ended(code: int, *lines: str) -> str:
    """What an Agent says of a container that ended with these last lines of its log."""
    state = {"lastState": {"terminated": {"exitCode": code, "reason": "Error", "message": "\n".join(lines)}}}
    failure = container_failure(pod(ready=False, **state))
    assert failure is not None
    return failure[1].removeprefix(f"container {labels.RUNTIME_CONTAINER}: ")


INFO = '{"ts":"x","level":"info","logger":"runtime.agent","event":"turn.end","state":"succeeded"}'
WARNING = '{"ts":"x","level":"warning","logger":"runtime.memory","event":"memory.away","error":"no route"}'
ERROR = '{"ts":"x","level":"error","logger":"runtime","event":"store.broken","error":"disk full"}'


def test_a_killed_container_is_not_explained_by_what_it_happened_to_log_before() -> None:
    assert ended(137, 'f a line"}', INFO, WARNING, INFO) == "exit code 137, SIGKILL"


def test_of_a_log_the_last_error_is_told() -> None:
    assert ended(1, WARNING, ERROR, INFO) == "store.broken: disk full (exit code 1)"
    assert ended(1, INFO, WARNING) == "exit code 1", "a warning is why nothing ended"


def test_a_plain_line_after_the_log_is_told() -> None:
    assert (
        ended(2, INFO, "agentops: AGENT_TOKEN_FILE is not set") == "agentops: AGENT_TOKEN_FILE is not set (exit code 2)"
    )


def test_a_restarted_container_that_is_ready_again_is_fine() -> None:
    state = {"state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1}}}
    assert container_failure(pod(ready=True, **state)) is None


def test_trouble_of_old_pods_is_not_told() -> None:
    state = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    assert observe(deployment(), [pod(hash_="old", ready=False, **state)]).reason == "RollingOut"


def test_a_pod_no_node_takes_is_unschedulable() -> None:
    waiting = pod(ready=False)
    waiting["status"]["conditions"].append({"type": "PodScheduled", "status": "False", "message": "0/1 nodes"})
    found = observe(deployment(), [waiting])
    assert (found.reason, found.failing) == ("Unschedulable", False)
    assert "0/1 nodes" in found.message


def test_a_refused_pod_is_told_by_the_deployment() -> None:
    refused = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
    found = observe(deployment(conditions=[refused]), [])
    assert (found.reason, found.message) == ("ReplicaFailure", "exceeded quota")


def test_prompts_go_to_a_ready_pod_of_the_current_hash_the_oldest_first() -> None:
    pods = [
        pod("old-hash", "old"),
        pod("not-ready", ready=False),
        pod("younger", created="2026-01-01T00:00:09Z"),
        pod("elder", created="2026-01-01T00:00:01Z"),
    ]
    chosen = pick_pod(pods, "new")
    assert chosen is not None
    assert chosen["metadata"]["name"] == "elder"


def test_a_pod_that_is_going_gets_no_prompt() -> None:
    going = pod()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert pick_pod([going], "new") is None
