"""A pod's surroundings, in memory: what the API server holds, and programs that do as the test says."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
from attrs import define, field

from agentops.local.kubelet.addresses import PodAddresses
from agentops.local.kubelet.errors import StartError
from agentops.local.kubelet.hosts import HostsFiles
from agentops.local.kubelet.images import ImageMap, ImageSpec
from agentops.local.kubelet.pod_host import PodHost
from agentops.local.kubelet.pod_worker import PodWorker
from agentops.local.kubelet.prefix import PrefixSandbox
from agentops.local.kubelet.process import Spawner
from agentops.local.kubelet.starting import Command
from agentops.local.kubelet.volumes import Token
from agentops.values.clock import Clock

Object = Mapping[str, Any]

SHELL = ImageSpec(entrypoint=("/bin/sh", "-c"))


def make_pod(*containers: Object, name: str = "p", uid: str = "uid-1", **spec: Any) -> dict[str, Any]:
    """A scheduled pod; containers default to one that runs `sleep`."""
    found = [{"image": "shell:1", **c} for c in containers] or [{"name": "main", "image": "shell:1"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": uid},
        "spec": {"nodeName": "local", "containers": found, **spec},
        "status": {"phase": "Pending"},
    }


class MemoryApi:
    """`PodApi` over dictionaries. `status` is the last one written, `history` all of them."""

    def __init__(self) -> None:
        self.secrets: dict[str, Object] = {}
        self.config_maps: dict[str, Object] = {}
        self.claims: dict[str, Object] = {}
        self.volumes: dict[str, Object] = {}
        self.history: list[Object] = []
        self.events: list[tuple[str, str]] = []
        self.deleted: list[str] = []
        self.tokens = 0
        self.changed = anyio.Event()

    @property
    def status(self) -> Any:
        return self.history[-1] if self.history else {}

    def reasons(self) -> list[str]:
        return [reason for reason, _ in self.events]

    def container(self, name: str = "main") -> Any:
        both = [*(self.status.get("initContainerStatuses") or ()), *(self.status.get("containerStatuses") or ())]
        return next(c for c in both if c["name"] == name)

    def condition(self, kind: str) -> Any:
        return next(c for c in self.status["conditions"] if c["type"] == kind)

    async def until(self, check: Callable[[], Any], timeout_s: float = 20.0) -> Any:
        """Waits for a status, an event or a deletion that makes `check` true."""
        with anyio.move_on_after(timeout_s):
            while True:
                try:
                    if found := check():
                        return found
                except (StopIteration, KeyError):
                    pass
                await self.changed.wait()
        raise AssertionError(f"not reached; status {self.status}, events {self.events}")

    def _tell(self) -> None:
        changed, self.changed = self.changed, anyio.Event()
        changed.set()

    async def secret(self, namespace: str, name: str) -> Object | None:
        return self.secrets.get(name)

    async def config_map(self, namespace: str, name: str) -> Object | None:
        return self.config_maps.get(name)

    async def claim(self, namespace: str, name: str) -> Object | None:
        return self.claims.get(name)

    async def volume(self, name: str) -> Object | None:
        return self.volumes.get(name)

    async def token(self, pod: Object, audience: str, expiration_s: int) -> Token:
        self.tokens += 1
        return Token(f"token-{self.tokens}", float(expiration_s))

    async def services(self) -> list[dict[str, Any]]:
        return []

    async def patch_status(self, pod: Object, status: Object) -> bool:
        self.history.append(copy.deepcopy(dict(status)))
        self._tell()
        return True

    async def delete(self, pod: Object) -> None:
        self.deleted.append(pod["metadata"]["uid"])
        self._tell()

    def event(self, pod: Object, type: str, reason: str, message: str, container: str = "") -> None:
        self.events.append((reason, message))
        self._tell()


@define(eq=False)
class ScriptedProcess:
    """Runs until `exit` is called, or for `lasts_s`; ends on SIGTERM unless `stubborn`."""

    command: Command
    pid: int = 4242
    stubborn: bool = False
    out_of_memory: bool = False
    memory_bytes: int | None = None
    signals: list[int] = field(factory=list)
    _code: int | None = None
    _done: anyio.Event = field(factory=anyio.Event)

    def exit(self, code: int) -> None:
        if self._code is None:
            self._code = code
            self._done.set()

    async def pump(self, sink: Callable[[str, bytes], Awaitable[None]]) -> None:
        await self._done.wait()

    async def wait(self) -> int:
        await self._done.wait()
        assert self._code is not None
        return self._code

    def signal(self, number: int) -> None:
        self.signals.append(number)
        if not self.stubborn:
            self.exit(128 + number)

    def kill_tree(self) -> None:
        self.signals.append(9)
        self.exit(137)

    async def write_stdin(self, data: bytes) -> None: ...

    async def close_stdin(self) -> None: ...

    def resize(self, width: int, height: int) -> None: ...

    def close(self) -> None: ...


class ScriptedSpawner:
    """Each start takes the next of `script`: an exit code, (seconds, exit code), or None for a program that stays."""

    def __init__(self, clock: Clock, script: list[int | tuple[float, int] | str | None] | None = None) -> None:
        self._clock = clock
        self._script = script or []
        self.started: list[ScriptedProcess] = []
        self.tasks: anyio.abc.TaskGroup | None = None
        self.stubborn = False

    async def spawn(
        self,
        command: Command,
        *,
        root: str,
        stdin: bool = False,
        tty: bool = False,
        pidfile: Path | None = None,
        memory_bytes: int | None = None,
    ) -> ScriptedProcess:
        step = self._script.pop(0) if self._script else None
        if isinstance(step, str):
            raise StartError(step)
        process = ScriptedProcess(command, stubborn=self.stubborn)
        self.started.append(process)
        if isinstance(step, int):
            process.exit(step)
        elif step is not None:
            assert self.tasks is not None
            self.tasks.start_soon(self._exit_later, process, *step)
        return process

    async def _exit_later(self, process: ScriptedProcess, seconds: float, code: int) -> None:
        await self._clock.sleep(seconds)
        process.exit(code)


def make_host(
    tmp_path: Path, api: MemoryApi, spawner: Spawner, clock: Clock, *, backoff_scale: float = 1.0, **changes: Any
) -> PodHost:
    """What the pods of a test share."""
    options: dict[str, Any] = {
        "sandbox": PrefixSandbox(uid=1000),
        "images": ImageMap({"shell": SHELL}),
        "pod_env": {},
        "stop_grace_s": 5.0,
        **changes,
    }
    return PodHost(
        api=api,
        clock=clock,
        spawner=spawner,
        addresses=PodAddresses(),
        hosts=HostsFiles(tmp_path / "resolve"),
        state_dir=tmp_path,
        node_name="local",
        host_ip="127.0.0.1",
        api_address=("127.0.0.1", 6443),
        allocatable={"cpu": "2", "memory": "4Gi"},
        backoff_scale=backoff_scale,
        **options,
    )


def deleted(pod: Object, grace_s: int = 30) -> dict[str, Any]:
    """The object as the API server has it after a delete."""
    meta = {**pod["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace_s}
    return {**pod, "metadata": meta}


def processes_with(text: str) -> list[int]:
    """Pids of living processes whose environment or command line holds `text`; never our own."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
            data = Path(f"/proc/{name}/environ").read_bytes() + Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if state != "Z" and re.search(re.escape(text).encode(), data):
            found.append(int(name))
    return found


__all__ = ["MemoryApi", "PodWorker", "ScriptedSpawner", "deleted", "make_host", "make_pod", "processes_with"]
