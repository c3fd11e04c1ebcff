"""The life of one pod on this node.

`PodWorker.run` reads as that life: set up, init containers, containers, the end, and the report that it
has ended. Processes and their logs are attended by tasks of their own which outlive what starts and
restarts them, so that deleting a pod first stops the restarting and then the processes.

                    ┌────────── restart policy, backoff ──────────┐
    set up ──> init containers ──> containers ──> all over ──> ended ──> object deleted
       └─────────── deletion, deadline, object vanished ──────────┘

What the API server knows of the pod is written by one task (`StatusWriter.run`) from the containers' records,
whenever one of them changed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from signal import SIGTERM
from typing import Any

import anyio
from anyio.abc import TaskGroup

from agentops.kube.errors import KubeError
from agentops.local.kubelet.backoff import PullBackOff
from agentops.local.kubelet.container import Container, Run, containers_of, spec_of
from agentops.local.kubelet.container_config import Plan, memory_limit, plan_container
from agentops.local.kubelet.errors import ContainerConfig, ImageNotMapped, PodRefused, StartError, VolumeNotReady
from agentops.local.kubelet.exec import run_command
from agentops.local.kubelet.images import ImageSpec
from agentops.local.kubelet.logs import LogWriter, rotated
from agentops.local.kubelet.pod_host import PodHost
from agentops.local.kubelet.probes import Outcome, Prober
from agentops.local.kubelet.probing import ContainerProbes
from agentops.local.kubelet.sandbox import check_allowed
from agentops.local.kubelet.status import (
    Running,
    Terminated,
    Waiting,
    exit_reason,
    pod_status,
    should_restart,
)
from agentops.local.kubelet.status_writer import RETRY_S, StatusWriter
from agentops.local.kubelet.strays import PIDFILE
from agentops.local.kubelet.termination import termination_message
from agentops.local.kubelet.volumes import PodVolumes
from agentops.telemetry.logging import get_logger
from agentops.values.clock import parse_rfc3339
from agentops.values.duration import format_duration

log = get_logger("kubelet.pod")

Object = Mapping[str, Any]

REFRESH_S = 30.0
"""How often volumes made from API objects are compared with them."""
_CONFIG_RETRY_S = 3.0
_NEVER_PULL_RETRY_S = 10.0
"""How soon an image that is not to be pulled is looked for again, for the pod's image may have been changed."""
_MOUNT_RETRY_S = (0.5, 10.0)
_DEFAULT_GRACE_S = 30
_AFTER_HOOK_S = 2.0
"""What a program gets at least between SIGTERM and SIGKILL when its preStop hook has used up the grace."""

_BREATHER = 3.0
"""After each piece of a container's output this times what writing it took: it gets a quarter of the loop at most."""


class PodWorker:
    """One pod, by uid. `run` is its life; `update` and `gone` bring what the API server says meanwhile."""

    def __init__(self, pod: Object, host: PodHost) -> None:
        self.pod = pod
        self.uid = str(pod["metadata"]["uid"])
        self.namespace = str(pod["metadata"].get("namespace", ""))
        self.name = str(pod["metadata"]["name"])
        self.pod_dir = host.state_dir / "pods" / self.uid
        self.pod_ip = ""
        self.containers = {c.name: c for c in containers_of(pod, host.backoff_scale)}
        self._host = host
        self._clock = host.clock
        self._volumes: PodVolumes | None = None
        self._start_time: datetime | None = None
        self._sandbox_ready = False
        self._ended = False
        self._failure: tuple[str, str] | None = None
        self._report = StatusWriter(host.api, host.clock, lambda: self.pod, self._status, self.gone)
        self._life = anyio.CancelScope()
        self._deleting = anyio.Event()
        self._gone = anyio.Event()
        self._deadline = float("inf")
        self._tasks: TaskGroup | None = None

    # What the API server says

    def update(self, pod: Object) -> None:
        """A newer version of the object."""
        before, self.pod = self.pod, pod
        meta = pod["metadata"]
        for container in self.containers.values():
            was, container.spec = container.spec, spec_of(pod, container.name) or container.spec
            if container.running is not None and was.get("resources") != container.spec.get("resources"):
                self._resize(container, container.running)
        if meta.get("generation") != before["metadata"].get("generation"):
            self._report.touch()  # that it has been heard of
        if meta.get("deletionTimestamp"):
            grace_s = meta.get("deletionGracePeriodSeconds")
            grace_s = _DEFAULT_GRACE_S if grace_s is None else grace_s
            # A second delete may shorten the grace, never extend it.
            self._deadline = min(self._deadline, self._clock.boottime() + float(grace_s))
            self._deleting.set()
            self._life.cancel()

    def _resize(self, container: Container, run: Run) -> None:
        run.process.memory_bytes = memory_limit(container.spec)
        if any(p.get("restartPolicy") == "RestartContainer" for p in container.spec.get("resizePolicy") or ()):
            message = "resizePolicy RestartContainer is not acted on: the new limits hold for the program that runs"
            self._event("Warning", "ResizedWithoutRestart", message, container)

    def gone(self) -> None:
        """The object is no more: nothing of it may stay."""
        self._deadline = self._clock.boottime()
        self._gone.set()
        self._deleting.set()
        self._life.cancel()

    # The life

    async def run(self) -> None:
        """Until the object has vanished, or the plane stops (cancelled)."""
        self.update(self.pod)
        async with anyio.create_task_group() as tg:
            self._tasks = tg
            try:
                if (self.pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
                    tg.start_soon(self._report.run)
                    await self._live()
                    await self._stop_containers()
                    await self._end()
                else:
                    self._recover()
                    self._ended = True
                await self._deleting.wait()
                await self._finish()
                await self._gone.wait()
                shutil.rmtree(self.pod_dir, ignore_errors=True)
            finally:
                with anyio.CancelScope(shield=True):
                    self._deadline = min(self._deadline, self._clock.boottime() + self._host.stop_grace_s)
                    await self._stop_containers(quiet=True)
                self._host.addresses.release(self.uid)
                self._host.hosts.forget_pod(self.pod_dir)
            tg.cancel_scope.cancel()

    async def _live(self) -> None:
        """From setting up to the end of the last container, unless something cuts it short."""
        with self._life:
            if self._recover():
                log.info("kubelet.pod.lost", pod=f"{self.namespace}/{self.name}")
                return
            if self._deleting.is_set():
                return
            async with anyio.create_task_group() as tg:
                tg.start_soon(self._fail_at_deadline)
                await self._set_up()
                tg.start_soon(self._refresh_forever)
                await self._run_containers()
                tg.cancel_scope.cancel()

    def _recover(self) -> bool:
        """Go on from what the last plane reported; True when that ends the pod."""
        status = self.pod.get("status") or {}
        lost = False
        for reported in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
            container = self.containers.get(reported["name"])
            if container is not None:
                lost |= container.recover(reported, self._clock.now())
        self._start_time = parse_rfc3339(status["startTime"]) if status.get("startTime") else self._clock.now()
        self.pod_ip = str(status.get("podIP") or "")
        return lost and self._policy == "Never"

    async def _set_up(self) -> None:
        """Address, directories and volumes; tried again until the volumes' sources are there."""
        try:
            check_allowed(self.pod)
        except PodRefused as error:
            self._event("Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            self._report.touch()
            await anyio.sleep_forever()
        spec = self.pod["spec"]
        ports = [p["containerPort"] for c in spec.get("containers") or () for p in c.get("ports") or ()]
        self.pod_ip = (
            self._host.host_ip
            if spec.get("hostNetwork")
            else self._host.addresses.allocate(self.uid, ports, preferred=self.pod_ip)
        )
        self.pod_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._host.hosts.add_pod(self.pod_dir, self.pod, self.pod_ip)
        if not any(container.attempts for container in self.containers.values()):
            self._report_unenforced()
        volumes = PodVolumes(
            self.pod_dir,
            self._host.state_dir,
            self._host.api,
            self._clock,
            {"status.podIP": self.pod_ip, "status.hostIP": self._host.host_ip},
            self._host.allocatable,
        )
        self._report.touch()
        await self._fill(volumes)
        self._volumes = volumes
        self._sandbox_ready = True
        self._report.touch()

    async def _fill(self, volumes: PodVolumes) -> None:
        delay_s, longest_s = _MOUNT_RETRY_S
        while True:
            try:
                return await volumes.prepare(self.pod)
            except VolumeNotReady as error:
                self._event("Warning", "FailedMount", str(error))
            except KubeError as error:
                log.warning("kubelet.pod.volumes", pod=f"{self.namespace}/{self.name}", error=str(error))
            await self._clock.sleep(delay_s)
            delay_s = min(delay_s * 2, longest_s)

    def _report_unenforced(self) -> None:
        found = self._host.sandbox.unenforced(self.pod)
        if found:
            tier = self._host.sandbox.tier
            self._event("Warning", "IsolationNotEnforced", f"isolation {tier!r} does not enforce {', '.join(found)}")

    async def _run_containers(self) -> None:
        """Init containers one after the other, then all others; returns when the last one is over."""
        async with anyio.create_task_group() as sidecars:
            for container in self._of_role("init", "sidecar"):
                if container.role == "sidecar":
                    sidecars.start_soon(self._keep_running, container)
                    await container.is_up.wait()
                elif await self._keep_running(container) != 0:
                    sidecars.cancel_scope.cancel()
                    return
            async with anyio.create_task_group() as mains:
                for container in self._of_role("main"):
                    if isinstance(container.state, Waiting) and not container.last:
                        container.state = Waiting("ContainerCreating")
                    mains.start_soon(self._keep_running, container)
            sidecars.cancel_scope.cancel()

    async def _keep_running(self, container: Container) -> int:
        """Start a container, and again as its restart policy says; the exit code that was the last one."""
        while True:
            if not isinstance(container.state, Terminated):
                run = await self._start(container)
                if run is not None:
                    await self._watch_over(container, run)
            ended = container.state
            assert isinstance(ended, Terminated)
            if not should_restart(self._policy_of(container), ended.exit_code):
                return ended.exit_code
            await self._back_off(container, ended)

    async def _back_off(self, container: Container, ended: Terminated) -> None:
        ran_s = (
            (ended.finished_at - ended.started_at).total_seconds() if ended.finished_at and ended.started_at else 0.0
        )
        delay_s = container.crash_loop.next_delay_s(ran_s)
        container.last = ended
        if delay_s > 0:
            where = f"container={container.name} pod={self.name}_{self.namespace}({self.uid})"
            message = f"back-off {format_duration(delay_s)} restarting failed {where}"
            container.state = Waiting("CrashLoopBackOff", message)
            self._event(
                "Warning",
                "BackOff",
                f"Back-off restarting failed container {container.name} in pod {self.name}",
                container,
            )
            self._report.touch()
            await self._clock.sleep(delay_s)
        else:
            container.state = Waiting("ContainerCreating")

    # Starting

    async def _start(self, container: Container) -> Run | None:
        """Start a container's program; None when it could not be executed, which its state then says."""
        image = await self._find_image(container)
        plan = await self._configure(container, image)
        # A started run must be known to us, whatever is cancelled meanwhile.
        with anyio.CancelScope(shield=True):
            run = await self._spawn(container, plan)
        if run is not None:
            await self._post_start(container, run)
        return run

    async def _find_image(self, container: Container) -> ImageSpec:
        backoff = PullBackOff(self._host.backoff_scale)
        while True:
            name = str(container.spec.get("image", ""))
            try:
                image = self._host.images.resolve(name)
            except ImageNotMapped as error:
                if container.spec.get("imagePullPolicy") == "Never":
                    message = f'Container image "{name}" is not present with pull policy of Never'
                    self._event("Warning", "ErrImageNeverPull", message, container)
                    self._event("Warning", "Failed", "Error: ErrImageNeverPull", container)
                    container.state = Waiting("ErrImageNeverPull", message)
                    self._report.touch()
                    await self._clock.sleep(_NEVER_PULL_RETRY_S)
                    continue
                self._event("Warning", "Failed", f'Failed to pull image "{name}": {error}', container)
                self._event("Warning", "Failed", "Error: ErrImagePull", container)
                container.state = Waiting("ErrImagePull", str(error))
                self._report.touch()
                delay_s = backoff.next_delay_s()
                await self._clock.sleep(delay_s / 10)
                self._event("Normal", "BackOff", f'Back-off pulling image "{name}"', container)
                self._event("Warning", "Failed", "Error: ImagePullBackOff", container)
                container.state = Waiting("ImagePullBackOff", f'Back-off pulling image "{name}": ErrImagePull: {error}')
                self._report.touch()
                await self._clock.sleep(delay_s * 0.9)
                continue
            self._event("Normal", "Pulled", f'Container image "{name}" already present on machine', container)
            container.image_id = image.image_id
            return image

    async def _configure(self, container: Container, image: ImageSpec) -> Plan:
        assert self._volumes is not None
        while True:
            try:
                return await plan_container(
                    self.pod,
                    container.spec,
                    image,
                    self._volumes,
                    self._host,
                    pod_dir=self.pod_dir,
                    pod_ip=self.pod_ip,
                )
            except ContainerConfig as error:
                container.state = Waiting("CreateContainerConfigError", str(error))
                self._event("Warning", "Failed", f"Error: {error}", container)
                self._report.touch()
            except KubeError as error:
                log.warning("kubelet.pod.configure", pod=f"{self.namespace}/{self.name}", error=str(error))
            await self._clock.sleep(_CONFIG_RETRY_S)

    async def _spawn(self, container: Container, plan: Plan) -> Run | None:
        assert self._tasks is not None
        sandbox = self._host.sandbox
        container.attempts += 1
        container.container_id = container.next_id(self.uid)
        container.started = container.ready = False
        self._event("Normal", "Created", f"Container created: {container.name}", container)
        now = self._clock.now()
        writer: LogWriter | None = None
        try:
            sandbox.build(plan.box)
            writer = LogWriter(container.log_path(self.pod_dir, container.attempts), self._clock)
            process = await self._host.spawner.spawn(
                sandbox.command(plan.box, plan.argv, plan.env),
                root=sandbox.root(plan.box),
                stdin=bool(container.spec.get("stdin")),
                tty=bool(container.spec.get("tty")),
                pidfile=self.pod_dir / "containers" / container.name / PIDFILE,
                memory_bytes=plan.memory_bytes,
            )
        except (StartError, OSError) as error:
            if writer is not None:
                writer.close()
            container.state = Terminated(127, "ContainerCannotRun", now, now, str(error), container.container_id)
            self._event("Warning", "Failed", f"Error: failed to start container {container.name!r}: {error}", container)
            self._report.touch()
            return None
        run = Run(process, plan.box, plan.env, writer, now, self._clock.boottime())
        container.run = run
        container.state = Running(now)
        container.started = not container.spec.get("startupProbe")
        container.ready = container.started and not container.spec.get("readinessProbe")
        if container.started:
            container.is_up.set()
        self._tasks.start_soon(self._attend, container, run)
        self._forget_old_logs(container)
        self._event("Normal", "Started", f"Container started: {container.name}", container)
        self._report.touch()
        return run

    def _forget_old_logs(self, container: Container) -> None:
        """This run's log and the one before are kept, as on a cluster."""
        path = container.log_path(self.pod_dir, container.attempts - 2)
        for old in [*rotated(path), path]:
            old.unlink(missing_ok=True)

    async def _attend(self, container: Container, run: Run) -> None:
        """Carry the output away, and note how the run ended. Goes on while the pod is being stopped."""

        async def sink(stream: str, data: bytes) -> None:
            began = self._clock.boottime()
            run.broadcast.send(stream, data)
            try:
                run.log.write(stream, data)
            except OSError as error:
                # A full disk loses output; it must not lose the container.
                log.warning("kubelet.log.lost", pod=f"{self.namespace}/{self.name}", error=str(error))
            # Meanwhile the program waits with its pipe full, and the plane has time for everybody else.
            await self._clock.sleep((self._clock.boottime() - began) * _BREATHER)

        try:
            with anyio.CancelScope(shield=True):
                await run.process.pump(sink)
                code = await run.process.wait()
            self._note_end(container, run, code)
        finally:
            run.broadcast.close()
            run.process.close()
            run.done.set()
            self._report.touch()

    def _note_end(self, container: Container, run: Run, code: int) -> None:
        try:
            run.log.close()
        except OSError as error:
            log.warning("kubelet.log.lost", pod=f"{self.namespace}/{self.name}", error=str(error))
        container.state = Terminated(
            exit_code=code,
            reason="OOMKilled" if run.process.out_of_memory else exit_reason(code),
            started_at=run.started_at,
            finished_at=self._clock.now(),
            message=termination_message(container.spec, run.log.path, self._message_file(run), code),
            container_id=container.container_id,
        )
        container.started = container.ready = False

    def _message_file(self, run: Run) -> Path:
        return self._host.sandbox.host_path(run.box, run.box.termination_path)

    # While it runs

    async def _watch_over(self, container: Container, run: Run) -> None:
        """Probe a container until it has ended."""

        async def condemn(which: str, probe: Object) -> None:
            await self._restart(container, run, which, probe)

        def unhealthy(message: str) -> None:
            self._event("Warning", "Unhealthy", message, container)

        prober = self._prober(container, run)
        probes = ContainerProbes(container, run, prober, self._clock, self._report.touch, unhealthy, condemn)
        async with anyio.create_task_group() as tg:
            tg.start_soon(probes.watch)
            await run.done.wait()
            tg.cancel_scope.cancel()

    async def _restart(self, container: Container, run: Run, which: str, probe: Object) -> None:
        """A probe has condemned the container; what happens next is up to its restart policy."""
        message = f"Container {container.name} failed {which} probe, will be restarted"
        if not should_restart(self._policy_of(container), 137):
            message = f"Container {container.name} failed {which} probe"
        self._event("Normal", "Killing", message, container)
        grace_s = probe.get("terminationGracePeriodSeconds")
        deadline = self._clock.boottime() + float(self._grace_s if grace_s is None else grace_s)
        await self._stop(container, run, lambda: deadline)

    def _prober(self, container: Container, run: Run) -> Prober:
        ports = {p["name"]: int(p["containerPort"]) for p in container.spec.get("ports") or () if p.get("name")}

        async def execute(argv: Sequence[str]) -> tuple[int, str]:
            sandbox = self._host.sandbox
            command = sandbox.exec_command(run.box, argv, run.env, run.process.pid)
            return await run_command(self._host.spawner, command, sandbox.root(run.box))

        return Prober(self.pod_ip, ports, execute)

    async def _post_start(self, container: Container, run: Run) -> None:
        hook = (container.spec.get("lifecycle") or {}).get("postStart")
        if not hook:
            return
        outcome = await self._hook(container, run, hook)
        if not outcome.ok:
            self._event("Warning", "FailedPostStartHook", f"PostStartHook failed: {outcome.message}", container)
            deadline = self._clock.boottime() + self._grace_s
            await self._stop(container, run, lambda: deadline)

    async def _hook(self, container: Container, run: Run, hook: Object) -> Outcome:
        if "sleep" in hook:
            await self._clock.sleep(float(hook["sleep"].get("seconds") or 0))
            return Outcome(True)
        return await self._prober(container, run).ask(hook)

    async def _refresh_forever(self) -> None:
        while True:
            await self._clock.sleep(REFRESH_S)
            assert self._volumes is not None
            try:
                for failure in await self._volumes.refresh(self.pod):
                    self._event("Warning", "FailedMount", f"MountVolume.SetUp failed for volume {failure}")
            except KubeError as error:
                log.warning("kubelet.pod.refresh", pod=f"{self.namespace}/{self.name}", error=str(error))

    # The end

    async def _fail_at_deadline(self) -> None:
        limit_s = self.pod["spec"].get("activeDeadlineSeconds")
        if limit_s is None:
            return
        assert self._start_time is not None
        await self._clock.sleep((self._start_time - self._clock.now()).total_seconds() + float(limit_s))
        self._failure = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
        self._event("Normal", "DeadlineExceeded", self._failure[1])
        self._deadline = self._clock.boottime() + self._grace_s
        self._life.cancel()

    async def _stop_containers(self, *, quiet: bool = False) -> None:
        """Stop what still runs before `_deadline`: containers together, then sidecars in reverse order."""
        if self._deadline == float("inf"):
            self._deadline = self._clock.boottime() + self._grace_s

        async def stop(container: Container) -> None:
            run = container.running
            if run is not None:
                if not quiet:
                    self._event("Normal", "Killing", f"Stopping container {container.name}", container)
                await self._stop(container, run, lambda: self._deadline)

        async with anyio.create_task_group() as tg:
            for container in self._of_role("main", "init"):
                tg.start_soon(stop, container)
        for container in reversed(self._of_role("sidecar")):
            await stop(container)

    async def _stop(self, container: Container, run: Run, deadline: Callable[[], float]) -> None:
        """preStop, SIGTERM, and SIGKILL at the deadline, which may move closer meanwhile."""
        hook = (container.spec.get("lifecycle") or {}).get("preStop")
        end = deadline
        if hook and deadline() > self._clock.boottime():
            await self._pre_stop(container, run, hook, deadline)
            least = self._clock.boottime() + _AFTER_HOOK_S
            end = lambda: max(deadline(), least)  # noqa: E731
        if end() > self._clock.boottime():
            run.process.signal(SIGTERM)
        while not run.done.is_set():
            left_s = end() - self._clock.boottime()
            if left_s <= 0:
                break
            with anyio.move_on_after(min(left_s, 1.0)):
                await run.done.wait()
        if not run.done.is_set():
            run.process.kill_tree()
            await run.done.wait()

    async def _pre_stop(self, container: Container, run: Run, hook: Object, deadline: Callable[[], float]) -> None:
        outcome = Outcome(False, "the grace period is over")
        with anyio.move_on_after(deadline() - self._clock.boottime()):
            outcome = await self._hook(container, run, hook)
        if not outcome.ok:
            self._event("Warning", "FailedPreStopHook", f"PreStopHook failed: {outcome.message}", container)

    async def _end(self) -> None:
        """Nothing of the pod runs any more: say so, and give back what only running pods need."""
        for container in self.containers.values():
            if isinstance(container.state, Waiting) and container.last is not None and container.role == "main":
                container.state = container.last
        self._ended = True
        self._sandbox_ready = False
        while not self._gone.is_set() and not await self._report.write():
            await self._clock.sleep(RETRY_S)
        if self._volumes is not None:
            self._volumes.remove()

    async def _finish(self) -> None:
        """The pod is to be deleted and has stopped: let the object go."""
        while not self._gone.is_set():
            try:
                await self._host.api.delete(self.pod)
                return
            except KubeError as error:
                log.warning("kubelet.pod.delete", pod=f"{self.namespace}/{self.name}", error=str(error))
                await self._clock.sleep(RETRY_S)

    # The report

    def _status(self, before: Object) -> dict[str, Any]:
        return pod_status(
            {**self.pod, "status": before},
            {c.name: c.record() for c in self.containers.values()},
            now=self._clock.now(),
            pod_ip=self.pod_ip,
            host_ip=self._host.host_ip,
            start_time=self._start_time,
            sandbox_ready=self._sandbox_ready,
            ended=self._ended,
            failure=self._failure if self._ended else None,
        )

    def _event(self, type: str, reason: str, message: str, container: Container | None = None) -> None:
        self._host.api.event(self.pod, type, reason, message, container.name if container else "")

    # Small facts

    @property
    def _policy(self) -> str:
        return str(self.pod["spec"].get("restartPolicy") or "Always")

    @property
    def _grace_s(self) -> float:
        grace_s = self.pod["spec"].get("terminationGracePeriodSeconds")
        return float(_DEFAULT_GRACE_S if grace_s is None else grace_s)

    def _policy_of(self, container: Container) -> str:
        if container.role == "sidecar":
            return "Always"
        if container.role == "init" and self._policy == "Always":
            return "OnFailure"
        return self._policy

    def _of_role(self, *roles: str) -> list[Container]:
        return [c for c in self.containers.values() if c.role in roles]
