"""What the server answers when it refuses: `Status` objects, worded as kube-apiserver words them.

    ApiFailure                     any Status with a code; made by the functions below
    FieldError                     one cause of an Invalid answer (a value, not an exception)

The reasons and texts are part of the API: kubectl prints them and clients branch on them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen

REQUIRED = "FieldValueRequired"
INVALID = "FieldValueInvalid"
NOT_SUPPORTED = "FieldValueNotSupported"
DUPLICATE = "FieldValueDuplicate"
FORBIDDEN = "FieldValueForbidden"
TYPE_INVALID = "FieldValueTypeInvalid"
TOO_LONG = "FieldValueTooLong"
TOO_MANY = "FieldValueTooMany"

NO_FIELD = "<nil>"
"""How Go prints the path of what is wrong with an object as a whole."""

_WORDS = {
    REQUIRED: "Required value",
    INVALID: "Invalid value",
    TYPE_INVALID: "Invalid value",
    NOT_SUPPORTED: "Unsupported value",
    DUPLICATE: "Duplicate value",
    FORBIDDEN: "Forbidden",
    "FieldValueNotFound": "Not found",
    TOO_LONG: "Too long",
    TOO_MANY: "Too many",
}


class ApiFailure(Exception):
    """The request is refused with a Status."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = dict(details or {})
        self.headers = dict(headers or {})
        self.continue_token = ""

    def status(self) -> dict[str, Any]:
        """The `Status` object of the answer."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": self.continue_token} if self.continue_token else {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details or self.reason == "Invalid":
            body["details"] = self.details
        body["code"] = self.code
        return body


class PathNotFound(Exception):
    """No such URL: answered as plain text, not as a Status."""


_NO_VALUE = object()


@frozen(slots=True)
class FieldError:
    """One problem of one field. `value` is printed as Go prints it."""

    type: str
    field: str
    detail: str = ""
    value: Any = _NO_VALUE

    @property
    def body(self) -> str:
        """The text without the field path: a cause's message."""
        word = _WORDS[self.type]
        if self.type in (REQUIRED, FORBIDDEN, TOO_LONG, TOO_MANY) or self.value is _NO_VALUE:
            return f"{word}: {self.detail}" if self.detail else word
        text = f"{word}: {go_value(self.value)}"
        return f"{text}: {self.detail}" if self.detail else text

    def __str__(self) -> str:
        return f"{self.field}: {self.body}" if self.field else self.body

    def cause(self) -> dict[str, str]:
        return {"reason": self.type, "message": self.body, "field": self.field}


def go_value(value: Any) -> str:
    """A value as field errors print it: strings quoted, the rest as JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def required(field: str, detail: str = "") -> FieldError:
    return FieldError(REQUIRED, field, detail)


def invalid_value(field: str, value: Any, detail: str = "") -> FieldError:
    return FieldError(INVALID, field, detail, value)


def forbidden_field(field: str, detail: str) -> FieldError:
    return FieldError(FORBIDDEN, field, detail)


def duplicate(field: str, value: Any) -> FieldError:
    return FieldError(DUPLICATE, field, "", value)


def not_supported(field: str, value: Any, allowed: Iterable[str]) -> FieldError:
    return FieldError(NOT_SUPPORTED, field, "supported values: " + ", ".join(f'"{a}"' for a in allowed), value)


# Statuses


def bad_request(message: str) -> ApiFailure:
    return ApiFailure(400, "BadRequest", message)


def unauthorized() -> ApiFailure:
    return ApiFailure(401, "Unauthorized", "Unauthorized")


def forbidden(message: str, details: Mapping[str, Any] | None = None) -> ApiFailure:
    return ApiFailure(403, "Forbidden", message, details or {})


def _details(group: str, plural: str, name: str) -> dict[str, Any]:
    return {k: v for k, v in (("name", name), ("group", group), ("kind", plural)) if v}


def qualified(group: str, plural: str) -> str:
    return f"{plural}.{group}" if group else plural


def not_found(group: str, plural: str, name: str) -> ApiFailure:
    return ApiFailure(404, "NotFound", f'{qualified(group, plural)} "{name}" not found', _details(group, plural, name))


def already_exists(group: str, plural: str, name: str) -> ApiFailure:
    return ApiFailure(
        409, "AlreadyExists", f'{qualified(group, plural)} "{name}" already exists', _details(group, plural, name)
    )


def conflict(group: str, plural: str, name: str, why: str = "") -> ApiFailure:
    why = why or ("the object has been modified; please apply your changes to the latest version and try again")
    return ApiFailure(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {qualified(group, plural)} "{name}": {why}',
        _details(group, plural, name),
    )


def forbidden_object(group: str, plural: str, name: str, why: str) -> ApiFailure:
    return forbidden(f'{qualified(group, plural)} "{name}" is forbidden: {why}', _details(group, plural, name))


def method_not_allowed(text: str = "the server does not allow this method on the requested resource") -> ApiFailure:
    return ApiFailure(405, "MethodNotAllowed", text)


def gone(message: str) -> ApiFailure:
    return ApiFailure(410, "Expired", message)


def unsupported_media_type(accepted: Sequence[str]) -> ApiFailure:
    text = "the body of the request was in an unknown format - accepted media types include: " + ", ".join(accepted)
    return ApiFailure(415, "UnsupportedMediaType", text)


def invalid(group: str, kind: str, name: str, errors: Sequence[FieldError]) -> ApiFailure:
    """An Invalid answer with one cause per error."""
    texts = list(dict.fromkeys(str(e) for e in errors))
    summary = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    subject = f"{kind}.{group}" if group else kind
    details: dict[str, Any] = _details(group, kind, name)
    details["causes"] = [e.cause() for e in errors]
    return ApiFailure(422, "Invalid", f'{subject} "{name}" is invalid: {summary}', details)


def too_large(message: str = "Request entity too large: limit is 3145728") -> ApiFailure:
    return ApiFailure(413, "RequestEntityTooLarge", message)


def too_deep() -> ApiFailure:
    return bad_request("the object is nested too deeply: this server takes some 200 levels")


def internal(message: str) -> ApiFailure:
    details = {"causes": [{"message": message}]}
    return ApiFailure(500, "InternalError", f"Internal error occurred: {message}", details)


def unavailable(message: str) -> ApiFailure:
    return ApiFailure(503, "ServiceUnavailable", message)


def resource_version_too_large(wanted: int, current: int) -> ApiFailure:
    details = {
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    }
    message = f"Timeout: Too large resource version: {wanted}, current: {current}"
    return ApiFailure(504, "Timeout", message, details, {"retry-after": "1"})
