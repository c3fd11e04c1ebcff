"""Check a value against a schema, in the words of kube-apiserver.

For CRDs everything is checked. For built-ins `decode_errors` plays Go's JSON decoder (a wrong type
is a 400) and `validate` covers required fields and enums; the rest is in `strategies/`.
Parts of an update that did not change are not checked again (ratcheting).
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError, go_value
from agentops.local.apiserver.schema.structural import MISSING, SCHEMA_OR_BOOL, Schema
from agentops.values.duration import parse_duration
from agentops.values.quantity import parse_quantity

_EMBEDDED = ("apiVersion", "kind")


def validate(value: Any, schema: Schema, path: str, *, old: Any = MISSING, root: bool = False) -> list[FieldError]:
    """All problems of `value`. `old` is what is stored now, when correlatable."""
    if old is not MISSING and old == value and type(old) is type(value):
        return []
    out: list[FieldError] = []
    _node(value, schema, path, old, out, root)
    return out


def _node(value: Any, schema: Schema, path: str, old: Any, out: list[FieldError], root: bool = False) -> None:
    if old is not MISSING and old == value and type(old) is type(value):
        return
    if value is None:
        if schema.nullable or (not schema.type and not schema.int_or_string):
            return
        out.append(_type_error(path, schema.type, value))
        return
    if not _typed(value, schema):
        out.append(_type_error(path, "integer,string" if schema.int_or_string else schema.type, value))
        return
    _values(value, schema.raw, schema, path, out)
    if isinstance(value, dict):
        out.extend(errors.required(_join(path, n)) for n in schema.raw.get("required") or () if n not in value)
        if schema.embedded:
            out.extend(errors.required(_join(path, n), "must not be empty") for n in _EMBEDDED if not value.get(n))
        for key, item in value.items():
            if root and key in ("apiVersion", "kind", "metadata"):
                continue
            child = schema.child(key)
            if child is not None:
                before = old.get(key, MISSING) if isinstance(old, dict) else MISSING
                at = f"{path}.{key}" if key in schema.properties else _key_path(path, key)
                _node(item, child, at if path else key, before, out)
    elif isinstance(value, list):
        items = schema.items
        if items is not None:
            before_of = _correlate(old, schema)
            for index, item in enumerate(value):
                _node(item, items, f"{path}[{index}]", before_of(item), out)
        if schema.list_type == "map":
            _unique(value, path, out, lambda item: _identity(item, schema))
        elif schema.list_type == "set":
            _unique(value, path, out, lambda item: item)


def _values(value: Any, raw: Mapping[str, Any], schema: Schema, path: str, out: list[FieldError]) -> None:
    """The value validations of one node, logical ones included."""
    enum = raw.get("enum")
    if enum is not None and value not in enum:
        allowed = [v if isinstance(v, str) else json.dumps(v) for v in enum]
        out.append(errors.not_supported(path, value, allowed))
        return
    if isinstance(value, bool):
        pass
    elif isinstance(value, str):
        _string(value, raw, path, out)
    elif isinstance(value, int | float):
        _number(value, raw, path, out)
    elif isinstance(value, list):
        count = len(value)
        if "maxItems" in raw and count > raw["maxItems"]:
            detail = f"{count}: must have at most {raw['maxItems']} items"
            out.append(FieldError(errors.TOO_MANY, path, detail))
        if count < raw.get("minItems", 0):
            out.append(_should(path, value, f"have at least {raw['minItems']} items"))
    elif isinstance(value, dict):
        count = len(value)
        if "maxProperties" in raw and count > raw["maxProperties"]:
            detail = f"{count}: must have at most {raw['maxProperties']} items"
            out.append(FieldError(errors.TOO_MANY, path, detail))
        if count < raw.get("minProperties", 0):
            out.append(_should(path, value, f"have at least {raw['minProperties']} properties"))
    _logic(value, raw, schema, path, out)


def _logic(value: Any, raw: Mapping[str, Any], schema: Schema, path: str, out: list[FieldError]) -> None:
    for part in raw.get("allOf") or ():
        problems = _against(value, part, path)
        if problems:
            out.append(errors.invalid_value(path, _shown(value), f'"{path}" must validate all the schemas (allOf)'))
            out.extend(problems)
    options = raw.get("anyOf")
    if options and not schema.int_or_string and not any(not _against(value, part, path) for part in options):
        out.append(errors.invalid_value(path, _shown(value), f'"{path}" must validate at least one schema (anyOf)'))
        out.extend(_against(value, options[0], path))
    options = raw.get("oneOf")
    if options and not (schema.int_or_string and schema.builtin):
        passing = sum(not _against(value, part, path) for part in options)
        if passing != 1:
            found = "Found none valid" if not passing else f"Found {passing} valid alternatives"
            text = f'"{path}" must validate one and only one schema (oneOf). {found}'
            out.append(errors.invalid_value(path, _shown(value), text))
    refused = raw.get("not")
    if refused is not None and not _against(value, refused, path):
        out.append(errors.invalid_value(path, _shown(value), f'"{path}" must not validate the schema (not)'))


def _against(value: Any, raw: Mapping[str, Any], path: str) -> list[FieldError]:
    out: list[FieldError] = []
    _node(value, Schema({"nullable": True, **raw}), path, MISSING, out)
    return out


def _typed(value: Any, schema: Schema) -> bool:
    if schema.int_or_string:
        return isinstance(value, str) or _is_integer(value) or (schema.quantity and isinstance(value, float))
    match schema.type:
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return _is_integer(value) or (isinstance(value, float) and _is_whole(value))
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
    return True


def _is_integer(value: Any) -> bool:
    """Whether Go's decoder makes an int64 of the number; what has more bits becomes a float64."""
    return isinstance(value, int) and not isinstance(value, bool) and _fits(value, "int64")


def _is_whole(value: float) -> bool:
    """Whether a float64 passes for an integer: it stands for that one only (swag.IsFloat64AJSONInteger)."""
    return value.is_integer() and abs(value) < 1 << 53


def type_name(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() if _is_integer(value):
            return "integer"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def _type_error(path: str, expected: str, value: Any) -> FieldError:
    got = type_name(value)
    text = f'{path} in body must be of type {expected}: "{got}"'
    return FieldError(errors.TYPE_INVALID, path, text, got)


def _string(value: str, raw: Mapping[str, Any], path: str, out: list[FieldError]) -> None:
    if "maxLength" in raw and len(value) > raw["maxLength"]:
        out.append(FieldError(errors.TOO_LONG, path, f"may not be more than {raw['maxLength']} bytes"))
    if len(value) < raw.get("minLength", 0):
        out.append(_should(path, value, f"be at least {raw['minLength']} chars long"))
    pattern = raw.get("pattern")
    if pattern and not compiled(pattern).search(value):
        out.append(_should(path, value, f"match '{pattern}'"))
    check = _FORMATS.get(raw.get("format", ""))
    if check is not None and not check(value):
        text = f"{path} in body must be of type {raw['format']}: {go_value(value)}"
        out.append(FieldError(errors.TYPE_INVALID, path, text, value))


def _number(value: float, raw: Mapping[str, Any], path: str, out: list[FieldError]) -> None:
    if "maximum" in raw:
        top = raw["maximum"]
        if value > top or (raw.get("exclusiveMaximum") and value == top):
            word = "less than" if raw.get("exclusiveMaximum") else "less than or equal to"
            out.append(_should(path, value, f"be {word} {top}"))
    if "minimum" in raw:
        bottom = raw["minimum"]
        if value < bottom or (raw.get("exclusiveMinimum") and value == bottom):
            word = "greater than" if raw.get("exclusiveMinimum") else "greater than or equal to"
            out.append(_should(path, value, f"be {word} {bottom}"))
    step = raw.get("multipleOf")
    if step and (value / step) != int(value / step):
        out.append(_should(path, value, f"be a multiple of {step}"))
    if raw.get("type") == "integer" and raw.get("format") == "int32" and not -(1 << 31) <= value < 1 << 31:
        # kube-openapi has no code for this one, so the API server has neither field nor value for it.
        text = f"Checked value must be of type integer with format int32 in {path}"
        out.append(errors.invalid_value(errors.NO_FIELD, "", text))


def _should(path: str, value: Any, what: str) -> FieldError:
    return errors.invalid_value(path, _shown(value), f"{path} in body should {what}")


def _shown(value: Any) -> Any:
    return value if not isinstance(value, dict | list) else go_value(value)[:1000]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _key_path(path: str, key: str) -> str:
    return f"{path}.{key}"


def _identity(item: Any, schema: Schema) -> Any:
    if not isinstance(item, dict):
        return item
    items = schema.items
    found = {}
    for key in schema.list_map_keys:
        value = item.get(key)
        if value is None and items is not None:
            child = items.child(key)
            value = child.default if child is not None and child.default is not MISSING else None
        if value is not None:
            found[key] = value
    return found


def _unique(value: list[Any], path: str, out: list[FieldError], identity: Callable[[Any], Any]) -> None:
    seen: set[str] = set()
    for index, item in enumerate(value):
        key = identity(item)
        text = go_value(key)
        if text in seen:
            out.append(errors.duplicate(f"{path}[{index}]", key))
        seen.add(text)


def _correlate(old: Any, schema: Schema) -> Callable[[Any], Any]:
    if not isinstance(old, list) or schema.list_type != "map":
        return lambda _item: MISSING
    before = {go_value(_identity(item, schema)): item for item in old}
    return lambda item: before.get(go_value(_identity(item, schema)), MISSING)


@lru_cache(maxsize=2000)
def compiled(pattern: str) -> Any:
    """An RE2 pattern, so that what a real server refuses is refused here. Raises ValueError."""
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        text = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ValueError(text) from error


def _ok(parse: Callable[[str], Any]) -> Callable[[str], bool]:
    def check(value: str) -> bool:
        try:
            parse(value)
        except (ValueError, binascii.Error):
            return False
        return True

    return check


def _date_time(text: str) -> None:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", text):
        raise ValueError(text)
    datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.upper().replace("Z", "+00:00")))


def _date(text: str) -> None:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        raise ValueError(text)
    datetime.fromisoformat(text)


_FORMATS: dict[str, Callable[[str], bool]] = {
    "date-time": _ok(_date_time),
    "date": _ok(_date),
    "byte": _ok(lambda text: base64.b64decode(text, validate=True)),
    "duration": _ok(parse_duration),
    "uuid": _ok(UUID),
    "email": lambda text: re.fullmatch(r"[^@\s]+@[^@\s]+", text) is not None,
    "ipv4": _ok(ipaddress.IPv4Address),
    "ipv6": _ok(ipaddress.IPv6Address),
    "cidr": _ok(lambda text: ipaddress.ip_network(text, strict=False)),
    "uri": lambda text: re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:", text) is not None,
    "hostname": lambda text: re.fullmatch(r"(?=.{1,255}$)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", text) is not None,
    "mac": lambda text: re.fullmatch(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}", text) is not None,
    "quantity": _ok(parse_quantity),
}


# built-ins


_GO_TYPES = {"integer": "int", "boolean": "bool", "number": "float64"}


class DecodeError(ValueError):
    """What Go's JSON decoder would say."""


def decode_check(value: Any, schema: Schema, path: str, struct: str) -> None:
    """Raise DecodeError for the first value of a wrong type. Numbers of quantities become strings, in place."""
    if value is None or schema.preserve:
        return
    if schema.int_or_string:
        if schema.quantity:
            try:
                parse_quantity(value if isinstance(value, str | int | float) else "")
            except ValueError as error:
                raise DecodeError(
                    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                ) from error
        elif not isinstance(value, str | int) or isinstance(value, bool):
            raise DecodeError(_go_error(value, struct, path, "intstr.IntOrString"))
        elif isinstance(value, int) and not _fits(value, "int32"):
            raise DecodeError(f"json: cannot unmarshal number {value} into Go value of type int32")
        return
    if schema.name == SCHEMA_OR_BOOL and not isinstance(value, dict | bool):
        raise DecodeError("boolean or JSON schema expected")
    if not (_fits(value, schema.format) if schema.type == "integer" else _typed(value, schema)):
        if schema.format in ("int32", "int64"):
            want = schema.format
        elif schema.type == "object":
            want = f"v1.{schema.name.rpartition('.')[2]}" if schema.name else "map[string]string"
        elif schema.type == "array":
            items = schema.items
            want = f"[]v1.{items.name.rpartition('.')[2]}" if items is not None and items.name else "[]string"
        else:
            want = _GO_TYPES.get(schema.type, schema.type)
        raise DecodeError(_go_error(value, struct, path, want))
    if isinstance(value, dict):
        if schema.name:
            struct, path = schema.name.rpartition(".")[2], path
        for key, item in value.items():
            child = schema.child(key)
            if child is None:
                continue
            if child.quantity and isinstance(item, int | float) and not isinstance(item, bool):
                item = value[key] = str(item)
            decode_check(item, child, f"{path}.{key}" if path else key, struct)
    elif isinstance(value, list):
        items = schema.items
        if items is not None:
            for item in value:
                decode_check(item, items, path, struct)
    elif isinstance(value, str) and schema.format == "date-time" and not _FORMATS["date-time"](value):
        raise DecodeError(f'parsing time "{value}" as "2006-01-02T15:04:05Z07:00": cannot parse "{value}" as "2006"')
    elif isinstance(value, str) and schema.format == "byte" and not _FORMATS["byte"](value):
        raise DecodeError("illegal base64 data at input byte 0")


def _fits(value: Any, width: str) -> bool:
    """Whether Go's decoder takes `value` for an integer: 1.0 is none, and neither is what has too many bits."""
    bits = 31 if width == "int32" else 63
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << bits) <= value < 1 << bits


def _go_error(value: Any, struct: str, path: str, want: str) -> str:
    got = {"boolean": "bool", "integer": "number"}.get(type_name(value), type_name(value))
    if got == "number" and want.startswith("int"):
        got = f"number {value}"
    return f"json: cannot unmarshal {got} into Go struct field {struct}.{path} of type {want}"


def required_errors(value: Any, schema: Schema, path: str, out: list[FieldError], *, root: bool = False) -> None:
    """Required fields and enums of a built-in (status excepted: the server's own parts write it)."""
    if schema.preserve:
        return
    if isinstance(value, dict):
        for name in schema.raw.get("required") or ():
            item = value.get(name)
            if item is None or item == "" or (item == [] and name == "containers"):
                out.append(errors.required(_join(path, name)))
        for key, item in value.items():
            child = schema.child(key)
            if child is None or item is None or (root and key in ("status", "metadata", "apiVersion", "kind")):
                continue
            enum = child.raw.get("enum")
            if enum and isinstance(item, str) and item not in enum and item:
                out.append(errors.not_supported(_join(path, key), item, [e for e in enum if e]))
            at = f"{path}[{key}]" if schema.is_map else _join(path, key)
            required_errors(item, child, at, out)
    elif isinstance(value, list):
        items = schema.items
        if items is not None:
            for index, item in enumerate(value):
                required_errors(item, items, f"{path}[{index}]", out)
