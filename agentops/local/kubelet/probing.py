"""What is asked of a running container, and what the answers change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
from attrs import frozen

from agentops.local.kubelet.container import Container, Run
from agentops.local.kubelet.probes import ProbeKind, Prober, Schedule, probe_forever
from agentops.values.clock import Clock

Object = Mapping[str, Any]


@frozen(slots=True)
class ContainerProbes:
    """The probes of one run. They set `started` and `ready`; `condemn(which, probe)` ends the container.

    `unhealthy(message)` hears of every failed answer, `changed()` of every change.
    """

    container: Container
    run: Run
    prober: Prober
    clock: Clock
    changed: Callable[[], None]
    unhealthy: Callable[[str], None]
    condemn: Callable[[str, Object], Awaitable[None]]

    async def watch(self) -> None:
        """Startup first, then readiness and liveness, until cancelled."""
        spec = self.container.spec
        if spec.get("startupProbe"):
            await self._ask("Startup", spec["startupProbe"], self._on_startup)
        async with anyio.create_task_group() as tg:
            if spec.get("readinessProbe"):
                tg.start_soon(self._ask, "Readiness", spec["readinessProbe"], self._on_readiness)
            if spec.get("livenessProbe"):
                tg.start_soon(self._ask, "Liveness", spec["livenessProbe"], self._on_liveness)

    async def _ask(self, kind: ProbeKind, probe: Object, on_verdict: Callable[[bool], Awaitable[None]]) -> None:
        await probe_forever(
            kind,
            Schedule.of(probe),
            lambda: self.prober.ask(probe),
            on_verdict,
            self.unhealthy,
            self.clock,
            started_at=self.run.started_boottime,
        )

    async def _on_startup(self, ok: bool) -> None:
        if not ok:
            await self.condemn("startup", self.container.spec["startupProbe"])
            return
        self.container.started = True
        self.container.ready = not self.container.spec.get("readinessProbe")
        self.container.is_up.set()
        self.changed()

    async def _on_readiness(self, ok: bool) -> None:
        self.container.ready = ok
        self.changed()

    async def _on_liveness(self, ok: bool) -> None:
        if not ok:
            await self.condemn("liveness", self.container.spec["livenessProbe"])
