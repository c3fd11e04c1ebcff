"""One container of a pod: what is known of it, over all its runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import anyio
from attrs import define, field

from agentops.local.kubelet.backoff import CrashLoop
from agentops.local.kubelet.exec import Broadcast
from agentops.local.kubelet.logs import LogWriter
from agentops.local.kubelet.process import Process
from agentops.local.kubelet.sandbox import Box
from agentops.local.kubelet.status import (
    RUNTIME,
    ContainerRecord,
    Running,
    State,
    Terminated,
    Waiting,
    is_sidecar,
    record_from_status,
)

Object = Mapping[str, Any]
Role = Literal["init", "sidecar", "main"]


@define(slots=True, eq=False)
class Run:
    """One execution of the container's program."""

    process: Process
    box: Box
    env: Mapping[str, str]
    log: LogWriter
    started_at: datetime
    started_boottime: float
    broadcast: Broadcast = field(factory=Broadcast)
    done: anyio.Event = field(factory=anyio.Event)
    """Set when it has ended and `Container.state` says how."""


@define(slots=True, eq=False)
class Container:
    """The mutable record a pod's worker keeps."""

    spec: Object
    role: Role
    crash_loop: CrashLoop
    state: State
    last: Terminated | None = None
    attempts: int = 0
    """Runs so far; the restart count is one less."""
    image_id: str = ""
    container_id: str = ""
    started: bool = False
    ready: bool = False
    run: Run | None = None
    is_up: anyio.Event = field(factory=anyio.Event)
    """Set when it has started for the first time; what follows a sidecar waits for it."""

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def running(self) -> Run | None:
        """The current run, if its program has not ended."""
        return self.run if self.run is not None and not self.run.done.is_set() else None

    def record(self) -> ContainerRecord:
        return ContainerRecord(
            name=self.name,
            image=str(self.spec.get("image", "")),
            state=self.state,
            last=self.last,
            image_id=self.image_id,
            container_id=self.container_id,
            restart_count=max(0, self.attempts - 1),
            started=self.started,
            ready=self.ready,
        )

    def next_id(self, pod_uid: str) -> str:
        """The id of the run that is about to begin."""
        text = f"{pod_uid}/{self.name}/{self.attempts}"
        return f"{RUNTIME}://{hashlib.sha256(text.encode()).hexdigest()}"

    def log_path(self, pod_dir: Path, attempt: int) -> Path:
        """The log of a run, counted from 1."""
        return pod_dir / "logs" / self.name / f"{attempt - 1}.log"

    def recover(self, status: Object, now: datetime) -> bool:
        """Take over what an earlier plane reported. True when a run was lost with that plane."""
        before = record_from_status(status)
        ever_ran = before.container_id or before.last or isinstance(before.state, Running | Terminated)
        self.attempts = before.restart_count + 1 if ever_ran else 0
        self.last, self.image_id, self.container_id = before.last, before.image_id, before.container_id
        if isinstance(before.state, Terminated):
            self.state = before.state
            return False
        if not isinstance(before.state, Running):
            return False
        self.state = Terminated(
            exit_code=137,
            reason="Error",
            started_at=before.state.started_at,
            finished_at=now,
            message="ended with the local plane",
            container_id=before.container_id,
        )
        return True


def containers_of(pod: Object, backoff_scale: float) -> list[Container]:
    """The pod's containers in starting order, nothing started yet."""
    spec = pod["spec"]
    has_init = bool(spec.get("initContainers"))
    waiting = Waiting("PodInitializing" if has_init else "ContainerCreating")
    found = [
        Container(c, "sidecar" if is_sidecar(c) else "init", CrashLoop(backoff_scale), waiting)
        for c in spec.get("initContainers") or ()
    ]
    found += [Container(c, "main", CrashLoop(backoff_scale), waiting) for c in spec.get("containers") or ()]
    return found


def spec_of(pod: Object, name: str) -> Object | None:
    """The container of that name in the pod's spec."""
    spec = pod["spec"]
    for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        if container["name"] == name:
            return dict(container)
    return None
