"""How large an object may be: 1.5 MiB as it is stored, as in etcd, and so deep that every form of it can be written."""

from __future__ import annotations

from typing import Any

import orjson

from agentops.local.apiserver import errors

OBJECT_LIMIT = 1_572_864
_SLACK = 65_536
"""What the estimate may be off by: fields of the metadata that nobody owns."""


_DEPTH_LEFT = 50
"""Of the 254 levels that can be written: for managedFields, a Table, an admission review around the object."""


def check_size(stored: bytes) -> None:
    """Raises ApiFailure 413."""
    if len(stored) > OBJECT_LIMIT:
        raise _oversized(len(stored))


def refuse_hopeless(obj: dict[str, Any]) -> None:
    """Refuse at once what will be too large once it is defaulted and owned, before any of that takes seconds.

    Stored, every field is joined by an entry in managedFields of at least seven bytes, `"f:":{},`. Raises
    ApiFailure 400 for what is too deep or no JSON, 413 for what is too large.
    """
    wrapped: Any = obj
    for _ in range(_DEPTH_LEFT):
        wrapped = (wrapped,)
    try:
        data = orjson.dumps(wrapped)
    except orjson.JSONEncodeError as error:
        if "Recursion" in str(error):
            raise errors.too_deep() from error
        raise errors.bad_request(f"the object is not JSON: {error}") from error  # YAML has more than that
    least = len(data) + 7 * (data.count(b'":') - data.count(b'\\":'))
    if least > OBJECT_LIMIT + _SLACK:
        raise _oversized(least)


def _oversized(size: int) -> errors.ApiFailure:
    return errors.too_large(f"etcdserver: request is too large: {size} bytes, at most {OBJECT_LIMIT}")
