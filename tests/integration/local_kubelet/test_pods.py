"""Pods on real processes."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from support.kubelet import deleted, make_pod, processes_with

from agentops.local.kubelet.images import ImageMap, ImageSpec
from agentops.local.kubelet.probes import Prober

pytestmark = pytest.mark.anyio


async def test_a_pod_writes_its_last_words_and_its_log(bench, tmp_path: Path) -> None:
    pod = make_pod(
        {"name": "main", "args": ["echo hello; printf 'all done' > /dev/termination-log; exit 3"]},
        restartPolicy="Never",
    )
    async with bench.running(pod) as worker:
        await bench.api.until(lambda: bench.api.status["phase"] == "Failed")
        ended = bench.api.container()["state"]["terminated"]
        assert (ended["exitCode"], ended["message"], ended["reason"]) == (3, "all done", "Error")
        log = worker.containers["main"].log_path(worker.pod_dir, 1).read_text()
        assert log.endswith(" stdout F hello\n")


async def test_the_end_of_the_log_stands_in_for_last_words_when_asked(bench) -> None:
    container = {"name": "main", "args": ["echo boom; exit 1"], "terminationMessagePolicy": "FallbackToLogsOnError"}
    async with bench.running(make_pod(container, restartPolicy="Never")):
        await bench.api.until(lambda: bench.api.status["phase"] == "Failed")
        assert bench.api.container()["state"]["terminated"]["message"] == "boom\n"


async def test_containers_share_volumes_at_their_own_paths(bench) -> None:
    volume = {"name": "v", "emptyDir": {}}
    pod = make_pod(
        {
            "name": "main",
            "args": ["cat /in/file /etc/app/k > /dev/termination-log"],
            "volumeMounts": [{"name": "v", "mountPath": "/in"}, {"name": "c", "mountPath": "/etc/app"}],
        },
        initContainers=[
            {
                "name": "init",
                "image": "shell:1",
                "args": ["echo from-init > /out/file"],
                "volumeMounts": [{"name": "v", "mountPath": "/out"}],
            }
        ],
        volumes=[volume, {"name": "c", "configMap": {"name": "m"}}],
        restartPolicy="Never",
    )
    bench.api.config_maps["m"] = {"data": {"k": "from-map"}}
    async with bench.running(pod):
        await bench.api.until(lambda: bench.api.status["phase"] == "Succeeded")
        assert bench.api.container()["state"]["terminated"]["message"] == "from-init\nfrom-map"


async def test_the_environment_holds_the_pods_address_and_nothing_of_ours(
    bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANE_SECRET", "hunter2")
    pod = make_pod({"name": "main", "args": ["env > /dev/termination-log"]}, restartPolicy="Never")
    async with bench.running(pod, pod_env={"HTTP_PROXY": "http://proxy"}):
        await bench.api.until(lambda: bench.api.status["phase"] == "Succeeded")
        lines = bench.api.container()["state"]["terminated"]["message"].splitlines()
        env = dict(line.partition("=")[::2] for line in lines)
        assert env["AGENTOPS_BIND_HOST"] == bench.api.status["podIP"]
        assert env["KUBERNETES_SERVICE_HOST"] == "127.0.0.1"
        assert env["HTTP_PROXY"] == "http://proxy"
        assert env["HOSTNAME"] == "p"
        assert "PLANE_SECRET" not in env


async def test_sigterm_reaches_the_program_and_not_its_children(bench) -> None:
    script = "trap 'wait $child; exit 0' TERM; sleep 1 & child=$!; wait; wait"
    pod = make_pod({"name": "main", "command": ["/bin/sh", "-c", script]})
    async with bench.running(pod) as worker:
        await bench.api.until(lambda: bench.api.status["phase"] == "Running")
        await anyio.sleep(0.2)
        worker.update(deleted(pod))
        await bench.api.until(lambda: bench.api.deleted)
        assert bench.api.container()["state"]["terminated"]["exitCode"] == 0


async def test_liveness_restarts_a_container_that_stopped_answering(bench) -> None:
    probe = {"exec": {"command": ["test", "-f", "/live/alive"]}, "periodSeconds": 0.1, "failureThreshold": 2}
    container = {
        "name": "main",
        "args": ["touch /live/alive; sleep 0.5; rm /live/alive; sleep 60"],
        "volumeMounts": [{"name": "v", "mountPath": "/live"}],
        "livenessProbe": {**probe, "initialDelaySeconds": 0.3},
    }
    pod = make_pod(container, volumes=[{"name": "v", "emptyDir": {}}], terminationGracePeriodSeconds=1)
    async with bench.running(pod):
        await bench.api.until(lambda: bench.api.container()["restartCount"] >= 1)
        assert "Unhealthy" in bench.api.reasons()
        assert "Container main failed liveness probe, will be restarted" in dict(bench.api.events)["Killing"]


async def test_a_failing_post_start_hook_ends_the_container(bench) -> None:
    hook = {"postStart": {"exec": {"command": ["false"]}}}
    pod = make_pod({"name": "main", "args": ["sleep 60"], "lifecycle": hook}, restartPolicy="Never")
    async with bench.running(pod):
        await bench.api.until(lambda: bench.api.status["phase"] == "Failed")
        assert "FailedPostStartHook" in bench.api.reasons()


async def test_deleting_a_pod_leaves_neither_processes_nor_files(bench, tmp_path: Path) -> None:
    pod = make_pod({"name": "main", "args": ["trap '' TERM; sleep 321 & wait; wait; wait"]})
    async with bench.running(pod) as worker:
        await bench.api.until(lambda: bench.api.status["phase"] == "Running")
        worker.update(deleted(pod, grace_s=1))
        await bench.api.until(lambda: bench.api.deleted)
        assert processes_with(str(worker.pod_dir)) == []
        worker.gone()
        with anyio.fail_after(5):
            while worker.pod_dir.exists():
                await anyio.sleep(0.02)


async def test_a_plane_that_stops_lets_programs_end_within_the_stop_grace(bench) -> None:
    script = "trap 'echo drained; exit 0' TERM; sleep 60 & wait"
    async with bench.running(make_pod({"name": "main", "args": [script]})) as worker:
        await bench.api.until(lambda: bench.api.status["phase"] == "Running")
        await anyio.sleep(0.2)
        log = worker.containers["main"].log_path(worker.pod_dir, 1)
    assert log.read_text().endswith(" stdout F drained\n")
    assert processes_with(str(worker.pod_dir)) == []


async def test_a_container_that_takes_more_memory_than_its_limit_is_oom_killed_and_starts_again(bench) -> None:
    # The child holds the memory: what counts is the container, not its first process.
    program = "import time; kept = bytearray(b'x') * (96 << 20); time.sleep(60)"
    container = {"name": "main", "args": [f'python3 -c "{program}"; true'], "resources": {"limits": {"memory": "64Mi"}}}
    async with bench.running(make_pod(container)):
        await bench.api.until(lambda: bench.api.container()["restartCount"] >= 1)
        last = bench.api.container()["lastState"]["terminated"]
        assert (last["reason"], last["exitCode"]) == ("OOMKilled", 137)


async def test_the_project_image_runs_this_python(bench) -> None:
    images = ImageMap({"agentops": ImageSpec(("python", "-P", "-c"), root_aware=True)})
    program = "import os; print(open(os.environ['AGENTOPS_ROOT'] + '/etc/app/k').read())"
    pod = make_pod(
        {
            "name": "main",
            "image": "agentops:0.1",
            "args": [program],
            "volumeMounts": [{"name": "c", "mountPath": "/etc/app"}],
        },
        volumes=[{"name": "c", "configMap": {"name": "m"}}],
        restartPolicy="Never",
    )
    bench.api.config_maps["m"] = {"data": {"k": "value"}}
    async with bench.running(pod, images=images) as worker:
        await bench.api.until(lambda: bench.api.status["phase"] == "Succeeded")
        assert "stdout F value" in worker.containers["main"].log_path(worker.pod_dir, 1).read_text()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz" else 503)
        self.send_header("X-Echo", self.headers.get("X-Ask", ""))
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def web() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.66.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


async def _no_exec(command: object) -> tuple[int, str]:
    raise AssertionError(command)


@pytest.mark.parametrize(
    ("handler", "ok", "message"),
    [
        ({"httpGet": {"path": "/healthz", "port": "web"}}, True, ""),
        ({"httpGet": {"path": "/other", "port": "web"}}, False, "HTTP probe failed with statuscode: 503"),
        ({"httpGet": {"path": "/", "port": "none"}}, False, "port 'none' is not a named port of the container"),
        ({"tcpSocket": {"port": "web"}}, True, ""),
        ({"tcpSocket": {"port": 9}}, False, "dial tcp 127.66.0.1:9: connection refused"),
        ({"grpc": {"port": 1}}, False, "does not support grpc"),
    ],
)
async def test_probes_ask_the_pods_own_address(web: int, handler: dict, ok: bool, message: str) -> None:
    outcome = await Prober("127.66.0.1", {"web": web}, _no_exec).ask(handler)
    assert outcome.ok is ok
    assert message in outcome.message


async def test_a_pod_that_floods_its_output_leaves_the_plane_to_others(bench) -> None:
    async with bench.running(make_pod({"name": "main", "args": ["exec yes"]})) as worker:
        await bench.api.until(lambda: bench.api.status["phase"] == "Running")
        with anyio.fail_after(20):
            for _ in range(200):
                await anyio.sleep(0.001)
        worker.update(deleted(worker.pod, grace_s=1))
        await bench.api.until(lambda: bench.api.deleted)
