"""Typed objects over the same cache: read as values, written without losing what the type does not know.

The type sees a part of the object. A change is computed between two values of the type and laid over
the object as it was read, so fields that are newer than the type, or of somebody else, survive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from attrs import frozen

from agentops.controller.client import Client, Labels
from agentops.kube.client import Object
from agentops.kube.merge import merge_from
from agentops.values.kinds import Kind

T = TypeVar("T")


@frozen(slots=True)
class Typed(Generic[T]):
    """A value, and the object that it was read from."""

    value: T
    object: Object


class TypedClient(Generic[T]):
    """One kind through `decode` (object to value) and `encode` (value to wire form, without nulls)."""

    def __init__(
        self, client: Client, kind: Kind, decode: Callable[[Object], T], encode: Callable[[T], Object]
    ) -> None:
        self._client = client
        self._kind = kind
        self._decode = decode
        self._encode = encode

    async def get(self, name: str, namespace: str = "") -> Typed[T]:
        """See `Client.get`; shares its informer."""
        obj = await self._client.get(self._kind, name, namespace)
        return Typed(self._decode(obj), obj)

    async def list(self, namespace: str = "", *, labels: Labels = "") -> list[Typed[T]]:
        """See `Client.list`."""
        found = await self._client.list(self._kind, namespace, labels=labels)
        return [Typed(self._decode(obj), obj) for obj in found]

    async def update(self, read: Typed[T], value: T, *, subresource: str = "") -> Typed[T]:
        """PUT `value` in the place of what was read. Raises Conflict when it is no longer current."""
        body = self.overlaid(read, value)
        if body == read.object:
            return read
        answer = await self._client.update(self._kind, body, subresource=subresource)
        return Typed(self._decode(answer), answer)

    async def patch(self, read: Typed[T], value: T, *, subresource: str = "", lock: bool = False) -> Typed[T]:
        """Send what differs as a merge patch; with `lock` raises Conflict when it is no longer current."""
        patch = merge_from(read.object, self.overlaid(read, value), optimistic_lock=lock)
        if not patch:
            return read
        metadata = read.object["metadata"]
        namespace = metadata.get("namespace") or ""
        answer = await self._client.patch(self._kind, metadata["name"], patch, namespace, subresource=subresource)
        return Typed(self._decode(answer), answer)

    def overlaid(self, read: Typed[T], value: T) -> Object:
        """The object as read, with what differs between the two values."""
        result = _overlay(read.object, self._encode(read.value), self._encode(value))
        assert isinstance(result, dict)
        return result


def _overlay(raw: Any, before: Any, after: Any) -> Any:
    if before == after:
        return raw
    if isinstance(raw, Mapping) and isinstance(before, Mapping) and isinstance(after, Mapping):
        result = {key: value for key, value in raw.items() if key not in before or key in after}
        for key, value in after.items():
            result[key] = _overlay(raw.get(key), before.get(key), value)
        return result
    lists = isinstance(raw, list) and isinstance(before, list) and isinstance(after, list)
    if lists and len(raw) == len(before) == len(after):
        return [_overlay(*items) for items in zip(raw, before, after, strict=True)]
    return after
