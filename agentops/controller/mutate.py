"""Read, change, write: for objects whose wanted state depends on what they are.

Prefer `apply.ensure`: it says what should be, needs no read before, and drops what is no longer wanted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal

from attrs import frozen

from agentops.controller.apply import matches
from agentops.controller.client import Client
from agentops.controller.errors import ChangedMeanwhile
from agentops.kube.client import Object, key_of
from agentops.kube.errors import AlreadyExists, NotFound
from agentops.kube.merge import merge_from
from agentops.values.kinds import Kind

Mutate = Callable[[Object], None]
Action = Literal["unchanged", "created", "updated", "updated_status", "updated_status_only"]


@frozen(slots=True)
class Mutated:
    """What was done, and the object as it is now."""

    action: Action
    object: Object


async def create_or_update(client: Client, kind: Kind, obj: Mapping[str, Any], mutate: Mutate) -> Mutated:
    """Make `obj` what `mutate` makes of it, in one PUT; status changes are not written.

    Raises Conflict when the object changed meanwhile, ChangedMeanwhile when somebody has just created
    it, ValueError when `mutate` renames it.
    """
    live = await _read(client, kind, obj)
    if live is None:
        return Mutated("created", await _create(client, kind, obj, mutate))
    wanted = _mutated(live, mutate)
    if _same(_without_status(wanted), _without_status(live)):
        return Mutated("unchanged", live)
    return Mutated("updated", await client.update(kind, wanted))


async def create_or_patch(client: Client, kind: Kind, obj: Mapping[str, Any], mutate: Mutate) -> Mutated:
    """As `create_or_update` with merge patches of what differs, and the status in a patch of its own."""
    live = await _read(client, kind, obj)
    if live is None:
        wanted = _mutated(obj, mutate)
        created = await _create(client, kind, obj, mutate)
        if not wanted.get("status"):
            return Mutated("created", created)
        return Mutated("created", await _patch_status(client, kind, created, wanted["status"]))
    wanted = _mutated(live, mutate)
    namespace, name = key_of(live)
    result, action = live, "unchanged"
    if not _same(_without_status(wanted), _without_status(live)):
        patch = merge_from(_without_status(live), _without_status(wanted), optimistic_lock=True)
        result, action = await client.patch(kind, name, patch, namespace), "updated"
    if not _same(wanted.get("status"), live.get("status")):
        result = await _patch_status(client, kind, live, wanted.get("status"))
        return Mutated("updated_status" if action == "updated" else "updated_status_only", result)
    return Mutated("updated" if action == "updated" else "unchanged", result)


async def _read(client: Client, kind: Kind, obj: Mapping[str, Any]) -> Object | None:
    namespace, name = key_of(obj)
    try:
        return await client.get(kind, name, namespace)
    except NotFound:
        return None


async def _create(client: Client, kind: Kind, obj: Mapping[str, Any], mutate: Mutate) -> Object:
    wanted = _without_status(_mutated(obj, mutate))
    try:
        return await client.create(kind, wanted)
    except AlreadyExists as error:  # the cache lags, or somebody was quicker
        namespace, name = key_of(obj)
        raise ChangedMeanwhile(f"{kind.resource} {namespace}/{name} was created meanwhile; try again") from error


async def _patch_status(client: Client, kind: Kind, live: Object, status: Any) -> Object:
    namespace, name = key_of(live)
    patch = merge_from({"status": live.get("status") or {}}, {"status": status or {}})
    return await client.patch(kind, name, patch, namespace, subresource="status")


def _mutated(obj: Mapping[str, Any], mutate: Mutate) -> Object:
    wanted = copy.deepcopy(dict(obj))
    mutate(wanted)
    if key_of(wanted) != key_of(obj):
        raise ValueError(f"the function must not rename the object, from {key_of(obj)} to {key_of(wanted)}")
    return wanted


def _without_status(obj: Mapping[str, Any]) -> Object:
    return {key: value for key, value in obj.items() if key != "status"}


def _same(one: Any, other: Any) -> bool:
    """Equal in meaning: quantities by value, null and empty as absent, in both directions."""
    if one == other:
        return True
    one, other = one or {}, other or {}
    return matches({"x": one}, {"x": other}) and matches({"x": other}, {"x": one})
