"""The process kubelet: runs the pods of one node as processes of this machine.

    Manager ── pods ──► Kubelet ── one PodWorker per pod ──► ProcessTable ──► processes
       └────── services ──► ServiceNetwork ──► ServiceProxy, hosts files

`Kubelet` ties the parts together and answers the API server's streams (logs, exec, attach, addresses) and usage.

Guarantees: no process of a pod outlives the plane, however it ends (see `process`, `strays`); a pod's status is
written by one task from what was observed; containers are never started twice for one run.
Assumes that it alone uses the state directory.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus
from attrs import field, frozen

from agentops.controller import Builder, Manager, Request, Result
from agentops.kube.kinds import POD
from agentops.local.apiserver.node import LogOptions, NodeStreamError, NodeUsage, PodUsage
from agentops.local.kubelet.addresses import DEFAULT_POD_CIDR, PodAddresses
from agentops.local.kubelet.api import ClusterApi
from agentops.local.kubelet.container import Container, Run
from agentops.local.kubelet.errors import StartError
from agentops.local.kubelet.exec import AttachSession, ExecSession
from agentops.local.kubelet.hosts import HostsFiles
from agentops.local.kubelet.images import DEFAULT_IMAGES, ImageMap
from agentops.local.kubelet.isolation import Chosen
from agentops.local.kubelet.logs import parse_nano, read_log
from agentops.local.kubelet.node import MAX_PODS, NodeReporter, capacity
from agentops.local.kubelet.pod_host import PodHost
from agentops.local.kubelet.pod_worker import PodWorker
from agentops.local.kubelet.prefix import PrefixSandbox
from agentops.local.kubelet.process import ProcessTable
from agentops.local.kubelet.scheduler import Scheduler
from agentops.local.kubelet.services import ServiceNetwork
from agentops.local.kubelet.status import Waiting
from agentops.local.kubelet.usage import PERIOD_S, UsageMeter, Watched
from agentops.telemetry.logging import bind, get_logger

log = get_logger("kubelet")

Object = Mapping[str, Any]

_AGAIN_S = 5.0
"""When a pod whose worker broke is taken up again."""


@frozen(slots=True)
class KubeletOptions:
    """`state_dir` is the plane's; the kubelet keeps `pods/` and `resolve/` in it."""

    state_dir: Path
    api_host: str
    """Where the API server really listens: KUBERNETES_SERVICE_HOST of every container."""
    api_port: int
    pod_cidr: str = DEFAULT_POD_CIDR
    """Pod addresses, a part of 127.0.0.0/8 that no other plane uses."""
    pod_env: Mapping[str, str] = field(factory=dict, repr=False)
    """Given to every container (`--pod-env`); nothing else of the plane's environment is."""
    node_name: str = "local"
    host_ip: str = "127.0.0.1"
    images: ImageMap = DEFAULT_IMAGES
    backoff_scale: float = 1.0
    """Multiplies crash loop and image delays; tests use small ones."""
    stop_grace_s: float = 5.0
    """Between SIGTERM and SIGKILL when the plane stops; a pod's own grace applies to its deletion."""
    max_pods: int = MAX_PODS
    """That the node takes at a time; more wait."""
    usage_period_s: float = PERIOD_S
    """How often it is measured what containers and the machine use."""


class Kubelet:
    """Registers itself with `manager` and runs with it. Satisfies the API server's NodeStreams."""

    def __init__(self, manager: Manager, options: KubeletOptions, *, isolation: Chosen | None = None) -> None:
        isolation = isolation or Chosen(PrefixSandbox())
        clock = manager.clock
        self._client = manager.client
        self._clock = clock
        self._node_name = options.node_name
        state_dir = options.state_dir.absolute()
        self._pods_dir = state_dir / "pods"
        self._processes = ProcessTable(self._pods_dir, clock)
        state_dir.mkdir(parents=True, exist_ok=True)
        has = capacity(state_dir, options.max_pods)
        self._node = NodeReporter(manager.client, clock, options.node_name, isolation, options.host_ip, has)
        files = HostsFiles(state_dir / "resolve")
        self._network = ServiceNetwork(manager, files)
        self._scheduler = Scheduler(manager, options.node_name)
        self._host = PodHost(
            api=ClusterApi(manager.client, manager.legacy_recorder("kubelet", options.node_name), clock),
            clock=clock,
            sandbox=isolation.sandbox,
            spawner=self._processes,
            images=options.images,
            addresses=PodAddresses(options.pod_cidr),
            hosts=files,
            state_dir=state_dir,
            node_name=options.node_name,
            host_ip=options.host_ip,
            api_address=(options.api_host, options.api_port),
            pod_env=options.pod_env,
            allocatable=has,
            backoff_scale=options.backoff_scale,
            stop_grace_s=options.stop_grace_s,
        )
        self._workers: dict[tuple[str, str], PodWorker] = {}
        self._meter = UsageMeter(clock, self._watched, period_s=options.usage_period_s)
        self._broken_until: dict[str, float] = {}
        """By uid, on `clock.boottime()`: a pod whose worker broke is left alone so long, whatever changes."""
        self._tasks: TaskGroup | None = None
        self._running = anyio.Event()
        self._controller = (
            Builder(manager)
            .named("kubelet")
            .for_(POD)
            .with_options(leader_only=False, max_concurrent=4)
            .build(self._reconcile)
        )
        manager.add(self.run, leader_only=False, name="kubelet")

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Then every container gets SIGTERM, and SIGKILL after `stop_grace_s`."""
        self._pods_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with self._processes.open(), anyio.create_task_group() as tg:
            self._tasks = tg
            await self._forget_absent_pods()
            tg.start_soon(self._node.run)
            tg.start_soon(self._network.proxy.run)
            tg.start_soon(self._meter.run)
            self._running.set()
            task_status.started()
            await anyio.sleep_forever()

    async def _forget_absent_pods(self) -> None:
        """Directories of pods that were deleted while no plane ran."""
        known = {pod["metadata"]["uid"] for pod in await self._client.list(POD)}
        for folder in list(self._pods_dir.iterdir()):
            if folder.name not in known:
                log.info("kubelet.pod.forgotten", uid=folder.name)
                shutil.rmtree(folder, ignore_errors=True)

    async def _reconcile(self, request: Request) -> Result | None:
        """Bring one pod's worker up to date with the object."""
        await self._running.wait()
        pod = await self._client.try_get(POD, request.name, request.namespace)
        if pod is not None and pod["spec"].get("nodeName") != self._node_name:
            pod = None
        key = (request.namespace, request.name)
        worker = self._workers.get(key)
        if worker is not None and (pod is None or pod["metadata"]["uid"] != worker.uid):
            # Its task cleans up behind it; a new pod of the same name has another directory and address.
            del self._workers[key]
            worker.gone()
            worker = None
        if pod is None:
            return None
        if worker is not None:
            worker.update(pod)
            return None
        wait_s = self._broken_until.get(pod["metadata"]["uid"], 0.0) - self._clock.boottime()
        if wait_s > 0:
            return Result(requeue_after=wait_s)
        await self._network.add_namespace(request.namespace)
        self._workers[key] = worker = PodWorker(pod, self._host)
        assert self._tasks is not None
        self._tasks.start_soon(self._run_worker, worker, request)
        return None

    async def _run_worker(self, worker: PodWorker, request: Request) -> None:
        with bind(pod=str(request)):
            try:
                await worker.run()
            except Exception:
                # One pod's trouble is not the others': it is taken up again from what its status says.
                log.exception("kubelet.pod.broken")
                self._broken_until[worker.uid] = self._clock.boottime() + _AGAIN_S
                self._controller.enqueue(request, after_s=_AGAIN_S)
            else:
                self._broken_until.pop(worker.uid, None)
            finally:
                if self._workers.get((request.namespace, request.name)) is worker:
                    del self._workers[request.namespace, request.name]

    # NodeStreams

    def logs(self, namespace: str, pod: str, options: LogOptions) -> AsyncIterator[bytes]:
        """Raises NodeStreamError at once, before the first byte."""
        worker = self._worker(namespace, pod)
        container = self._container(worker, options.container)
        attempt = container.attempts - (1 if options.previous else 0)
        if options.previous and attempt < 1:
            raise NodeStreamError(f'previous terminated container "{container.name}" in pod "{pod}" not found')
        if attempt < 1:
            reason = container.state.reason if isinstance(container.state, Waiting) else "ContainerCreating"
            raise NodeStreamError(f'container "{container.name}" in pod "{pod}" is waiting to start: {reason}')
        start: datetime | None = None
        if options.since_seconds is not None:
            start = self._clock.now() - timedelta(seconds=options.since_seconds)
        elif options.since_time:
            try:
                start = parse_nano(options.since_time)
            except ValueError as error:
                raise NodeStreamError(f"sinceTime: {error}") from error
        run = container.run
        writer = run.log if run is not None and not options.previous else None
        return read_log(
            container.log_path(worker.pod_dir, attempt),
            lambda: writer,
            follow=options.follow,
            tail_lines=options.tail_lines,
            start=start,
            timestamps=options.timestamps,
            limit_bytes=options.limit_bytes,
        )

    async def exec(
        self, namespace: str, pod: str, container: str, command: Sequence[str], *, stdin: bool, tty: bool
    ) -> ExecSession:
        """Run `command` beside the container's program. Raises NodeStreamError."""
        worker = self._worker(namespace, pod)
        found = self._container(worker, container)
        run = self._current_run(found)
        if not command:
            raise NodeStreamError("you must specify at least one command for the container")
        sandbox = self._host.sandbox
        env = {**run.env, **({"TERM": "xterm"} if tty else {})}
        try:
            process = await self._processes.spawn(
                sandbox.exec_command(run.box, command, env, run.process.pid),
                root=sandbox.root(run.box),
                stdin=stdin,
                tty=tty,
            )
        except (StartError, OSError) as error:
            raise NodeStreamError(f"cannot execute in container {found.name!r} of pod {pod!r}: {error}", 500) from error
        assert self._tasks is not None
        return ExecSession(process, self._tasks)

    async def attach(self, namespace: str, pod: str, container: str, *, stdin: bool, tty: bool) -> AttachSession:
        """Join the container's program. Raises NodeStreamError."""
        found = self._container(self._worker(namespace, pod), container)
        run = self._current_run(found)
        if stdin and not found.spec.get("stdin"):
            raise NodeStreamError(f"container {found.name!r} of pod {pod!r} has no stdin; set stdin: true in its spec")
        receive, drop = run.broadcast.subscribe()
        return AttachSession(run.process, receive, drop, stdin=stdin, stdin_once=bool(found.spec.get("stdinOnce")))

    def address(self, namespace: str, pod: str, port: int) -> tuple[str, int]:
        """Raises NodeStreamError while the pod has no address."""
        worker = self._worker(namespace, pod)
        if not worker.pod_ip:
            raise NodeStreamError(f"pod {pod!r} has no address yet", 503)
        return worker.pod_ip, port

    def pod_usage(self, uid: str) -> PodUsage | None:
        """As of the meter's last look."""
        return self._meter.pod(uid)

    def node_usage(self, name: str) -> NodeUsage | None:
        """As of the meter's last look."""
        return self._meter.node() if name == self._node_name else None

    def _watched(self) -> Iterator[Watched]:
        """Every container that runs."""
        for worker in self._workers.values():
            for container in worker.containers.values():
                run = container.running
                if run is not None:
                    programs = self._processes.started(self._host.sandbox.root(run.box))
                    yield Watched(worker.uid, container.name, run.started_boottime, programs)

    def _worker(self, namespace: str, pod: str) -> PodWorker:
        worker = self._workers.get((namespace, pod))
        if worker is None:
            raise NodeStreamError(f'pod "{pod}" in namespace "{namespace}" is not on node "{self._node_name}"', 404)
        return worker

    def _container(self, worker: PodWorker, name: str) -> Container:
        if not name and len(worker.containers) == 1:
            return next(iter(worker.containers.values()))
        if not name:
            names = " ".join(worker.containers)
            raise NodeStreamError(f"a container name must be specified for pod {worker.name}, choose one of: [{names}]")
        if name not in worker.containers:
            raise NodeStreamError(f"container {name} is not valid for pod {worker.name}")
        return worker.containers[name]

    def _current_run(self, container: Container) -> Run:
        run = container.running
        if run is None:
            raise NodeStreamError(f'container "{container.name}" is not running: {_state_text(container)}', 400)
        return run


def _state_text(container: Container) -> str:
    state = container.state
    return getattr(state, "reason", "") or type(state).__name__.lower()
