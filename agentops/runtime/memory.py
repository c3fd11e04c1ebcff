"""The agent's side of the memory service: one session, opened in the background, summarised now and then.

Nothing here ends a turn: without the service the context is empty and `mem_save` answers with an
error the model reads. A session that could not be opened is tried again until it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
import anyio.abc

from agentops.api.memory import MemoryContext, NewObservation, SavedObservation, SearchHit
from agentops.api.runtime_config import MemoryConfig
from agentops.clients.memory import MemoryClient, MemoryUnavailable
from agentops.runtime.messages import Message, transcript
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock

log = get_logger("runtime.memory")

QUERY_CHARS = 500
SUMMARISE_TURNS = 20
"""A session is summarised after this many turns, and when the agent has been idle for `IDLE_S`."""
IDLE_S = 900.0
END_TIMEOUT_S = 5.0
_RETRY_MAX_S = 60.0


class AgentMemory:
    """One agent's memory. `run` keeps the session open; the other methods work without it too."""

    def __init__(
        self,
        client: MemoryClient,
        config: MemoryConfig,
        *,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self.config = config
        self._client = client
        self._clock = clock
        self._new_id = new_id
        self._session = ""
        self._lock = anyio.Lock()
        self._pending: list[Message] = []
        self._turns = 0
        self._wake = anyio.Event()
        self.error: str | None = "not connected yet"
        """Why there is no session, or None."""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Open the session, with growing pauses until it works, then summarise when idle. Until cancelled."""
        task_status.started()
        delay = 1.0
        while not await self._opened():
            await self._clock.sleep(delay)
            delay = min(_RETRY_MAX_S, delay * 2)
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            await self._until_idle()
            await self.summarise()

    async def context(self, prompt: str) -> MemoryContext:
        """What the service finds for the prompt; empty when it is away or contextLimit is 0."""
        if self.config.context_limit <= 0:
            return MemoryContext()
        return await self._client.context(self.config.project, prompt[:QUERY_CHARS], self.config.context_limit)

    async def recent(self, limit: int) -> MemoryContext:
        """The newest, without a query; empty when the service is away."""
        return await self._client.context(self.config.project, "", limit)

    async def search(self, query: str, limit: int) -> tuple[SearchHit, ...]:
        """Raises MemoryUnavailable."""
        return await self._client.search(query, self.config.project, limit)

    async def save(
        self, *, kind: str, title: str, content: str, tags: tuple[str, ...], scope: str, topic_key: str | None
    ) -> SavedObservation:
        """Raises MemoryUnavailable."""
        session = await self._require_session()
        observation = NewObservation(
            session_id=session,
            type=kind,
            title=title,
            content=content,
            project=self.config.project,
            tags=tags,
            scope=scope,
            topic_key=topic_key,
        )
        return await self._client.save(observation)

    async def turn_ended(self, messages: Sequence[Message]) -> None:
        """Note the turn's messages for the next summary, if wanted; every `SUMMARISE_TURNS` turns make one."""
        if not self.config.auto_summarize:
            return
        self._pending.extend(messages)
        self._turns += 1
        self._wake.set()
        if self._turns >= SUMMARISE_TURNS:
            await self.summarise()

    async def summarise(self) -> None:
        """End the session with what was said in it and open the next."""
        if self._pending:
            await self._end()
            await self._opened()

    async def close(self) -> None:
        """End the session with what was said. Bounded, never raises: the process is about to exit."""
        with anyio.move_on_after(END_TIMEOUT_S, shield=True):
            await self._end()

    async def _until_idle(self) -> None:
        while True:
            with anyio.move_on_after(IDLE_S) as idle:
                await self._wake.wait()
                self._wake = anyio.Event()
            if idle.cancelled_caught:
                return

    async def _end(self) -> None:
        async with self._lock:
            session, messages = self._session, transcript(self._pending)
            self._session, self._pending, self._turns = "", [], 0
        if not session:
            return
        try:
            await self._client.end_session(session, messages)
        except MemoryUnavailable as error:
            log.warning("memory.end_failed", session=session, error=str(error))

    async def _opened(self) -> bool:
        try:
            await self._require_session()
        except MemoryUnavailable as error:
            log.warning("memory.session_failed", error=str(error))
            return False
        return True

    async def _require_session(self) -> str:
        async with self._lock:
            if not self._session:
                candidate = self._new_id()
                try:
                    await self._client.start_session(candidate, self.config.project)
                except MemoryUnavailable as error:
                    self.error = str(error)
                    raise
                self._session, self.error = candidate, None
                log.info("memory.session", session=candidate, project=self.config.project)
            return self._session
