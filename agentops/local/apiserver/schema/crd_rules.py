"""Is a CRD's schema structural, and do its patterns, defaults and rules hold water?

A real server refuses what does not; an emulator that accepts it lets authors find out late.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.schema.cel import CelError, compile_rule
from agentops.local.apiserver.schema.structural import MISSING, Schema
from agentops.local.apiserver.schema.validation import compiled, validate

_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_VALUE_ONLY = ("allOf", "anyOf", "oneOf")
_FORBIDDEN_IN_LOGIC = (
    "type", "description", "default", "additionalProperties", "nullable", "title",
    "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type", "x-kubernetes-embedded-resource",
)  # fmt: skip


def schema_errors(raw: Mapping[str, Any], path: str) -> list[FieldError]:
    """Every reason to refuse the schema of one version; `path` is where it stands in the CRD."""
    out: list[FieldError] = []
    if raw.get("type") != "object":
        out.append(
            errors.invalid_value(f"{path}.type", raw.get("type", ""), "must be object at the root")
            if raw.get("type")
            else errors.required(f"{path}.type", "must not be empty at the root")
        )
    _node(raw, path, out, where="the root", root=True)
    if not out:
        _defaults_and_rules(Schema(raw), path, out)
    return out


def _node(raw: Mapping[str, Any], path: str, out: list[FieldError], *, where: str, root: bool = False) -> None:
    free = raw.get("x-kubernetes-preserve-unknown-fields") or raw.get("x-kubernetes-int-or-string")
    kind = raw.get("type", "")
    if not kind and not free and not root:
        out.append(errors.required(f"{path}.type", f"must not be empty for {where}"))
    elif kind and kind not in _TYPES:
        out.append(errors.not_supported(f"{path}.type", kind, _TYPES))
    if kind and raw.get("x-kubernetes-int-or-string"):
        out.append(errors.invalid_value(f"{path}.type", kind, "must be empty if x-kubernetes-int-or-string is true"))
    if raw.get("x-kubernetes-preserve-unknown-fields") is False:
        at = f"{path}.x-kubernetes-preserve-unknown-fields"
        out.append(errors.invalid_value(at, False, "must be true or undefined"))
    for name in ("$ref", "definitions", "dependencies", "patternProperties", "additionalItems", "uniqueItems"):
        if raw.get(name):
            detail = (
                f"{name} is not supported"
                if name != "uniqueItems"
                else "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
            )
            out.append(errors.forbidden_field(f"{path}.{name}", detail))
    properties = raw.get("properties") or {}
    extra = raw.get("additionalProperties")
    if properties and extra is not None:
        out.append(
            errors.forbidden_field(
                f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive"
            )
        )
    if "pattern" in raw:
        try:
            compiled(raw["pattern"])
        except ValueError as error:
            text = f"must be a valid regular expression, but isn't: error parsing regexp: {error}"
            out.append(errors.invalid_value(f"{path}.pattern", raw["pattern"], text))
    for name, child in properties.items():
        at = f"{path}.properties[{name}]"
        if root and name == "metadata":
            extra_keys = [k for k in (child.get("properties") or {}) if k not in ("name", "generateName")]
            if extra_keys:
                out.append(
                    errors.forbidden_field(f"{at}", "must not specify anything other than name and generateName")
                )
            continue
        _node(child, at, out, where="specified object fields")
    if isinstance(extra, Mapping):
        _node(extra, f"{path}.additionalProperties", out, where="specified object fields")
    items = raw.get("items")
    if isinstance(items, list):
        out.append(errors.forbidden_field(f"{path}.items", "items must be a schema object and not an array"))
    elif isinstance(items, Mapping):
        _node(items, f"{path}.items", out, where="specified array items")
    elif kind == "array":
        out.append(errors.required(f"{path}.items", "must be specified"))
    _lists(raw, path, out)
    for name in _VALUE_ONLY:
        for index, part in enumerate(raw.get(name) or ()):
            _logic(part, raw, f"{path}.{name}[{index}]", out)
    if isinstance(raw.get("not"), Mapping):
        _logic(raw["not"], raw, f"{path}.not", out)


def _lists(raw: Mapping[str, Any], path: str, out: list[FieldError]) -> None:
    list_type = raw.get("x-kubernetes-list-type")
    keys = raw.get("x-kubernetes-list-map-keys")
    if list_type is not None and raw.get("type") != "array":
        out.append(
            errors.invalid_value(
                f"{path}.type", raw.get("type", ""), "must be array if x-kubernetes-list-type is specified"
            )
        )
    if list_type not in (None, "atomic", "set", "map"):
        out.append(errors.not_supported(f"{path}.x-kubernetes-list-type", list_type, ("atomic", "map", "set")))
    if list_type == "map":
        if not keys:
            out.append(
                errors.required(
                    f"{path}.x-kubernetes-list-map-keys", "must not be empty if x-kubernetes-list-type is map"
                )
            )
        items = raw.get("items")
        items = items if isinstance(items, Mapping) else {}
        properties = items.get("properties") or {}
        for key in keys or ():
            child = properties.get(key)
            if child is None:
                detail = "must be a property of the items"
                out.append(errors.invalid_value(f"{path}.x-kubernetes-list-map-keys", keys, f"{key!r} {detail}"))
            elif "default" not in child and key not in (items.get("required") or ()):
                at = f"{path}.items.properties[{key}].default"
                detail = (
                    "this property is in x-kubernetes-list-map-keys, "
                    "so it must have a default or be a required property"
                )
                out.append(errors.required(at, detail))
    elif keys:
        detail = "must be map if x-kubernetes-list-map-keys is non-empty"
        out.append(errors.invalid_value(f"{path}.x-kubernetes-list-type", list_type, detail))


def _logic(raw: Mapping[str, Any], outer: Mapping[str, Any], path: str, out: list[FieldError]) -> None:
    """Inside allOf and friends only value validations may stand, over fields the structure declares."""
    int_or_string = outer.get("x-kubernetes-int-or-string") and path.rpartition(".")[2].startswith(("anyOf", "allOf"))
    out.extend(
        errors.forbidden_field(f"{path}.{name}", "must be empty to be structural")
        for name in _FORBIDDEN_IN_LOGIC
        if raw.get(name) is not None and not (name == "type" and int_or_string)
    )
    declared = outer.get("properties") or {}
    for name, child in (raw.get("properties") or {}).items():
        at = f"{path}.properties[{name}]"
        if name not in declared and not isinstance(outer.get("additionalProperties"), Mapping):
            base = path.partition(".allOf")[0].partition(".anyOf")[0].partition(".oneOf")[0].partition(".not")[0]
            out.append(errors.required(f"{base}.properties[{name}]", f"because it is defined in {at}"))
        else:
            _logic(child, declared.get(name) or {}, at, out)
    if isinstance(raw.get("items"), Mapping):
        _logic(raw["items"], outer.get("items") or {}, f"{path}.items", out)
    for name in _VALUE_ONLY:
        for index, part in enumerate(raw.get(name) or ()):
            _logic(part, outer, f"{path}.{name}[{index}]", out)


def _defaults_and_rules(schema: Schema, path: str, out: list[FieldError], uncorrelated: str = "") -> None:
    """Of a schema that holds water otherwise.

    `uncorrelated` is where a list stands whose items, and all below, have no old value to be compared with.
    """
    if schema.default is not MISSING and schema.default is not None:
        found = validate(schema.default, schema, "")
        at = f"{path}.default"
        out.extend(
            FieldError(e.type, at if e.field == errors.NO_FIELD else at + e.field, e.detail, e.value) for e in found
        )
    for index, rule in enumerate(schema.rules):
        at = f"{path}.x-kubernetes-validations[{index}]"
        text = rule.get("rule") or ""
        if not text.strip():
            out.append(errors.required(f"{at}.rule", "rule is not specified"))
            continue
        field_path = rule.get("fieldPath") or ""
        if field_path and not _leads_to_a_field(field_path, schema):
            out.append(errors.invalid_value(f"{at}.fieldPath", field_path, "fieldPath must be a valid path"))
        for name, source in (("rule", text), ("messageExpression", rule.get("messageExpression") or "")):
            if source:
                try:
                    optional = bool(rule.get("optionalOldSelf"))
                    done = compile_rule(source, schema, message=name != "rule", optional_old=optional)
                except CelError as error:
                    out.append(errors.invalid_value(f"{at}.{name}", _shown(source), f"compilation failed: {error}"))
                    continue
                if done.uses_old and uncorrelated:
                    detail = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {uncorrelated}"
                    out.append(errors.invalid_value(f"{at}.rule", text, detail))
    for name in schema.properties:
        if (child := schema.child(name)) is not None:
            _defaults_and_rules(child, f"{path}.properties[{name}]", out, uncorrelated)
    if isinstance(schema.additional, Mapping) and (child := schema.child("\0any")) is not None:
        _defaults_and_rules(child, f"{path}.additionalProperties", out, uncorrelated)
    if schema.items is not None:
        lost = uncorrelated or ("" if schema.list_type == "map" else path)
        _defaults_and_rules(schema.items, f"{path}.items", out, lost)


def _leads_to_a_field(path: str, schema: Schema) -> bool:
    """Whether `path` (`.a['b']`) goes through declared properties and maps only, below `schema`."""
    if not _FIELD_PATH.fullmatch(path):
        return False
    node: Schema | None = schema
    for name, quoted in _FIELD_STEP.findall(path):
        key = name or re.sub(r"\\(.)", r"\1", quoted)
        if node is None or not (key in node.properties or (not node.properties and node.is_map)):
            return False
        node = node.child(key)
    return True


_FIELD_STEP = re.compile(r"\.([^.\[\]]+)|\['((?:[^'\\]|\\.)*)'\]")
_FIELD_PATH = re.compile(f"(?:{_FIELD_STEP.pattern})+")


def _shown(rule: str) -> dict[str, str]:
    return {"rule": rule}
