"""Writes on their way to the memory service: kept until they arrived, in their order.

Expected flow
    `send` puts a write into the queue, which is on disk before anything goes out, and waits for the answer. While
    the service is away it does not wait: the write stays queued and `run` tries again, with growing pauses.
Guarantees
    A write that was taken is sent until the service took or refused it, also by the next process of
    this agent; none overtakes another.
Caveats
    A write whose answer was lost is sent again. Sessions bear that, and the service recognises an
    observation it has just stored.
"""

from __future__ import annotations

from collections import deque
from contextlib import nullcontext
from typing import Any, Protocol

import anyio
import anyio.abc
import orjson
from attrs import define
from opentelemetry import context

from agentops.api.codec import from_wire, to_wire
from agentops.api.memory import NewObservation, SavedObservation
from agentops.clients.memory import MemoryClient, MemoryUnavailable
from agentops.runtime.errors import StoreFault
from agentops.telemetry.logging import bind, bound, get_logger
from agentops.telemetry.tracing import extract, inject

log = get_logger("runtime.outbox")

CAPACITY = 500
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class Shelf(Protocol):
    """Where writes are kept meanwhile: `Store`."""

    async def outbox(self) -> list[tuple[int, bytes]]: ...

    async def outbox_add(self, body: bytes) -> int: ...

    async def outbox_remove(self, number: int) -> None: ...


@define
class _Write:
    """`body` is `{op, …, run?, traceparent?}`, the last two of who wrote it, so that the call to the service stands in
    that trace however late it is; `answer` is set when the service took it, `refusal` when it never will."""

    id: int
    body: dict[str, Any]
    answer: SavedObservation | None = None
    refusal: MemoryUnavailable | None = None
    done: bool = False


class Outbox:
    """Inert until `run`: before, nothing leaves."""

    def __init__(self, client: MemoryClient, store: Shelf) -> None:
        self._client = client
        self._store = store
        self._queue: deque[_Write] = deque()
        self._sent: deque[int] = deque()
        """Writes that arrived and whose copy on disk is still to be removed."""
        self._adding = anyio.Lock()
        self._changed = anyio.Event()
        self._work = anyio.Event()
        self._away = False
        self.error: str | None = "not connected yet"
        """Why the last write did not arrive, or None."""

    def __len__(self) -> int:
        """How many writes wait."""
        return len(self._queue)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Send what an earlier process left and what comes, until cancelled. Raises StoreFault."""
        for number, body in await self._store.outbox():
            self._queue.append(_Write(number, orjson.loads(body)))
        if self._queue:
            log.info("memory.outbox_restored", writes=len(self._queue))
        task_status.started()
        pause_s = FIRST_PAUSE_S
        while True:
            work = self._work
            if not self._queue:
                await work.wait()
                continue
            self._away = not await self._delivered(self._queue[0])
            if not self._away:
                await self._forget(self._queue.popleft())
            self._changed.set()
            self._changed = anyio.Event()
            if self._away:
                with anyio.move_on_after(pause_s):
                    await work.wait()
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
            else:
                pause_s = FIRST_PAUSE_S

    async def _forget(self, write: _Write) -> None:
        """A disk that refuses holds nothing up: it is asked again with the next, and what it still has when the
        process ends is sent once more by the next."""
        self._sent.append(write.id)
        try:
            while self._sent:
                await self._store.outbox_remove(self._sent[0])
                self._sent.popleft()
        except StoreFault as fault:
            log.error("memory.write_not_removed", writes=len(self._sent), error=str(fault))

    async def start_session(self, session: str, project: str) -> None:
        """Raises MemoryUnavailable when the service refuses it, too many writes wait already, or the disk takes no
        more."""
        await self._send({"op": "start", "session": session, "project": project})

    async def end_session(self, session: str, messages: list[dict[str, str]]) -> None:
        """As `start_session`."""
        await self._send({"op": "end", "session": session, "messages": messages})

    async def save(self, observation: NewObservation) -> SavedObservation | None:
        """What the service answered; None when it is away and the write waits. Raises as `start_session`."""
        return (await self._send({"op": "save", "observation": to_wire(observation)})).answer

    async def flush(self) -> None:
        """Try at once to send what waits; returns when all of it went, or the service is away."""
        self._away = False
        self._begin_work()
        while self._queue and not self._away:
            await self._changed.wait()

    async def _send(self, body: dict[str, Any]) -> _Write:
        async with self._adding:
            if len(self._queue) >= CAPACITY:
                raise MemoryUnavailable(f"{CAPACITY} writes wait for the memory service already: {self.error}")
            body = {**body, **_origin()}
            try:
                number = await self._store.outbox_add(orjson.dumps(body))
            except StoreFault as fault:
                raise MemoryUnavailable(f"a write for the memory service cannot be kept: {fault}") from fault
            write = _Write(number, body)
            self._queue.append(write)
        if len(self._queue) == 1:  # else it is at work, or pausing for the ones before
            self._begin_work()
        while not write.done and not self._away:
            await self._changed.wait()
        if write.refusal is not None:
            raise write.refusal
        return write

    def _begin_work(self) -> None:
        self._work.set()
        self._work = anyio.Event()

    async def _delivered(self, write: _Write) -> bool:
        """Whether the service took or refused the write; False when it is away."""
        run = write.body.get("run")
        before = context.attach(extract(write.body.get("traceparent")) or context.get_current())
        try:
            with bind(run=run) if run else nullcontext():
                return await self._answered(write)
        finally:
            context.detach(before)

    async def _answered(self, write: _Write) -> bool:
        try:
            await self._deliver(write)
        except MemoryUnavailable as error:
            self.error = str(error)
            if error.status is None or error.status in _PASSING:
                log.warning("memory.away", error=str(error), waiting=len(self._queue))
                return False
            log.error("memory.refused", op=write.body["op"], error=str(error))
            write.refusal = error
        else:
            self.error = None
        write.done = True
        return True

    async def _deliver(self, write: _Write) -> None:
        match write.body:
            case {"op": "start", "session": session, "project": project}:
                await self._client.start_session(session, project)
            case {"op": "end", "session": session, "messages": messages}:
                await self._client.end_session(session, messages)
            case {"op": "save", "observation": observation}:
                write.answer = await self._client.save(from_wire(NewObservation, observation))


def _origin() -> dict[str, str]:
    """Run and trace of whoever is writing, without what there is none of."""
    carried: dict[str, str] = {}
    inject(carried)
    run = str(bound().get("run", ""))
    return ({"run": run} if run else {}) | ({"traceparent": carried["traceparent"]} if carried else {})
