"""Nothing happens when nothing changes, and everything ends when it is deleted."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from objects import agent, run

WINDOW_S = 60.0
WRITES = {"create", "update", "patch", "delete", "deletecollection"}


def operator_writes(cluster: Any, after: float) -> list[str]:
    """Writes by the operator since `after` (epoch seconds), Leases apart, from the plane's audit log."""
    found = []
    for line in (cluster.state_dir / "audit.log").read_text().splitlines():
        event = json.loads(line)
        stamp = time.strptime(event["requestReceivedTimestamp"][:19], "%Y-%m-%dT%H:%M:%S")
        reference = event.get("objectRef") or {}
        if (
            event["user"]["username"] == "system:serviceaccount:agent-system:agentops-operator"
            and event["verb"] in WRITES
            and reference.get("resource") != "leases"
            and time.mktime(stamp) - time.timezone >= after
        ):
            found.append(f"{event['verb']} {reference.get('resource')}/{reference.get('name')}")
    return found


def test_the_operator_writes_nothing_while_nothing_changes(scripted: Any, daemon: str) -> None:
    if scripted.state_dir is None:
        pytest.skip("the audit log of a real cluster is not ours to read")
    scripted.kubectl("wait", "--for=condition=Ready", f"agent/{daemon}", "-n", "agents", "--timeout=60s")
    scripted.eventually(
        lambda: not operator_writes(scripted, time.time() - 5), "the operator has come to rest", timeout_s=60
    )
    start = time.time()
    time.sleep(WINDOW_S)
    assert operator_writes(scripted, start) == []


def test_deleting_everything_ends_while_a_run_is_running(scripted: Any, tmp_path: Any) -> None:
    name = "e2e-doomed"
    manifests = tmp_path / "all.json"
    objects = [agent(name, storage={"size": "1Gi"}), run("doomed-1", name, "Please take your time.")]
    manifests.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    scripted.kubectl("apply", "-f", str(manifests))
    scripted.eventually(
        lambda: scripted.get("agentrun", "doomed-1").get("status", {}).get("phase") == "Running", "the run runs", 90
    )
    started = time.monotonic()
    scripted.kubectl("delete", "--ignore-not-found", "-f", str(manifests), "--timeout=60s", timeout_s=90)
    assert time.monotonic() - started < 60
    gone = ("deployment", "pods", "pvc", "configmap", "secret", "service")
    scripted.eventually(
        lambda: not any(scripted.get(kind, "-l", f"agents.agentops.io/agent={name}")["items"] for kind in gone),
        "no child of the agent is left",
        60,
    )
