"""Drop what the schema does not know, and say what that was."""

from __future__ import annotations

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
    """Remove nulls where the schema does not allow them and has no default, as decoding does."""
    if isinstance(value, dict):
        for key in list(value):
            child = schema.child(key) if schema is not None else None
            item = value[key]
            if item is None:
                if child is not None and (child.builtin or not child.nullable):
                    del value[key]
            elif child is not None:
                drop_nulls(item, child)
    elif isinstance(value, list) and schema is not None and schema.items is not None:
        for item in value:
            drop_nulls(item, schema.items)
