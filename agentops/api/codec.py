"""JSON in and out of attrs classes: one converter for every wire format two roles share.

Keys are the attribute names in camelCase unless a field says otherwise with `wire("name")`. A field at
its default is left out, unknown keys are ignored, and what cannot be read raises `WireError` with
the path of the value.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, TypeVar, get_args, get_origin

import attrs
import cattrs
import orjson
from cattrs.cols import list_structure_factory
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from agentops.values.clock import parse_rfc3339

_T = TypeVar("_T")


class WireError(ValueError):
    """The data does not have the shape of the class; the message names the path and what was wrong."""


def wire(name: str, *, always: bool = False, default: Any = attrs.NOTHING, factory: Any = None) -> Any:
    """A field whose JSON key is `name`; with `always`, written even at its default."""
    metadata = {"wire": name, "always": always}
    if factory is not None:
        return attrs.field(factory=factory, metadata=metadata)
    return attrs.field(default=default, metadata=metadata)


def camel(name: str) -> str:
    """`max_steps` to `maxSteps`."""
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def to_wire(value: Any) -> Any:
    """Plain JSON data."""
    return _converter.unstructure(value)


def from_wire(cls: type[_T], data: Any) -> _T:
    """The value of `cls` that `data` says. Raises WireError."""
    try:
        return _converter.structure(data, cls)
    except Exception as error:
        raise WireError("; ".join(_problems(error))) from error


def dumps(value: Any, *, indent: bool = False) -> bytes:
    """UTF-8 JSON; with `indent`, two spaces, for files people read."""
    return orjson.dumps(to_wire(value), option=orjson.OPT_INDENT_2 if indent else 0)


def loads(cls: type[_T], data: bytes | str) -> _T:
    """Parse and structure. Raises WireError for malformed JSON too."""
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise WireError(f"not JSON: {error}") from error
    return from_wire(cls, raw)


def _problems(error: BaseException) -> list[str]:
    """One sentence per problem, with JSON keys in the path where cattrs has attribute names."""
    messages = []
    for message in cattrs.transform_error(error):
        what, _, path = message.partition(" @ ")
        keys = re.sub(r"\w+", lambda m: _wire_names.get(m.group(), m.group()), path.removeprefix("$").lstrip("."))
        messages.append(f"{what} @ {keys}" if keys else what)
    return messages


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _plain(cls: type) -> Any:
    """A hook that takes exactly `cls`: JSON has types, and `"5"` is not 5."""

    def structure(value: Any, _: Any) -> Any:
        if cls is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, cls) or (cls is int and isinstance(value, bool)):
            raise TypeError(f"expected {_JSON_NAMES[cls]}, got {type(value).__name__} {value!r:.60}")
        return value

    return structure


def _is_list(cls: Any) -> bool:
    return get_origin(cls) is tuple and get_args(cls)[-1:] == (Ellipsis,)


def _listed(cls: Any, converter: cattrs.Converter) -> Any:
    """A hook that takes a list only: a string is a sequence too, and `"ab"` is not `["a", "b"]`."""
    element = get_args(cls)[0]
    structure_list = list_structure_factory(list[element], converter)  # type: ignore[valid-type]

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise TypeError(f"expected a list, got {type(value).__name__} {value!r:.60}")
        return tuple(structure_list(value, list[element]))  # type: ignore[valid-type]

    return structure


_JSON_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}


_wire_names: dict[str, str] = {}


def _overrides(cls: Any) -> dict[str, Any]:
    _wire_names.update({a.name: a.metadata.get("wire", camel(a.name)) for a in attrs.fields(cls)})
    return {
        a.name: override(
            rename=a.metadata.get("wire", camel(a.name)), omit_if_default=not a.metadata.get("always", False)
        )
        for a in attrs.fields(cls)
        if a.init
    }


def _make() -> cattrs.Converter:
    converter = cattrs.Converter(omit_if_default=True)
    for cls in _JSON_NAMES:
        converter.register_structure_hook(cls, _plain(cls))
    converter.register_structure_hook_factory(_is_list, _listed)
    converter.register_structure_hook(datetime, lambda value, _: parse_rfc3339(value))
    converter.register_unstructure_hook(datetime, _stamp)
    converter.register_unstructure_hook_factory(
        attrs.has, lambda cls: make_dict_unstructure_fn(cls, converter, **_overrides(cls))
    )
    converter.register_structure_hook_factory(
        attrs.has, lambda cls: make_dict_structure_fn(cls, converter, **_overrides(cls))
    )
    return converter


_converter = _make()
