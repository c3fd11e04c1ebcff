"""What a CRD says beside its schema: printer columns and selectable fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.schema.structural import Schema

_TYPES = ("boolean", "date", "integer", "number", "string")
_FORMATS = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")
_MAX_SELECTABLE = 8


def column_errors(columns: Sequence[Mapping[str, Any]] | None, at: str) -> Iterator[FieldError]:
    """Of `additionalPrinterColumns`."""
    for index, column in enumerate(columns or ()):
        where = f"{at}[{index}]"
        if not column.get("name"):
            yield errors.required(f"{where}.name")
        kind, form, path = (str(column.get(key) or "") for key in ("type", "format", "jsonPath"))
        if not kind:
            yield errors.required(f"{where}.type", f"must be one of {','.join(_TYPES)}")
        elif kind not in _TYPES:
            yield errors.invalid_value(f"{where}.type", kind, f"must be one of {','.join(_TYPES)}")
        if form and form not in _FORMATS:
            yield errors.invalid_value(f"{where}.format", form, f"must be one of {','.join(_FORMATS)}")
        if not path:
            yield errors.required(f"{where}.JSONPath")
        elif not path.startswith("."):
            yield errors.invalid_value(f"{where}.JSONPath", path, "must be a simple json path starting with .")


def selectable_errors(fields: Sequence[Mapping[str, Any]] | None, schema: Schema, at: str) -> Iterator[FieldError]:
    """Of `selectableFields`: each names one scalar of the schema."""
    seen: set[str] = set()
    if fields and len(fields) > _MAX_SELECTABLE:
        yield FieldError(errors.TOO_MANY, at, f"must have at most {_MAX_SELECTABLE} items", len(fields))
    for index, field in enumerate(fields or ()):
        where, path = f"{at}[{index}].jsonPath", str(field.get("jsonPath") or "")
        if not path:
            yield errors.required(where)
            continue
        names = path.removeprefix(".").split(".")
        found = _at(schema, names) if path.startswith(".") else None
        if names[0] == "metadata":
            yield errors.invalid_value(where, path, "must not point to fields in metadata")
        elif found is None:
            yield errors.invalid_value(where, path, "is an invalid path: does not refer to a valid field")
        elif found.type not in ("string", "boolean", "integer") or found.int_or_string:
            detail = (
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats "
                "are allowed."
            )
            yield errors.invalid_value(where, path, detail)
        if path in seen:
            yield errors.duplicate(where, path)
        seen.add(path)


def _at(schema: Schema, names: Sequence[str]) -> Schema | None:
    found: Schema | None = schema
    for name in names:
        found = found.child(name) if found is not None and name in found.properties else None
    return found
