"""Hypothesis strategies for values: objects of the six kinds, made from the declarations of their fields.

`instances(cls)` keeps the limits a field documents, so what it draws is what an API server would
let in; rules across fields are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

import attrs
from hypothesis import strategies as st

from agentops.api.fields import Doc, FieldInfo, Quantity, fields_of
from agentops.api.types import ObjectMeta

dns_labels = st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
quantities = st.builds(
    lambda number, suffix: Quantity(f"{number}{suffix}"),
    st.integers(0, 4096),
    st.sampled_from(["", "m", "k", "M", "Ki", "Mi", "Gi"]),
)
timestamps = st.datetimes().map(lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ"))
json_values = st.recursive(
    st.booleans() | st.integers(-1000, 1000) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
object_metas = st.builds(
    ObjectMeta,
    name=dns_labels,
    namespace=dns_labels,
    uid=st.uuids().map(str),
    generation=st.integers(1, 100),
    labels=st.dictionaries(dns_labels, dns_labels, max_size=3),
)


def instances(cls: type) -> st.SearchStrategy[Any]:
    """Values of an attrs class of `agentops.api.types`."""
    if cls is ObjectMeta:
        return object_metas
    return st.deferred(lambda: st.builds(cls, **{info.name: _field(info) for info in fields_of(cls)}))


def _field(info: FieldInfo) -> st.SearchStrategy[Any]:
    given = _value(info.type, info.doc)
    if info.required:
        return given
    return st.just(info.default) | given


def _value(declared: Any, about: Doc) -> st.SearchStrategy[Any]:
    origin = get_origin(declared)
    if about.preserve_unknown:
        return st.dictionaries(st.text(min_size=1, max_size=5), json_values, max_size=3)
    if origin is tuple:
        items = _value(get_args(declared)[0], about)
        key = about.list_map_keys[0] if about.list_map_keys else None
        unique_by = (lambda item: getattr(item, key)) if key else None
        size = {"min_size": about.min_items or 0, "max_size": max(about.min_items or 0, min(about.max_items or 3, 3))}
        return st.lists(items, unique_by=unique_by, **size).map(tuple)
    if origin is Mapping:
        return st.dictionaries(dns_labels, _value(get_args(declared)[1], about), max_size=3)
    if declared is Quantity:
        return quantities
    if attrs.has(declared):
        return instances(declared)
    if declared is bool:
        return st.booleans()
    if declared is int:
        low = int(about.minimum) if about.minimum is not None else 0
        return st.integers(low, int(about.maximum) if about.maximum is not None else low + 10_000)
    if declared is float:
        return st.floats(about.minimum or 0, about.maximum or 100, allow_nan=False).map(float)
    if about.enum:
        return st.sampled_from(about.enum)
    if about.format == "date-time":
        return timestamps
    if about.pattern:
        return st.from_regex(about.pattern, fullmatch=True).filter(lambda text: len(text) <= (about.max_length or 64))
    return st.text(min_size=about.min_length or 0, max_size=min(about.max_length or 20, 20))
