"""Structural OpenAPI v3 schemas out of the attrs classes of `agentops.api.types`.

Everything in a schema comes from a declaration: types from annotations, limits and descriptions
from `doc(...)`, `required` and `default` from the attrs default, CEL from the rules beside the
class. The result is plain dicts in a fixed order, so the same declarations give the same bytes.
"""

from __future__ import annotations

import types as pytypes
from collections.abc import Mapping
from typing import Any, get_args, get_origin

import attrs

from agentops.api.fields import Doc, FieldInfo, Quantity, Rule, fields_of
from agentops.api.types import agent, agentresource, agentrun, agenttool, channel, provider
from agentops.api.types.shared import NAME_MAX

QUANTITY_PATTERN = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)

NAME_IS_A_LABEL = Rule(
    "self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "the name becomes the name of a Service: at most 63 of a-z, 0-9 and -, starting with a letter",
    ".metadata.name",
    "FieldValueInvalid",
)
NAME_IS_A_LABEL_VALUE = Rule(
    "self.metadata.name.size() <= 63",
    "the name becomes the value of a label: at most 63 characters",
    ".metadata.name",
    "FieldValueInvalid",
)

_SPEC_RULES: dict[type, tuple[Rule, ...]] = {
    agent.AgentSpec: agent.SPEC_RULES,
    agentrun.AgentRunSpec: agentrun.SPEC_RULES,
    agenttool.AgentToolSpec: agenttool.SPEC_RULES,
    agentresource.AgentResourceSpec: agentresource.SPEC_RULES,
    channel.ChannelSpec: channel.SPEC_RULES,
    provider.ProviderSpec: provider.SPEC_RULES,
}
_OBJECT_RULES: dict[type, tuple[Rule, ...]] = {
    agent.Agent: (NAME_IS_A_LABEL,),
    agentrun.AgentRun: (NAME_IS_A_LABEL_VALUE,),
    channel.Channel: (NAME_IS_A_LABEL,),
}


def object_schema(cls: type) -> dict[str, Any]:
    """The schema of a kind: `openAPIV3Schema` of its CRD."""
    properties: dict[str, Any] = {
        "apiVersion": {"type": "string", "description": "Group and version: agents.agentops.io/v1alpha1."},
        "kind": {"type": "string", "description": f"The kind: {cls.__name__}."},
        "metadata": {"type": "object"},
    }
    for info in fields_of(cls):
        if info.name != "metadata":
            properties[info.json_name] = _field(info, with_defaults=info.name == "spec")
    schema: dict[str, Any] = {
        "type": "object",
        "description": _summary(cls),
        "required": ["spec"],
        "properties": properties,
    }
    rules = _OBJECT_RULES.get(cls, ())
    if rules:  # their `fieldPath` must lead to a field of the schema
        name = {"description": "Name, unique within kind and namespace.", "type": "string", "maxLength": NAME_MAX}
        properties["metadata"]["properties"] = {"name": name}
    return _with_rules(schema, rules)


def class_schema(cls: type, *, with_defaults: bool = True) -> dict[str, Any]:
    """The schema of one attrs class."""
    infos = fields_of(cls)
    schema: dict[str, Any] = {"type": "object"}
    required = [info.json_name for info in infos if info.required]
    if required:
        schema["required"] = required
    schema["properties"] = {info.json_name: _field(info, with_defaults=with_defaults) for info in infos}
    return _with_rules(schema, _SPEC_RULES.get(cls, ()))


def apply_defaults(schema: Mapping[str, Any], value: Any) -> Any:
    """A copy of `value` with the schema's defaults filled in, as the API server does on every write."""
    if isinstance(value, Mapping):
        result = dict(value)
        properties: Mapping[str, Any] = schema.get("properties", {})
        for name, node in properties.items():
            if name not in result and "default" in node:
                result[name] = node["default"]
            if name in result:
                result[name] = apply_defaults(node, result[name])
        extra = schema.get("additionalProperties")
        if isinstance(extra, Mapping):
            for name in result.keys() - properties.keys():
                result[name] = apply_defaults(extra, result[name])
        return result
    if isinstance(value, list | tuple):
        return [apply_defaults(schema.get("items", {}), item) for item in value]
    return value


def _field(info: FieldInfo, *, with_defaults: bool) -> dict[str, Any]:
    schema = _node(info.type, info.doc, with_defaults=with_defaults)
    if info.doc.text:
        schema = {"description": info.doc.text, **schema}
    if with_defaults and not info.required and not info.absent_default:
        schema["default"] = info.default
    return _with_rules(schema, info.doc.rules)


def _node(declared: Any, about: Doc, *, with_defaults: bool) -> dict[str, Any]:
    origin = get_origin(declared)
    if about.preserve_unknown:
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    if origin is tuple:
        return _list(get_args(declared)[0], about, with_defaults=with_defaults)
    if origin is Mapping:
        schema: dict[str, Any] = {"type": "object"}
        if about.max_properties is not None:
            schema["maxProperties"] = about.max_properties
        schema["additionalProperties"] = _node(get_args(declared)[1], about, with_defaults=with_defaults)
        return schema
    if declared is Quantity:
        return {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": QUANTITY_PATTERN,
            "x-kubernetes-int-or-string": True,
        }
    if isinstance(declared, type) and attrs.has(declared):
        return class_schema(declared, with_defaults=with_defaults)
    return _scalar(declared, about)


def _list(item: Any, about: Doc, *, with_defaults: bool) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array"}
    if about.min_items is not None:
        schema["minItems"] = about.min_items
    if about.max_items is not None:
        schema["maxItems"] = about.max_items
    schema["items"] = _node(item, attrs.evolve(about, rules=()), with_defaults=with_defaults)
    if about.list_map_keys:
        schema["x-kubernetes-list-type"] = "map"
        schema["x-kubernetes-list-map-keys"] = list(about.list_map_keys)
    elif about.list_set:
        schema["x-kubernetes-list-type"] = "set"
    else:
        schema["x-kubernetes-list-type"] = "atomic"
    return schema


_SCALARS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "format": "int64"},
    float: {"type": "number", "format": "double"},
}


def _scalar(declared: Any, about: Doc) -> dict[str, Any]:
    if declared not in _SCALARS:
        name = declared.__name__ if isinstance(declared, type | pytypes.GenericAlias) else repr(declared)
        raise TypeError(f"{name} has no schema; use str, int, float, bool, Quantity, tuple, Mapping or an attrs class")
    schema = dict(_SCALARS[declared])
    if about.format:
        schema["format"] = about.format
    if about.enum:
        schema["enum"] = list(about.enum)
    if about.pattern:
        schema["pattern"] = about.pattern
    limits = {
        "minLength": about.min_length,
        "maxLength": about.max_length,
        "minimum": about.minimum,
        "maximum": about.maximum,
    }
    schema.update({key: limit for key, limit in limits.items() if limit is not None})
    return schema


def _with_rules(schema: dict[str, Any], rules: tuple[Rule, ...]) -> dict[str, Any]:
    if rules:
        schema["x-kubernetes-validations"] = [_rule(rule) for rule in rules]
    return schema


def _rule(rule: Rule) -> dict[str, str]:
    result = {"rule": rule.rule, "message": rule.message}
    if rule.reason:
        result["reason"] = rule.reason
    if rule.field_path:
        result["fieldPath"] = rule.field_path
    return result


def _summary(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split())
