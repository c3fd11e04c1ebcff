"""Counting creates with generated names until the cache has shown them.

Read-your-own-writes covers names that are known; a child whose name the server makes up is counted
instead, so that the next reconcile does not create it a second time.
"""

from __future__ import annotations

from collections.abc import Hashable

from attrs import define

from agentops.values.clock import Clock, SystemClock


@define(slots=True)
class _Expected:
    left: int
    expires: float


class Expectations:
    """Per owner: creates that were sent and not yet observed. Forgotten after `ttl_s` (5 minutes)."""

    def __init__(self, clock: Clock | None = None, ttl_s: float = 300.0) -> None:
        self._clock = clock or SystemClock()
        self._ttl_s = ttl_s
        self._expected: dict[Hashable, _Expected] = {}

    def expect_creations(self, owner: Hashable, count: int) -> None:
        """`count` more creates of children of `owner` are about to be sent."""
        expected = self._expected.setdefault(owner, _Expected(0, 0.0))
        expected.left += count
        expected.expires = self._clock.boottime() + self._ttl_s
        self._settle(owner)

    def creation_observed(self, owner: Hashable) -> None:
        """The cache has shown one, or the create has failed."""
        if owner in self._expected:
            self._expected[owner].left -= 1
            self._settle(owner)

    def satisfied(self, owner: Hashable) -> bool:
        """Whether nothing is outstanding, so that counting children means something."""
        self._settle(owner)
        return owner not in self._expected

    def forget(self, owner: Hashable) -> None:
        """The owner is gone."""
        self._expected.pop(owner, None)

    def __len__(self) -> int:
        return len(self._expected)

    def _settle(self, owner: Hashable) -> None:
        expected = self._expected.get(owner)
        if expected is not None and (expected.left <= 0 or expected.expires <= self._clock.boottime()):
            del self._expected[owner]
