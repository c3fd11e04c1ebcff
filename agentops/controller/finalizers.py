"""Finalizers: a promise that something is cleaned up before an object goes.

### Expected flow
`ensure_finalizer` writes the key and returns the object; only then may there be anything to clean
up. When the object is being deleted, clean up, then `drop_finalizer`. `with_finalizer` is the two
together.

### Guarantees
Once the key is written, the object stays until it is removed. Keys of others are never lost: every
write carries the resourceVersion it was computed from. Cleaning up happens at least once.

### Assumptions
Cleaning up is idempotent: it runs again when removing the key fails.

### Caveats
An object that is already being deleted cannot get a finalizer. A finalizer that nobody removes keeps
its namespace from ending.

### Errors
Conflict when the object changed meanwhile: let it be raised, the key is reconciled again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from attrs import frozen

from agentops.controller.reconcile import Result
from agentops.kube.client import Object, Patch
from agentops.kube.errors import NotFound
from agentops.values.kinds import Kind


class Patcher(Protocol):
    """The one method that is needed of `Client` or `ApiClient`."""

    async def patch(
        self, kind: Kind, name: str, patch: Patch, namespace: str = "", *, type: str = "merge"
    ) -> Object: ...


def has_finalizer(obj: Mapping[str, Any], key: str) -> bool:
    """Whether `key` is among the object's finalizers."""
    return key in (obj["metadata"].get("finalizers") or ())


def add_finalizer(obj: dict[str, Any], key: str) -> bool:
    """In place; whether it was missing."""
    if has_finalizer(obj, key):
        return False
    obj["metadata"]["finalizers"] = [*(obj["metadata"].get("finalizers") or ()), key]
    return True


def remove_finalizer(obj: dict[str, Any], key: str) -> bool:
    """In place; whether it was there. The order of others is kept."""
    if not has_finalizer(obj, key):
        return False
    obj["metadata"]["finalizers"] = [other for other in obj["metadata"]["finalizers"] if other != key]
    return True


def is_deleting(obj: Mapping[str, Any]) -> bool:
    """Whether deletion was asked for and finalizers or a grace period hold the object."""
    return bool(obj["metadata"].get("deletionTimestamp"))


async def ensure_finalizer(client: Patcher, kind: Kind, obj: Mapping[str, Any], key: str) -> Object:
    """Write `key`, unless it is there or the object is being deleted; the object as it is then. Raises Conflict."""
    if has_finalizer(obj, key) or is_deleting(obj):
        return dict(obj)
    return await _write(client, kind, obj, [*(obj["metadata"].get("finalizers") or ()), key])


async def drop_finalizer(client: Patcher, kind: Kind, obj: Mapping[str, Any], key: str) -> Object | None:
    """Remove `key`; None when the object is gone. Raises Conflict."""
    if not has_finalizer(obj, key):
        return dict(obj)
    try:
        return await _write(client, kind, obj, [other for other in obj["metadata"]["finalizers"] if other != key])
    except NotFound:
        return None


async def with_finalizer(
    client: Patcher,
    kind: Kind,
    key: str,
    obj: Mapping[str, Any],
    apply: Callable[[Object], Awaitable[Result | None]],
    cleanup: Callable[[Object], Awaitable[Result | None]],
) -> Result | None:
    """`apply` while the object lives, `cleanup` once it is being deleted, never `apply` without the key written."""
    if is_deleting(obj):
        if not has_finalizer(obj, key):
            return None
        result = await cleanup(dict(obj))
        if result is None or not result.requeue_after:  # asking to come back means: not done yet
            await drop_finalizer(client, kind, obj, key)
        return result
    return await apply(await ensure_finalizer(client, kind, obj, key))


Finalize = Callable[[Object], Awaitable[None]]


@frozen(slots=True)
class Finalized:
    """`object` as it is now, None when it is gone; `updated` whether its finalizers were written."""

    object: Object | None
    updated: bool


class Finalizers:
    """Several finalizers of one kind, each with what it cleans up."""

    def __init__(self) -> None:
        self._functions: dict[str, Finalize] = {}

    def register(self, key: str, finalize: Finalize) -> None:
        """Raises ValueError for a key that is taken, or that the server would refuse."""
        if key in self._functions:
            raise ValueError(f"finalizer {key!r} is registered already")
        if "/" not in key:
            raise ValueError(f"finalizer {key!r} needs a domain, such as example.org/{key}")
        self._functions[key] = finalize

    async def finalize(self, client: Patcher, kind: Kind, obj: Mapping[str, Any]) -> Finalized:
        """Write missing keys while the object lives; once it is deleted, clean up and remove the keys that succeed.

        What fails keeps its key, the others go; then an ExceptionGroup of the failures is raised.
        """
        present = list(obj["metadata"].get("finalizers") or ())
        if not is_deleting(obj):
            missing = [key for key in self._functions if key not in present]
            if not missing:
                return Finalized(dict(obj), False)
            return Finalized(await _write(client, kind, obj, [*present, *missing]), True)
        failures: list[Exception] = []
        done: list[str] = []
        for key, function in self._functions.items():
            if key in present:
                try:
                    await function(dict(obj))
                    done.append(key)
                except Exception as error:
                    error.add_note(f"finalizer {key} of {kind.resource} {obj['metadata']['name']}")
                    failures.append(error)
        result = Finalized(dict(obj), False)
        if done:
            try:
                result = Finalized(await _write(client, kind, obj, [key for key in present if key not in done]), True)
            except NotFound:
                result = Finalized(None, True)
        if failures:
            raise ExceptionGroup("finalizers failed", failures)
        return result


async def _write(client: Patcher, kind: Kind, obj: Mapping[str, Any], finalizers: list[str]) -> Object:
    metadata = obj["metadata"]
    patch = {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": finalizers}}
    return await client.patch(kind, metadata["name"], patch, metadata.get("namespace") or "")
