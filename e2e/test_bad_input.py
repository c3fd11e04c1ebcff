"""Bad input ends in a condition, an Event or one line that names the object and the fix."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from objects import agent, meta, provider, run

from agentops.api.runtime_config import SCHEMA_VERSION


def agentops(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentops", *args],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **env},
    )  # fmt: skip


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_an_unknown_model_prefix_is_named_in_a_condition(scripted: Any) -> None:
    scripted.apply(agent("bad-model", model="nowhere/gpt"))
    said = scripted.eventually(
        lambda: [
            c["message"]
            for c in scripted.get("agent", "bad-model").get("status", {}).get("conditions", [])
            if c["status"] == "False" and "nowhere" in c.get("message", "")
        ],
        "a condition names the prefix",
    )
    assert "spec.model" in said[0] and "providerRefs" in said[0]
    scripted.kubectl("delete", "agent", "bad-model", "-n", "agents")


def test_a_missing_secret_is_named_until_it_appears(scripted: Any) -> None:
    scripted.apply(
        provider("keyed", "http://scripted.agents.svc:8000/v1", apiKeySecret={"name": "e2e-model-key", "key": "token"})
    )
    scripted.eventually(
        lambda: "e2e-model-key" in scripted.condition("provider/keyed", "SecretReady").get("message", ""),
        "the condition names the Secret",
    )
    assert scripted.condition("provider/keyed", "Ready")["status"] == "False"
    scripted.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": meta("e2e-model-key"), "stringData": {"token": "x"}}
    )
    scripted.eventually(
        lambda: scripted.condition("provider/keyed", "Ready").get("status") == "True", "the provider recovers"
    )
    scripted.kubectl("delete", "provider/keyed", "secret/e2e-model-key", "-n", "agents")


def test_an_unreachable_endpoint_is_a_condition_of_the_provider(scripted: Any) -> None:
    scripted.apply(provider("away", "http://nothing-here.agents.svc:8000/v1"))
    scripted.eventually(
        lambda: scripted.condition("provider/away", "EndpointReachable").get("status") == "False",
        "the endpoint is reported",
    )
    assert "nothing-here" in scripted.condition("provider/away", "EndpointReachable")["message"]
    scripted.kubectl("delete", "provider", "away", "-n", "agents")


def test_a_refused_key_fails_the_run_and_names_the_provider(scripted: Any, daemon: str) -> None:
    scripted.apply(run("refused-1", daemon, "Please break."))
    scripted.kubectl("wait", "--for=condition=Complete", "agentrun/refused-1", "-n", "agents", "--timeout=60s")
    status = scripted.get("agentrun", "refused-1")["status"]
    assert status["phase"] == "Failed"
    complete = next(c for c in status["conditions"] if c["type"] == "Complete")
    assert "401" in complete["message"] and "scripted" in complete["message"]


def test_a_schema_error_is_refused_at_the_door_with_the_field(installed: Any) -> None:
    refused = installed.kubectl("apply", "-f", "-", stdin=json.dumps(agent("wrong", mode="demon")), check=False)
    assert refused.returncode != 0
    assert 'spec.mode: Unsupported value: "demon": supported values: "daemon", "task"' in refused.stderr
    unknown = installed.kubectl("apply", "-f", "-", stdin=json.dumps(agent("wrong", promt="hi")), check=False)
    assert 'unknown field "spec.promt"' in unknown.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"),
        (json.dumps({"primaryModel": 5}), "primaryModel"),
        (json.dumps({"schemaVersion": SCHEMA_VERSION + 1}), f"schemaVersion {SCHEMA_VERSION + 1}"),
        (json.dumps({"primaryModel": "x/y", "providers": [{"name": "z", "baseURL": "http://z"}]}), "x/y"),
    ],
)
def test_a_malformed_config_is_one_line(tmp_path: Path, content: str, says: str) -> None:
    config, token = tmp_path / "config.json", tmp_path / "token"
    config.write_text(content)
    token.write_text("t")
    line = one_line(
        agentops(
            "runtime",
            "daemon",
            AGENT_CONFIG_PATH=str(config),
            AGENT_DATA_DIR=str(tmp_path / "state"),
            WORKSPACE=str(tmp_path / "work"),
            AGENT_LISTEN="127.0.0.1:0",
            AGENT_TOKEN_FILE=str(token),
        )
    )
    assert str(config) in line or says in line
    assert says in line


def test_a_taken_port_is_one_line_that_names_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for mode in ([], ["--detach"]):
            line = one_line(agentops("local", "up", *mode, "--state-dir", str(tmp_path / "s"), "--port", port))
            assert port in line


def test_a_state_dir_that_cannot_be_written_is_one_line() -> None:
    line = one_line(agentops("local", "up", "--state-dir", "/proc/agentops"))
    assert "/proc/agentops" in line


def test_a_second_up_on_a_live_state_dir_names_the_first(cluster: Any) -> None:
    if cluster.state_dir is None:
        pytest.skip("no local plane here")
    for mode in ([], ["--detach"]):
        line = one_line(agentops("local", "up", *mode, "--state-dir", str(cluster.state_dir)))
        assert str(cluster.state_dir) in line and "pid" in line
