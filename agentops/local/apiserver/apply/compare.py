"""Field sets of objects: all that one says, and what differs between two."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from agentops.local.apiserver.apply.fields import field_key, item_key, value_key
from agentops.local.apiserver.schema.structural import MISSING, Schema

Path = tuple[str, ...]

_SYSTEM = (
    "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "generation", "managedFields", "name",
    "namespace", "resourceVersion", "selfLink", "uid", "generateName",
)  # fmt: skip


@frozen(slots=True)
class Difference:
    """Member paths that were added, changed value, or went away."""

    added: set[Path]
    modified: set[Path]
    removed: set[Path]


def is_atomic(value: Any, schema: Schema | None) -> bool:
    """Whether `value` is owned as one leaf. Lists without a schema are; maps without one are granular."""
    if isinstance(value, dict):
        return schema is not None and schema.map_type == "atomic"
    if isinstance(value, list):
        return schema is None or schema.list_type not in ("map", "set")
    return True


def item_path(item: Any, schema: Schema) -> str:
    """The path element of an item of a `map` or `set` list."""
    if schema.list_type == "set" or not isinstance(item, dict):
        return value_key(item)
    keys: dict[str, Any] = {}
    for name in schema.list_map_keys:
        value = item.get(name)
        if value is None and schema.items is not None:
            child = schema.items.child(name)
            if child is not None and child.default is not MISSING:
                value = child.default
            elif name == "protocol":
                value = "TCP"
        if value is not None:
            keys[name] = value
    return item_key(keys)


def object_fields(obj: dict[str, Any], schema: Schema | None) -> set[Path]:
    """Every path an applied configuration speaks about."""
    found: set[Path] = set()
    for key, value in obj.items():
        if key in ("apiVersion", "kind"):
            continue
        _collect(value, _child(schema, key), (field_key(key),), found)
    return without_system(found)


_NOBODYS = {("f:metadata", field_key(name)) for name in _SYSTEM} | {("f:apiVersion",), ("f:kind",), ("f:metadata",)}


def without_system(paths: set[Path]) -> set[Path]:
    return {p for p in paths if p[:2] not in _NOBODYS and p not in _NOBODYS}


def _child(schema: Schema | None, key: str) -> Schema | None:
    return schema.child(key) if schema is not None else None


def _collect(value: Any, schema: Schema | None, path: Path, found: set[Path]) -> None:
    if is_atomic(value, schema) or not value:
        found.add(path)
    elif isinstance(value, dict):
        for key, item in value.items():
            _collect(item, _child(schema, key), (*path, field_key(key)), found)
    else:
        assert schema is not None
        for item in value:
            at = (*path, item_path(item, schema))
            found.add(at)
            if isinstance(item, dict) and schema.list_type == "map":
                for key, inner in item.items():
                    _collect(inner, _child(schema.items, key), (*at, field_key(key)), found)


def difference(old: dict[str, Any], new: dict[str, Any], schema: Schema | None) -> Difference:
    """What turned `old` into `new`, by member path; system metadata left out."""
    diff = Difference(set(), set(), set())
    _diff_map(old, new, schema, (), diff)
    return Difference(without_system(diff.added), without_system(diff.modified), without_system(diff.removed))


def _diff_map(old: dict[str, Any], new: dict[str, Any], schema: Schema | None, path: Path, out: Difference) -> None:
    for key in old.keys() | new.keys():
        at = (*path, field_key(key))
        _diff(old.get(key, MISSING), new.get(key, MISSING), _child(schema, key), at, out)


def _diff(old: Any, new: Any, schema: Schema | None, path: Path, out: Difference) -> None:
    if old is MISSING:
        out.added.add(path)
        _everything(new, schema, path, out.added)
    elif new is MISSING:
        out.removed.add(path)
        _everything(old, schema, path, out.removed)
    elif old == new and type(old) is type(new):
        return
    elif is_atomic(old, schema) or is_atomic(new, schema) or type(old) is not type(new):
        out.modified.add(path)
    elif isinstance(new, dict):
        _diff_map(old, new, schema, path, out)
    else:
        assert schema is not None
        before = {item_path(item, schema): item for item in old}
        after = {item_path(item, schema): item for item in new}
        for key in before.keys() | after.keys():
            at = (*path, key)
            left, right = before.get(key, MISSING), after.get(key, MISSING)
            if left is not MISSING and right is not MISSING and isinstance(left, dict) and isinstance(right, dict):
                _diff_map(left, right, schema.items, at, out)
            elif left is MISSING or right is MISSING:
                target = out.added if left is MISSING else out.removed
                target.add(at)
                item = right if left is MISSING else left
                if isinstance(item, dict) and schema.list_type == "map":
                    for name, inner in item.items():
                        target.add((*at, field_key(name)))
                        _everything(inner, _child(schema.items, name), (*at, field_key(name)), target)


def _everything(value: Any, schema: Schema | None, path: Path, found: set[Path]) -> None:
    """Like an update's set: inner maps count as members too (`.`), structs do not."""
    if is_atomic(value, schema) or not value:
        return
    if isinstance(value, dict):
        if schema is not None and not schema.is_map and schema.properties:
            found.discard(path)
        for key, item in value.items():
            found.add((*path, field_key(key)))
            _everything(item, _child(schema, key), (*path, field_key(key)), found)
    elif isinstance(value, list) and schema is not None:
        for item in value:
            at = (*path, item_path(item, schema))
            found.add(at)
            if isinstance(item, dict) and schema.list_type == "map":
                for name, inner in item.items():
                    found.add((*at, field_key(name)))
                    _everything(inner, _child(schema.items, name), (*at, field_key(name)), found)
