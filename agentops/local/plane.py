"""The whole local plane in one process: API server, controllers, kubelet.

    start: state dir locked ► addresses held ► port bound ► certificates ► store ► HTTPS ► controllers and kubelet
           ► node Ready ► announced in plane.json
    stop:  kubelet (pods end) ► controllers ► HTTPS ► store ► state dir given back

Everything speaks to the API server in memory; only people and pods come through the socket, which is bound to
loopback. Controllers and kubelet are users of their own with the rights their roles give, as on a cluster. A
development plane: one machine, one user, no high availability.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
from attrs import field, frozen

from agentops import __version__
from agentops.controller import Manager, ManagerOptions
from agentops.kube.client import ApiClient
from agentops.kube.kinds import NODE
from agentops.local.apiserver import ADMIN, ApiServer, InProcessTransport, ServerOptions, User
from agentops.local.apiserver.chaos import Chaos, parse, parse_seed
from agentops.local.apiserver.rbac_defaults import CONTROLLER_MANAGER, NODES
from agentops.local.apiserver.shell import serve_tls, server_ssl_context
from agentops.local.controllers.persistentvolume import ensure_storage_class
from agentops.local.controllers.pods import condition_of, has_condition, labels_of
from agentops.local.controllers.wiring import ControllerOptions, add_controllers
from agentops.local.pki import Pki, ensure_pki
from agentops.local.state import HOST, Ranges, RunningPlane, StateDir
from agentops.net.errors import ListenError, UsageError
from agentops.net.listen import ListenAddress, bind
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock, SystemClock, rfc3339

if TYPE_CHECKING:
    from agentops.local.kubelet.isolation import Chosen, Isolation

log = get_logger("local.plane")

ISOLATION_LABEL = "agentops.io/isolation"
CONTROLLERS = User(CONTROLLER_MANAGER, groups=("system:authenticated",))
KUBELET = User("system:node:local", groups=(NODES, "system:authenticated"))
_NODE_TIMEOUT_S = 30.0
_NODE_POLL_S = 0.02


class PlaneNotReady(UsageError):
    """The plane runs but something it needs did not become ready; the message says what."""


@frozen(slots=True)
class PlaneOptions:
    """How a plane is run."""

    state_dir: Path
    port: int | None = None
    """Of the API server; `None` takes the remembered one, else a free one."""
    audit_log: Path | None = None
    """Where every request is written as one JSON line; `None` writes none."""
    pod_env: Mapping[str, str] = field(factory=dict)
    """Variables of this machine that every container gets."""
    backoff_scale: float = 1.0
    """Shortens restart and retry pauses; 1 is Kubernetes' own."""
    isolation: Isolation = "auto"
    """Of pods: `ns-user`, `prefix`, or `auto` for the best that works here."""
    kubelet: bool = True
    """Without, pods stay Pending: for tests of the control plane alone."""
    chaos: str = ""
    """Faults of the API server, as in docs/chaos.md; they begin when the plane is ready."""
    stop_grace_s: float = 5.0
    """How long pods may take to end when the plane stops, at most."""
    max_pods: int = 110
    """That run at a time; more wait, as on a node of a cluster."""


@frozen(slots=True)
class PlaneInfo:
    """A plane that is ready."""

    url: str
    port: int
    pid: int
    isolation: str
    context: str
    state_dir: Path
    shortfall: str = ""
    """Why pods are not isolated better; empty when they are as asked for."""


class Plane:
    """One plane. Inert until `run`."""

    def __init__(self, options: PlaneOptions, *, clock: Clock | None = None) -> None:
        self.options = options
        self.state = StateDir(options.state_dir)
        self._clock = clock or SystemClock()
        self._started = self._clock.now()

    async def run(self, *, task_status: anyio.abc.TaskStatus[PlaneInfo] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; `task_status` gets the PlaneInfo once `/readyz` is ok and the node is Ready.

        Cancelling drains: pods are ended, then everything else. Raises StateError, ListenError and PlaneNotReady with
        one line for a person.
        """
        self.state.acquire()
        self._started = self._clock.now()
        try:
            ranges = self.state.acquire_ranges()
            isolation = await self._choose_isolation() if self.options.kubelet else None
            listening = self._listen()
            port = int(listening.getsockname()[1])
            pki = ensure_pki(self.state.pki, addresses=[ranges.api_service_ip], now=self._clock.now())
            with ApiServer(self._server_options(port, ranges, pki), clock=self._clock) as server:
                server.bootstrap()
                await self._serve(server, listening, ranges, pki, isolation, task_status)
        finally:
            self.state.release()
        log.info("plane.stopped")

    async def _choose_isolation(self) -> Chosen:
        """Raises UsageError when the isolation that was asked for does not work here."""
        from agentops.local.kubelet.isolation import IsolationUnavailable, choose

        try:
            chosen = await choose(self.options.isolation, self.state.path, self._clock)
        except IsolationUnavailable as error:
            raise UsageError(f"--isolation {self.options.isolation}: {error}, or take --isolation prefix") from error
        if chosen.shortfall:
            log.warning("plane.pods_not_isolated", isolation=chosen.sandbox.tier, reason=chosen.shortfall)
        return chosen

    def _listen(self) -> socket.socket:
        """The asked-for port or nothing; the remembered one when it is free; else any free one, remembered."""
        if self.options.port:
            listening = bind(ListenAddress(HOST, self.options.port))
        else:
            remembered = self.state.settings().port
            try:
                listening = bind(ListenAddress(HOST, remembered))
            except ListenError:
                listening = bind(ListenAddress(HOST, 0))
                port = listening.getsockname()[1]
                log.warning("plane.port_taken", remembered=remembered, port=port, fix="print the kubeconfig again")
        self.state.remember(port=listening.getsockname()[1])
        return listening

    def _server_options(self, port: int, ranges: Ranges, pki: Pki) -> ServerOptions:
        return ServerOptions(
            db_path=self.state.database,
            host=HOST,
            port=port,
            service_cidr=ranges.services,
            sa_key_pem=pki.sa_key_pem,
            audit_log=self.options.audit_log,
        )

    async def _serve(
        self,
        server: ApiServer,
        listening: socket.socket,
        ranges: Ranges,
        pki: Pki,
        isolation: Chosen | None,
        task_status: anyio.abc.TaskStatus[PlaneInfo],
    ) -> None:
        managers = [self._controllers(server, pki)]
        if isolation is not None:
            managers.append(self._kubelet(server, listening.getsockname()[1], ranges, isolation))
        stop, serving = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run_server, server, listening, pki, serving, stop)
            try:
                await serving.wait()
                await ensure_storage_class(ApiClient(InProcessTransport(server, ADMIN)))
                async with anyio.create_task_group() as running:
                    async with anyio.create_task_group() as starting:
                        for manager in managers:
                            starting.start_soon(running.start, manager.run)
                    info = await self._announce(server, listening.getsockname()[1], isolation)
                    self._begin_chaos(server)
                    task_status.started(info)
                    await anyio.sleep_forever()
            finally:
                stop.set()  # the server outlives everything that writes to it

    async def _run_server(
        self, server: ApiServer, listening: socket.socket, pki: Pki, serving: anyio.Event, stop: anyio.Event
    ) -> None:
        with anyio.CancelScope(shield=True):
            context = server_ssl_context(pki.server_cert_path, pki.server_key_path, pki.ca_pem)
            async with anyio.create_task_group() as tasks:
                await tasks.start(server.run)
                await tasks.start(partial(serve_tls, server, listening, context, grace_s=2.0))
                serving.set()
                await stop.wait()
                tasks.cancel_scope.cancel()

    def _controllers(self, server: ApiServer, pki: Pki) -> Manager:
        manager = self._manager(server, "local", CONTROLLERS)
        controllers = ControllerOptions(
            volumes_dir=self.state.volumes,
            ca_pem=pki.ca_pem,
            sign_token=server.tokens.for_secret,
            backoff_scale=self.options.backoff_scale,
        )
        add_controllers(manager, controllers)
        return manager

    def _kubelet(self, server: ApiServer, port: int, ranges: Ranges, isolation: Chosen) -> Manager:
        from agentops.local.kubelet import Kubelet, KubeletOptions

        manager = self._manager(server, "kubelet", KUBELET)
        server.node = Kubelet(
            manager,
            KubeletOptions(
                state_dir=self.state.path,
                api_host=HOST,
                api_port=port,
                pod_env=dict(self.options.pod_env),
                pod_cidr=ranges.pods,
                backoff_scale=self.options.backoff_scale,
                stop_grace_s=self.options.stop_grace_s,
                max_pods=self.options.max_pods,
            ),
            isolation=isolation,
        )
        return manager

    def _manager(self, server: ApiServer, name: str, user: User) -> Manager:
        options = ManagerOptions(
            name=name,
            clock=self._clock,
            grace_s=self.options.stop_grace_s + 10.0,
            user_agent=f"agentops-local/{__version__}",
            field_manager="agentops-local",
            watchdog=name == "local",
        )
        return Manager(InProcessTransport(server, user), options)

    def _begin_chaos(self, server: ApiServer) -> None:
        if self.options.chaos:
            seed = parse_seed(self.options.chaos)
            Chaos(server, parse(self.options.chaos), rng=random.Random(seed), clock=self._clock).install()
            log.warning("plane.chaos", spec=self.options.chaos)

    async def _announce(self, server: ApiServer, port: int, chosen: Chosen | None) -> PlaneInfo:
        isolation = await self._isolation(server)
        url = f"https://{HOST}:{port}"
        running = RunningPlane(
            pid=os.getpid(),
            url=url,
            started_at=rfc3339(self._clock.now()),
            isolation=isolation,
            version=__version__,
        )
        self.state.announce(running)
        context = self.state.context_name()
        log.info("plane.ready", url=url, pid=running.pid, isolation=isolation, state_dir=str(self.state.path))
        shortfall = chosen.shortfall if chosen else ""
        return PlaneInfo(url, port, running.pid, isolation, context, self.state.path, shortfall)

    async def _isolation(self, server: ApiServer) -> str:
        """Wait for a Ready node; how well it isolates pods."""
        if not self.options.kubelet:
            return "none"
        client = ApiClient(InProcessTransport(server, ADMIN))
        since = rfc3339(self._started)  # an earlier plane has left its node Ready
        nodes: list[dict[str, Any]] = []
        with anyio.move_on_after(_NODE_TIMEOUT_S):
            while True:
                nodes = await client.list(NODE)
                for node in nodes:
                    if has_condition(node, "Ready") and _heartbeat(node) >= since:
                        return labels_of(node).get(ISOLATION_LABEL, "unknown")
                await self._clock.sleep(_NODE_POLL_S)
        state = _why_not_ready(nodes)
        raise PlaneNotReady(f"the node is not Ready after {_NODE_TIMEOUT_S:g} s: {state}")


def _heartbeat(node: dict[str, Any]) -> str:
    """When the kubelet last said that the node is Ready, as RFC 3339 text of whole seconds."""
    ready = condition_of(node, "Ready") or {}
    return str(ready.get("lastHeartbeatTime") or "")


def _why_not_ready(nodes: list[dict[str, Any]]) -> str:
    for node in nodes:
        for condition in (node.get("status") or {}).get("conditions") or ():
            if condition.get("type") == "Ready":
                return str(condition.get("message") or condition.get("reason") or "no reason given")
    return "the kubelet has not registered it"
