"""Kubernetes' protobuf request bodies, as kubectl's `create` family sends them.

A small wire decoder driven by a table of messages. Field numbers never change; unknown ones are
skipped. The answer may be JSON, so nothing is ever encoded.
Go writes zero scalars of non-pointer fields; they mean "absent" and are dropped, while a pointer
field (marked `*`) that is present keeps its zero.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.protobuf_tables import INLINED, MESSAGES, ROOTS

MAGIC = b"k8s\x00"


class _Malformed(ValueError):
    pass


def decode_envelope(body: bytes) -> dict[str, Any]:
    """The object inside a protobuf `Unknown` envelope. Raises ApiFailure 400 or 415."""
    if not body.startswith(MAGIC):
        raise errors.bad_request("the body is not a Kubernetes protobuf message: it lacks the k8s prefix")
    try:
        api_version = kind = ""
        raw = b""
        for number, _, value in _fields(body[4:]):
            if number == 1 and isinstance(value, bytes):
                for inner, _, text in _fields(value):
                    if inner == 1 and isinstance(text, bytes):
                        api_version = text.decode()
                    elif inner == 2 and isinstance(text, bytes):
                        kind = text.decode()
            elif number == 2 and isinstance(value, bytes):
                raw = value
        message = ROOTS.get(kind)
        if message is None:
            raise errors.unsupported_media_type(["application/json", "application/yaml"])
        return {"apiVersion": api_version, "kind": kind, **_decode(message, raw)}
    except (_Malformed, IndexError, UnicodeDecodeError, struct.error) as error:
        raise errors.bad_request(f"the protobuf body cannot be decoded: {error}") from error


def _fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, wire, value
        elif wire == 2:
            length, position = _varint(data, position)
            if position + length > end:
                raise _Malformed(f"field {number} is longer than the message")
            yield number, wire, data[position : position + length]
            position += length
        elif wire == 5:
            yield number, wire, data[position : position + 4]
            position += 4
        elif wire == 1:
            yield number, wire, data[position : position + 8]
            position += 8
        else:
            raise _Malformed(f"wire type {wire} of field {number}")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return result, position
        shift += 7
        if shift > 63:
            raise _Malformed("varint too long")


@cache
def _message(name: str) -> dict[int, tuple[str, str, bool, bool]]:
    """Field number to (name, type, repeated, pointer)."""
    table: dict[int, tuple[str, str, bool, bool]] = {}
    for item in MESSAGES[name].split():
        number, _, rest = item.partition(":")
        field, _, kind = rest.partition("=")
        kind = kind or "string"
        pointer = kind.endswith("*")
        kind = kind.rstrip("*")
        repeated = kind.endswith("[]")
        table[int(number)] = (field, kind.removesuffix("[]"), repeated, pointer)
    return table


def _decode(name: str, data: bytes) -> dict[str, Any]:
    table = _message(name)
    result: dict[str, Any] = {}
    for number, _, value in _fields(data):
        spec = table.get(number)
        if spec is None:
            continue
        field, kind, repeated, pointer = spec
        if kind.startswith("map<"):
            key, item = _map_entry(kind[4:-1], value)
            result.setdefault(field, {})[key] = item
            continue
        decoded = _value(kind, value)
        if repeated:
            result.setdefault(field, []).append(decoded)
        elif (name, field) in INLINED:
            if isinstance(decoded, dict):
                result.update(decoded)
        elif pointer or decoded not in (None, "", 0, False, {}) or (decoded == {} and kind.startswith("Empty")):
            result[field] = decoded
    return result


def _map_entry(kind: str, value: int | bytes) -> tuple[str, Any]:
    key, item = "", _zero(kind)
    if isinstance(value, bytes):
        for number, _, inner in _fields(value):
            if number == 1 and isinstance(inner, bytes):
                key = inner.decode()
            elif number == 2:
                item = _value(kind, inner)
    return key, item


def _zero(kind: str) -> Any:
    return "" if kind in ("string", "bytes", "Quantity") else {}


def _value(kind: str, value: int | bytes) -> Any:
    if isinstance(value, int):
        if kind == "bool":
            return bool(value)
        return value - (1 << 64) if value >= 1 << 63 else value
    match kind:
        case "string":
            return value.decode()
        case "bytes":
            return base64.b64encode(value).decode()
        case "double":
            return struct.unpack("<d", value)[0]
        case "Quantity":
            return next((v.decode() for n, _, v in _fields(value) if n == 1 and isinstance(v, bytes)), "")
        case "IntOrString":
            return _int_or_string(value)
        case "Time":
            return _time(value)
        case "Raw":
            return next((_embedded_json(v) for n, _, v in _fields(value) if n == 1 and isinstance(v, bytes)), None)
    return _decode(kind, value)


def _embedded_json(value: bytes) -> Any:
    import orjson

    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise _Malformed(str(error)) from error


def _int_or_string(value: bytes) -> int | str:
    parts = {n: v for n, _, v in _fields(value)}
    if parts.get(1):
        text = parts.get(3, b"")
        return text.decode() if isinstance(text, bytes) else ""
    number = parts.get(2, 0)
    assert isinstance(number, int)
    return number - (1 << 64) if number >= 1 << 63 else number


def _time(value: bytes) -> str | None:
    seconds = next((v for n, _, v in _fields(value) if n == 1 and isinstance(v, int)), 0)
    if seconds == 0 or seconds >= 1 << 63:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
