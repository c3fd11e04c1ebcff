"""The whole chain with a scripted model, so that every word of it can be checked."""

from __future__ import annotations

import json
from typing import Any

from objects import agent, run


def requests_of(cluster: Any, model: str) -> list[dict[str, Any]]:
    """What the scripted model was asked, oldest first."""
    raw = cluster.kubectl("get", "--raw", f"/api/v1/namespaces/agents/services/{model}:8000/proxy/requests").stdout
    return [json.loads(line) for line in raw.splitlines() if line.strip()]


def finished(cluster: Any, name: str, timeout_s: float = 60) -> dict[str, Any]:
    cluster.kubectl(
        "wait", "--for=condition=Complete", f"agentrun/{name}", "-n", "agents", f"--timeout={timeout_s:.0f}s"
    )
    status: dict[str, Any] = cluster.get("agentrun", name)["status"]
    return status


def test_a_tool_call_runs_the_tool_and_the_next_turn_knows_the_first(scripted: Any, daemon: str) -> None:
    scripted.apply(run("chain-1", daemon, "Please list the workspace."))
    first = finished(scripted, "chain-1")
    assert first["phase"] == "Succeeded"
    assert first["output"] == "The tool said from-the-tool."
    assert first["toolCalls"] == 1
    proof = scripted.kubectl("exec", f"deployment/{daemon}", "-n", "agents", "--", "cat", "proof.txt")
    assert proof.stdout.strip() == "from-the-tool"

    scripted.apply(run("chain-2", daemon, "Now remember the port 9443."))
    second = finished(scripted, "chain-2")
    assert second["output"] == "I saved the port."

    scripted.apply(run("chain-3", daemon, "What was the port of the gateway?"))
    assert finished(scripted, "chain-3")["phase"] == "Succeeded"
    last = json.dumps(requests_of(scripted, "scripted")[-1])
    assert "Please list the workspace." in last and "from-the-tool" in last, "the conversation was not kept"
    assert "memory:context" in last and "The gateway listens on port 9443." in last, "the memory block is missing"


def test_the_memory_service_holds_what_the_model_saved(scripted: Any, daemon: str) -> None:
    scripted.apply(run("memory-1", daemon, "Please remember the port once more."))
    assert finished(scripted, "memory-1")["phase"] == "Succeeded"
    hits = scripted.raw(
        "/api/v1/namespaces/agents/services/agentops-memory:7437/proxy/search?q=gateway&project=e2e-daemon",
        token_of="agentops-memory-token",
    )
    assert [hit["title"] for hit in hits] == ["The port"]


def test_without_its_bearer_an_agent_answers_401(scripted: Any, daemon: str) -> None:
    refused = scripted.kubectl(
        "get", "--raw", f"/api/v1/namespaces/agents/services/{daemon}:4096/proxy/status", check=False
    )
    assert refused.returncode != 0
    assert "asked for the client to provide credentials" in refused.stderr, "kubectl's words for a 401"


def test_a_task_agent_answers_in_a_job(scripted: Any) -> None:
    scripted.apply(agent("e2e-task", mode="task"), run("task-1", "e2e-task", "Please list the workspace."))
    status = finished(scripted, "task-1")
    assert (status["phase"], status["mode"]) == ("Succeeded", "task")
    assert status["output"] == "The tool said from-the-tool."
    assert status["tokensUsed"] > 0
    scripted.kubectl("delete", "agent", "e2e-task", "-n", "agents")


def test_agentops_run_prints_the_whole_answer_and_exits_with_how_it_ended(scripted: Any, daemon: str) -> None:
    good = scripted.agentops("run", "-n", "agents", daemon, "Please list the workspace.")
    assert good.returncode == 0, good.stderr
    assert good.stdout == "The tool said from-the-tool.\n"
    assert "→ bash" in good.stderr

    large = scripted.agentops("run", "-n", "agents", "-q", daemon, "Please write a lot.")
    assert large.stdout == "0123456789abcdef" * 2560 + "\n"

    broken = scripted.agentops("run", "-n", "agents", daemon, "Please break.")
    assert broken.returncode == 1
    assert "401" in broken.stderr and "scripted" in broken.stderr

    absent = scripted.agentops("run", "-n", "agents", "nobody", "hello")
    assert absent.returncode == 2
    assert "no agent 'nobody' in namespace 'agents'" in absent.stderr


def test_a_second_run_waits_for_the_first(scripted: Any, daemon: str) -> None:
    scripted.apply(run("queue-1", daemon, "Please take your time."))
    scripted.eventually(
        lambda: scripted.get("agentrun", "queue-1").get("status", {}).get("phase") == "Running", "queue-1 runs"
    )
    scripted.apply(run("queue-2", daemon, "hello"))
    scripted.eventually(
        lambda: scripted.get("agentrun", "queue-2").get("status", {}).get("phase") == "Queued", "queue-2 is queued"
    )
    scripted.kubectl("patch", "agentrun", "queue-1", "-n", "agents", "--type=merge", "-p", '{"spec":{"cancel":true}}')
    assert finished(scripted, "queue-2")["phase"] == "Succeeded"
    first = scripted.get("agentrun", "queue-1")["status"]
    complete = next(c for c in first["conditions"] if c["type"] == "Complete")
    assert (first["phase"], complete["reason"]) == ("Failed", "Cancelled")


def test_editing_the_prompt_rolls_the_pod(scripted: Any, daemon: str) -> None:
    def pods() -> set[str]:
        items = scripted.get("pods", "-l", f"agents.agentops.io/agent={daemon},agents.agentops.io/component=runtime")
        return {p["metadata"]["name"] for p in items["items"] if not p["metadata"].get("deletionTimestamp")}

    before = pods()
    scripted.kubectl(
        "patch", "agent", daemon, "-n", "agents", "--type=merge", "-p", '{"spec":{"systemPrompt":"Be brief."}}'
    )
    scripted.eventually(lambda: len(pods()) == 1 and not pods() & before, "one new pod replaces the old one", 90)
    scripted.kubectl("wait", "--for=condition=Ready", f"agent/{daemon}", "-n", "agents", "--timeout=60s")
    scripted.apply(run("rolled-1", daemon, "hello"))
    assert finished(scripted, "rolled-1")["phase"] == "Succeeded"
    last = json.dumps(requests_of(scripted, "scripted")[-1])
    assert "Be brief." in last
    assert "Please list the workspace." in last, "the conversation did not survive the roll-out"


def test_a_drifted_field_is_repaired_and_a_foreign_one_is_left(scripted: Any, daemon: str) -> None:
    scripted.kubectl(
        "patch", "deployment", daemon, "-n", "agents", "--type=merge",
        "-p", '{"metadata":{"annotations":{"example.com/mine":"kept"}},"spec":{"replicas":3}}',
    )  # fmt: skip
    scripted.eventually(lambda: scripted.get("deployment", daemon)["spec"]["replicas"] == 1, "replicas are 1 again")
    assert scripted.get("deployment", daemon)["metadata"]["annotations"]["example.com/mine"] == "kept"
