"""The life of a pod, hours of it in milliseconds."""

from __future__ import annotations

import copy
import itertools

import anyio
import pytest
from support.kubelet import deleted, make_pod

pytestmark = pytest.mark.anyio


async def test_a_container_that_stays_makes_the_pod_running_and_ready(bench) -> None:
    async with bench.running(make_pod()):
        await bench.api.until(lambda: bench.api.status["phase"] == "Running")
        assert bench.api.container()["ready"] is True
        assert bench.api.condition("Ready")["status"] == "True"
        assert bench.api.status["podIP"].startswith("127.64.")
        assert bench.api.reasons() == ["Pulled", "Created", "Started"]


async def test_a_finished_container_of_a_job_makes_the_pod_succeeded(bench) -> None:
    async with bench.running(make_pod(restartPolicy="Never"), 0):
        await bench.api.until(lambda: bench.api.status["phase"] == "Succeeded")
        ended = bench.api.container()["state"]["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (0, "Completed")
        assert bench.api.condition("Ready")["reason"] == "PodCompleted"


async def test_a_failed_container_of_a_job_makes_the_pod_failed(bench) -> None:
    async with bench.running(make_pod(restartPolicy="Never"), 3):
        await bench.api.until(lambda: bench.api.status["phase"] == "Failed")
        assert bench.api.container()["state"]["terminated"]["exitCode"] == 3


async def test_on_failure_restarts_until_it_succeeds(bench) -> None:
    async with bench.running(make_pod(restartPolicy="OnFailure"), 1, 1, 0):
        await bench.api.until(lambda: bench.api.status["phase"] == "Succeeded", timeout_s=100)
        assert bench.api.container()["restartCount"] == 2


async def test_a_crashing_container_waits_ten_seconds_then_twice_as_long_up_to_five_minutes(bench) -> None:
    starts = []
    async with bench.running(make_pod(), *[1] * 9) as (_, spawner):
        for count in range(1, 10):
            await bench.api.until(lambda count=count: len(spawner.started) == count, timeout_s=1000)
            starts.append(anyio.current_time())
        gaps = [round(b - a) for a, b in itertools.pairwise(starts)]
        assert gaps == [0, 10, 20, 40, 80, 160, 300, 300]


async def test_while_backing_off_the_status_says_crash_loop_and_how_the_last_run_ended(bench) -> None:
    async with bench.running(make_pod(), 1, 7):
        waiting = await bench.api.until(lambda: bench.api.container()["state"]["waiting"], timeout_s=5)
        while waiting["reason"] != "CrashLoopBackOff":
            await bench.api.changed.wait()
            waiting = bench.api.container()["state"].get("waiting") or {"reason": ""}
        assert waiting["message"] == "back-off 10s restarting failed container=main pod=p_default(uid-1)"
        assert bench.api.container()["lastState"]["terminated"]["exitCode"] == 7
        assert bench.api.container()["restartCount"] == 1
        assert bench.api.status["phase"] == "Running"
        assert "BackOff" in bench.api.reasons()


async def test_a_run_of_more_than_ten_minutes_forgives_earlier_crashes(bench) -> None:
    async with bench.running(make_pod(), 1, 1, 1, (601.0, 1)) as (_, spawner):
        await bench.api.until(lambda: len(spawner.started) == 4, timeout_s=100)
        before = anyio.current_time()
        await bench.api.until(lambda: len(spawner.started) == 5, timeout_s=1000)
        assert anyio.current_time() - before == pytest.approx(601, abs=1)


async def test_backoff_scale_shortens_every_delay(bench) -> None:
    async with bench.running(make_pod(), 1, 1, 1, backoff_scale=0.1) as (_, spawner):
        await bench.api.until(lambda: len(spawner.started) == 4, timeout_s=100)
        assert anyio.current_time() == pytest.approx(3, abs=0.1)


async def test_init_containers_run_one_after_the_other_before_the_others(bench) -> None:
    pod = make_pod(
        {"name": "main", "args": ["m"]},
        initContainers=[
            {"name": "a", "image": "shell:1", "args": ["a"]},
            {"name": "b", "image": "shell:1", "args": ["b"]},
        ],
    )
    async with bench.running(pod, (5.0, 0), (5.0, 0), None) as (_, spawner):
        await bench.api.until(lambda: bench.api.container("b")["state"].get("running"))
        assert bench.api.container("main")["state"]["waiting"]["reason"] == "PodInitializing"
        assert bench.api.condition("Initialized")["message"] == "containers with incomplete status: [b]"
        await bench.api.until(lambda: bench.api.status["phase"] == "Running")
        assert [p.command.argv[-1] for p in spawner.started] == ["a", "b", "m"]
        assert bench.api.condition("Initialized")["status"] == "True"


async def test_a_failed_init_container_of_a_never_pod_fails_it_and_starts_nothing_else(bench) -> None:
    pod = make_pod(restartPolicy="Never", initContainers=[{"name": "a", "image": "shell:1"}])
    async with bench.running(pod, 2) as (_, spawner):
        await bench.api.until(lambda: bench.api.status["phase"] == "Failed")
        assert len(spawner.started) == 1


async def test_a_sidecar_runs_beside_the_containers_and_does_not_keep_a_job_from_ending(bench) -> None:
    pod = make_pod(
        restartPolicy="Never", initContainers=[{"name": "side", "image": "shell:1", "restartPolicy": "Always"}]
    )
    async with bench.running(pod, None, (5.0, 0)) as (_, spawner):
        await bench.api.until(lambda: bench.api.status["phase"] == "Running")
        await bench.api.until(lambda: bench.api.status["phase"] == "Succeeded")
        assert spawner.started[0].signals == [15]


async def test_a_missing_secret_holds_the_container_and_names_itself(bench) -> None:
    pod = make_pod(
        {
            "name": "main",
            "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "credentials", "key": "token"}}}],
        }
    )
    async with bench.running(pod) as (_, spawner):
        waiting = await bench.api.until(lambda: bench.api.container()["state"]["waiting"])
        await bench.api.until(lambda: "Failed" in bench.api.reasons())
        await bench.api.until(
            lambda: bench.api.container()["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        )
        waiting = bench.api.container()["state"]["waiting"]
        assert waiting["message"] == 'secret "credentials" not found'
        bench.api.secrets["credentials"] = {"data": {"token": "aHVudGVyMg=="}}
        await bench.api.until(lambda: bench.api.status["phase"] == "Running")
        assert spawner.started[0].command.env["KEY"] == "hunter2"


async def test_an_unmapped_image_is_pulled_in_vain_and_then_backed_off(bench) -> None:
    pod = make_pod({"name": "main", "image": "nginx:1.27"})
    async with bench.running(pod):
        await bench.api.until(lambda: bench.api.container()["state"]["waiting"]["reason"] == "ErrImagePull")
        assert "nginx:1.27" in bench.api.container()["state"]["waiting"]["message"]
        await bench.api.until(lambda: bench.api.container()["state"]["waiting"]["reason"] == "ImagePullBackOff")
        assert "shell -> /bin/sh -c" in bench.api.container()["state"]["waiting"]["message"]
        assert bench.api.status["phase"] == "Pending"


async def test_an_image_that_is_never_pulled_is_not_there(bench) -> None:
    async with bench.running(make_pod({"name": "main", "image": "nginx:1.27", "imagePullPolicy": "Never"})):
        message = 'Container image "nginx:1.27" is not present with pull policy of Never'
        waiting = {"reason": "ErrImageNeverPull", "message": message}
        await bench.api.until(lambda: bench.api.container()["state"]["waiting"] == waiting)
        assert bench.api.events == [("ErrImageNeverPull", message), ("Failed", "Error: ErrImageNeverPull")]


async def test_a_program_that_cannot_be_executed_is_127_and_crash_loops(bench) -> None:
    async with bench.running(make_pod(restartPolicy="Never"), 'exec: "nope": no such file or directory in $PATH'):
        await bench.api.until(lambda: bench.api.status["phase"] == "Failed")
        ended = bench.api.container()["state"]["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (127, "ContainerCannotRun")
        assert "nope" in ended["message"]


async def test_a_host_path_is_refused_with_an_event(bench) -> None:
    pod = make_pod(volumes=[{"name": "h", "hostPath": {"path": "/etc"}}])
    async with bench.running(pod) as (_, spawner):
        await bench.api.until(lambda: "FailedCreatePodSandBox" in bench.api.reasons())
        assert not spawner.started


async def test_a_missing_config_map_volume_is_retried_until_it_exists(bench) -> None:
    pod = make_pod(
        {"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/etc/app"}]},
        volumes=[{"name": "v", "configMap": {"name": "app"}}],
    )
    async with bench.running(pod):
        await bench.api.until(lambda: "FailedMount" in bench.api.reasons())
        assert 'configmap "app" not found' in bench.api.events[-1][1]
        await bench.api.until(lambda: bench.api.condition("PodReadyToStartContainers")["status"] == "False")
        bench.api.config_maps["app"] = {"data": {"a.conf": "x"}}
        await bench.api.until(lambda: bench.api.status["phase"] == "Running")


async def test_deletion_asks_then_kills_after_the_grace_period_and_lets_the_object_go(bench) -> None:
    pod = make_pod()
    async with bench.running(pod, stubborn=True) as (worker, spawner):
        await bench.api.until(lambda: bench.api.status["phase"] == "Running")
        began = anyio.current_time()
        worker.update(deleted(pod, grace_s=20))
        await bench.api.until(lambda: bench.api.deleted, timeout_s=60)
        assert spawner.started[0].signals == [15, 9]
        assert anyio.current_time() - began == pytest.approx(20, abs=0.1)
        assert bench.api.status["phase"] == "Failed"
        assert bench.api.container()["state"]["terminated"]["exitCode"] == 137
        assert "Killing" in bench.api.reasons()


async def test_a_second_delete_shortens_the_grace(bench) -> None:
    pod = make_pod()
    async with bench.running(pod, stubborn=True) as (worker, _):
        await bench.api.until(lambda: bench.api.status["phase"] == "Running")
        began = anyio.current_time()
        worker.update(deleted(pod, grace_s=30))
        await bench.clock.sleep(5)
        worker.update(deleted(pod, grace_s=1))
        await bench.api.until(lambda: bench.api.deleted, timeout_s=60)
        assert anyio.current_time() - began < 8


async def test_an_object_that_vanished_ends_its_processes_at_once(bench) -> None:
    async with bench.running(make_pod(), stubborn=True) as (worker, spawner):
        await bench.api.until(lambda: bench.api.status["phase"] == "Running")
        worker.gone()
        with anyio.fail_after(1):
            await spawner.started[0].wait()
        assert spawner.started[0].signals == [9]


async def test_deletion_during_backoff_ends_at_once(bench) -> None:
    pod = make_pod()
    async with bench.running(pod, 1, 1) as (worker, _):
        await bench.api.until(lambda: "BackOff" in bench.api.reasons())
        began = anyio.current_time()
        worker.update(deleted(pod))
        await bench.api.until(lambda: bench.api.deleted)
        assert anyio.current_time() - began < 1


async def test_pre_stop_runs_before_sigterm(bench) -> None:
    pod = make_pod({"name": "main", "lifecycle": {"preStop": {"sleep": {"seconds": 4}}}})
    async with bench.running(pod) as (worker, spawner):
        await bench.api.until(lambda: bench.api.status["phase"] == "Running")
        began = anyio.current_time()
        worker.update(deleted(pod))
        await bench.api.until(lambda: bench.api.deleted)
        assert anyio.current_time() - began == pytest.approx(4, abs=0.1)
        assert spawner.started[0].signals == [15]


async def test_a_new_memory_limit_holds_for_the_program_that_runs(bench) -> None:
    policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    pod = make_pod({"name": "main", "resources": {"limits": {"memory": "64Mi"}}, "resizePolicy": policy})
    pod["metadata"]["generation"] = 1
    async with bench.running(pod) as (worker, spawner):
        await bench.api.until(lambda: bench.api.status["phase"] == "Running")
        resized = copy.deepcopy(pod)
        resized["spec"]["containers"][0]["resources"]["limits"]["memory"] = "1Gi"
        resized["metadata"]["generation"] = 2
        worker.update(resized)
        assert spawner.started[0].memory_bytes == 1 << 30
        await bench.api.until(lambda: bench.api.status["observedGeneration"] == 2)
        assert bench.api.container()["resources"] == {"limits": {"memory": "1Gi"}}
        assert len(spawner.started) == 1
        assert "ResizedWithoutRestart" in [reason for reason, _ in bench.api.events]


async def test_the_active_deadline_fails_the_pod(bench) -> None:
    async with bench.running(make_pod(activeDeadlineSeconds=60, restartPolicy="Never")):
        await bench.api.until(lambda: bench.api.status["phase"] == "Failed", timeout_s=100)
        assert bench.api.status["reason"] == "DeadlineExceeded"


def _was_running(pod: dict, restart_count: int = 2) -> dict:
    state = {"running": {"startedAt": "2025-12-31T23:00:00Z"}}
    pod["status"] = {
        "phase": "Running",
        "podIP": "127.64.0.9",
        "containerStatuses": [
            {
                "name": "main",
                "image": "shell:1",
                "imageID": "",
                "containerID": "agentops://x",
                "ready": True,
                "started": True,
                "restartCount": restart_count,
                "state": state,
                "lastState": {},
            }
        ],
    }
    return pod


async def test_after_a_restart_of_the_plane_a_container_is_started_again_and_counted(bench) -> None:
    async with bench.running(_was_running(make_pod())):
        await bench.api.until(lambda: bench.api.container()["state"].get("running"))
        assert bench.api.container()["restartCount"] == 3
        assert bench.api.container()["lastState"]["terminated"]["exitCode"] == 137
        assert bench.api.status["podIP"] == "127.64.0.9"


async def test_after_a_restart_of_the_plane_a_never_pod_is_failed_and_not_run_again(bench) -> None:
    async with bench.running(_was_running(make_pod(restartPolicy="Never"), 0)) as (_, spawner):
        await bench.api.until(lambda: bench.api.status["phase"] == "Failed")
        assert bench.api.container()["state"]["terminated"]["exitCode"] == 137
        assert not spawner.started


async def test_what_the_sandbox_cannot_enforce_is_an_event(bench) -> None:
    from agentops.local.kubelet.prefix import PrefixSandbox

    pod = make_pod({"name": "main", "securityContext": {"runAsNonRoot": True, "readOnlyRootFilesystem": True}})
    async with bench.running(pod, sandbox=PrefixSandbox(uid=0)):
        await bench.api.until(lambda: "IsolationNotEnforced" in bench.api.reasons())
        message = dict(bench.api.events)["IsolationNotEnforced"]
        assert "runAsNonRoot (main)" in message
        assert "readOnlyRootFilesystem (main)" in message
