"""From an event to the keys that should be looked at."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, cast

from agentops.controller.informer import ObjectEvent
from agentops.controller.reconcile import Request
from agentops.controller.store import Entry
from agentops.kube.watch import OwnerRef
from agentops.values.kinds import Kind

Mapped = Iterable[Request] | None
MapFn = Callable[[dict[str, Any]], Mapped | Awaitable[Mapped]]
Urgency = Callable[[ObjectEvent], int]
"""What an event's priority is raised (above 0) or lowered by: work in progress need not wait behind work that waits."""


class Handler(Protocol):
    """Synchronous: called in the informer's task."""

    def requests(self, event: ObjectEvent) -> Iterable[Request]: ...


class AsyncHandler(Protocol):
    """Called in a task of the source; events of one object may be joined meanwhile."""

    async def requests_async(self, event: ObjectEvent) -> Iterable[Request]: ...


class EnqueueForObject:
    """The object itself. `urgency` is called for every event; what it raises counts as 0."""

    def __init__(self, urgency: Urgency | None = None) -> None:
        self.urgency = urgency

    def requests(self, event: ObjectEvent) -> Iterable[Request]:
        return (Request(*event.entry.key),)


class EnqueueForOwner:
    """The owners of `kind`, by group and kind whatever the version.

    Updates consider both states, so an object that changes hands wakes both owners; deletions name
    the last known ones. With `only_controller` the one reference that has `controller: true`.
    """

    def __init__(self, kind: Kind, only_controller: bool = True) -> None:
        self._kind = kind
        self._only_controller = only_controller

    def requests(self, event: ObjectEvent) -> Iterable[Request]:
        return _unique(
            Request(entry.meta.namespace if self._kind.namespaced else "", reference.name)
            for entry in (event.new, event.old)
            if entry is not None
            for reference in self._references(entry)
        )

    def _references(self, entry: Entry) -> Iterable[OwnerRef]:
        for reference in entry.meta.owner_references or ():
            if reference.kind != self._kind.kind or reference.group != self._kind.group:
                continue
            if reference.controller or not self._only_controller:
                yield reference


class EnqueueMapped:
    """What `function` returns for the object, None for nobody; for updates the union over both states.

    `function` takes the object as a dict and may be async, then it runs outside the informer. `urgency` is
    called for every event; what it raises counts as 0.
    """

    def __init__(self, function: MapFn, urgency: Urgency | None = None) -> None:
        self._function = function
        self.urgency = urgency
        self.asynchronous = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - an object whose __call__ is async
        )

    def requests(self, event: ObjectEvent) -> Iterable[Request]:
        found: list[Request] = []
        for obj in _states(event):
            mapped = self._function(obj)
            if inspect.iscoroutine(mapped):
                mapped.close()
                raise TypeError("the mapping returned a coroutine; give EnqueueMapped the async function itself")
            found += cast(Mapped, mapped) or ()
        return _unique(found)

    async def requests_async(self, event: ObjectEvent) -> Iterable[Request]:
        found: list[Request] = []
        for obj in _states(event):
            found += await cast(Awaitable[Mapped], self._function(obj)) or ()
        return _unique(found)


def is_async(handler: Handler | AsyncHandler) -> bool:
    """Whether the handler must be awaited."""
    return bool(getattr(handler, "asynchronous", not hasattr(handler, "requests")))


def _states(event: ObjectEvent) -> Iterable[dict[str, Any]]:
    yield event.object
    if event.type == "update" and not event.resync and event.old_object is not None:
        yield event.old_object


def _unique(requests: Iterable[Request]) -> list[Request]:
    return list(dict.fromkeys(requests))
