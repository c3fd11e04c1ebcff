"""PATCH: from the four patch types to the object they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from agentops.kube.patches import (
    APPLY_PATCH,
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_MERGE_PATCH,
    PatchError,
    json_patch,
    merge_patch,
    strategic_merge_patch,
)
from agentops.local.apiserver import errors
from agentops.local.apiserver.decode import Strictness, check_kind, normalise
from agentops.local.apiserver.http import Request
from agentops.local.apiserver.jsonio import decode_json, decode_yaml, duplicate_fields, media_type
from agentops.local.apiserver.resources import Resource

Object = dict[str, Any]

_CBOR = "application/apply-patch+cbor"


def accepted_types(resource: Resource) -> tuple[str, ...]:
    if resource.custom:
        return (JSON_PATCH, MERGE_PATCH, APPLY_PATCH)
    return (JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, APPLY_PATCH)


def patch_type(request: Request, resource: Resource) -> str:
    """The patch's media type. Raises ApiFailure 415 (strategic on a custom resource included)."""
    kind = media_type(request.header("content-type"))
    if kind not in accepted_types(resource):
        raise errors.unsupported_media_type(accepted_types(resource))
    return kind


def patch_function(
    request: Request, resource: Resource, kind: str, strictness: Strictness
) -> Callable[[Object], Object]:
    """A function from the live object to the patched one, pruned. Raises ApiFailure 400, 422."""
    patch = decode_json(request.body)
    if strictness.mode != "Ignore":
        strictness.duplicates.extend(duplicate_fields(request.body, patch))
    if kind == JSON_PATCH and not isinstance(patch, list):
        raise errors.bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch"
        )
    if kind != JSON_PATCH and not isinstance(patch, dict):
        raise errors.bad_request(
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        )

    def change(live: Object) -> Object:
        revision = live["metadata"].get("resourceVersion")
        try:
            if kind == JSON_PATCH:
                new = json_patch(live, patch)
            elif kind == MERGE_PATCH:
                new = merge_patch(live, patch)
            else:
                new = strategic_merge_patch(live, patch, resource.schema)
        except PatchError as error:
            if kind == JSON_PATCH:
                # The text a real server hides behind this sentence goes into the cause.
                raise errors.ApiFailure(
                    422, "Invalid", "the server rejected our request due to an error in our request", {}
                ) from error
            raise errors.bad_request(f"error applying patch: {error}") from error
        if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
            found = [errors.invalid_value("metadata", None, "must be an object")]
            raise errors.invalid(resource.group, resource.kind.kind, live["metadata"]["name"], found)
        check_kind(new, resource)
        normalise(new, resource, strictness)
        if strictness.offended:
            shown = orjson.dumps(patch).decode()
            found = [errors.invalid_value("patch", shown, strictness.sentence())]
            raise errors.invalid("", "", "", found)
        # A patch says nothing about the version unless it names one.
        if new["metadata"].get("resourceVersion") == revision and not _names_revision(patch, kind):
            new["metadata"].pop("resourceVersion", None)
        return new

    return change


def _names_revision(patch: Any, kind: str) -> bool:
    if kind == JSON_PATCH:
        return any(op.get("path") == "/metadata/resourceVersion" for op in patch if isinstance(op, dict))
    return bool((patch.get("metadata") or {}).get("resourceVersion"))


def applied_object(request: Request, resource: Resource, namespace: str, name: str) -> Object:
    """The configuration of an apply patch. Raises ApiFailure 400, 422."""
    if media_type(request.header("content-type")) == _CBOR:
        raise errors.unsupported_media_type(accepted_types(resource))
    if not request.arg("fieldManager"):
        found = [errors.required("fieldManager", "is required for apply patch")]
        raise errors.invalid("meta.k8s.io", "PatchOptions", "", found)
    obj = decode_json(request.body) if request.body.lstrip()[:1] == b"{" else decode_yaml(request.body)
    if not isinstance(obj, dict):
        raise errors.bad_request("error decoding YAML: the configuration must be an object")
    strictness = Strictness("Strict", duplicates=duplicate_fields(request.body, obj))
    check_kind(obj, resource)
    meta = obj.get("metadata")
    if not isinstance(meta, dict):
        meta = obj["metadata"] = {}
    if meta.get("managedFields"):
        raise errors.bad_request("metadata.managedFields must be nil")
    if meta.get("name", name) != name:
        raise errors.bad_request(
            f"the name of the object ({meta.get('name')}) does not match the name on the URL ({name})"
        )
    meta["name"] = name
    if resource.kind.namespaced:
        if meta.get("namespace", namespace) != namespace:
            raise errors.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        meta["namespace"] = namespace
    normalise(obj, resource, strictness)
    if strictness.unknown:
        subject = f"{namespace}/{name}" if namespace else f"/{name}"
        kind = resource.kind
        gvk = f"{kind.group}/{kind.version}, Kind={kind.kind}" if kind.group else f"/{kind.version}, Kind={kind.kind}"
        listed = ", ".join(f".{path}: field not declared in schema" for path in sorted(strictness.unknown))
        raise errors.ApiFailure(500, "", f"failed to create typed patch object ({subject}; {gvk}): {listed}")
    if strictness.duplicates:
        raise errors.bad_request(strictness.sentence())
    return obj
