"""From request bytes to an object of the right kind: decode, check types, prune, report."""

from __future__ import annotations

from typing import Any

from attrs import define, field

from agentops.local.apiserver import errors
from agentops.local.apiserver.http import Request
from agentops.local.apiserver.jsonio import decode_body, duplicate_fields, media_type
from agentops.local.apiserver.meta import tidy
from agentops.local.apiserver.resources import Resource
from agentops.local.apiserver.schema.builtin import object_meta
from agentops.local.apiserver.schema.pruning import drop_nulls, prune
from agentops.local.apiserver.schema.validation import DecodeError, decode_check

Object = dict[str, Any]


@define(slots=True)
class Strictness:
    """fieldValidation of one request, and what it found."""

    mode: str = "Warn"
    unknown: list[str] = field(factory=list)
    duplicates: list[str] = field(factory=list)

    @classmethod
    def of(cls, request: Request) -> Strictness:
        mode = request.arg("fieldValidation") or "Warn"
        if mode not in ("Strict", "Warn", "Ignore"):
            detail = 'fieldValidation parameter unsupported: supported values: "Ignore", "Strict", "Warn"'
            raise errors.ApiFailure(422, "Invalid", f'CreateOptions.meta.k8s.io "" is invalid: {detail}')
        return cls(mode)

    def texts(self) -> list[str]:
        return [f'unknown field "{name}"' for name in sorted(set(self.unknown))] + [
            f'duplicate field "{name}"' for name in sorted(set(self.duplicates))
        ]

    def warnings(self) -> list[str]:
        return self.texts() if self.mode == "Warn" else []

    @property
    def offended(self) -> bool:
        return self.mode == "Strict" and bool(self.unknown or self.duplicates)

    def sentence(self) -> str:
        return "strict decoding error: " + ", ".join(self.texts())


def decode_object(request: Request, resource: Resource, strictness: Strictness, *, kind: str = "") -> Object:
    """The object of a POST or PUT, pruned. Raises ApiFailure 400, 413, 415."""
    content_type = request.header("content-type")
    if not request.body:
        raise errors.bad_request("the request has no body; send the object as JSON or YAML")
    obj = decode_body(request.body, content_type)
    if not isinstance(obj, dict):
        raise errors.bad_request("the object provided is unrecognized (must be of type object)")
    if strictness.mode != "Ignore" and media_type(content_type) in ("", "application/json"):
        strictness.duplicates.extend(duplicate_fields(request.body, obj))
    check_kind(obj, resource)
    normalise(obj, resource, strictness)
    if strictness.offended:
        raise errors.bad_request(
            f'{resource.kind.kind} in version "{resource.kind.version}" cannot be handled as a {resource.kind.kind}: '
            + strictness.sentence()
        )
    return obj


def check_kind(obj: Object, resource: Resource) -> None:
    api_version, kind = obj.get("apiVersion"), obj.get("kind")
    if not kind:
        if resource.custom:
            raise errors.bad_request("Object 'Kind' is missing in the request body")
        obj["kind"] = kind = resource.kind.kind
    if not api_version:
        if resource.custom:
            raise errors.bad_request("Object 'apiVersion' is missing in the request body")
        obj["apiVersion"] = api_version = resource.kind.api_version
    if api_version != resource.kind.api_version or kind != resource.kind.kind:
        if kind != resource.kind.kind:
            raise errors.bad_request(
                f'{kind} in version "{str(api_version).rpartition("/")[2]}" cannot be handled as a '
                f"{resource.kind.kind}: "
                f"the kind in the data ({kind}) does not match the expected kind ({resource.kind.kind})"
            )
        raise errors.bad_request(
            f"the API version in the data ({api_version}) does not match the expected API version "
            f"({resource.kind.api_version})"
        )


def normalise(obj: Object, resource: Resource, strictness: Strictness) -> None:
    """Type checks of a built-in, pruning and tidying, in place."""
    meta = obj.get("metadata")
    if meta is None:
        meta = obj["metadata"] = {}
    _check_meta(meta, obj, resource, strictness)
    schema = resource.schema
    if schema is not None:
        if not resource.custom:
            drop_nulls(obj, schema)
            try:
                decode_check(obj, schema, "", resource.kind.kind)
            except DecodeError as error:
                raise errors.bad_request(
                    f'{resource.kind.kind} in version "{resource.kind.version}" cannot be handled as a '
                    f"{resource.kind.kind}: {error}"
                ) from error
        else:
            drop_nulls(obj, schema)
        prune(obj, schema, "", strictness.unknown, root=True)
    tidy(obj["metadata"])


def _check_meta(meta: Any, obj: Object, resource: Resource, strictness: Strictness) -> None:
    schema = object_meta()
    kind = resource.kind.kind

    def refuse(error: str) -> errors.ApiFailure:
        return errors.bad_request(f'{kind} in version "{resource.kind.version}" cannot be handled as a {kind}: {error}')

    if not isinstance(meta, dict):
        raise refuse("json: cannot unmarshal array into Go struct field " + kind + ".metadata of type v1.ObjectMeta")
    managed = meta.get("managedFields")
    drop_nulls(meta, schema)
    try:
        decode_check(meta, schema, "metadata", kind)
    except DecodeError as error:
        raise refuse(str(error)) from error
    prune(meta, schema, "metadata", strictness.unknown)
    if managed is not None:
        meta["managedFields"] = managed
