"""What the server does on its own: forget history, let events expire."""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from agentops.kube.kinds import EVENT
from agentops.local.apiserver import errors
from agentops.local.apiserver.http import ADMIN
from agentops.local.apiserver.resources import Registry
from agentops.local.apiserver.store import Store
from agentops.local.apiserver.writes import DeleteOptions, WriteOptions, Writer
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock, parse_rfc3339

if TYPE_CHECKING:
    from agentops.local.apiserver.server import ServerOptions

log = get_logger("apiserver.housekeeping")

_PERIOD_S = 30.0
_PIECE = 1000
"""Revisions compacted at once: some 20 ms."""


class Housekeeping:
    """Runs every half minute. History older than `history_s` or beyond `history_revisions` goes."""

    def __init__(self, store: Store, registry: Registry, writer: Writer, clock: Clock, options: ServerOptions) -> None:
        self._store = store
        self._registry = registry
        self._writer = writer
        self._clock = clock
        self._options = options
        self._marks: deque[tuple[float, int]] = deque()

    async def run(self) -> None:
        while True:
            target = self.step(anyio.current_time())
            while self._store.compact_revision < target:
                # In pieces, so that requests get their turn in between.
                self._store.compact(min(self._store.compact_revision + _PIECE, target))
                await anyio.lowlevel.checkpoint()
            await anyio.sleep(_PERIOD_S)

    def step(self, now: float) -> int:
        """One round; `now` is any monotonic time in seconds. Returns the revision to compact to."""
        self._marks.append((now, self._store.revision))
        old = 0
        while self._marks and now - self._marks[0][0] >= self._options.history_s:
            old = self._marks.popleft()[1]
        self._expire_events()
        return max(old, self._store.revision - self._options.history_revisions)

    def _expire_events(self) -> None:
        resource = self._registry.find(EVENT.group, EVENT.version, EVENT.plural)
        assert resource is not None
        limit = self._clock.now() - timedelta(seconds=self._options.event_ttl_s)
        for entry in list(self._store.list(EVENT.resource)):
            obj = entry.obj()
            stamps = [
                obj.get("lastTimestamp"),
                obj.get("eventTime"),
                (obj.get("series") or {}).get("lastObservedTime"),
                obj["metadata"].get("creationTimestamp"),
            ]
            last = max((parse_rfc3339(s) for s in stamps if s), default=None)
            if last is not None and last < limit:
                try:
                    options = DeleteOptions(grace_s=0, propagation="Background")
                    self._writer.delete(resource, entry.namespace, entry.name, options, WriteOptions(ADMIN))
                except errors.ApiFailure as failure:
                    log.warning("event.not_expired", name=entry.name, error=failure.message)
