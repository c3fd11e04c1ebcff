"""How an attrs class describes a JSON object: names, docs and limits of its fields.

One declaration feeds three readers: `schema` (CRDs and `kubectl explain`), `codec` of the kinds
(JSON to values and back) and docs. A field is an ordinary attrs field whose metadata is `doc(...)`:

    size: Quantity = field(metadata=doc("Size of the volume.", max_length=32))

The JSON name is the attribute in camelCase, with the acronyms of `ACRONYMS` in capitals
(`base_url` is `baseURL`) unless `doc(json_name=...)` says otherwise. What absence means follows
from the default: no default is required, None or empty or False is simply absent, any other
default is written into the object by the API server.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Hashable, Mapping
from typing import Any, NewType, Union, get_args, get_origin, get_type_hints

import attrs
from attrs import frozen

Quantity = NewType("Quantity", str)
"""A Kubernetes quantity (`500m`, `1Gi`). JSON may hold a number; the value is always text."""

DOC = "agentops.doc"
ACRONYMS = frozenset({"api", "id", "ip", "pvc", "uid", "url"})


@frozen(slots=True)
class Rule:
    """One CEL rule of a schema node (`x-kubernetes-validations`).

    `field_path` points from the node to the field at fault (`.storage`); `reason` is one of
    FieldValueInvalid, FieldValueForbidden, FieldValueRequired, FieldValueDuplicate.
    """

    rule: str
    message: str
    field_path: str = ""
    reason: str = ""


@frozen(slots=True)
class Doc:
    """What is said of a field besides its type; see `doc`."""

    text: str = ""
    json_name: str = ""
    minimum: float | None = None
    maximum: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str = ""
    format: str = ""
    enum: tuple[str, ...] = ()
    min_items: int | None = None
    max_items: int | None = None
    max_properties: int | None = None
    list_map_keys: tuple[str, ...] = ()
    list_set: bool = False
    preserve_unknown: bool = False
    rules: tuple[Rule, ...] = ()


def doc(
    text: str,
    *,
    json_name: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    pattern: str = "",
    format: str = "",
    enum: tuple[str, ...] = (),
    min_items: int | None = None,
    max_items: int | None = None,
    max_properties: int | None = None,
    list_map_keys: tuple[str, ...] = (),
    list_set: bool = False,
    preserve_unknown: bool = False,
    rules: tuple[Rule, ...] = (),
) -> dict[str, Any]:
    """Metadata for `attrs.field`: the description and the limits of one JSON field.

    Limits on strings (`enum`, `pattern`, lengths, `format`) and on numbers apply to the items of a
    list and to the values of a map; `min_items`, `max_items` and `max_properties` to the container.
    `list_map_keys` and `list_set` say how server-side apply merges the list. `preserve_unknown`
    keeps a free-form object as it was written.
    """
    return {
        DOC: Doc(
            text=text,
            json_name=json_name,
            minimum=minimum,
            maximum=maximum,
            min_length=min_length,
            max_length=max_length,
            pattern=pattern,
            format=format,
            enum=enum,
            min_items=min_items,
            max_items=max_items,
            max_properties=max_properties,
            list_map_keys=list_map_keys,
            list_set=list_set,
            preserve_unknown=preserve_unknown,
            rules=rules,
        )
    }


@frozen(slots=True)
class FieldInfo:
    """One field of an attrs class, resolved."""

    name: str
    json_name: str
    type: Any
    """The type without its `| None`."""
    optional: bool
    """Whether None is a value."""
    required: bool
    """Whether the field has no default."""
    default: Any
    """The default value, made by the factory if there is one; None when `required`."""
    doc: Doc

    @property
    def absent_default(self) -> bool:
        """Whether leaving the field out of the JSON already means its default, with no help from a schema."""
        return not self.required and (not self.default or is_empty(self.default))


def is_empty(value: Any) -> bool:
    """Whether `value` is an empty container or an object whose every field is at its default."""
    if isinstance(value, tuple | list | Mapping):
        return not value
    cls: type = type(value)
    if attrs.has(cls):
        return all(not info.required and getattr(value, info.name) == info.default for info in fields_of(cls))
    return False


def json_name(attribute: str) -> str:
    """`service_url` is `serviceURL`, `api_key_secret` is `apiKeySecret`."""
    first, *rest = attribute.rstrip("_").split("_")
    return first + "".join(part.upper() if part in ACRONYMS else part.capitalize() for part in rest)


def fields_of(cls: type) -> tuple[FieldInfo, ...]:
    """The JSON fields of an attrs class, in the order they are declared.

    Raises TypeError when `cls` is not an attrs class.
    """
    return _resolve(cls)


@functools.cache
def _resolve(cls: Hashable) -> tuple[FieldInfo, ...]:
    if not isinstance(cls, type) or not attrs.has(cls):
        raise TypeError(f"{cls!r} is not an attrs class")
    hints = get_type_hints(cls)
    result = []
    for attribute in attrs.fields(cls):
        declared = hints[attribute.name]
        inner = _without_none(declared)
        about: Doc = attribute.metadata.get(DOC, Doc())
        required = attribute.default is attrs.NOTHING
        default = attribute.default
        if required:
            default = None
        elif isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = default.factory()
        result.append(
            FieldInfo(
                name=attribute.name,
                json_name=about.json_name or json_name(attribute.name),
                type=inner,
                optional=inner is not declared,
                required=required,
                default=default,
                doc=about,
            )
        )
    return tuple(result)


def _without_none(declared: Any) -> Any:
    if get_origin(declared) in (Union, types.UnionType):
        rest = [argument for argument in get_args(declared) if argument is not type(None)]
        if len(rest) != len(get_args(declared)):
            return rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007 (built at run time)
    return declared
