"""What a reconciler is: a function from a key to a result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from attrs import field, frozen
from attrs.validators import instance_of, optional

from agentops.values.kinds import Kind


@frozen(slots=True, order=True, cache_hash=True)
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

    requeue_after: float | None = field(default=None, validator=optional(instance_of((int, float))))
    priority: int | None = None


class Getter(Protocol):
    """The one method that is needed of `Client`."""

    async def try_get(
        self, kind: Kind, name: str, namespace: str = "", *, metadata_only: bool = False
    ) -> dict[str, Any] | None: ...


def object_reconciler(
    client: Getter,
    kind: Kind,
    reconcile: Callable[[dict[str, Any]], Awaitable[Result | None]],
    *,
    metadata_only: bool = False,
) -> Reconciler:
    """A reconciler that is given the object itself; for an object that is gone there is nothing to do."""

    async def run(request: Request) -> Result | None:
        obj = await client.try_get(kind, request.name, request.namespace, metadata_only=metadata_only)
        return None if obj is None else await reconcile(obj)

    return run


Reconciler = Callable[[Request], Awaitable[Result | None]]
"""`async def reconcile(request)`: bring the world closer to what the object wants, from the state now.

Returning means success. Raising means: again after a growing wait; `TerminalError` means: not again
until an event; `RetryAfter(seconds)` means: again then. Must be safe to repeat at any point.
"""
