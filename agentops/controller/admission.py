"""Admission: what the API server asks before it stores an object, and how we answer. No sockets here.

    AdmissionReview ──► AdmissionRequest ──► mutators, in order ──► JSON patch
                                        └──► validators, in order ──► allowed, or the first refusal

Objects are the dicts that were sent, so a field this code has never heard of survives a mutation.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import anyio
import orjson
from attrs import field, frozen

from agentops.controller.errors import ControllerError
from agentops.kube.patches import PatchError, create_json_patch, json_patch
from agentops.telemetry.logging import get_logger

log = get_logger("controller.admission")

Object = dict[str, Any]

API_VERSIONS = ("admission.k8s.io/v1", "admission.k8s.io/v1beta1")
_MAX_WARNING = 256
_REASONS = {400: "BadRequest", 403: "Forbidden", 409: "Conflict", 422: "Invalid", 500: "InternalError", 504: "Timeout"}


class Denied(ControllerError):
    """Raised by a handler: the request is refused, and `message` is what the user reads.

    `code` and `reason` go into the Status; `causes` may name fields, as `{"field", "message", "reason"}`.
    """

    def __init__(
        self, message: str, *, code: int = 403, reason: str = "", causes: Sequence[Mapping[str, str]] = ()
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason or _REASONS.get(code, "Forbidden")
        self.causes = tuple(causes)


class BadReview(ControllerError):
    """What was sent is no review we know; `code` is the HTTP status to answer with."""

    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.code = code


@frozen(slots=True)
class AdmissionRequest:
    """What is about to happen. `object` is None on DELETE, `old_object` on CREATE.

    `operation` is CREATE, UPDATE, DELETE or CONNECT. `user` has `username`, `uid`, `groups`, `extra`.
    `kind` and `resource` are the API's dicts of group, version and kind or resource. A handler must not
    have side effects when `dry_run`.
    """

    uid: str
    operation: str
    kind: Mapping[str, str] = field(factory=dict)
    resource: Mapping[str, str] = field(factory=dict)
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    user: Mapping[str, Any] = field(factory=dict)
    object: Object | None = None
    old_object: Object | None = None
    dry_run: bool = False
    options: Mapping[str, Any] = field(factory=dict)


Warnings = Sequence[str] | None
Mutator = Callable[[Object, AdmissionRequest], Awaitable[Warnings]]
"""`async def default(obj, request)`: changes `obj` in place. May return warnings, or raise Denied."""
Validator = Callable[[Object, AdmissionRequest], Awaitable[Warnings]]
"""`async def validate(obj, request)`: `obj` is a copy of the new object, on DELETE of the old one. Must not write."""


@frozen(slots=True)
class Review:
    """A decoded AdmissionReview."""

    api_version: str
    request: AdmissionRequest


def parse_review(body: bytes) -> Review:
    """Raises BadReview for anything that is not an AdmissionReview of v1 or v1beta1 with a uid."""
    review = parse_object(body)
    version = review.get("apiVersion")
    if review.get("kind") != "AdmissionReview" or version not in API_VERSIONS:
        raise BadReview(
            f"expected an AdmissionReview of {' or '.join(API_VERSIONS)}, got {version} {review.get('kind')}"
        )
    sent = review.get("request")
    if not isinstance(sent, dict) or not sent.get("uid"):
        raise BadReview("the AdmissionReview has no request with a uid")
    return Review(
        str(version),
        AdmissionRequest(
            uid=str(sent["uid"]),
            operation=str(sent.get("operation") or ""),
            kind=sent.get("kind") or {},
            resource=sent.get("resource") or {},
            subresource=sent.get("subResource") or "",
            namespace=sent.get("namespace") or "",
            name=sent.get("name") or "",
            user=sent.get("userInfo") or {},
            object=sent.get("object"),
            old_object=sent.get("oldObject"),
            dry_run=bool(sent.get("dryRun")),
            options=sent.get("options") or {},
        ),
    )


def parse_object(body: bytes) -> Object:
    """A JSON object. Raises BadReview."""
    if not body:
        raise BadReview("the request body is empty")
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadReview(f"the request body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadReview("the request body is not an object")
    return found


async def mutate(request: AdmissionRequest, mutators: Sequence[Mutator]) -> Object:
    """The response's fields but for the uid. Raises what a mutator raises."""
    if request.object is None:  # DELETE: there is nothing that could be changed
        return {"allowed": True}
    changed = copy.deepcopy(request.object)
    warnings: list[str] = []
    for mutator in mutators:
        warnings += await _ask(mutator, changed, request)
    response: Object = {"allowed": True, **_warnings(warnings)}
    operations = patch_between(request.object, changed)
    if operations:
        response["patch"] = base64.b64encode(orjson.dumps(operations)).decode()
        response["patchType"] = "JSONPatch"
    return response


async def validate(request: AdmissionRequest, validators: Sequence[Validator]) -> Object:
    """The response's fields but for the uid. Raises what a validator raises."""
    subject = request.old_object if request.object is None else request.object
    warnings: list[str] = []
    for validator in validators:
        warnings += await _ask(validator, copy.deepcopy(subject or {}), request)
    return {"allowed": True, **_warnings(warnings)}


async def _ask(handler: Mutator | Validator, obj: Object, request: AdmissionRequest) -> Sequence[str]:
    """The handler's warnings. Raises TypeError for another answer: taking False for "no warnings" would allow."""
    name = getattr(handler, "__qualname__", type(handler).__name__)
    call = handler(obj, request)
    if not isinstance(call, Awaitable):
        raise TypeError(f"{name} must be an async function; it returned {call!r}")
    found = await call
    if found is None:
        return ()
    if not isinstance(found, list | tuple) or not all(isinstance(text, str) for text in found):
        raise TypeError(f"{name} returned {found!r}; return None or a list of warnings, and raise Denied to refuse")
    return found


async def answer(
    review: Review, respond: Callable[[AdmissionRequest], Awaitable[Object]], timeout_s: float
) -> tuple[Object, bool]:
    """The AdmissionReview to send back, and whether the handler broke. The uid is echoed whatever happens."""
    request = review.request
    broke = False
    try:
        with anyio.fail_after(timeout_s):
            response = await respond(request)
    except Denied as denied:
        response = refused(denied.code, str(denied), denied.reason, denied.causes)
    except TimeoutError:
        log.warning("admission.timeout", uid=request.uid, timeout_s=timeout_s)
        response = refused(504, f"the webhook did not decide within {timeout_s:g} s")
    except Exception as error:
        broke = True
        log.exception("admission.failed", uid=request.uid, operation=request.operation, name=request.name)
        response = refused(500, f"the webhook failed: {type(error).__name__}: {error}")
    return envelope(review.api_version, request.uid, response), broke


def envelope(api_version: str, uid: str, response: Mapping[str, Any]) -> Object:
    """The AdmissionReview around a response."""
    return {"apiVersion": api_version, "kind": "AdmissionReview", "response": {"uid": uid, **response}}


def refused(code: int, message: str, reason: str = "", causes: Sequence[Mapping[str, str]] = ()) -> Object:
    """A response that says no."""
    status: Object = {"code": code, "message": message, "reason": reason or _REASONS.get(code, "")}
    if causes:
        status["details"] = {"causes": [dict(cause) for cause in causes]}
    return {"allowed": False, "status": status}


def patch_between(old: Object, new: Object) -> list[Object]:
    """RFC 6902 operations from `old` to `new`, proved by applying them; whole fields where the diff would err."""
    if _canonical(old) == _canonical(new):
        return []
    operations = create_json_patch(old, new)
    with suppress(PatchError):
        if _canonical(json_patch(old, operations)) == _canonical(new):
            return operations
    operations = [{"op": "remove", "path": _pointer(key)} for key in old if key not in new]
    return operations + [
        {"op": "add", "path": _pointer(key), "value": value}
        for key, value in new.items()
        if key not in old or _canonical(old[key]) != _canonical(value)
    ]


def _pointer(key: str) -> str:
    return "/" + key.replace("~", "~0").replace("/", "~1")


def _canonical(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)  # tells 1 from True, which == does not


def _warnings(found: Sequence[str]) -> Object:
    return {"warnings": [text[:_MAX_WARNING] for text in found]} if found else {}
