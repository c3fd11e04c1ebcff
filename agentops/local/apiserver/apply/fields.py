"""Sets of field paths, in the shape of managedFields' FieldsV1.

A set is a trie: `{"f:spec": {"f:model": {}, "f:tools": {'k:{"name":"a"}': {".": {}, "f:name": {}}}}}`.
A member is an empty node; `.` makes an inner node a member itself.
"""

from __future__ import annotations

from typing import Any

import orjson

Fields = dict[str, Any]
SELF = "."


def field_key(name: str) -> str:
    return f"f:{name}"


def value_key(value: Any) -> str:
    return "v:" + orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def item_key(keys: dict[str, Any]) -> str:
    return "k:" + orjson.dumps(keys, option=orjson.OPT_SORT_KEYS).decode()


def union(left: Fields, right: Fields) -> Fields:
    """Members of either. A node that is a member itself and has children keeps `.`."""
    if not left and not right:
        return {}
    result: Fields = {}
    leaf_left, leaf_right = not left, not right
    for key in sorted({*left, *right}):
        if key in left and key in right:
            result[key] = union(left[key], right[key])
        else:
            result[key] = left[key] if key in left else right[key]
    if (leaf_left or leaf_right) and SELF not in result:
        result = {SELF: {}, **result}
    return result


def members(fields: Fields, prefix: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Every member path. The empty path is never one."""
    found: set[tuple[str, ...]] = set()
    for key, inner in fields.items():
        if key == SELF:
            found.add(prefix)
        elif not inner:
            found.add((*prefix, key))
        else:
            found |= members(inner, (*prefix, key))
    return found


def build(paths: set[tuple[str, ...]]) -> Fields:
    """The trie of member paths."""
    root: Fields = {}
    for path in sorted(paths):
        node = root
        for key in path:
            node = node.setdefault(key, {})
        node[_MARK] = {}
    return _settle(root)


_MARK = "\0"


def _settle(node: Fields) -> Fields:
    marked = _MARK in node
    inner = {key: _settle(child) for key, child in node.items() if key != _MARK}
    return {SELF: {}, **inner} if marked and inner else inner


def strip(fields: Fields, *paths: tuple[str, ...]) -> Fields:
    """Without anything at or below `paths`."""
    result = members(fields)
    kept = {member for member in result if not any(member[: len(path)] == path for path in paths)}
    return build(kept)
