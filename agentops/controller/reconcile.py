"""What a reconciler is: a function from a key to a result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from attrs import frozen


@frozen(slots=True, order=True)
class Request:
    """Which object to look at. `namespace` is empty for cluster-scoped kinds."""

    namespace: str
    name: str

    @classmethod
    def of(cls, obj: Mapping[str, Any]) -> Request:
        """The key of an object."""
        metadata = obj["metadata"]
        return cls(metadata.get("namespace") or "", metadata["name"])

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@frozen(slots=True)
class Result:
    """`requeue_after`: seconds until the key is looked at again without an event; None or 0 means never.

    `priority` replaces the priority of that requeue.
    """

    requeue_after: float | None = None
    priority: int | None = None


Reconciler = Callable[[Request], Awaitable[Result | None]]
"""`async def reconcile(request)`: bring the world closer to what the object wants, from the state now.

Returning means success. Raising means: again after a growing wait; `TerminalError` means: not again
until an event; `RetryAfter(seconds)` means: again then. Must be safe to repeat at any point.
"""
