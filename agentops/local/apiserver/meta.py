"""Object metadata: what the server sets and what it accepts."""

from __future__ import annotations

import re
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.resources import Resource
from agentops.values.names import is_dns1123_subdomain

Object = dict[str, Any]

_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_NAME_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
    "start and end "
    "with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_ANNOTATIONS_LIMIT = 256 * 1024
SERVER_FIELDS = (
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "uid",
    "selfLink",
)


def qualified_name_problem(key: str) -> str | None:
    """Why `key` is no `[prefix/]name`."""
    prefix, slash, name = key.rpartition("/")
    if slash and (not prefix or "/" in prefix):
        return f"a qualified name {_NAME_TEXT[5:]}"
    if prefix and not is_dns1123_subdomain(prefix):
        return (
            "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
        )
    if not name:
        return "name part must be non-empty"
    if len(name) > 63:
        return "name part must be no more than 63 bytes"
    return None if _NAME.fullmatch(name) else _NAME_TEXT


def validate_meta(obj: Object, resource: Resource, *, create: bool) -> list[FieldError]:
    """Names, labels, annotations, finalizers and owners."""
    meta = obj["metadata"]
    out: list[FieldError] = []
    if create:
        name = meta.get("name") or ""
        problem = resource.strategy.check_name(name)
        if problem:
            out.append(errors.invalid_value("metadata.name", name, problem))
    out += validate_labels(meta.get("labels") or {}, "metadata.labels")
    total = 0
    for key, value in (meta.get("annotations") or {}).items():
        problem = qualified_name_problem(key.lower())
        if problem:
            out.append(errors.invalid_value("metadata.annotations", key, problem))
        total += len(key) + len(value)
    if total > _ANNOTATIONS_LIMIT:
        detail = f"may not be more than {_ANNOTATIONS_LIMIT} bytes"
        out.append(FieldError(errors.TOO_LONG, "metadata.annotations", detail))
    for index, finalizer in enumerate(meta.get("finalizers") or ()):
        problem = qualified_name_problem(finalizer)
        if problem:
            out.append(errors.invalid_value("metadata.finalizers", finalizer, problem))
        elif (
            "/" not in finalizer
            and finalizer not in ("kubernetes", "orphan", "foregroundDeletion")
            and not (resource.custom or "." in finalizer)
        ):
            detail = "name is neither a standard finalizer name nor is it fully qualified"
            out.append(errors.invalid_value(f"metadata.finalizers[{index}]", finalizer, detail))
    out += _owners(meta.get("ownerReferences") or [])
    return out


def validate_labels(labels: dict[str, str], path: str) -> list[FieldError]:
    out: list[FieldError] = []
    for key, value in labels.items():
        problem = qualified_name_problem(key)
        if problem:
            out.append(errors.invalid_value(path, key, problem))
        if len(value) > 63:
            out.append(errors.invalid_value(path, value, "must be no more than 63 bytes"))
        elif value and not _NAME.fullmatch(value):
            out.append(errors.invalid_value(path, value, _VALUE_TEXT))
    return out


def _owners(owners: list[Object]) -> list[FieldError]:
    out: list[FieldError] = []
    controller = ""
    for index, owner in enumerate(owners):
        at = f"metadata.ownerReferences[{index}]"
        out.extend(
            errors.invalid_value(f"{at}.{field}", owner.get(field, ""), "must not be empty")
            for field in ("apiVersion", "kind", "name", "uid")
            if not owner.get(field)
        )
        if owner.get("controller"):
            if controller:
                detail = (
                    f'Only one reference can have Controller set to true. Found "true" in references for '
                    f"{controller} and "
                    f"{owner.get('kind')}/{owner.get('name')}"
                )
                out.append(errors.invalid_value("metadata.ownerReferences", "", detail))
            controller = f"{owner.get('kind')}/{owner.get('name')}"
    return out


def finalizer_warnings(new: Object, old: Object | None) -> list[str]:
    """Of finalizers that `new` adds to a custom resource and that say nothing of whose they are."""
    before = set((old or {}).get("metadata", {}).get("finalizers") or ())
    detail = (
        "prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other "
        "finalizer writers"
    )
    return [
        f'metadata.finalizers: "{name}": {detail}'
        for name in sorted(set(new["metadata"].get("finalizers") or ()) - before)
        if "/" not in name and name not in ("orphan", "foregroundDeletion")
    ]


def new_finalizers_error(new: Object, old: Object) -> list[FieldError]:
    """While an object is being deleted finalizers may only go."""
    if not old["metadata"].get("deletionTimestamp"):
        return []
    before = set(old["metadata"].get("finalizers") or ())
    added = [f for f in new["metadata"].get("finalizers") or () if f not in before]
    if not added:
        return []
    listed = ", ".join(f'"{f}"' for f in added)
    detail = f"no new finalizers can be added if the object is being deleted, found new finalizers []string{{{listed}}}"
    return [errors.forbidden_field("metadata.finalizers", detail)]


def tidy(meta: Object) -> None:
    """Drop empty values that decoding into Go types would drop."""
    for field in ("labels", "annotations", "finalizers", "ownerReferences", "generateName", "managedFields"):
        if field in meta and not meta[field]:
            del meta[field]
    for field in ("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "namespace"):
        if field in meta and meta[field] in (None, ""):
            del meta[field]
