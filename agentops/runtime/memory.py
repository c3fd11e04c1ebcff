"""The agent's side of the memory service: one session, opened in the background, summarised now and then.

Nothing here ends a turn: while the service is away the context is empty, searching answers with an error
the model reads, and what is written waits in the `outbox`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
import anyio.abc

from agentops.api.memory import MemoryContext, NewObservation, SavedObservation, SearchHit
from agentops.api.runtime_config import MemoryConfig
from agentops.clients.memory import MemoryClient, MemoryUnavailable
from agentops.runtime.messages import Message, transcript
from agentops.runtime.outbox import Outbox
from agentops.telemetry.logging import get_logger

log = get_logger("runtime.memory")

QUERY_CHARS = 500
SUMMARISE_TURNS = 20
"""A session is summarised after this many turns, and when the agent has been idle for `IDLE_S`."""
IDLE_S = 900.0
END_TIMEOUT_S = 5.0


class AgentMemory:
    """One agent's memory. `run` sends what is written; reading works without it."""

    def __init__(
        self,
        client: MemoryClient,
        config: MemoryConfig,
        *,
        outbox: Outbox,
        new_id: Callable[[], str],
    ) -> None:
        self.config = config
        self._client = client
        self._outbox = outbox
        self._new_id = new_id
        self._session = ""
        self._pending: list[Message] = []
        self._turns = 0
        self._wake = anyio.Event()

    @property
    def error(self) -> str | None:
        """Why the last write did not arrive, or None."""
        return self._outbox.error

    @property
    def waiting(self) -> int:
        """How many writes wait for the service."""
        return len(self._outbox)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Open a session, and summarise it when idle. Until cancelled."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._outbox.run)
            task_status.started()
            await self._opened()
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
    ) -> SavedObservation | None:
        """What the service answered; None when it is away and will get it later. Raises MemoryUnavailable."""
        observation = NewObservation(
            session_id=await self._require_session(),
            type=kind,
            title=title,
            content=content,
            project=self.config.project,
            tags=tags,
            scope=scope,
            topic_key=topic_key,
        )
        return await self._outbox.save(observation)

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
        """End the session with what was said and send what waits. Bounded, never raises: the process is about to
        exit, and what did not arrive is the next process's to send."""
        with anyio.move_on_after(END_TIMEOUT_S, shield=True):
            await self._end()
            await self._outbox.flush()
        if self._outbox:
            log.warning("memory.writes_left", writes=len(self._outbox), error=self.error)

    async def _until_idle(self) -> None:
        while True:
            with anyio.move_on_after(IDLE_S) as idle:
                await self._wake.wait()
                self._wake = anyio.Event()
            if idle.cancelled_caught:
                return

    async def _end(self) -> None:
        session, messages = self._session, transcript(self._pending)
        self._session, self._pending, self._turns = "", [], 0
        if session:
            try:
                await self._outbox.end_session(session, messages)
            except MemoryUnavailable as error:
                log.error("memory.session_lost", session=session, messages=len(messages), error=str(error))

    async def _opened(self) -> None:
        try:
            await self._require_session()
        except MemoryUnavailable as error:
            log.warning("memory.session_failed", error=str(error))

    async def _require_session(self) -> str:
        """The session's id. It is known before the service is, so what follows can already be written."""
        if self._session:
            return self._session
        self._session = session = self._new_id()
        try:
            await self._outbox.start_session(session, self.config.project)
        except MemoryUnavailable:
            if self._session == session:
                self._session = ""
            raise
        log.info("memory.session", session=session, project=self.config.project)
        return session
