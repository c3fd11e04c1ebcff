"""One API server with a client and a cache: a manager has one, and can be given more."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from typing import Any

from attrs import field, frozen

from agentops.controller.cache import Cache, CacheOptions
from agentops.controller.client import Client, Consistency
from agentops.controller.metrics import InformerMetrics, RestMetrics, rest_observer, stale_observer
from agentops.kube.client import ApiClient
from agentops.kube.config import ClusterConfig
from agentops.kube.discovery import Discovery
from agentops.kube.limiter import RequestLimiter
from agentops.kube.transport import Transport
from agentops.telemetry.metrics import Registry
from agentops.values.clock import Clock, SystemClock
from agentops.values.kinds import Kind


@frozen(slots=True)
class ClusterOptions:
    """`qps` 0 is no limit of requests a second (the server has its own), else `burst` may go at once.

    `rest_metrics` adds histograms of durations and sizes of requests, which cost more than the count.
    """

    cache: CacheOptions = field(factory=CacheOptions)
    uncached: Collection[Kind] = ()
    user_agent: str = "agentops"
    field_manager: str = "agentops"
    qps: float = 0.0
    burst: int = 100
    rest_metrics: bool = False
    consistency: Consistency = "own-writes"


class Cluster:
    """`client`, `cache` and `discovery` of one API server. Inert until a manager runs it.

    With a ClusterConfig it makes, and closes, its own aiohttp transport; a Transport stays the caller's.
    """

    def __init__(
        self,
        transport: Transport | ClusterConfig,
        options: ClusterOptions | None = None,
        *,
        registry: Registry | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        name: str = "",
    ) -> None:
        options = options or ClusterOptions()
        registry = registry or Registry()
        clock = clock or SystemClock()
        self._owned: Any = None
        if isinstance(transport, ClusterConfig):
            from agentops.kube.aiohttp_transport import AiohttpTransport

            transport = self._owned = AiohttpTransport(transport)
        host = str(getattr(transport, "host", "in-process"))
        self.name = name or host
        metrics = RestMetrics(registry, host) if options.rest_metrics else None
        if metrics is not None and hasattr(transport, "observe_dns"):
            transport.observe_dns = metrics.resolved
        limited: Callable[[str, float], None] | None = metrics.limited if metrics is not None else None
        self.live = ApiClient(
            transport,
            user_agent=options.user_agent,
            field_manager=options.field_manager,
            observe=rest_observer(registry, host),
            measure=metrics,
            limiter=RequestLimiter(options.qps, options.burst, clock, observe=limited) if options.qps > 0 else None,
            clock=clock,
        )
        self.cache = Cache(
            self.live,
            options.cache,
            clock=clock,
            rng=rng,
            observe=lambda kind: InformerMetrics(registry, kind),
            on_stale=stale_observer(registry),
        )
        self.client = Client(self.live, self.cache, options.uncached, options.consistency)
        self.discovery = Discovery(self.live, clock=clock)

    async def open(self, stack: AsyncExitStack) -> None:
        """Open a transport of its own for as long as `stack` lasts."""
        if self._owned is not None:
            await stack.enter_async_context(self._owned)
