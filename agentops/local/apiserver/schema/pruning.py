"""Drop what the schema does not know, and say what that was."""

from __future__ import annotations

import copy
from typing import Any

from agentops.local.apiserver.schema.structural import Schema

_ENVELOPE = ("apiVersion", "kind", "metadata")


def prune(value: Any, schema: Schema, path: str, unknown: list[str], *, root: bool = False) -> None:
    """Remove unknown fields in place; their paths are appended to `unknown`.

    At the root and in embedded resources apiVersion, kind and metadata always stay.
    """
    if isinstance(value, dict):
        keep = _ENVELOPE if root or schema.embedded else ()
        for key in list(value):
            child = schema.child(key)
            at = f"{path}.{key}" if path else key
            if child is not None:
                if key == "metadata" and root:
                    continue
                prune(value[key], child, at, unknown)
            elif key not in keep and not schema.preserve and not schema.knows(key):
                unknown.append(at)
                del value[key]
    elif isinstance(value, list):
        items = schema.items
        if items is not None:
            for index, item in enumerate(value):
                prune(item, items, f"{path}[{index}]", unknown)


def drop_nulls(value: Any, schema: Schema | None) -> None:
    """Make of nulls what decoding makes of them, in place.

    A field that does not allow null and has no default goes. In lists and maps of a built-in, where Go decodes into
    the item's type, null is that type's zero value.
    """
    if isinstance(value, dict):
        for key in list(value):
            child = schema.child(key) if schema is not None else None
            item = value[key]
            if item is None:
                zero = _zero(child) if schema is not None and schema.is_map else None
                if zero is not None:
                    value[key] = zero
                elif child is not None and (child.builtin or not child.nullable):
                    del value[key]
            elif child is not None:
                drop_nulls(item, child)
    elif isinstance(value, list) and schema is not None and schema.items is not None:
        for index, item in enumerate(value):
            if item is None:
                value[index] = _zero(schema.items)
            else:
                drop_nulls(item, schema.items)


def _zero(schema: Schema | None) -> Any:
    """What Go has where nothing was decoded; None where that is null, or unknown."""
    if schema is None or not schema.builtin or schema.preserve:
        return None
    if schema.int_or_string:
        return "0" if schema.quantity else 0
    empty = {"object": {}, "array": [], "string": "", "integer": 0, "number": 0, "boolean": False}.get(schema.type)
    return copy.copy(empty)
