"""Building the operator: a manager, five reconcilers, and the three background tasks they share."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable

import httpx2

from agentops._version import __version__
from agentops.api import labels
from agentops.api.kinds import AGENT_RESOURCE, AGENT_TOOL, CHANNEL
from agentops.clients.runtime import RuntimeClient
from agentops.controller import Controller, LeaderElectionOptions, Manager, ManagerOptions, Request
from agentops.kube.client import ApiClient
from agentops.kube.config import ClusterConfig
from agentops.kube.errors import KubeError
from agentops.kube.kinds import POD
from agentops.kube.transport import Transport
from agentops.net.resolve import http_client
from agentops.operator.follower import RunFollower
from agentops.operator.obstacles import Obstacles
from agentops.operator.options import LEASE_NAME, OperatorOptions
from agentops.operator.prober import EndpointProber
from agentops.operator.reconcilers.agent import AgentReconciler
from agentops.operator.reconcilers.agent_run import AgentRunReconciler, Mode
from agentops.operator.reconcilers.daemon_runs import DaemonRuns
from agentops.operator.reconcilers.inert import InertReconciler
from agentops.operator.reconcilers.memory import MemoryReconciler
from agentops.operator.reconcilers.provider import ProviderReconciler
from agentops.operator.reconcilers.task_runs import TaskRuns
from agentops.operator.run_metrics import RunMetrics
from agentops.operator.secrets import TokenKeeper
from agentops.operator.wiring import SCOPES, UNCACHED, wire
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock, SystemClock

log = get_logger("operator")

HttpFactory = Callable[[], httpx2.AsyncClient]
UNLIMITED = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
"""Every run that is followed holds a connection while its pod holds back the answer."""


class Operator:
    """The operator against one API server. Inert until `run`, once."""

    def __init__(
        self,
        transport: Transport | ClusterConfig,
        options: OperatorOptions,
        *,
        runtime_image: str,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        http: HttpFactory = lambda: http_client(limits=UNLIMITED),
        random_text: Callable[[], str] = lambda: secrets.token_urlsafe(32),
    ) -> None:
        clock = clock or SystemClock()
        self.manager = Manager(transport, _manager_options(options, clock, rng or random.Random()))
        self._http = http
        self._runtime_image = runtime_image
        self._controllers: dict[str, Controller] = {}
        client, recorder = self.manager.client, self.manager.recorder(labels.OPERATOR)
        self._runtime_http: httpx2.AsyncClient | None = None
        self.prober = EndpointProber(http, lambda request: self._wake("provider", request), clock)
        self.follower = RunFollower(lambda request: self._wake("agentrun", request), clock)
        self.obstacles = Obstacles(client, lambda request: self._wake("agent", request), clock)
        tokens = TokenKeeper(client, recorder, random_text)
        modes: dict[str, Mode] = {
            "daemon": DaemonRuns(client, recorder, self.follower, clock, self._client_for),
            "task": TaskRuns(client, recorder, options.endpoints),
        }
        self._controllers = wire(
            self.manager,
            provider=ProviderReconciler(client, recorder, self.prober, clock),
            agent=AgentReconciler(
                client,
                recorder,
                tokens,
                clock,
                runtime_image=runtime_image,
                endpoints=options.endpoints,
                operator_namespace=options.pod_namespace,
                obstacles=self.obstacles,
            ),
            run=AgentRunReconciler(
                client, recorder, RunMetrics(self.manager.registry), clock, modes, ttl_s=options.run_ttl_s
            ),
            memory=MemoryReconciler(client, tokens),
            inert={kind: InertReconciler(kind, client, clock) for kind in (AGENT_TOOL, AGENT_RESOURCE, CHANNEL)},
            agent_workers=options.agent_workers,
            run_workers=options.run_workers,
        )
        self.manager.add(self.prober.run, name="endpoint prober")
        self.manager.add(self.follower.run, name="run follower")
        self.manager.add(self.obstacles.run, name="obstacles")

    async def run(self) -> None:
        """Until cancelled; then what runs is finished, the Lease given back and the last Events written."""
        log.info("operator.starting", version=__version__, runtime_image=self._runtime_image)
        async with self._http() as http:
            self._runtime_http = http
            await self.manager.run()

    def _client_for(self, base_url: str, token: str | None) -> RuntimeClient:
        assert self._runtime_http is not None
        return RuntimeClient(self._runtime_http, base_url, token)

    def _wake(self, controller: str, request: Request) -> None:
        self._controllers[controller].enqueue(request)


async def resolve_runtime_image(client: ApiClient, options: OperatorOptions) -> str:
    """The flag; else the image of the operator's own pod; else this release's."""
    if options.runtime_image:
        return options.runtime_image
    default = f"agentops:{__version__}"
    if options.pod_name:
        try:
            pod = await client.get(POD, options.pod_name, options.pod_namespace)
        except KubeError as error:
            log.warning("operator.own-pod-unreadable", pod=options.pod_name, error=str(error), image=default)
            return default
        containers = pod["spec"]["containers"]
        own = next((item for item in containers if item["name"] == "operator"), containers[0])
        return str(own["image"])
    return default


def _manager_options(options: OperatorOptions, clock: Clock, rng: random.Random) -> ManagerOptions:
    election = None
    if options.leader_elect:
        election = LeaderElectionOptions(
            lease_name=LEASE_NAME,
            namespace=options.pod_namespace,
            identity=options.pod_name,
            # Every 1.5 to 3.3 s: with the default of 2 s a Lease that was given back may lie idle for 4.4 s.
            retry_period_s=1.5,
        )
    return ManagerOptions(
        name=labels.OPERATOR,
        leader_election=election,
        metrics_bind=options.metrics_bind,
        probes_bind=options.probes_bind,
        explain=options.explain,
        grace_s=options.grace_s,
        clock=clock,
        rng=rng,
        namespaces=options.watch_namespaces,
        scopes=SCOPES,
        uncached=UNCACHED,
        user_agent=f"agentops-operator/{__version__}",
        field_manager=labels.FIELD_MANAGER,
        # Ready is synced and listening: a stale watch is a metric, and no reason to take the leader out.
        unfresh_after_s=None,
        tune_gc=options.owns_process,
    )
