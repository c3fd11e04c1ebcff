"""What a DELETE or an eviction asks for, with every field of the type it has to be, and what a DELETE answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.http import Request
from agentops.local.apiserver.jsonio import decode_body
from agentops.local.apiserver.resources import Resource
from agentops.local.apiserver.writes import DeleteOptions

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


def dry_run(request: Request) -> bool:
    """Raises ApiFailure 422 for anything but All."""
    values = request.args("dryRun")
    bad = [v for v in values if v not in ("All", "")]
    if bad:
        found = [errors.not_supported("dryRun", bad, ("All",))]
        raise errors.invalid("meta.k8s.io", "CreateOptions", "", found)
    return "All" in values


def delete_options(request: Request) -> DeleteOptions:
    """From body and query of a DELETE. Raises ApiFailure 400, 422."""
    body: Object = {}
    if request.body:
        body = checked(decode_body(request.body, request.header("content-type")))
    grace = body.get("gracePeriodSeconds")
    if grace is None and request.arg("gracePeriodSeconds"):
        grace = request.arg("gracePeriodSeconds")
    propagation = body.get("propagationPolicy") or request.arg("propagationPolicy") or None
    orphan = body.get("orphanDependents")
    if orphan is None and request.arg("orphanDependents"):
        orphan = request.flag("orphanDependents")
    if propagation is None and orphan is not None:
        propagation = "Orphan" if orphan else "Background"
    elif propagation is not None and orphan is not None:
        detail = "orphanDependents and deletionPropagation cannot be both set"
        found = [errors.invalid_value("propagationPolicy", propagation, detail)]
        raise errors.invalid("meta.k8s.io", "DeleteOptions", "", found)
    if propagation not in (None, "Foreground", "Background", "Orphan"):
        allowed = ("Foreground", "Background", "Orphan", "nil")
        found = [errors.not_supported("propagationPolicy", propagation, allowed)]
        raise errors.invalid("meta.k8s.io", "DeleteOptions", "", found)
    conditions = body.get("preconditions") or {}
    try:
        grace_s = None if grace is None else int(grace)
    except (TypeError, ValueError) as error:
        raise errors.bad_request(f"gracePeriodSeconds must be a whole number, not {grace!r}") from error
    return DeleteOptions(
        grace_s,
        propagation,
        conditions.get("uid"),
        conditions.get("resourceVersion"),
        "All" in (body.get("dryRun") or ()) or dry_run(request),
    )


def deleted_status(resource: Resource, obj: Object) -> Object:
    """What a DELETE that finished answers."""
    meta = obj["metadata"]
    details: Object = {
        "name": meta["name"],
        "group": resource.group,
        "kind": resource.plural,
        "uid": meta.get("uid", ""),
    }
    details = {k: v for k, v in details.items() if v}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
