"""Merging an applied configuration over a live object, and taking fields away."""

from __future__ import annotations

import copy
from typing import Any

from agentops.local.apiserver.apply.compare import Path, is_atomic, item_path
from agentops.local.apiserver.schema.structural import Schema


def merge(live: Any, applied: Any, schema: Schema | None) -> Any:
    """`applied` over `live`: maps merge, keyed lists and sets merge by item, everything else is replaced."""
    if isinstance(applied, dict) and isinstance(live, dict) and not is_atomic(applied, schema):
        result = dict(live)
        for key, value in applied.items():
            child = schema.child(key) if schema is not None else None
            result[key] = merge(live[key], value, child) if key in live else copy.deepcopy(value)
        return result
    if isinstance(applied, list) and isinstance(live, list) and schema is not None and not is_atomic(applied, schema):
        return _merge_list(live, applied, schema)
    return copy.deepcopy(applied)


def _merge_list(live: list[Any], applied: list[Any], schema: Schema) -> list[Any]:
    """The applied order wins; live-only items stay after the item they followed."""
    wanted = {item_path(item, schema): item for item in applied}
    before = {item_path(item, schema): item for item in live}
    order = list(wanted)
    previous: str | None = None
    for key in before:
        if key not in wanted:
            order.insert(order.index(previous) + 1 if previous in order else 0 if previous is None else len(order), key)
        previous = key
    result = []
    for key in order:
        if key not in wanted:
            result.append(before[key])
        elif key not in before or schema.list_type == "set":
            result.append(copy.deepcopy(wanted[key]))
        else:
            result.append(merge(before[key], wanted[key], schema.items))
    return result


def remove(obj: Any, paths: set[Path], alive: set[Path], schema: Schema | None) -> Any:
    """`obj` without the values at `paths`, which their owner has let go.

    With a value goes everything in it, defaults that nobody owns too, unless something at or below it is in `alive`:
    then only the rest goes. So a list item goes whole with its last owner.
    """
    trie: dict[str, Any] = {}
    for path in paths:
        node = trie
        for key in path:
            node = node.setdefault(key, {})
    owned = {path[:length] for path in alive for length in range(1, len(path) + 1)}
    owned.add(_METADATA)
    return _remove(obj, trie, owned, (), schema)


_METADATA: Path = ("f:metadata",)
"""Never goes as a whole: its name and uid are nobody's."""


def _remove(value: Any, trie: dict[str, Any], owned: set[Path], path: Path, schema: Schema | None) -> Any:
    if isinstance(value, dict):
        result = {}
        for key, item in value.items():
            step = f"f:{key}"
            node, at = trie.get(step), (*path, step)
            if node is None:
                result[key] = item
            elif at in owned:
                inner = _remove(item, node, owned, at, schema.child(key) if schema is not None else None)
                if inner not in ({}, []) or item in ({}, []):
                    result[key] = inner
        return result
    if isinstance(value, list) and schema is not None and not is_atomic(value, schema):
        kept = []
        for item in value:
            step = item_path(item, schema)
            node, at = trie.get(step), (*path, step)
            if node is None:
                kept.append(item)
            elif at in owned and isinstance(item, dict):
                keys = {key: item[key] for key in schema.list_map_keys if key in item}
                kept.append({**keys, **_remove(item, node, owned, at, schema.items)})
            elif at in owned:
                kept.append(item)
        return kept
    return value
