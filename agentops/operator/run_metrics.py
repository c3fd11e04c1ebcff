"""Runs in numbers: how many in each phase, how many wait, how long they took."""

from __future__ import annotations

from collections import Counter

from agentops.api.conditions import RunPhase
from agentops.controller import Request
from agentops.telemetry.metrics import Registry

_BUCKETS_S = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)


class RunMetrics:
    """Kept by the run reconciler; labels are bounded by phases and modes."""

    def __init__(self, registry: Registry) -> None:
        self._runs = registry.gauge("agentops_agentruns", "AgentRuns by phase.", ["phase"])
        self._depth = registry.gauge("agentops_agentrun_queue_depth", "AgentRuns that wait for a slot.")
        self._duration = registry.histogram(
            "agentops_agentrun_duration_seconds",
            "From dispatch to the end of a run, seconds.",
            ["mode", "phase"],
            buckets=_BUCKETS_S,
        )
        self._phases: dict[Request, RunPhase] = {}
        for phase in RunPhase:
            self._runs.labels(phase=phase.value).set(0)

    def seen(self, request: Request, phase: RunPhase) -> None:
        """A run's current phase."""
        if self._phases.get(request) is not phase:
            self._phases[request] = phase
            self._publish()

    def gone(self, request: Request) -> None:
        if self._phases.pop(request, None) is not None:
            self._publish()

    def finished(self, mode: str, phase: RunPhase, duration_s: float) -> None:
        self._duration.labels(mode=mode, phase=phase.value).observe(max(0.0, duration_s))

    def _publish(self) -> None:
        counts = Counter(self._phases.values())
        for phase in RunPhase:
            self._runs.labels(phase=phase.value).set(counts[phase])
        self._depth.set(counts[RunPhase.QUEUED])
