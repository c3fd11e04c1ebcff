"""Why a key was reconciled: the last things that put it into its queue, for people who ask.

Off unless `ManagerOptions(explain=True)`, since it remembers keys that the queue has long forgotten. Every trigger
counts, also one that met its key in the queue already; so a key that is reconciled too often shows who wakes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import datetime

from attrs import define, field, frozen

from agentops.controller.informer import ObjectEvent
from agentops.controller.reconcile import Request

_TRIGGERS = 32
_KEYS = 4096


@frozen(slots=True)
class Trigger:
    """`by` is the resource that was watched, another source's name, or what the controller did itself."""

    at: datetime
    by: str
    priority: int
    event: str = ""
    """`create`, `update`, `delete` or `generic`, with `initial` or `resync` before it where nothing had changed."""
    namespace: str = ""
    name: str = ""
    resource_version: str = ""
    after_s: float = 0.0


def trigger_of(at: datetime, by: str, priority: int, event: ObjectEvent | None, after_s: float = 0.0) -> Trigger:
    """The trigger that an event is; None where there is none to show, as of what the controller does itself."""
    if event is None:
        return Trigger(at, by, priority, after_s=after_s)
    sort = "initial " if event.initial else "resync " if event.resync else ""
    namespace, name = event.entry.key
    return Trigger(at, by, priority, sort + event.type, namespace, name, event.entry.meta.resource_version)


@define(slots=True)
class _Known:
    count: int = 0
    last: deque[Trigger] = field(factory=lambda: deque(maxlen=_TRIGGERS))


class TriggerLog:
    """The last 32 triggers of each of the 4,096 keys that were triggered last."""

    def __init__(self) -> None:
        self._known: dict[Request, _Known] = {}

    def add(self, request: Request, trigger: Trigger) -> None:
        known = self._known.pop(request, None) or _Known()
        known.count += 1
        known.last.append(trigger)
        self._known[request] = known
        if len(self._known) > _KEYS:
            del self._known[next(iter(self._known))]

    def count(self, request: Request) -> int:
        """How often the key was triggered in all."""
        known = self._known.get(request)
        return known.count if known else 0

    def of(self, request: Request) -> tuple[Trigger, ...]:
        """Of one key, the latest last."""
        known = self._known.get(request)
        return tuple(known.last) if known else ()

    def __iter__(self) -> Iterator[Request]:
        """Keys, the one that was triggered last first."""
        return reversed(self._known)

    def __len__(self) -> int:
        return len(self._known)
