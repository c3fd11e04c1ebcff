"""Tables: the columns kubectl prints. Cells of built-ins are in `printers`, of CRDs come by JSONPath."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from attrs import frozen

from agentops.local.apiserver import jsonpath
from agentops.local.apiserver.printers import PRINTERS, Printer, age
from agentops.local.apiserver.resources import Resource

Object = dict[str, Any]
Cell = Callable[[Object, datetime], Any]

_NAME_DESCRIPTION = (
    "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a "
    "client to request the generation of an appropriate name automatically."
)


@frozen(slots=True)
class Columns:
    """Column definitions and the function that makes a row's cells."""

    definitions: list[Object]
    cells: Callable[[Object, datetime], list[Any]]


def columns_of(resource: Resource) -> Columns:
    """The columns of a resource: its own printer, a CRD's additionalPrinterColumns, or Name and Age."""
    if resource.custom:
        return _custom(resource.columns)
    printer = PRINTERS.get(resource.kind.resource)
    if printer is None:
        printer = PRINTERS[""]
    return _builtin(printer)


def row_of(columns: Columns, obj: Object, now: datetime) -> list[Any]:
    return columns.cells(obj, now)


def _builtin(printer: Printer) -> Columns:
    definitions = []
    for index, (name, priority) in enumerate(printer.columns):
        kind = "string"
        if name in printer.integers:
            kind = "integer"
        definitions.append(_definition(name, kind, priority, "name" if index == 0 and name == "Name" else ""))
    return Columns(definitions, printer.cells)


def _definition(name: str, kind: str, priority: int, form: str, description: str = "") -> Object:
    return {
        "name": name,
        "type": kind,
        "format": form,
        "description": description or (_NAME_DESCRIPTION if form == "name" else name),
        "priority": priority,
    }


def _custom(columns: list[Object] | None) -> Columns:
    definitions = [_definition("Name", "string", 0, "name")]
    getters: list[Cell] = []
    for column in columns if columns else [{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]:
        kind = column.get("type", "string")
        definitions.append(
            _definition(
                column.get("name", ""),
                kind,
                int(column.get("priority") or 0),
                column.get("format", ""),
                column.get("description")
                or f"Custom resource definition column (in JSONPath format): {column.get('jsonPath')}",
            )
        )
        getters.append(_getter(column.get("jsonPath", ""), kind))

    def cells(obj: Object, now: datetime) -> list[Any]:
        return [(obj.get("metadata") or {}).get("name"), *(getter(obj, now) for getter in getters)]

    return Columns(definitions, cells)


def _getter(path: str, kind: str) -> Cell:
    def cell(obj: Object, now: datetime) -> Any:
        try:
            found = jsonpath.find(obj, path)
        except jsonpath.JsonPathError:
            return None
        if not found:
            return None
        value = found[0]
        if kind == "date":
            return age(value, now) if value else "<unknown>"
        if kind == "integer":
            return value if isinstance(value, int) and not isinstance(value, bool) else None
        if kind == "number":
            return value if isinstance(value, int | float) and not isinstance(value, bool) else None
        if kind == "boolean":
            return value if isinstance(value, bool) else None
        return _go_text(value)

    return cell


def _go_text(value: Any) -> Any:
    """How Go prints a value in a string column."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    import orjson

    return orjson.dumps(value).decode()
