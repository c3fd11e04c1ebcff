"""Making an object what it should be, and writing only when it is not.

`matches` compares the leaves that the desired object names, after what servers normalise: quantities,
defaults, empty and absent values, `stringData`. Fields it does not name belong to others. What it no
longer names cannot be seen that way, so `ensure` keeps a digest of the last desired object in an
annotation: a different digest means another apply, in which the server drops what we no longer own.
"""

from __future__ import annotations

import base64
import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
from attrs import frozen

from agentops.controller.client import Client
from agentops.controller.errors import ForeignObject, ResourceNotCached
from agentops.controller.owners import controller_of, describe, is_controlled_by, set_controller_reference
from agentops.kube.client import key_of, require_key
from agentops.kube.errors import NotFound
from agentops.values.kinds import Kind
from agentops.values.quantity import quantities_equal

APPLIED_DIGEST = "controller.agentops.io/applied-digest"
"""Annotation with the digest of what was last applied."""

_QUANTITY_MAPS = frozenset({"limits", "requests", "capacity", "hard", "overhead", "default", "defaultRequest"})
_QUANTITIES = frozenset({"sizeLimit", "divisor", "averageValue"})
# `omitempty` on a plain bool or int: the server leaves these out when they are false or 0
_DROPPED_WHEN_FALSE = frozenset(
    {"hostNetwork", "hostPID", "hostIPC", "readOnly", "stdin", "stdinOnce", "tty", "paused", "minReadySeconds"}
    | {"publishNotReadyAddresses"}
)
# lists that have names but are one value: whoever adds an entry has changed ours
_ATOMIC = frozenset({"subjects", "rules"})
# lists in which others may have entries too, by what tells entries apart
_KEYS = ("name", "uid", "mountPath", "devicePath", "ip", "containerPort", "topologyKey")
_SETS = frozenset({"finalizers"})


@frozen(slots=True)
class Outcome:
    """What `ensure` did: unchanged, created, updated, or deleting (it is on its way out; come back).

    `object` is the live state; `differences` are the paths that made an update necessary.
    """

    action: str
    object: dict[str, Any]
    differences: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        return self.action in ("created", "updated")


async def ensure(
    client: Client,
    kind: Kind,
    desired: Mapping[str, Any],
    owner: Mapping[str, Any] | None = None,
    *,
    field_manager: str | None = None,
    adopt: bool = False,
) -> Outcome:
    """Create `desired` or bring it back to what it should be; no request that writes when it is.

    With `owner` the object gets its controller reference, and one that somebody else controls raises
    ForeignObject; so does one that nobody controls, unless `adopt`. Foreign fields are left alone. Raises ValueError
    without a name, or a namespace for a kind that has them.
    """
    wanted = copy.deepcopy(dict(desired))
    namespace, name = key_of(wanted)
    require_key(kind, namespace, name)
    wanted["apiVersion"], wanted["kind"] = kind.api_version, kind.kind
    if owner is not None:
        set_controller_reference(owner, wanted)
    wanted.pop("status", None)
    wanted["metadata"]["annotations"] = {
        **(wanted["metadata"].get("annotations") or {}),
        APPLIED_DIGEST: digest(wanted),
    }
    live = await _read(client, kind, name, namespace)
    if live is None:
        created = await client.apply(kind, wanted, field_manager=field_manager, force=False)
        return Outcome("created", created)
    if owner is not None:
        _refuse_foreign(live, owner, adopt)
    if live["metadata"].get("deletionTimestamp"):
        return Outcome("deleting", live)
    found = differences(wanted, live)
    if not found:
        return Outcome("unchanged", live)
    updated = await client.apply(kind, wanted, field_manager=field_manager, force=True)
    return Outcome("updated", updated, tuple(found))


async def _read(client: Client, kind: Kind, name: str, namespace: str) -> dict[str, Any] | None:
    """From the cache, else live: it may lag, hold metadata only, or its selector may hide a foreign object."""
    try:
        cached = await client.try_get(kind, name, namespace)
    except ResourceNotCached:
        cached = None
    if cached is not None:
        return cached
    try:
        return await client.live.get(kind, name, namespace)
    except NotFound:
        return None


def digest(desired: Mapping[str, Any]) -> str:
    """16 hex digits over the canonical JSON of a desired object."""
    return hashlib.sha256(orjson.dumps(desired, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def matches(desired: Mapping[str, Any], live: Mapping[str, Any]) -> bool:
    """Whether every leaf that `desired` names is equal in `live`."""
    return next(_differ(desired, live, ()), None) is None


def differences(desired: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """The paths of `desired` whose values differ in `live`, such as `spec.template.spec.containers[name=a].image`."""
    return list(_differ(desired, live, ()))


def _refuse_foreign(live: Mapping[str, Any], owner: Mapping[str, Any], adopt: bool) -> None:
    if is_controlled_by(live, owner):
        return
    controller = controller_of(live)
    if controller is None and adopt:
        return
    who = f"{controller.get('kind')} {controller.get('name')}" if controller is not None else ""
    raise ForeignObject(describe(live), describe(owner), who)


def _differ(desired: Any, live: Any, path: tuple[str, ...]) -> Iterator[str]:
    """Paths that differ, lazily, so that `matches` stops at the first."""
    if live is None:
        if not _same_as_absent(desired, path):
            yield _text(path)
    elif isinstance(desired, Mapping):
        if not isinstance(live, Mapping):
            yield _text(path)
            return
        for key, value in desired.items():
            if not path and key in ("status", "stringData"):
                if key == "stringData":
                    yield from _differ_string_data(value or {}, live.get("data") or {})
                continue
            yield from _differ(value, live.get(key), (*path, key))
    elif isinstance(desired, list | tuple):
        if isinstance(live, list):
            yield from _differ_list(desired, live, path)
        else:
            yield _text(path)
    elif desired is not None and not _same_leaf(desired, live, path):
        yield _text(path)


def _differ_list(desired: Sequence[Any], live: list[Any], path: tuple[str, ...]) -> Iterator[str]:
    field = path[-1] if path else ""
    if field in _SETS:
        if not set(desired) <= set(live):
            yield _text(path)
        return
    key = None if field in _ATOMIC else _key_of_list(desired, live)
    if key is None:
        if len(desired) != len(live):
            yield _text(path)
            return
        for index, (wanted, present) in enumerate(zip(desired, live, strict=True)):
            yield from _differ(wanted, present, (*path, f"[{index}]"))
        return
    present_by_key = {item[key]: item for item in live}
    for wanted in desired:
        yield from _differ(wanted, present_by_key.get(wanted[key]), (*path, f"[{key}={wanted[key]}]"))


def _key_of_list(desired: Sequence[Any], live: list[Any]) -> str | None:
    """What identifies the entries of a list, if others may add entries to it."""
    if not desired:
        return None
    for key in _KEYS:
        if all(
            isinstance(item, Mapping) and isinstance(item.get(key), str | int)
            for items in (desired, live)
            for item in items
        ) and len({item[key] for item in desired}) == len(desired):
            return key
    return None


def _differ_string_data(desired: Mapping[str, str], data: Mapping[str, str]) -> Iterator[str]:
    for key, value in desired.items():
        if data.get(key) != base64.b64encode(value.encode()).decode():
            yield f"stringData.{key}"


def _same_as_absent(desired: Any, path: tuple[str, ...]) -> bool:
    """Whether a server that has been sent `desired` may leave the field out."""
    if isinstance(desired, bool | int | float):
        return not desired and bool(path) and path[-1] in _DROPPED_WHEN_FALSE
    if isinstance(desired, Mapping):
        return all(_same_as_absent(value, (*path, key)) for key, value in desired.items())
    return not desired


def _same_leaf(desired: Any, live: Any, path: tuple[str, ...]) -> bool:
    if isinstance(desired, bool) or isinstance(live, bool):
        return desired is live
    if isinstance(desired, str | int | float) and isinstance(live, str | int | float):
        if desired == live:
            return True
        in_map = len(path) > 1 and path[-2] in _QUANTITY_MAPS
        return (in_map or path[-1:] == ("storage",) or bool(set(path[-1:]) & _QUANTITIES)) and quantities_equal(
            desired, live
        )
    return bool(desired == live)


def _text(path: tuple[str, ...]) -> str:
    return ".".join(path).replace(".[", "[")
