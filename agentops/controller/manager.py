"""Owns everything a set of controllers shares, and its order of starting and stopping.

    start: sockets bound ► metrics and probes ► webhooks ► caches synced ► others ► leadership ► leader's work
    stop:  others ► leader's work ► caches ► webhooks ► metrics and probes ► lease given back ► events written

Stopping is cancelling `run`: runnables that have `stop()` are asked and may finish within the grace
period, the rest is cancelled. The first failure of any runnable stops the manager and is raised.
Losing the lease stops it without grace, or, with `on_lost="rejoin"`, the leader's work only: caches and
servers go on, and when the lease is won again the same work starts again.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, nullcontext
from typing import Any, Protocol, cast

import anyio
import anyio.abc
from attrs import define, evolve, field, frozen
from starlette.routing import Route

from agentops.controller import gcpolicy
from agentops.controller.cache import CacheOptions, Namespaces, Scope
from agentops.controller.client import Consistency
from agentops.controller.cluster import Cluster, ClusterOptions
from agentops.controller.controller import Controller, describe
from agentops.controller.debugqueue import queue_route
from agentops.controller.errors import (
    BuildError,
    CacheSyncTimeout,
    ControllerError,
    GraceExceeded,
    LeaderElectionLost,
)
from agentops.controller.events import EventBroadcaster, EventRecorder
from agentops.controller.health import Check, Checks
from agentops.controller.httpservers import BoundServer, bind_servers, close_all
from agentops.controller.leaderelection import LeaderElectionOptions, LeaderElector
from agentops.controller.metrics import CacheCollector
from agentops.controller.securemetrics import SecureMetrics, TlsFront
from agentops.controller.watchdog import LoopWatchdog
from agentops.controller.webhook import WebhookOptions, WebhookServer
from agentops.kube.config import ClusterConfig
from agentops.kube.transport import Transport
from agentops.telemetry.logging import get_logger
from agentops.telemetry.metrics import Registry
from agentops.values.clock import Clock, SystemClock
from agentops.values.kinds import Kind

log = get_logger("controller.manager")

_CANCEL_S = 1.0

Runnable = Callable[..., Awaitable[None]]
"""`async def run(*, task_status)`; may call `task_status.started()`, nobody waits for it."""


@frozen(slots=True)
class ManagerOptions:
    """`metrics_bind` and `probes_bind` are addresses such as `:8080`; None or "0" is off.

    `grace_s`: how long stopping may take, 0 cancels at once. `namespaces` empty watches all. `scopes`
    narrows what the cache keeps of a kind, `uncached` names kinds that are read live. `metrics_routes` are
    served beside `/metrics`, with `secure_metrics` over TLS; `webhooks` matter once a webhook is registered.
    """

    name: str = "agentops"
    leader_election: LeaderElectionOptions | None = None
    metrics_bind: str | None = None
    probes_bind: str | None = None
    grace_s: float = 30.0
    max_concurrent: int = 1
    max_concurrent_of: Mapping[Kind, int] = field(factory=dict)
    """Workers of the controllers for a kind; a controller's own option comes before it, `max_concurrent` after."""
    clock: Clock = field(factory=SystemClock)
    rng: random.Random = field(factory=random.Random, repr=False)
    namespaces: Namespaces = ()
    scopes: Mapping[Kind, Scope] = field(factory=dict)
    uncached: Collection[Kind] = ()
    unfresh_after_s: float | None = 300.0
    """A watch that has not been current for longer makes the process not ready; None: only metrics say so."""
    watchdog: bool = True
    """Whether a blocked event loop is measured and logged. Off under clocks other than the machine's."""
    tune_gc: bool = False
    """For a process that is nothing but this manager: hold the garbage collector back while caches fill, and then
    freeze what exists (`gc.freeze`), so that its passes cost what is new, not what is cached."""
    qps: float = 0.0
    """Requests a second that the client allows itself, `burst` at once; 0: the server decides."""
    burst: int = 100
    consistency: Consistency = "own-writes"
    """Whether cached reads wait for own writes to the same key to be seen, or ("none") never."""
    rest_metrics: bool = False
    """Whether durations and sizes of requests are measured too."""
    user_agent: str = "agentops"
    field_manager: str = "agentops"
    cache_sync_timeout_s: float = 120.0
    resync_s: float = 10 * 3600.0
    cache: CacheOptions = field(factory=CacheOptions)
    """The rest of what the cache can be told; `namespaces`, `scopes` and `resync_s` above come first."""
    explain: bool = False
    """Whether controllers remember why keys were reconciled, shown at `/debug/queue` beside `/metrics`."""
    secure_metrics: SecureMetrics | None = None
    metrics_routes: tuple[Route, ...] = ()
    webhooks: WebhookOptions = field(factory=WebhookOptions)


class _Stoppable(Protocol):
    def stop(self) -> None: ...


@define(slots=True, eq=False)
class _Task:
    name: str
    runnable: Runnable
    stop: Callable[[], None] | None
    scope: anyio.CancelScope


class _Group:
    """Tasks that start and stop together. They live in the manager's one task group."""

    def __init__(self, manager: Manager, name: str) -> None:
        self._manager = manager
        self._tasks: list[_Task] = []
        self._empty = anyio.Event()
        self.name = name

    @property
    def running(self) -> list[str]:
        return [task.name for task in self._tasks]

    @property
    def runnables(self) -> list[tuple[Runnable, str]]:
        """What runs now, with its names."""
        return [(task.runnable, task.name) for task in self._tasks]

    async def start(self, root: anyio.abc.TaskGroup, runnable: Runnable, name: str, *, wait: bool) -> None:
        """Start one; with `wait` until it says that it has started, or has failed."""
        owner = getattr(runnable, "__self__", runnable)
        task = _Task(name, runnable, getattr(owner, "stop", None), anyio.CancelScope())
        self._tasks.append(task)
        status = _Status()
        root.start_soon(self._run, runnable, task, status, name=name)
        if wait:
            await status.event.wait()

    async def _run(self, runnable: Runnable, task: _Task, status: _Status) -> None:
        try:
            with task.scope:
                await runnable(task_status=status)
        except Exception as error:
            self._manager._fail(task.name, error)
        finally:
            status.started()
            self._tasks.remove(task)
            if not self._tasks:
                self._empty.set()

    async def stop(self, deadline: float) -> list[str]:
        """Ask, wait until `deadline` of the loop's clock, cancel; the names that had to be cancelled late.

        What is cancelled at the first asking has a second to end before it counts as late.
        """
        self._empty = anyio.Event()
        now = anyio.current_time()
        for task in list(self._tasks):
            if task.stop is None or deadline <= now:
                task.scope.cancel()
            else:
                task.stop()
        late: list[str] = []
        if self._tasks:
            with anyio.CancelScope(deadline=max(deadline, now + _CANCEL_S)) as bound:
                await self._empty.wait()
            if bound.cancelled_caught:
                late = self.running
                log.error("manager.not_stopped", group=self.name, runnables=late)  # who never ends is named here only
                for task in self._tasks:
                    task.scope.cancel()
                await self._empty.wait()
        return late


class _Status:
    """A task status that nobody has to wait for."""

    def __init__(self) -> None:
        self.event = anyio.Event()

    def started(self, value: object = None) -> None:
        self.event.set()


class Manager:
    """Client, cache, metrics, events and leadership for a set of controllers. Inert until `run`, once.

    With a ClusterConfig it makes, and closes, its own aiohttp transport; a Transport stays the caller's.
    """

    def __init__(self, transport: Transport | ClusterConfig, options: ManagerOptions | None = None) -> None:
        self.options = options or ManagerOptions()
        self.clock = self.options.clock
        self.registry = Registry()
        self.cluster = Cluster(
            transport,
            ClusterOptions(
                cache=evolve(
                    self.options.cache,
                    namespaces=self.options.namespaces or self.options.cache.namespaces,
                    scopes={**self.options.cache.scopes, **self.options.scopes},
                    resync_s=self.options.resync_s,
                ),
                uncached=self.options.uncached,
                user_agent=self.options.user_agent,
                field_manager=self.options.field_manager,
                qps=self.options.qps,
                burst=self.options.burst,
                rest_metrics=self.options.rest_metrics,
                consistency=self.options.consistency,
            ),
            registry=self.registry,
            clock=self.clock,
            rng=self.options.rng,
        )
        live, self.cache, self.client = self.cluster.live, self.cluster.cache, self.cluster.client
        self._clusters = [self.cluster]
        self._collector = CacheCollector(self.cache)
        self.registry.collect_from(self._collector)
        self.elected = anyio.Event()
        """Set when this process leads, also without leader election; another event after the lease was lost."""
        self._events = EventBroadcaster(live, clock=self.clock, rng=self.options.rng)
        self._elector: LeaderElector | None = None
        if self.options.leader_election is not None:
            self._elector = LeaderElector(
                live,
                self.options.leader_election,
                clock=self.clock,
                rng=self.options.rng,
                registry=self.registry,
            )
        self._alive, self._ready = Checks(), Checks()
        if self._elector is not None:
            self._alive.add("leader-election", self._elector.healthy)
            self._ready.add("leader-election", self._elector.healthy)
        self._ready.add("caches", lambda: None if self._synced else self._why_not_synced())
        if self.options.unfresh_after_s is not None:
            self._ready.add("freshness", self._why_not_fresh)
        self._synced = False
        self._warmups: list[tuple[Runnable, str]] = []
        self._controllers: dict[str, Controller] = {}
        self._pending: list[tuple[Runnable, bool, str]] = []
        self._servers: list[BoundServer] = []
        self._webhooks: WebhookServer | None = None
        self._root: anyio.abc.TaskGroup | None = None
        self._state = "new"
        self._stop = anyio.Event()
        self._failure: Exception | None = None
        self._later_failures: list[Exception] = []
        self._http, self._caches = _Group(self, "http"), _Group(self, "caches")
        self._hooks = _Group(self, "webhooks")
        self._others, self._leaders = _Group(self, "others"), _Group(self, "leader")
        self._election, self._recording = _Group(self, "election"), _Group(self, "events")

    # building

    def recorder(self, component: str) -> EventRecorder:
        """Records events in the name of `component`, from when the manager runs."""
        return self._events.recorder(component)

    def legacy_recorder(self, component: str, host: str = "") -> EventRecorder:
        """The same, as core/v1 Events with counts and one per note: what Kubernetes' own controllers write."""
        return self._events.legacy_recorder(component, host)

    def add(self, runnable: Runnable, *, leader_only: bool = True, name: str = "") -> None:
        """Run `runnable` with the manager; when it runs already, at once. Raises when it is stopping."""
        name = name or str(getattr(runnable, "__qualname__", None) or type(runnable).__name__)
        if self._state in ("stopping", "stopped"):
            raise ControllerError(f"the manager is stopping; {name} cannot be added")
        self._pending.append((runnable, leader_only, name))
        if self._root is not None:
            self._root.start_soon(self._start_pending)

    def add_cluster(self, cluster: Cluster) -> None:
        """Run the cache of one more cluster, from before the controllers until after them."""
        if self._state != "new":
            raise ControllerError(f"cluster {cluster.name!r} must be added before the manager runs")
        self._clusters.append(cluster)
        self._collector.add(cluster.cache)

    def add_controller(self, controller: Controller) -> None:
        """Called by `Builder.build`. Raises BuildError for a name that is taken."""
        if controller.name in self._controllers:
            raise BuildError(f"there is a controller {controller.name!r} already; set another name with named()")
        self._controllers[controller.name] = controller
        if controller.options.warmup and controller.leader_only and self._elector and self._state == "new":

            async def warm_up(*, task_status: Any) -> None:  # a function: the controller's stop() is for its workers
                await controller.warm_up(task_status=task_status)

            self._warmups.append((warm_up, f"warm-up of {controller.name}"))
        self.add(controller.run, leader_only=controller.leader_only, name=f"controller {controller.name}")

    def add_ready_check(self, name: str, check: Check) -> None:
        """Part of `/readyz`."""
        self._ready.add(name, check)

    def add_health_check(self, name: str, check: Check) -> None:
        """Part of `/healthz`: failing it gets the process killed."""
        self._alive.add(name, check)

    @property
    def webhooks(self) -> WebhookServer:
        """Register admission and conversion here, before `run`: asking for it is what starts the server.

        Raises ControllerError for the first time of asking in a manager that runs.
        """
        if self._webhooks is None:
            if self._state != "new":
                raise ControllerError("the manager runs without webhooks; use manager.webhooks before run()")
            self._webhooks = WebhookServer(self.options.webhooks, registry=self.registry, clock=self.clock)
            self._ready.add("webhooks", self._webhooks.problem)
        return self._webhooks

    @property
    def leading(self) -> bool:
        return self.elected.is_set()

    @property
    def bound(self) -> Mapping[str, str]:
        """Addresses of the metrics and probe servers, once `run` has bound them."""
        return {server.name: server.address for server in self._servers}

    # running

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled. `task_status` starts when the caches have synced.

        Raises what failed first: a ListenError, CacheSyncTimeout, LeaderElectionLost, a runnable's
        own error; GraceExceeded when something did not stop in time.
        """
        if self._state != "new":
            raise ControllerError("a manager runs once; build a new one")
        self._state = "starting"
        self._servers = bind_servers(
            metrics=self.options.metrics_bind,
            probes=self.options.probes_bind,
            registry=self.registry,
            alive=self._alive,
            ready=self._ready,
            extra=(*self.options.metrics_routes, *self._debug_routes()),
            front=self._front(),
        )
        try:
            if self._webhooks is not None:
                self._webhooks.bind()
            async with anyio.create_task_group() as outer:
                outer.start_soon(self._supervise, task_status, outer.cancel_scope)
                try:
                    await anyio.sleep_forever()
                finally:
                    self._stop.set()  # the supervisor is shielded: it stops things in order, then ends
        except anyio.get_cancelled_exc_class():
            if self._failure is not None:  # stopping did not go well: that matters more than being cancelled
                raise self._failure from None
            raise
        finally:
            self._state = "stopped"
            close_all(self._servers)
            if self._webhooks is not None:
                self._webhooks.close()
        if self._failure is not None:
            raise self._failure

    async def _supervise(self, task_status: anyio.abc.TaskStatus[None], outer: anyio.CancelScope) -> None:
        with anyio.CancelScope(shield=True):
            try:
                async with AsyncExitStack() as stack:
                    for cluster in self._clusters:
                        await cluster.open(stack)
                    async with anyio.create_task_group() as root:
                        self._root = root
                        try:
                            await self._start(root, task_status)
                        except Exception as error:
                            self._fail("start", error)
                        await self._stop.wait()
                        await self._shut_down()
                        self._root = None
                        root.cancel_scope.cancel()
            except Exception as error:
                self._fail("manager", error)
        outer.cancel()

    async def _start(self, root: anyio.abc.TaskGroup, task_status: anyio.abc.TaskStatus[None]) -> None:
        """The start sequence; ends early when the manager is to stop."""
        with anyio.CancelScope() as sequence:

            async def give_up() -> None:
                await self._stop.wait()
                sequence.cancel()

            async with anyio.create_task_group() as watch:
                watch.start_soon(give_up)
                await self._recording.start(root, self._events.run, "events", wait=True)
                for server in self._servers:
                    await self._http.start(root, server.run, f"{server.name} server", wait=True)
                if self._webhooks is not None:
                    await self._hooks.start(root, self._webhooks.run, "webhook server", wait=True)
                if self.options.watchdog and isinstance(self.clock, SystemClock):
                    watchdog = LoopWatchdog(self.registry, reconcile_code=Controller._process.__code__)
                    await self._http.start(root, watchdog.run, "watchdog", wait=True)
                with gcpolicy.filling() if self.options.tune_gc else nullcontext():
                    for cluster in self._clusters:
                        name = "cache" if cluster is self.cluster else f"cache of {cluster.name}"
                        await self._caches.start(root, cluster.cache.run, name, wait=True)
                    with anyio.move_on_after(self.options.cache_sync_timeout_s) as bound:
                        for cluster in self._clusters:
                            await cluster.cache.wait_for_sync()
                if bound.cancelled_caught:
                    raise CacheSyncTimeout(
                        f"not synced within {self.options.cache_sync_timeout_s:g} s: {self._why_not_synced()}"
                    )
                self._synced = True
                if self.options.tune_gc:
                    gcpolicy.settle()
                log.info("manager.synced", manager=self.options.name)
                task_status.started()
                self._state = "running"
                await self._start_pending()
                for warmup, name in self._warmups:
                    await self._others.start(root, warmup, name, wait=True)
                root.start_soon(self._lead, root)
                watch.cancel_scope.cancel()

    async def _start_pending(self) -> None:
        """Start what may start now: leader's work only when leading."""
        if self._root is None or self._state != "running":
            return
        waiting, self._pending = self._pending, []
        for runnable, leader_only, name in waiting:
            if leader_only and not self.elected.is_set():
                self._pending.append((runnable, leader_only, name))
            else:
                group = self._leaders if leader_only else self._others
                await group.start(self._root, runnable, name, wait=False)

    async def _lead(self, root: anyio.abc.TaskGroup) -> None:
        if self._elector is None:
            self.elected.set()
            await self._start_pending()
            return
        elector = self._elector

        async def campaign(*, task_status: Any) -> None:
            while True:
                await elector.acquire()
                self.elected.set()
                await self._start_pending()
                try:
                    await elector.hold()
                except LeaderElectionLost as lost:
                    if elector.options.on_lost != "rejoin":
                        raise
                    await self._stop_leading(elector, lost)

        await self._election.start(root, campaign, "leader election", wait=False)

    async def _stop_leading(self, elector: LeaderElector, lost: LeaderElectionLost) -> None:
        """End the leader's work at once, and keep what was running for when the lease is won again."""
        log.warning("manager.rejoins", manager=self.options.name, why=str(lost))
        self.elected = anyio.Event()
        again = self._leaders.runnables
        await self._leaders.stop(anyio.current_time())
        await elector.release()  # it is not ours any more: this lets go of the fence
        for controller in self._controllers.values():
            if controller.leader_only:
                controller.reset()
        self._pending += [(runnable, True, name) for runnable, name in again]

    async def _shut_down(self) -> None:
        """The stop sequence. Only lost leadership cuts it short."""
        self._state = "stopping"
        lost = isinstance(self._failure, LeaderElectionLost)
        grace_s = 0.0 if lost else self.options.grace_s
        deadline = anyio.current_time() + (grace_s if grace_s >= 0 else float("inf"))
        log.info("manager.stopping", manager=self.options.name, grace_s=grace_s)
        late: list[str] = []
        for group in (self._others, self._leaders, self._caches, self._hooks, self._http):
            late += await group.stop(deadline)
        if late and grace_s > 0:  # who allows no time is not told that it was too short
            self._fail("manager", GraceExceeded(f"not stopped within {grace_s:g} s: {', '.join(late)}"))
        await self._election.stop(anyio.current_time())  # renewals last as long as the work, not longer
        if self._elector is not None:
            await self._elector.release()
        await self._recording.stop(anyio.current_time())
        await self._events.flush()
        for error in self._later_failures:
            if self._failure is not None:
                self._failure.add_note(f"while stopping: {describe(error)}")
        log.info("manager.stopped", manager=self.options.name)

    def _fail(self, name: str, error: Exception) -> None:
        while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            error = cast(Exception, error.exceptions[0])
        if self._failure is None:
            self._failure = error
            log.error("manager.failed", runnable=name, error=describe(error))
        else:
            self._later_failures.append(error)
            log.error("manager.failed_too", runnable=name, error=describe(error))
        self._stop.set()

    def _debug_routes(self) -> tuple[Route, ...]:
        return (queue_route(self._controllers),) if self.options.explain else ()

    def _front(self) -> TlsFront | None:
        secure = self.options.secure_metrics
        return TlsFront(secure, self.client.live, self.registry, self.clock) if secure is not None else None

    def _why_not_synced(self) -> str:
        return "; ".join(self._problems()) or "the caches have not synced yet"

    def _why_not_fresh(self) -> str | None:
        limit_s = self.options.unfresh_after_s
        stale = [
            f"{informer.kind.resource} has not been current for {informer.stale_s():.0f} s: {informer.last_error}"
            for cluster in self._clusters
            for informer in cluster.cache.informers
            if limit_s is not None and informer.stale_s() > limit_s
        ]
        return "; ".join(stale) or None

    def _problems(self) -> list[str]:
        return [problem for cluster in self._clusters for problem in cluster.cache.problems()]
