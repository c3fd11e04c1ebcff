"""`agentops operator` as a process: what stops it at once, and with which line."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx2
import pytest
from support.roles import Role


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--kubeconfig", "/nonexistent"], "agentops: kubeconfig '/nonexistent' does not exist"),
        (["--watch-namespaces", "agents,Not_One"], "agentops: --watch-namespaces: 'Not_One' is not a namespace"),
        (["--run-ttl", "soon"], "agentops: --run-ttl: 'soon' is not a duration"),
        (["--run-ttl", "-1h"], "agentops: --run-ttl: '-1h' is negative"),
        (["--explain", "--metrics-bind-address", "0"], "agentops: --explain: it is served beside /metrics"),
    ],
)
def test_a_bad_flag_ends_the_operator_with_one_line_and_code_2(arguments: list[str], line: str) -> None:
    with Role("operator", *arguments) as role:
        assert role.wait() == 2
        assert len(role.lines) == 1
        assert role.output.startswith(line)


def kubeconfig(path: Path, server: str) -> str:
    path.write_text(
        f"""
apiVersion: v1
kind: Config
current-context: c
clusters: [{{name: c, cluster: {{server: "{server}"}}}}]
users: [{{name: u, user: {{token: t}}}}]
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
"""
    )
    return str(path)


def test_a_taken_port_ends_the_operator_with_one_line_and_code_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = kubeconfig(tmp_path / "config", "http://127.0.0.1:9")
        arguments = ["--kubeconfig", config, "--metrics-bind-address", f"127.0.0.1:{port}"]
        with Role("operator", *arguments, "--health-probe-bind-address", "0") as role:
            assert role.wait() == 2
            assert role.lines[-1].startswith("agentops: ")
            assert str(port) in role.lines[-1]


def test_sigterm_ends_an_operator_that_cannot_reach_its_api_server(tmp_path: Path) -> None:
    config = kubeconfig(tmp_path / "config", "http://127.0.0.1:9")
    arguments = ["--kubeconfig", config, "--metrics-bind-address", "0", "--health-probe-bind-address", "0"]
    with Role("operator", *arguments) as role:
        role.ready("operator.starting")
        assert role.stop() == 0


@pytest.mark.parametrize("explain", [True, False])
def test_why_objects_were_reconciled_is_shown_when_asked_for(tmp_path: Path, explain: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["--kubeconfig", kubeconfig(tmp_path / "config", "http://127.0.0.1:9"), *["--explain"] * explain]
    addresses = ["--metrics-bind-address", f"127.0.0.1:{port}", "--health-probe-bind-address", "0"]
    with Role("operator", *arguments, *addresses) as role:
        role.ready("reflector.failed")  # its servers answer before its caches are filled
        answer = httpx2.get(f"http://127.0.0.1:{port}/debug/queue", trust_env=False)
        assert answer.status_code == (200 if explain else 404)
        if explain:
            assert {"agent", "agentrun", "provider"} <= {each["name"] for each in answer.json()["controllers"]}
