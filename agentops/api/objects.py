"""Objects of the six kinds to values and back.

`decode` is lenient about what it does not know (another release may write more fields) and strict
about what it does: a wrong JSON type is a `DecodeError` that names the path. Limits, enums and
rules across fields are not its business; `validation` has those. `encode` leaves out what absence
already means, so `decode(encode(value)) == value`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import GenericAlias
from typing import Any, TypeVar, cast

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from agentops.api import kinds
from agentops.api.fields import Quantity, fields_of
from agentops.api.types import Agent, AgentResource, AgentRun, AgentTool, Channel, Provider
from agentops.values.kinds import Kind

T = TypeVar("T")

CLASSES: dict[Kind, type] = {
    kinds.AGENT: Agent,
    kinds.AGENT_RUN: AgentRun,
    kinds.AGENT_TOOL: AgentTool,
    kinds.AGENT_RESOURCE: AgentResource,
    kinds.CHANNEL: Channel,
    kinds.PROVIDER: Provider,
}
_KIND_OF = {cls: kind for kind, cls in CLASSES.items()}


class DecodeError(ValueError):
    """JSON that does not have the shape of its kind.

    `path` leads to the first value at fault (`spec.tools[2].name`), `problem` says what is wrong.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem


def kind_of(cls: type) -> Kind:
    """The kind a class stands for. Raises KeyError for a class that is not one of the six."""
    return _KIND_OF[cls]


def decode(cls: type[T], obj: Mapping[str, Any]) -> T:
    """`obj` as a `cls`: one of the six kinds, or any class of `agentops.api.types`.

    Unknown keys are ignored, nulls count as absent, defaults are filled in. Raises DecodeError.
    """
    kind = _KIND_OF.get(cls)
    if kind is not None:
        _check_kind(kind, obj)
    try:
        return _converter.structure(obj, cls)
    except cattrs.BaseValidationError as error:
        raise _first_error(error, "") from error
    except _Mismatch as error:
        raise DecodeError("", str(error)) from error


def encode(value: Any) -> dict[str, Any]:
    """The JSON of a value; an object of the six kinds gets `apiVersion` and `kind`."""
    body = cast("dict[str, Any]", _converter.unstructure(value))
    kind = _KIND_OF.get(type(value))
    if kind is None:
        return body
    return {"apiVersion": kind.api_version, "kind": kind.kind, **body}


def _check_kind(kind: Kind, obj: Mapping[str, Any]) -> None:
    if not isinstance(obj, Mapping):
        raise DecodeError("", f"expected an object, got {_describe(obj)}")
    if obj.get("kind", kind.kind) != kind.kind:
        raise DecodeError("kind", f"expected {kind.kind}, got {obj.get('kind')!r}")
    group = str(obj.get("apiVersion", kind.api_version)).partition("/")[0]
    if group != kind.group:
        raise DecodeError("apiVersion", f"expected group {kind.group}, got {obj.get('apiVersion')!r}")


class _Mismatch(ValueError):
    """A JSON value of another type than the field's."""


def _describe(value: Any) -> str:
    names = {bool: "a boolean", str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(unstruct_collection_overrides={tuple: list}, detailed_validation=True)

    def string(value: Any, _: Any) -> str:
        if not isinstance(value, str):
            raise _Mismatch(f"expected a string, got {_describe(value)}")
        return value

    def quantity(value: Any, _: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise _Mismatch(f"expected a quantity such as 500m or 1Gi, got {_describe(value)}")
        return str(value)

    def integer(value: Any, _: Any) -> int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole:
            raise _Mismatch(f"expected a whole number, got {_describe(value)}")
        if not -(1 << 63) <= value < 1 << 63:
            raise _Mismatch(f"{value} has more than the 64 bits a number may have")
        return int(value)

    def number(value: Any, _: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _Mismatch(f"expected a number, got {_describe(value)}")
        return float(value)

    def boolean(value: Any, _: Any) -> bool:
        if not isinstance(value, bool):
            raise _Mismatch(f"expected true or false, got {_describe(value)}")
        return value

    converter.register_structure_hook(str, string)
    converter.register_structure_hook(Quantity, quantity)
    converter.register_structure_hook(int, integer)
    converter.register_structure_hook(float, number)
    converter.register_structure_hook(bool, boolean)

    def structure_attrs(cls: type) -> Any:
        renames: Any = {info.name: override(rename=info.json_name) for info in fields_of(cls)}
        plain: Any = make_dict_structure_fn(cls, converter, **renames)

        def structure(value: Any, declared: Any) -> Any:
            if not isinstance(value, Mapping):
                raise _Mismatch(f"expected an object, got {_describe(value)}")
            return plain({key: item for key, item in value.items() if item is not None}, declared)

        return structure

    def unstructure_attrs(cls: type) -> Any:
        overrides: Any = {
            info.name: override(rename=info.json_name, omit_if_default=info.absent_default) for info in fields_of(cls)
        }
        return make_dict_unstructure_fn(cls, converter, **overrides)

    def structure_tuple(cls: Any) -> Any:
        list_type: Any = GenericAlias(list, (cls.__args__[0],))

        def structure(value: Any, _: Any) -> Any:
            if not isinstance(value, list | tuple):
                raise _Mismatch(f"expected a list, got {_describe(value)}")
            return tuple(converter.structure(list(value), list_type))

        return structure

    def structure_mapping(cls: Any) -> Any:
        dict_type: Any = GenericAlias(dict, cls.__args__)

        def structure(value: Any, _: Any) -> Any:
            if not isinstance(value, Mapping):
                raise _Mismatch(f"expected an object, got {_describe(value)}")
            return converter.structure(dict(value), dict_type)

        return structure

    converter.register_structure_hook_factory(attrs.has, structure_attrs)
    converter.register_unstructure_hook_factory(attrs.has, unstructure_attrs)
    converter.register_structure_hook_factory(lambda cls: getattr(cls, "__origin__", None) is tuple, structure_tuple)
    converter.register_structure_hook_factory(
        lambda cls: getattr(cls, "__origin__", None) is Mapping, structure_mapping
    )
    return converter


_converter = _make_converter()


def _first_error(error: BaseException, path: str) -> DecodeError:
    """Follow the notes cattrs leaves down to the first leaf, spelling the path in JSON names."""
    if isinstance(error, cattrs.BaseValidationError):
        child = error.exceptions[0]
        return _first_error(child, path + _step(error, child, path))
    if isinstance(error, KeyError):
        cause = str(error.args[0]) if error.args else ""
        return DecodeError(f"{path}.{cause}" if path and not path.endswith(cause) else path or cause, "is required")
    return DecodeError(path, str(error))


def _step(parent: cattrs.BaseValidationError, child: BaseException, path: str) -> str:
    for note in getattr(child, "__notes__", ()):
        if isinstance(note, cattrs.AttributeValidationNote):
            names = {info.name: info.json_name for info in fields_of(parent.cl)}
            name = names.get(note.name, note.name)
            return f".{name}" if path else name
        if isinstance(note, cattrs.IterableValidationNote):
            return f"[{note.index}]" if isinstance(note.index, int) else f".{note.index}"
    return ""
