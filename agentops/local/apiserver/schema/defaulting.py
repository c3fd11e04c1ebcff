"""Fill in a CRD's defaults: only inside parents that are there."""

from __future__ import annotations

import copy
from typing import Any

from agentops.local.apiserver.schema.structural import MISSING, Schema


def apply_defaults(value: Any, schema: Schema) -> None:
    """In place. A null where null is not allowed counts as absent."""
    if isinstance(value, dict):
        for key in schema.properties:
            child = schema.child(key)
            if child is None or child.default is MISSING:
                continue
            if key not in value or (value[key] is None and not child.nullable):
                value[key] = copy.deepcopy(child.default)
        for key, item in value.items():
            child = schema.child(key)
            if child is not None and isinstance(item, dict | list):
                apply_defaults(item, child)
    elif isinstance(value, list):
        items = schema.items
        if items is not None:
            for item in value:
                if isinstance(item, dict | list):
                    apply_defaults(item, items)


def has_defaults(schema: Schema) -> bool:
    """Whether any node of a (finite) CRD schema has a default, so that reads can skip the work."""
    return _search(schema.raw)


def _search(raw: Any) -> bool:
    if isinstance(raw, dict):
        return "default" in raw or any(_search(v) for k, v in raw.items() if k in _NESTING or isinstance(v, dict))
    return False


_NESTING = ("properties", "items", "additionalProperties")
