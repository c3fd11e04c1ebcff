"""Checks a value against a structural schema and reports everything, not the first thing.

For `agentops lint`, which has no API server at hand: types, required and unknown fields, enums,
lengths, ranges, patterns and keyed lists. CEL is not evaluated; `agentops.api.validation` says the
same things in Python.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from agentops.api.validation.common import ErrorType, FieldError, duplicate, invalid, required

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (Mapping,),
    "array": (list, tuple),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int, float),
    "number": (int, float),
}
_NAMES = {
    "object": "an object",
    "array": "a list",
    "string": "a string",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
}


def structural_errors(schema: Mapping[str, Any], value: Any, path: str = "") -> list[FieldError]:
    """Every way in which `value` is not what `schema` says. A null counts as absent, as on the server."""
    if schema.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return [invalid(path, f"expected a quantity such as 500m or 1Gi, got {describe(value)}")]
        if isinstance(value, float) and not value.is_integer():
            hint = "(the API server takes fractions as text only: put it in quotes)"
            return [invalid(path, f"expected a quantity such as 500m or 1Gi, got {describe(value)} {hint}")]
        return _string(schema, str(value), path)
    declared = schema.get("type", "")
    if not _has_type(declared, value):
        hint = " (put it in quotes)" if declared == "string" and not isinstance(value, list | Mapping) else ""
        return [invalid(path, f"expected {_NAMES[declared]}, got {describe(value)}{hint}")]
    match declared:
        case "object":
            return _object(schema, value, path)
        case "array":
            return _array(schema, value, path)
        case "string":
            return _string(schema, value, path)
        case "integer" | "number":
            return _number(schema, value, path)
    return []


def describe(value: Any) -> str:
    """A value in an error message: its type and the beginning of it."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value}"
        case str():
            return f"{value[:40]!r}"
        case list() | tuple():
            return "a list"
    return "an object"


def _has_type(declared: str, value: Any) -> bool:
    if declared not in _TYPES:
        return True
    if isinstance(value, bool):
        return declared == "boolean"
    if declared == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[declared])


def _object(schema: Mapping[str, Any], value: Mapping[str, Any], path: str) -> list[FieldError]:
    properties: Mapping[str, Any] = schema.get("properties", {})
    extra = schema.get("additionalProperties")
    errors = [
        required(_join(path, name), "is required") for name in schema.get("required", ()) if value.get(name) is None
    ]
    for name, item in value.items():
        at = _join(path, str(name))
        if name in properties:
            if item is not None:
                errors += structural_errors(properties[name], item, at)
        elif isinstance(extra, Mapping):
            errors += structural_errors(extra, item, at)
        elif properties and not schema.get("x-kubernetes-preserve-unknown-fields"):
            near = difflib.get_close_matches(str(name), list(properties), n=1)
            errors.append(invalid(at, "unknown field" + (f"; did you mean {near[0]}?" if near else "")))
    if len(value) > schema.get("maxProperties", len(value)):
        errors.append(invalid(path, f"{len(value)} entries are more than {schema['maxProperties']}"))
    return errors


def _array(schema: Mapping[str, Any], value: list[Any], path: str) -> list[FieldError]:
    errors = []
    if len(value) < schema.get("minItems", 0):
        errors.append(invalid(path, f"needs at least {schema['minItems']} entries"))
    if len(value) > schema.get("maxItems", len(value)):
        errors.append(invalid(path, f"{len(value)} entries are more than {schema['maxItems']}"))
    keys: list[str] = schema.get("x-kubernetes-list-map-keys", [])
    seen: set[tuple[str, ...]] = set()
    for index, item in enumerate(value):
        at = f"{path}[{index}]"
        errors += structural_errors(schema.get("items", {}), item, at)
        if keys and isinstance(item, Mapping):
            identity = tuple(str(item.get(key)) for key in keys)
            if identity in seen:
                errors.append(duplicate(f"{at}.{keys[0]}", ", ".join(identity)))
            seen.add(identity)
    return errors


def _string(schema: Mapping[str, Any], value: str, path: str) -> list[FieldError]:
    if "enum" in schema and value not in schema["enum"]:
        allowed = ", ".join(schema["enum"])
        return [FieldError(path, ErrorType.NOT_SUPPORTED, f"{value!r} is not one of {allowed}")]
    if len(value) < schema.get("minLength", 0):
        return [required(path, "is empty") if not value else invalid(path, f"is shorter than {schema['minLength']}")]
    if len(value) > schema.get("maxLength", len(value)):
        return [invalid(path, f"{len(value)} characters are more than {schema['maxLength']}")]
    if "pattern" in schema and not re.search(schema["pattern"], value):
        what = "a quantity such as 500m or 1Gi" if schema.get("x-kubernetes-int-or-string") else schema["pattern"]
        return [invalid(path, f"{value[:40]!r} is not {what}")]
    return []


def _number(schema: Mapping[str, Any], value: float, path: str) -> list[FieldError]:
    if value < schema.get("minimum", value):
        return [invalid(path, f"{value} is less than {schema['minimum']}")]
    if value > schema.get("maximum", value):
        return [invalid(path, f"{value} is more than {schema['maximum']}")]
    return []


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
