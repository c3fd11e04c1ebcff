"""What a model does wrong ends a run with a reason and the words that help, in a daemon and in a task alike."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from cluster import Cluster
from objects import agent, provider, run, scripted_model

SCRIPT = """
turns:
  - when: {user: a hundred kilobytes}
    text: "0123456789abcdef"
    repeat: 6400
    chunk_chars: 4096
  - when: {user: refuse the key}
    error: {status: 401, body: {error: {message: the key sk-secret was revoked, type: invalid_request_error}}}
  - when: {user: too busy, model: first}
    error: {status: 429}
  - when: {user: too busy, model: second}
    text: The second model had time.
  - when: {user: break in the middle, model: first}
    text: [The first, " half of", " an answer"]
    breaks: {after: 2, with: error}
  - when: {user: break in the middle, model: second}
    text: A whole answer.
  - when: {user: cut the connection}
    text: [The first, " half of", " an answer"]
    breaks: {after: 2, with: cut}
  - when: {user: stop short}
    text: [The first, " half of", " an answer"]
    breaks: {after: 2, with: end}
  - when: {user: never answer}
    hang: true
  - when: {user: garble a call}
    tool_calls:
      - {name: bash, raw: '{"command": "echo gar'}
  - when: {tool_result: not valid JSON}
    text: The tool did not understand me.
"""
WHOLE_PROMPT = "Please write a hundred kilobytes."
WHOLE = "0123456789abcdef" * 6400
HANG_TIMEOUT = "12s"
"""Also what a task's pod needs to start on a busy machine."""

PROMPTS = {
    "refused": "Please refuse the key.",
    "broken": "Please break in the middle.",
    "cut": "Please cut the connection.",
    "short": "Please stop short.",
    "garbled": "Please garble a call.",
}
"""By run: what is asked of an agent without a fallback."""
MODES = ("daemon", "task")


def whole_answer(cluster: Cluster, mode: str) -> subprocess.Popen[str]:
    """`agentops run` that asks for more than a status holds."""
    command = [sys.executable, "-m", "agentops", "run", "-n", "agents", "-q", f"plain-{mode}", WHOLE_PROMPT]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=cluster.env)


@pytest.fixture(scope="session")
def faults(installed: Cluster) -> Iterator[Cluster]:
    """A model with faults, agents of both modes, and all the runs, started at once."""
    agents, runs = [*scripted_model("faults", SCRIPT), provider("spare", "http://faults.agents.svc:8000/v1")], []
    for mode in MODES:
        common: dict[str, Any] = {"mode": mode, "model": "faults/first"}
        if mode == "task":
            common["concurrency"] = {"maxRuns": 2}
        both = {"providerRefs": [{"name": "faults"}, {"name": "spare"}], "fallbackModels": ["spare/second"]}
        agents += [
            agent(f"plain-{mode}", "faults", **common),
            agent(f"hanging-{mode}", "faults", **common, timeout=HANG_TIMEOUT),
            agent(f"guarded-{mode}", "faults", **{**common, **both}),
        ]
        runs += [
            run(f"silent-{mode}", f"hanging-{mode}", "Please never answer."),
            run(f"busy-{mode}", f"guarded-{mode}", "You are too busy."),
            *(run(f"{name}-{mode}", f"plain-{mode}", prompt) for name, prompt in PROMPTS.items()),
        ]
    runs.append(run("restarted-daemon", "guarded-daemon", "Please break in the middle."))
    installed.apply(*agents, *runs)
    yield installed
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": [*runs, *reversed(agents)]})
    installed.kubectl("delete", "-f", "-", "--wait=false", "--ignore-not-found", stdin=everything)


@pytest.fixture(scope="session")
def whole_answers(faults: Cluster) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """By mode; both at the same time, behind the runs that are there."""
    started = {mode: whole_answer(faults, mode) for mode in MODES}
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


def ended(cluster: Cluster, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Status and condition Complete of a run that is over."""
    cluster.kubectl("wait", "--for=condition=Complete", f"agentrun/{name}", "-n", "agents", "--timeout=120s",
                    timeout_s=130)  # fmt: skip
    status = cluster.get("agentrun", name)["status"]
    return status, next(item for item in status["conditions"] if item["type"] == "Complete")


def says(text: str, *parts: str) -> None:
    missing = [part for part in parts if part not in text]
    assert not missing, f"{missing} not in: {text}"


@pytest.mark.parametrize("mode", MODES)
def test_a_refused_key_names_provider_status_and_where_the_key_comes_from(
    faults: Cluster, whole_answers: dict[str, subprocess.Popen[str]], mode: str
) -> None:
    status, complete = ended(faults, f"refused-{mode}")
    assert (status["phase"], complete["reason"]) == ("Failed", "Failed")
    says(complete["message"], "provider faults", "401", "apiKeySecret")
    assert "sk-secret" not in complete["message"], "a provider that quotes the key must not be quoted"
    assert status["output"] == complete["message"]


@pytest.mark.parametrize("mode", MODES)
def test_a_busy_model_gives_way_to_the_fallback(faults: Cluster, mode: str) -> None:
    status, complete = ended(faults, f"busy-{mode}")
    assert (status["phase"], complete["reason"]) == ("Succeeded", "Succeeded"), complete
    assert status["output"] == "The second model had time."
    assert status["model"] == "spare/second"


def test_half_an_answer_before_an_error_is_replaced_by_the_fallback(faults: Cluster) -> None:
    status, complete = ended(faults, "restarted-daemon")
    assert (status["phase"], complete["reason"]) == ("Succeeded", "Succeeded"), complete
    assert status["output"] == "A whole answer."


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", ["broken", "cut", "short"])
def test_a_stream_that_does_not_end_fails_the_run_and_names_the_provider(
    faults: Cluster, fault: str, mode: str
) -> None:
    status, complete = ended(faults, f"{fault}-{mode}")
    assert (status["phase"], complete["reason"]) == ("Failed", "Failed")
    says(complete["message"], "provider faults")


@pytest.mark.parametrize("mode", MODES)
def test_a_model_that_never_answers_is_stopped_at_the_timeout(faults: Cluster, mode: str) -> None:
    status, complete = ended(faults, f"silent-{mode}")
    assert (status["phase"], complete["reason"]) == ("Failed", "Timeout")
    says(complete["message"], "timed out")


@pytest.mark.parametrize("mode", MODES)
def test_a_garbled_tool_call_is_answered_and_the_turn_goes_on(faults: Cluster, mode: str) -> None:
    status, complete = ended(faults, f"garbled-{mode}")
    assert (status["phase"], complete["reason"]) == ("Succeeded", "Succeeded"), complete
    assert status["output"] == "The tool did not understand me."
    assert status["toolCalls"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_hundred_kilobytes_arrive_whole(
    faults: Cluster, whole_answers: dict[str, subprocess.Popen[str]], mode: str
) -> None:
    printed, errors = whole_answers[mode].communicate(timeout=120)
    assert whole_answers[mode].returncode == 0, errors
    assert printed.strip() == WHOLE
    [found] = [
        item
        for item in faults.get("agentrun")["items"]
        if (item["spec"]["agentRef"], item["spec"]["prompt"]) == (f"plain-{mode}", WHOLE_PROMPT)
    ]
    status = found["status"]
    assert status["outputTruncated"] is True
    assert status["output"] == WHOLE[: 16 * 1024]
    assert status["outputDigest"] == "sha256:" + hashlib.sha256(WHOLE.encode()).hexdigest()
    stored = faults.get("configmap", status["outputRef"]["name"])
    assert stored["data"][status["outputRef"]["key"]] == WHOLE
    assert stored["metadata"]["ownerReferences"][0]["uid"] == found["metadata"]["uid"]
    faults.kubectl("delete", "agentrun", found["metadata"]["name"], "-n", "agents", "--wait=false")
