"""What happens to a turn when something around it goes away."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import Any

from objects import agent, meta, run


def finished(cluster: Any, name: str, timeout_s: float = 60) -> dict[str, Any]:
    cluster.kubectl(
        "wait", "--for=condition=Complete", f"agentrun/{name}", "-n", "agents", f"--timeout={timeout_s:.0f}s"
    )
    status: dict[str, Any] = cluster.get("agentrun", name)["status"]
    return status


def running(cluster: Any, name: str) -> str:
    """The pod that has the run, once it says so."""
    cluster.eventually(
        lambda: cluster.get("agentrun", name).get("status", {}).get("phase") == "Running", f"{name} runs"
    )
    return str(cluster.get("agentrun", name)["status"]["podName"])


def prompts(cluster: Any, model: str) -> list[str]:
    """The user's last words of every request the scripted model got, oldest first."""
    raw = cluster.kubectl("get", "--raw", f"/api/v1/namespaces/agents/services/{model}:8000/proxy/requests").stdout
    requests = [json.loads(line) for line in raw.splitlines() if line.strip()]
    bodies = [request.get("body", request) for request in requests]
    return [str([m for m in body["messages"] if m["role"] == "user"][-1]["content"]) for body in bodies]


def test_a_deleted_pod_finishes_its_turn_and_the_next_one_knows_it(scripted: Any, daemon: str) -> None:
    scripted.apply(run("evicted-1", daemon, "Please count slowly, evicted."))
    pod = running(scripted, "evicted-1")
    scripted.kubectl("delete", "pod", pod, "-n", "agents", "--wait=false")
    status = finished(scripted, "evicted-1")
    assert (status["phase"], status["output"]) == ("Succeeded", "onetwothreefourfivesix")
    scripted.apply(run("evicted-2", daemon, "hello after the eviction"))
    assert finished(scripted, "evicted-2")["podName"] != pod
    memory = scripted.raw(
        f"/api/v1/namespaces/agents/services/{daemon}:4096/proxy/working-memory", token_of=f"{daemon}-token"
    )
    said = [part.get("text", "") for message in memory for part in message["content"]]
    assert "onetwothreefourfivesix" in said, "the turn of the deleted pod is not in the conversation"
    assert sum("evicted." in prompt for prompt in prompts(scripted, "scripted")) == 1, "the prompt was asked twice"


def test_a_run_of_the_same_name_is_a_new_run(scripted: Any, daemon: str) -> None:
    for prompt in ("hello once", "hello twice", "hello twice"):
        scripted.apply(run("again", daemon, prompt))
        assert finished(scripted, "again")["phase"] == "Succeeded"
        scripted.kubectl("delete", "agentrun", "again", "-n", "agents")
    asked = prompts(scripted, "scripted")
    assert (asked.count("hello once"), asked.count("hello twice")) == (1, 2)


def test_ctrl_c_cancels_the_run_and_says_so_in_the_exit_code(scripted: Any, daemon: str) -> None:
    command = [sys.executable, "-m", "agentops", "run", "-n", "agents", daemon, "Please take your time."]
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        # A shell's background job ignores SIGINT, and so would what it starts.
        with subprocess.Popen(
            command, env=scripted.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:  # fmt: skip
            assert process.stderr is not None
            name = process.stderr.readline().decode().split("/")[1].split()[0]
            running(scripted, name)
            process.send_signal(number)
            _, said = process.communicate(timeout=20)
        assert process.returncode == code, said
        assert b"cancelled" in said
        assert b"Unclosed" not in said
        assert finished(scripted, name)["phase"] == "Failed"
        assert scripted.condition(f"agentrun/{name}", "Complete")["reason"] == "Cancelled"


def test_a_prompt_can_be_piped_in(scripted: Any, daemon: str) -> None:
    for arguments in ((daemon,), (daemon, "-")):
        piped = subprocess.run(
            [sys.executable, "-m", "agentops", "run", "-n", "agents", "-q", *arguments],
            input="Please list the workspace.\n", env=scripted.env, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert (piped.returncode, piped.stdout) == (0, "The tool said from-the-tool.\n"), piped.stderr


def test_tools_see_the_variables_of_the_spec_and_no_secret(scripted: Any) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": meta("e2e-env"), "stringData": {"k": "hush-hush"}}
    secrets = [{"name": "HUSH", "secretRef": {"name": "e2e-env", "key": "k"}}]
    scripted.apply(secret, agent("e2e-env", mode="task", env={"REGION": "eu-1"}, secrets=secrets))
    scripted.apply(run("env-1", "e2e-env", "Please show the environment."))
    output = finished(scripted, "env-1")["output"]
    assert "REGION=eu-1" in output
    assert "hush-hush" not in output
    scripted.kubectl("delete", "agent,secret", "e2e-env", "-n", "agents")


def test_a_finished_run_is_known_at_once(scripted: Any, daemon: str) -> None:
    started = time.monotonic()
    for number in range(5):
        scripted.apply(run(f"quick-{number}", daemon, "hello"))
        assert finished(scripted, f"quick-{number}")["phase"] == "Succeeded"
    assert time.monotonic() - started < 15, "five short runs one after the other"
