"""Which events are worth a reconcile. A predicate reduces work, never what is cached.

All predicates of a watch must pass. One that raises lets the event through: too much work is better
than a missed change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentops.controller.informer import ObjectEvent
from agentops.values.selector import LabelSelector

Predicate = Callable[[ObjectEvent], bool]


def generation_changed(event: ObjectEvent) -> bool:
    """Updates of the spec only; creations and deletions pass.

    Status and metadata changes bump no generation on kinds with a status subresource. Deployments
    bump on annotations too.
    """
    if event.type != "update" or event.old is None or event.new is None:
        return True
    return event.old.meta.generation != event.new.meta.generation


def resource_version_changed(event: ObjectEvent) -> bool:
    """Drops the periodic reminders of a resync."""
    if event.type != "update" or event.old is None or event.new is None:
        return True
    return event.old.meta.resource_version != event.new.meta.resource_version


def labels_changed(event: ObjectEvent) -> bool:
    """Updates that change a label; creations and deletions pass."""
    if event.type != "update" or event.old is None or event.new is None:
        return True
    return (event.old.meta.labels or {}) != (event.new.meta.labels or {})


def annotations_changed(event: ObjectEvent) -> bool:
    """Updates that change an annotation; creations and deletions pass. Decodes both states."""
    if event.type != "update" or event.old_object is None:
        return True
    return _annotations(event.old_object) != _annotations(event.object)


def spec_or_deletion_changed(event: ObjectEvent) -> bool:
    """What most reconcilers want: generation, deletion, finalizers or labels changed."""
    if event.type != "update" or event.old is None or event.new is None:
        return True
    old, new = event.old.meta, event.new.meta
    return (
        old.generation != new.generation
        or old.deletion_timestamp != new.deletion_timestamp
        or (old.finalizers or ()) != (new.finalizers or ())
        or (old.labels or {}) != (new.labels or {})
    )


def label_selector(selector: str | LabelSelector) -> Predicate:
    """Objects whose labels match, before or after the change."""
    parsed = selector if isinstance(selector, LabelSelector) else LabelSelector.parse(selector)

    def matches(event: ObjectEvent) -> bool:
        return any(entry is not None and parsed.matches(entry.meta.labels) for entry in (event.new, event.old))

    return matches


def from_func(function: Callable[[dict[str, Any]], bool]) -> Predicate:
    """A function of the object; updates are judged by the new state."""
    return lambda event: function(event.object)


def and_(*predicates: Predicate) -> Predicate:
    """All pass."""
    return lambda event: all(predicate(event) for predicate in predicates)


def or_(*predicates: Predicate) -> Predicate:
    """One passes."""
    return lambda event: any(predicate(event) for predicate in predicates)


def not_(predicate: Predicate) -> Predicate:
    """It does not pass."""
    return lambda event: not predicate(event)


def _annotations(obj: dict[str, Any]) -> dict[str, str]:
    return obj["metadata"].get("annotations") or {}
