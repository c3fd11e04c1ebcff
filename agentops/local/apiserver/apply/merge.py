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


def remove(obj: Any, paths: set[Path], schema: Schema | None) -> Any:
    """`obj` without the values at `paths`. Inner nodes named only through their children stay."""
    trie: dict[str, Any] = {}
    for path in paths:
        node = trie
        for key in path:
            node = node.setdefault(key, {})
        node["\0"] = True
    return _remove(obj, trie, schema)


_GONE = object()


def _remove(value: Any, trie: dict[str, Any], schema: Schema | None) -> Any:
    if isinstance(value, dict):
        result = {}
        for key, item in value.items():
            node = trie.get(f"f:{key}")
            if node is None:
                result[key] = item
                continue
            child = schema.child(key) if schema is not None else None
            if _whole(item, node, child):
                continue
            inner = _remove(item, node, child)
            if inner in ({}, []) and item not in ({}, []) and not isinstance(item, str | int | float):
                continue
            result[key] = inner
        return result
    if isinstance(value, list) and schema is not None and not is_atomic(value, schema):
        kept = []
        for item in value:
            node = trie.get(item_path(item, schema))
            if node is None:
                kept.append(item)
            elif "\0" in node and (not isinstance(item, dict) or _covers(item, node, schema.items)):
                continue
            elif isinstance(item, dict):
                inner = _remove(item, node, schema.items)
                keys = {k: item[k] for k in schema.list_map_keys if k in item}
                kept.append({**keys, **inner})
            else:
                kept.append(item)
        return kept
    return value


def _whole(item: Any, node: dict[str, Any], schema: Schema | None) -> bool:
    """A leaf (or empty container, or atomic) that is itself named."""
    return "\0" in node and (is_atomic(item, schema) or not item or _covers(item, node, schema))


def _covers(item: Any, node: dict[str, Any], schema: Schema | None) -> bool:
    """Whether every part of `item` is named, so nothing of another owner is left in it."""
    if is_atomic(item, schema) or not item:
        return "\0" in node
    if isinstance(item, dict):
        return all(
            f"f:{key}" in node and _covers(value, node[f"f:{key}"], schema.child(key) if schema is not None else None)
            for key, value in item.items()
        )
    if isinstance(item, list) and schema is not None:
        return all(
            (inner := node.get(item_path(entry, schema))) is not None
            and (_covers(entry, inner, schema.items) if isinstance(entry, dict) else "\0" in inner)
            for entry in item
        )
    return "\0" in node
