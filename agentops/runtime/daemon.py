"""`agentops runtime daemon`: an agent that answers over HTTP until told to stop.

Expected flow
    Configuration, state and adapter first; then the socket; then prompts. On SIGTERM the agent takes
    no more prompts and turns unready, but keeps serving, so that followers of the running turn see
    its end; when the turn ended, or was interrupted after `grace_s`, everything is written and closed.
"""

from __future__ import annotations

from collections.abc import Mapping

import anyio
import anyio.abc

from agentops.net.auth import TokenFile
from agentops.net.errors import UsageError
from agentops.net.listen import ListenAddress, bind
from agentops.net.paths import pod_path
from agentops.net.serve import serve
from agentops.runtime.agent import Agent
from agentops.runtime.assembly import open_agent
from agentops.runtime.http import make_app
from agentops.runtime.settings import Settings, load_config, prepare_directories
from agentops.runtime.statelock import exclusive
from agentops.telemetry.logging import get_logger
from agentops.telemetry.metrics import Registry
from agentops.values.clock import Clock, SystemClock

log = get_logger("runtime.daemon")

CLOSE_GRACE_S = 3.0
"""What open streams get to finish once the last turn has ended."""


class Daemon:
    """Inert until `run`, which serves until cancelled and then drains."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None, registry: Registry | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._registry = registry or Registry()
        self._agent: Agent | None = None
        self._stopping = anyio.Event()
        self.port = 0
        """The bound port, once `run` has started."""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Raises UsageError when the settings are wrong. `task_status` starts when prompts are taken."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._serve, task_status)
            try:
                await self._stopping.wait()
            finally:
                self._stopping.set()

    async def _serve(self, task_status: anyio.abc.TaskStatus[None]) -> None:
        """The whole life; once the state is ours shielded, because being cancelled is being asked to drain."""
        settings = self._settings
        token = self._token()
        load_config(settings)
        prepare_directories(settings, durable=True)
        async with exclusive(settings.data_path, self._clock):
            with anyio.CancelScope(shield=True):
                await self._live(settings, token, task_status)

    async def _live(self, settings: Settings, token: TokenFile | None, task_status: anyio.abc.TaskStatus[None]) -> None:
        address = ListenAddress.parse(settings.listen, settings.environ)
        async with open_agent(settings, mode="daemon", registry=self._registry, clock=self._clock) as agent:
            self._agent = agent
            app = make_app(agent, token=token, registry=self._registry, ready=self._checks)
            with bind(address) as sock:
                self.port = sock.getsockname()[1]
                async with anyio.create_task_group() as tasks:
                    await tasks.start(agent.run)
                    server = await tasks.start(_cancellable, app, sock)
                    log.info("daemon.ready", agent=settings.name, address=str(address), port=self.port)
                    task_status.started()
                    await self._stopping.wait()
                    await agent.drain(settings.grace_s)
                    server.cancel()
                    tasks.cancel_scope.cancel()
        log.info("daemon.stopped")

    def _token(self) -> TokenFile | None:
        settings = self._settings
        if settings.insecure:
            log.warning(
                "daemon.insecure", meaning="anyone who reaches the port can prompt this agent; development only"
            )
            return None
        if not settings.token_file:
            raise UsageError("AGENT_TOKEN_FILE is not set: name the file of the bearer token, or pass --insecure")
        return TokenFile(pod_path(settings.token_file, settings.environ))

    def _checks(self) -> Mapping[str, str | None]:
        """Configuration, adapter and store are there, or the socket would not be; the rest is being told to stop."""
        draining = self._agent is None or self._agent.draining
        return {"config": None, "store": None, "model": None, "accepting": "draining" if draining else None}


async def _cancellable(app, sock, *, task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:  # type: ignore[no-untyped-def]
    """`serve` in a scope of its own, handed to who started it."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def run(*, task_status: anyio.abc.TaskStatus[None]) -> None:
                await serve(app, sock, grace_s=CLOSE_GRACE_S, task_status=task_status)

            await tasks.start(run)
            task_status.started(scope)
