"""The whole kubelet against the plane's API server: real watches, real processes."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest
from support.kubelet import processes_with
from support.node import a_pod, gone, in_phase, kubelet_on, node
from support.plane import api_plane

from agentops.kube.kinds import CONFIG_MAP, ENDPOINT_SLICE, EVENT, LEASE, NODE, POD, PVC, SERVICE, SERVICE_ACCOUNT
from agentops.local.apiserver.node import LogOptions, NodeStreamError
from agentops.local.kubelet import Kubelet
from agentops.local.kubelet.pod_worker import PodWorker

pytestmark = pytest.mark.anyio


async def test_the_node_registers_itself_with_its_isolation_and_a_lease(tmp_path: Path) -> None:
    async with node(tmp_path) as (plane, _):
        found = await plane.eventually(lambda: plane.client.get(NODE, "local"))
        assert found["metadata"]["labels"]["agentops.io/isolation"] == "prefix"
        await plane.eventually(lambda: plane.client.get(LEASE, "local", "kube-node-lease"))

        async def conditions() -> dict[str, str]:
            status = (await plane.client.get(NODE, "local")).get("status") or {}
            return {c["type"]: c["status"] for c in status.get("conditions") or ()}

        await plane.eventually(conditions)
        assert (await conditions())["Ready"] == "True"
        assert (await conditions())["IsolationEnforced"] == "False"


async def test_a_created_pod_is_scheduled_runs_and_is_told_about_in_events(tmp_path: Path) -> None:
    async with node(tmp_path) as (plane, kubelet):
        await plane.client.create(POD, a_pod("web", "echo hello; sleep 60"))
        pod = await in_phase(plane, "web", "Running")
        assert pod["spec"]["nodeName"] == "local"
        assert pod["status"]["podIP"].startswith("127.67.")
        assert {c["type"]: c["status"] for c in pod["status"]["conditions"]} == dict.fromkeys(
            ["PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"], "True"
        )

        async def reasons() -> bool:
            events = await plane.client.list(EVENT, "default")
            return {"Scheduled", "Pulled", "Created", "Started"} <= {e["reason"] for e in events}

        await plane.eventually(reasons)
        log = b""
        with anyio.fail_after(10):
            async for chunk in kubelet.logs("default", "web", LogOptions(follow=True)):
                log += chunk
                break
        assert log == b"hello\n"


async def test_a_gated_pod_runs_once_its_gates_are_gone(tmp_path: Path) -> None:
    async with node(tmp_path) as (plane, _):
        await plane.client.create(POD, a_pod("web", "sleep 60", schedulingGates=[{"name": "example.com/quota"}]))
        gated = await plane.client.get(POD, "web", "default")
        assert gated["status"]["conditions"][0]["reason"] == "SchedulingGated"
        await plane.client.patch(POD, "web", {"spec": {"schedulingGates": []}}, "default")
        pod = await in_phase(plane, "web", "Running")
        (scheduled,) = [c for c in pod["status"]["conditions"] if c["type"] == "PodScheduled"]
        assert scheduled["status"] == "True"
        assert not scheduled.get("reason") and not scheduled.get("message")


async def test_each_container_has_events_of_its_own(tmp_path: Path) -> None:
    async with node(tmp_path) as (plane, _):
        pod = a_pod("web", "sleep 60")
        main = pod["spec"]["containers"][0]
        first = {**main, "name": "i1", "command": ["sh", "-c", "true"], "args": []}
        pod["spec"] |= {"initContainers": [first], "containers": [main, {**main, "name": "aa"}]}
        await plane.client.create(POD, pod)

        async def created() -> dict[str, tuple[str, int]]:
            found = await plane.client.list(EVENT, "default", fields="reason=Created")
            assert all(e["firstTimestamp"] and e["lastTimestamp"] for e in found)
            assert {e["source"]["component"] for e in found} <= {"kubelet"}
            events = {e["involvedObject"]["fieldPath"]: (e["message"], e["count"]) for e in found}
            return events if len(events) == 3 else {}

        assert await plane.eventually(created) == {
            "spec.initContainers{i1}": ("Container created: i1", 1),
            "spec.containers{main}": ("Container created: main", 1),
            "spec.containers{aa}": ("Container created: aa", 1),
        }


async def test_a_job_pod_succeeds_and_its_log_stays_until_it_is_deleted(tmp_path: Path) -> None:
    async with node(tmp_path) as (plane, kubelet):
        await plane.client.create(POD, a_pod("job", "echo result", restartPolicy="Never"))
        await in_phase(plane, "job", "Succeeded")
        assert b"".join([c async for c in kubelet.logs("default", "job", LogOptions())]) == b"result\n"
        await plane.client.delete(POD, "job", "default")
        await gone(plane, "job")
        await plane.eventually(lambda: not list((tmp_path / "state/pods").iterdir()))


async def test_a_deleted_pod_is_gone_with_all_its_processes(tmp_path: Path) -> None:
    async with node(tmp_path) as (plane, _):
        await plane.client.create(POD, a_pod("web", "trap '' TERM; sleep 60 & wait; wait; wait"))
        pod = await in_phase(plane, "web", "Running")
        await plane.client.delete(POD, "web", "default")
        await gone(plane, "web")
        assert processes_with(pod["metadata"]["uid"]) == []


async def test_exec_runs_in_the_container_and_gives_its_exit_code(tmp_path: Path) -> None:
    async with node(tmp_path) as (plane, kubelet):
        container = {"volumeMounts": [{"name": "v", "mountPath": "/data"}], "env": [{"name": "WHO", "value": "me"}]}
        pod = a_pod(
            "web", "echo kept > /data/f; sleep 60", container=container, volumes=[{"name": "v", "emptyDir": {}}]
        )
        await plane.client.create(POD, pod)
        await in_phase(plane, "web", "Running")
        with anyio.fail_after(10):
            command = ["sh", "-c", "sleep 0.2; echo $WHO; cat /data/f; exit 9"]
            session = await kubelet.exec("default", "web", "main", command, stdin=False, tty=False)
            assert b"".join([data async for _, data in session.output()]) == b"me\nkept\n"
            assert await session.wait() == 9


async def test_streams_of_pods_that_cannot_answer_say_why(tmp_path: Path) -> None:
    async with node(tmp_path) as (plane, kubelet):
        with pytest.raises(NodeStreamError, match='pod "none" in namespace "default" is not on node "local"'):
            kubelet.logs("default", "none", LogOptions())
        waiting = a_pod("stuck", "true", volumes=[{"name": "v", "configMap": {"name": "absent"}}])
        await plane.client.create(POD, waiting)
        await plane.eventually(lambda: _known(kubelet, "stuck"))
        with pytest.raises(NodeStreamError, match="is waiting to start: ContainerCreating"):
            kubelet.logs("default", "stuck", LogOptions())
        with pytest.raises(NodeStreamError, match="container other is not valid for pod stuck"):
            kubelet.logs("default", "stuck", LogOptions(container="other"))


def _known(kubelet: Kubelet, name: str) -> bool:
    try:
        kubelet.logs("default", name, LogOptions())
    except NodeStreamError as error:
        return error.code != 404
    return True


async def test_a_service_leads_to_its_pod_by_address_and_by_name(tmp_path: Path) -> None:
    async with node(tmp_path) as (plane, _):
        server = (
            "import http.server,os;http.server.HTTPServer((os.environ['AGENTOPS_BIND_HOST'],8123),"
            "http.server.SimpleHTTPRequestHandler).serve_forever()"
        )
        container = {
            "command": ["python", "-c", server],
            "args": [],
            "readinessProbe": {"httpGet": {"path": "/", "port": 8123}, "periodSeconds": 1},
        }
        await plane.client.create(POD, a_pod("web", "", container=container))
        pod = await in_phase(plane, "web", "Running")
        service = await plane.client.create(
            SERVICE,
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "web", "namespace": "default"},
                "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 8080, "targetPort": 8123}]},
            },
        )
        await plane.client.create(
            ENDPOINT_SLICE,
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "addressType": "IPv4",
                "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
                "ports": [{"name": "http", "port": 8123, "protocol": "TCP"}],
                "endpoints": [{"addresses": [pod["status"]["podIP"]], "conditions": {"ready": True}}],
            },
        )
        cluster_ip = service["spec"]["clusterIP"]

        async def answers() -> bool:
            try:
                async with await anyio.connect_tcp(cluster_ip, 8080) as stream:
                    await stream.send(b"GET / HTTP/1.0\r\n\r\n")
                    return (await stream.receive()).startswith(b"HTTP/1.0 200")
            except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
                return False

        await plane.eventually(answers, timeout_s=20)
        names = (tmp_path / "state/resolve/default").read_text()
        assert f"{cluster_ip} web web.default web.default.svc web.default.svc.cluster.local\n" in names


async def test_a_pod_that_fits_nowhere_says_so_and_goes_when_the_node_allows_it(tmp_path: Path) -> None:
    async with node(tmp_path) as (plane, _):
        await plane.client.create(POD, a_pod("picky", "sleep 60", nodeSelector={"disk": "fast"}))

        async def unschedulable() -> bool:
            pod = await plane.client.get(POD, "picky", "default")
            found = [c for c in pod["status"].get("conditions") or () if c["type"] == "PodScheduled"]
            return bool(found) and found[0]["reason"] == "Unschedulable"

        async def registered() -> bool:
            return bool(await plane.client.list(NODE))

        await plane.eventually(unschedulable)
        await plane.eventually(registered)
        await plane.client.patch(NODE, "local", {"metadata": {"labels": {"disk": "fast"}}})
        await in_phase(plane, "picky", "Running")


async def test_pods_share_what_the_node_has_and_the_rest_wait_for_room(tmp_path: Path) -> None:
    async with node(tmp_path) as (plane, _):
        await plane.eventually(lambda: plane.client.get(NODE, "local"))
        cores = os.cpu_count() or 1
        half = {"resources": {"requests": {"cpu": f"{cores * 500}m"}}}
        for name in "abc":
            await plane.client.create(POD, a_pod(name, "sleep 60", container=half))

        async def waiting() -> list[str]:
            found = []
            for pod in await plane.client.list(POD, "default"):
                for condition in pod["status"].get("conditions") or ():
                    if condition["type"] == "PodScheduled" and condition["status"] == "False":
                        assert condition["message"] == "0/1 nodes are available: 1 Insufficient cpu."
                        found.append(pod["metadata"]["name"])
            return found

        await plane.eventually(waiting, timeout_s=20)
        [left] = await waiting()
        running = sorted(set("abc") - {left})
        for name in running:
            await in_phase(plane, name, "Running")
        await plane.client.delete(POD, running[0], "default", grace_s=0)
        await in_phase(plane, left, "Running")


async def test_after_a_restart_of_the_plane_pods_go_on_by_their_restart_policy(tmp_path: Path) -> None:
    async with api_plane(tmp_path, controllers=False, require_service_account=False) as plane:
        async with kubelet_on(plane, tmp_path / "state"):
            await plane.client.create(POD, a_pod("always", "sleep 60"))
            await plane.client.create(POD, a_pod("never", "sleep 60", restartPolicy="Never"))
            await plane.client.create(POD, a_pod("deleted", "sleep 60"))
            for name in ("always", "never", "deleted"):
                await in_phase(plane, name, "Running")
        assert processes_with(str(tmp_path / "state")) == []
        await plane.client.delete(POD, "deleted", "default", grace_s=0)
        async with kubelet_on(plane, tmp_path / "state"):
            failed = await in_phase(plane, "never", "Failed")
            assert failed["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137

            async def restarted() -> bool:
                status = (await plane.client.get(POD, "always", "default"))["status"]["containerStatuses"][0]
                return status["restartCount"] == 1 and "running" in status["state"]

            await plane.eventually(restarted, timeout_s=20)
            assert len(list((tmp_path / "state/pods").iterdir())) == 2


async def test_a_missing_config_map_appears_and_the_pod_starts(tmp_path: Path) -> None:
    async with node(tmp_path) as (plane, _):
        reference = {"env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "k"}}}]}
        await plane.client.create(POD, a_pod("web", "sleep 60", container=reference))

        async def waits() -> bool:
            status = (await plane.client.get(POD, "web", "default"))["status"].get("containerStatuses") or [{}]
            reason = status[0].get("state", {}).get("waiting", {}).get("reason")
            return bool(reason == "CreateContainerConfigError")

        await plane.eventually(waits)
        found = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late", "namespace": "default"}}
        await plane.client.create(CONFIG_MAP, {**found, "data": {"k": "v"}})
        await in_phase(plane, "web", "Running")


async def test_with_the_planes_controllers_a_pod_has_its_account_its_claim_and_its_service(tmp_path: Path) -> None:
    state = tmp_path / "state"
    script = (
        "cd /var/run/secrets/kubernetes.io/serviceaccount; test -s token && test -s ca.crt"
        " && cat namespace > /data/proof && sleep 60"
    )
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    container = {"volumeMounts": [{"name": "d", "mountPath": "/data", "subPath": "workspace"}]}
    volumes = [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]
    pod = a_pod("web", script, container=container, volumes=volumes, automountServiceAccountToken=True)
    async with api_plane(state) as plane, kubelet_on(plane, state):
        await plane.client.create(PVC, claim)
        await plane.eventually(lambda: plane.client.get(SERVICE_ACCOUNT, "default", "default"))
        await plane.client.create(POD, pod)
        await in_phase(plane, "web", "Running")

        def proof() -> list[str]:
            return [path.read_text() for path in state.rglob("proof") if "rootfs" not in path.parts]

        await plane.eventually(lambda: proof() == ["default"])
        await plane.client.delete(POD, "web", "default")
        await gone(plane, "web")
        assert proof() == ["default"]


async def test_a_pod_whose_worker_breaks_is_left_alone_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    async def broken(self: PodWorker) -> None:
        started.append(self.name)
        raise RuntimeError("on purpose")

    monkeypatch.setattr(PodWorker, "run", broken)
    async with node(tmp_path) as (plane, _):
        await plane.client.create(POD, a_pod("web", "sleep 60"))
        await plane.eventually(lambda: bool(started))
        for i in range(20):
            # Every change wakes the kubelet; none may start the worker again at once.
            await plane.client.patch(POD, "web", {"metadata": {"labels": {"n": str(i)}}}, "default")
        await plane.client.create(POD, a_pod("other", "sleep 60"))
        await plane.eventually(lambda: "other" in started)
        assert started.count("web") == 1
