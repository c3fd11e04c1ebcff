"""The model role: a script, or the small model, served until SIGTERM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from attrs import frozen

from agentops.model.app import build_app
from agentops.model.backend import Backend
from agentops.model.engine import Endpoint, Engine
from agentops.model.errors import EngineFailed, ScriptError, WeightsError
from agentops.model.journal import Journal
from agentops.model.script import load_script
from agentops.model.scripted import ScriptedBackend
from agentops.model.small import SmallModel
from agentops.model.weights import find_or_fetch
from agentops.net.errors import UsageError
from agentops.net.listen import ListenAddress, bind
from agentops.net.serve import serve
from agentops.telemetry.logging import get_logger
from agentops.telemetry.metrics import Registry
from agentops.values.clock import Clock, SystemClock

log = get_logger("model")


@frozen(slots=True, kw_only=True)
class ModelOptions:
    """Everything the role can be told."""

    listen: str = ":8000"
    script: Path | None = None
    """Play this script instead of running the small model."""
    weights: Path | None = None
    """A GGUF file instead of SmolLM2's."""
    model_dir: Path = Path("/var/lib/agentops/models")
    """Where SmolLM2's weights are, or are put on first use (about 100 MB)."""
    record: Path | None = None
    """Append every request to this file, as JSON lines."""
    grace_s: float = 5.0
    """How long open answers get after SIGTERM."""


class ModelService:
    """Run with `await service.run()`; cancel to drain."""

    def __init__(self, options: ModelOptions, *, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self.registry = Registry()

    async def run(self, *, task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; `task_status` starts with the port, before the model is loaded.

        Raises UsageError for a bad option, a bad script, or a model that cannot be loaded.
        """
        backend = self._backend()
        sock = bind(ListenAddress.parse(self._options.listen))
        journal = Journal(self._clock, self._options.record)
        try:
            async with anyio.create_task_group() as tasks:
                app = build_app(backend, journal, registry=self.registry, clock=self._clock)
                await tasks.start(self._serve, app, sock)
                host, port = sock.getsockname()[:2]
                log.info("model.listening", host=host, port=port, models=list(backend.model_names))
                task_status.started(port)
                if isinstance(backend, SmallModel):
                    await self._run_small(backend)
                log.info("model.ready")
                await anyio.sleep_forever()
        finally:
            sock.close()
            journal.close()
            log.info("model.stopped")

    def _backend(self) -> Backend:
        if self._options.script is None:
            return SmallModel()
        if self._options.weights is not None:
            raise UsageError("give --script or --weights, not both")
        try:
            return ScriptedBackend(load_script(self._options.script), self._clock)
        except ScriptError as error:
            raise UsageError(str(error)) from error

    async def _run_small(self, model: SmallModel) -> None:
        """Load and keep the engine; returns only by an error or by being cancelled."""
        try:
            weights = self._options.weights
            if weights is None:
                model.waiting_for("fetching the weights")
                weights = await find_or_fetch(self._options.model_dir)
            model.waiting_for("loading the weights")
            started = self._clock.boottime()
            async with anyio.create_task_group() as tasks:
                endpoint: Endpoint = await tasks.start(Engine(weights).run)
                async with model.attach(endpoint):
                    log.info("model.ready", load_s=round(self._clock.boottime() - started, 3))
                    await anyio.sleep_forever()
        except* (WeightsError, EngineFailed) as group:
            raise UsageError(str(_first(group))) from group

    async def _serve(
        self, app: Any, sock: Any, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        await serve(app, sock, grace_s=self._options.grace_s, task_status=task_status)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
