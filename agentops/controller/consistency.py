"""Reading one's own writes from a cache that lags behind them.

A write is answered with a resource version; until the watch has reached it, a cached read of the
same key would return the state from before the write, and the next reconcile would repeat or revert
it. `WriteFence` remembers those versions per key and forgets them as soon as they are reached, so it
is empty when nothing happens. Other keys are never held up.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
from attrs import define, frozen

from agentops.controller.store import Key


@frozen(slots=True)
class Deleted:
    """A delete that the cache has not shown yet; `rv` is -1 when the answer named no version."""

    uid: str
    rv: int


@define(slots=True)
class _Pending:
    version: int = -1
    deleted: Deleted | None = None
    in_flight: int = 0


class WriteFence:
    """The writes to one cached collection that its watch has not shown yet."""

    def __init__(self) -> None:
        self._pending: dict[Key, _Pending] = {}
        self._awaited: list[tuple[int, Key]] = []  # a heap of the versions that keys wait for
        self._progress: anyio.Event | None = None
        self._seen = -1

    def __len__(self) -> int:
        return len(self._pending)

    @contextmanager
    def writing(self, key: Key) -> Iterator[None]:
        """While inside, reads of `key` wait: the write may be stored but not answered yet."""
        pending = self._pending.setdefault(key, _Pending())
        pending.in_flight += 1
        try:
            yield
        finally:
            pending.in_flight -= 1
            self._settle(key)

    def wrote(self, key: Key, version: int) -> None:
        """A write to `key` was answered with `version`."""
        if version > self._seen:
            pending = self._pending.setdefault(key, _Pending())
            pending.version = max(pending.version, version)
            heapq.heappush(self._awaited, (version, key))

    def deleted(self, key: Key, uid: str, version: int = -1) -> None:
        """The object `uid` at `key` was deleted and is gone on the server."""
        self._pending.setdefault(key, _Pending()).deleted = Deleted(uid, version)
        if version >= 0:
            heapq.heappush(self._awaited, (version, key))

    def reached(self, version: int) -> None:
        """The cache shows everything up to `version`."""
        self._seen = max(self._seen, version)
        while self._awaited and self._awaited[0][0] <= self._seen:
            self._settle(heapq.heappop(self._awaited)[1])
        self._wake()

    def removed(self, key: Key, uid: str) -> None:
        """The cache no longer holds the object `uid` at `key`."""
        pending = self._pending.get(key)
        if pending is not None and pending.deleted is not None and pending.deleted.uid == uid:
            pending.deleted = None
            self._settle(key)
        self._wake()

    def listed(self, holds: Callable[[Key, str], bool]) -> None:
        """The cache was replaced: of what it does not hold (key, uid) there will be no removal."""
        for key, pending in list(self._pending.items()):
            if pending.deleted is not None and pending.version <= self._seen and not holds(key, pending.deleted.uid):
                pending.deleted = None
                self._settle(key)

    def unseen(self, key: Key) -> bool:
        """Whether a write to `key` was answered whose version the cache has not reached."""
        pending = self._pending.get(key)
        return pending is not None and pending.version > self._seen

    def blocked(self, key: Key) -> bool:
        """Whether a cached read of `key` would miss an own write."""
        return key in self._pending

    def blocked_in(self, namespace: str = "") -> bool:
        """The same for a list of a namespace, or of all."""
        return any(not namespace or key[0] == namespace for key in self._pending)

    def unseen_now(self, concerned: Callable[[Key], bool]) -> Callable[[], bool]:
        """A function that says whether any write to the keys `concerned` that has begun by now is still unseen.

        Later writes do not count: else who lists a kind that others keep writing to would never be answered.
        """
        begun = {
            key: (pending, pending.version if not pending.in_flight and pending.deleted is None else None)
            for key, pending in self._pending.items()
            if concerned(key)
        }

        def unseen() -> bool:
            for key, (pending, version) in list(begun.items()):
                if self._pending.get(key) is not pending or (version is not None and version <= self._seen):
                    del begun[key]
            return bool(begun)

        return unseen

    async def progress(self) -> None:
        """Wait until something was reached."""
        if self._progress is None:
            self._progress = anyio.Event()
        await self._progress.wait()

    def _settle(self, key: Key) -> None:
        pending = self._pending.get(key)
        if pending is None:
            return
        if pending.deleted is not None and 0 <= pending.deleted.rv <= self._seen:
            pending.deleted = None
        if not pending.in_flight and pending.deleted is None and pending.version <= self._seen:
            del self._pending[key]
            self._wake()

    def _wake(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None
