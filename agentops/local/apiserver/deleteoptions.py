"""The body of a DELETE or an eviction, with every field of the type it has to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentops.local.apiserver import errors

Object = dict[str, Any]

_MAX_GRACE_S = 2**31 - 1


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _conditions(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str | None) for key in ("uid", "resourceVersion"))


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "gracePeriodSeconds": (_whole, "a whole number"),
    "preconditions": (_conditions, "an object with uid and resourceVersion"),
    "orphanDependents": (lambda value: isinstance(value, bool), "true or false"),
    "propagationPolicy": (lambda value: isinstance(value, str), "a string"),
    "dryRun": (_texts, "a list of strings"),
}


def checked(body: Any) -> Object:
    """`body` without nulls. Raises ApiFailure 400 naming the field that is of another type."""
    if not isinstance(body, dict):
        raise errors.bad_request("DeleteOptions must be an object")
    result: Object = {key: value for key, value in body.items() if value is not None}
    for name, (fits, wanted) in _FIELDS.items():
        if name in result and not fits(result[name]):
            raise errors.bad_request(f"DeleteOptions cannot be handled: {name} must be {wanted}")
    if "gracePeriodSeconds" in result:
        result["gracePeriodSeconds"] = min(result["gracePeriodSeconds"], _MAX_GRACE_S)
    return result
