"""A whole plane with real pods: what a user sees from `kubectl apply` to a crash and back."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.plane import PlaneProcess, plane_process

from agentops import __version__

IMAGE = f"agentops:{__version__}"

APP = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: demo}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data, namespace: demo}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: mem, namespace: demo}}
spec:
  selector: {{matchLabels: {{app: mem}}}}
  template:
    metadata: {{labels: {{app: mem}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: mem
        image: {IMAGE}
        args: [memory, --insecure, --db, /data/m.db]
        readinessProbe: {{httpGet: {{path: /readyz, port: 7437}}, periodSeconds: 1}}
        volumeMounts: [{{name: d, mountPath: /data}}]
      volumes: [{{name: d, persistentVolumeClaim: {{claimName: data}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: mem, namespace: demo}}
spec: {{selector: {{app: mem}}, ports: [{{port: 7437}}]}}
"""


def job(name: str, *command: str) -> str:
    spec = {"restartPolicy": "Never", "containers": [{"name": "c", "image": IMAGE, "command": list(command)}]}
    return json.dumps(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "namespace": "demo"},
            "spec": {"backoffLimit": 3, "template": {"spec": spec}},
        }
    )


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlaneProcess]:
    """One plane for the tests that leave it running, with APP rolled out."""
    with plane_process(tmp_path_factory.mktemp("pods") / "state", "--backoff-scale", "0.05") as plane:
        start(plane)
        yield plane


def start(plane: PlaneProcess) -> None:
    plane.kubectl("apply", "-f", "-", input=APP)
    plane.kubectl("-n", "demo", "rollout", "status", "deployment/mem", "--timeout=60s")


def soon(check: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """Poll until the check returns something true."""
    deadline = time.monotonic() + timeout_s
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s"
        time.sleep(0.05)
    return found


def processes_below(folder: Path) -> list[int]:
    """Processes that carry a pod's root below `folder` in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            if b"AGENTOPS_ROOT=" + str(folder).encode() in environ:
                found.append(int(entry.name))
    return found


def test_apply_twice_changes_nothing(plane: PlaneProcess) -> None:
    again = plane.kubectl("apply", "-f", "-", input=APP).stdout
    assert [line.rpartition(" ")[2] for line in again.splitlines()] == ["unchanged"] * 4


def test_restart_history_and_undo(plane: PlaneProcess) -> None:
    plane.kubectl("-n", "demo", "rollout", "restart", "deployment/mem")
    plane.kubectl("-n", "demo", "rollout", "status", "deployment/mem", "--timeout=60s")
    history = plane.kubectl("-n", "demo", "rollout", "history", "deployment/mem").stdout
    assert re.findall(r"^(\d+) ", history, re.MULTILINE) == ["1", "2"]
    plane.kubectl("-n", "demo", "rollout", "undo", "deployment/mem")
    plane.kubectl("-n", "demo", "rollout", "status", "deployment/mem", "--timeout=60s")
    history = plane.kubectl("-n", "demo", "rollout", "history", "deployment/mem").stdout
    assert re.findall(r"^(\d+) ", history, re.MULTILINE) == ["2", "3"]
    plane.kubectl("-n", "demo", "wait", "--for=condition=Available", "deployment/mem", "--timeout=30s")


def test_what_an_attached_program_says_is_printed_once_and_its_exit_code_is_kubectls(plane: PlaneProcess) -> None:
    done = plane.kubectl(
        "run", "at1", f"--image={IMAGE}", "--rm", "-i", "--restart=Never", "--command", "--",
        "sh", "-c", "read x; echo got $x; exit 3", input="hello\n", check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stdout.count("got hello") == 1
    assert "falling back to streaming logs" not in done.stderr


def test_a_pod_that_runs_is_resized(plane: PlaneProcess) -> None:
    size = {"requests": {"memory": "300Mi"}, "limits": {"memory": "400Mi"}}
    overrides = {
        "spec": {"containers": [{"name": "fit", "image": IMAGE, "command": ["sleep", "60"], "resources": size}]}
    }
    plane.kubectl("run", "fit", f"--image={IMAGE}", "--overrides", json.dumps(overrides))
    plane.kubectl("wait", "--for=condition=Ready", "pod/fit", "--timeout=30s")
    patch = {"spec": {"containers": [{"name": "fit", "resources": {"limits": {"memory": "500Mi"}}}]}}
    plane.kubectl("patch", "pod", "fit", "--subresource", "resize", "-p", json.dumps(patch))

    def resized() -> bool:
        status = json.loads(plane.kubectl("get", "pod", "fit", "-o", "json").stdout)["status"]
        given = status["containerStatuses"][0]["resources"]["limits"]["memory"]
        return (given, status["observedGeneration"]) == ("500Mi", 2)

    soon(resized)
    plane.kubectl("delete", "pod", "fit", "--now")


def test_describe_tells_the_story(plane: PlaneProcess) -> None:
    def told() -> bool:
        text = plane.kubectl("-n", "demo", "describe", "deployment", "mem").stdout
        return "ScalingReplicaSet" in text and "Scaled up replica set mem-" in text

    assert soon(told)


def test_an_undeployable_image_exceeds_its_deadline_and_keeps_the_old_pod(plane: PlaneProcess) -> None:
    patch = {"spec": {"progressDeadlineSeconds": 2}}
    plane.kubectl("-n", "demo", "patch", "deployment", "mem", "-p", json.dumps(patch))
    plane.kubectl("-n", "demo", "set", "image", "deployment/mem", "mem=nowhere/nothing:1")
    status = plane.kubectl("-n", "demo", "rollout", "status", "deployment/mem", "--timeout=30s", check=False)
    assert status.returncode == 1
    assert 'deployment "mem" exceeded its progress deadline' in status.stderr
    plane.kubectl("-n", "demo", "wait", "--for=condition=Available", "deployment/mem", "--timeout=5s")
    plane.kubectl("-n", "demo", "rollout", "undo", "deployment/mem")
    plane.kubectl("-n", "demo", "rollout", "status", "deployment/mem", "--timeout=60s")


def test_a_job_that_fails_is_retried_and_then_fails(plane: PlaneProcess) -> None:
    plane.kubectl("apply", "-f", "-", input=job("broken", "/bin/sh", "-c", "exit 3"))
    plane.kubectl("-n", "demo", "wait", "--for=condition=Failed", "job/broken", "--timeout=60s")
    state = json.loads(plane.kubectl("-n", "demo", "get", "job", "broken", "-o", "json").stdout)["status"]
    assert state["failed"] == 4
    assert [c["type"] for c in state["conditions"]] == ["FailureTarget", "Failed"]


def test_deleting_the_manifests_ends_and_leaves_nothing(plane: PlaneProcess) -> None:
    started = time.monotonic()
    # the namespace goes first, and with it what is named after it, as on any cluster
    plane.kubectl("delete", "--ignore-not-found", "-f", "-", input=APP, timeout_s=60)
    assert time.monotonic() - started < 30
    assert plane.kubectl("get", "pv", "-o", "name").stdout == ""
    assert list((plane.state_dir / "volumes").iterdir()) == []
    assert soon(lambda: not processes_below(plane.state_dir / "pods"))


def test_after_a_crash_no_pod_is_left_and_the_next_plane_goes_on(tmp_path: Path) -> None:
    with plane_process(tmp_path / "state") as plane:
        start(plane)
        plane.kubectl("apply", "-f", "-", input=job("long", "/bin/sleep", "3600"))
        plane.kubectl("-n", "demo", "wait", "--for=jsonpath={.status.ready}=1", "job/long", "--timeout=30s")
        assert processes_below(plane.state_dir / "pods")
        plane.kill()
        assert soon(lambda: not processes_below(plane.state_dir / "pods"), timeout_s=10)
    with plane_process(tmp_path / "state") as plane:

        def restarted() -> bool:
            path = "jsonpath={.items[0].status.containerStatuses[0].restartCount}"
            return plane.kubectl("-n", "demo", "get", "pods", "-l", "app=mem", "-o", path).stdout == "1"

        assert soon(restarted)
        plane.kubectl("-n", "demo", "wait", "--for=condition=Available", "deployment/mem", "--timeout=30s")
        path = "jsonpath={.items[*].status.phase} {.items[*].status.containerStatuses[0].state.terminated.exitCode}"

        def lost_pod_failed() -> bool:
            out = plane.kubectl(
                "-n", "demo", "get", "pods", "-l", "batch.kubernetes.io/job-name=long", "-o", path
            ).stdout
            return "Failed" in out and "137" in out

        assert soon(lost_pod_failed)


def test_stopping_ends_every_pod_process(tmp_path: Path) -> None:
    with plane_process(tmp_path / "state") as plane:
        start(plane)
        assert processes_below(plane.state_dir / "pods")
        assert plane.stop() == 0
        assert processes_below(plane.state_dir / "pods") == []
