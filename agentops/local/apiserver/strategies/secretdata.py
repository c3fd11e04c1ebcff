"""What a Secret of a known type has to carry."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import orjson

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError

Object = dict[str, Any]

_ACCOUNT = "kubernetes.io/service-account.name"
_NEEDS = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
}
_REDACTED = "<secret contents redacted>"


def validate_secret(obj: Object) -> Iterator[FieldError]:
    """By its type; data is base64 already."""
    data, kind = obj.get("data") or {}, obj["type"]
    for key in _NEEDS.get(kind, ()):
        if key not in data:
            yield errors.required(f"data[{key}]")
        elif key.startswith(".docker") and (problem := _json_problem(data[key])):
            yield errors.invalid_value(f"data[{key}]", _REDACTED, problem)
    match kind:
        case "kubernetes.io/service-account-token":
            if not (obj["metadata"].get("annotations") or {}).get(_ACCOUNT):
                yield errors.required(f"metadata.annotations[{_ACCOUNT}]")
        case "kubernetes.io/basic-auth":
            if not {"username", "password"} & set(data):
                yield errors.required("data[username]")
                yield errors.required("data[password]")
        case "kubernetes.io/ssh-auth":
            if not data.get("ssh-privatekey"):
                yield errors.required("data[ssh-privatekey]")


def _json_problem(encoded: str) -> str | None:
    try:
        found = orjson.loads(base64.b64decode(encoded))
    except ValueError as error:
        return str(error)
    if found is None or isinstance(found, dict):
        return None
    kind = {list: "array", str: "string", bool: "bool"}.get(type(found), "number")
    return f"json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
