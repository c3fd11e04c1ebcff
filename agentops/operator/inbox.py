"""Orders from reconciles to a background task, in the same event loop."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import anyio

T = TypeVar("T")


class Inbox(Generic[T]):
    """Unbounded, first in first out, one reader. Putting never waits, also before anybody reads."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._arrived: anyio.Event | None = None

    def put(self, item: T) -> None:
        self._items.append(item)
        if self._arrived is not None:
            self._arrived.set()

    async def get(self) -> T:
        """The next item, waiting for one if need be."""
        while not self._items:
            self._arrived = anyio.Event()
            await self._arrived.wait()
        return self._items.popleft()
