"""Computing and applying the API's patch types.

    json_patch             RFC 6902, through `jsonpatch`
    merge_patch            RFC 7386; create_merge_patch is its inverse
    strategic_merge_patch  Kubernetes' own: lists merge by key as the schema says

All functions leave their arguments alone and raise `PatchError` for a patch that cannot be applied.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import jsonpatch
import jsonpointer

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

MAX_OPERATIONS = 10_000
MAX_COPIED = 3 * 1024 * 1024
"""Bytes of JSON that all `copy` operations of one patch may add together; as kube-apiserver."""

_PATCH = "$patch"
_RETAIN = "$retainKeys"
_ORDER = "$setElementOrder/"
_DELETE_PRIMITIVE = "$deleteFromPrimitiveList/"


class PatchError(ValueError):
    """The patch does not fit the document, or is no patch at all."""


class PatchSchema(Protocol):
    """What strategic merge needs to know of a type: which lists merge, and by which key."""

    @property
    def items(self) -> PatchSchema | None: ...

    @property
    def merge_key(self) -> str: ...

    def child(self, key: str) -> PatchSchema | None: ...

    def is_merge_list(self) -> bool: ...

    def is_replace(self) -> bool: ...


def json_patch(document: Any, operations: Sequence[Mapping[str, Any]]) -> Any:
    """`document` after RFC 6902 `operations`. Raises PatchError for a failed test or a missing path."""
    if not isinstance(operations, list | tuple):
        raise PatchError("a JSON patch is a list of operations")
    if len(operations) > MAX_OPERATIONS:
        raise PatchError(f"a JSON patch may have at most {MAX_OPERATIONS} operations, this one has {len(operations)}")
    try:
        if not any(isinstance(op, Mapping) and op.get("op") == "copy" for op in operations):
            return jsonpatch.JsonPatch(list(operations)).apply(copy.deepcopy(document))
        return _with_copies(copy.deepcopy(document), operations)
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as error:
        raise PatchError(str(error)) from error
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise PatchError(f"the JSON patch does not fit the document: {error}") from error


def _with_copies(document: Any, operations: Sequence[Mapping[str, Any]]) -> Any:
    """Step by step, counting what `copy` adds: each one may double the document."""
    copied = 0
    for operation in operations:
        if operation.get("op") == "copy":
            copied += len(json.dumps(jsonpointer.resolve_pointer(document, operation["from"])))
            if copied > MAX_COPIED:
                raise PatchError(f"the copy operations of a JSON patch may add at most {MAX_COPIED} bytes")
        document = jsonpatch.JsonPatch([operation]).apply(document, in_place=True)
    return document


def create_json_patch(old: Any, new: Any) -> list[dict[str, Any]]:
    """Operations that turn `old` into `new`."""
    operations: list[dict[str, Any]] = jsonpatch.make_patch(old, new).patch
    return operations


def merge_patch(document: Any, patch: Any) -> Any:
    """`document` after an RFC 7386 `patch`: null deletes, lists are replaced."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(document) if isinstance(document, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def create_merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The smallest merge patch that turns `old` into `new`."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if key not in old:
            patch[key] = copy.deepcopy(value)
        elif isinstance(before, Mapping) and isinstance(value, Mapping):
            inner = create_merge_patch(before, value)
            if inner:
                patch[key] = inner
        elif before != value or type(before) is not type(value):
            patch[key] = copy.deepcopy(value)
    return patch


def strategic_merge_patch(document: Mapping[str, Any], patch: Mapping[str, Any], schema: PatchSchema | None) -> Any:
    """`document` after a strategic merge `patch`, merging lists as `schema` says.

    Directives: `$patch: delete|replace|merge`, `$retainKeys`, `$setElementOrder/<list>` and
    `$deleteFromPrimitiveList/<list>`. Raises PatchError for a directive that makes no sense.
    """
    if not isinstance(patch, Mapping):
        raise PatchError("a strategic merge patch is an object")
    return _merge_map(copy.deepcopy(dict(document)), patch, schema)


def _merge_map(document: dict[str, Any], patch: Mapping[str, Any], schema: PatchSchema | None) -> dict[str, Any]:
    directive = patch.get(_PATCH)
    if directive == "replace":
        return {k: _strip(v) for k, v in patch.items() if not k.startswith("$") and v is not None}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise PatchError(f"unknown $patch directive {directive!r}; use delete, replace or merge")
    result = document
    retain = patch.get(_RETAIN)
    if retain is not None:
        if not isinstance(retain, list):
            raise PatchError("$retainKeys must be a list of field names")
        result = {k: v for k, v in result.items() if k in retain}
    for key, value in patch.items():
        if key.startswith(_DELETE_PRIMITIVE):
            name = key[len(_DELETE_PRIMITIVE) :]
            unwanted = {_identity(item) for item in _listed(key, value)}
            if isinstance(result.get(name), list):
                result[name] = [item for item in result[name] if _identity(item) not in unwanted]
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        child = schema.child(key) if schema is not None else None
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            before = result.get(key)
            if child is not None and child.is_replace() and not child.is_merge_list():
                result[key] = _strip(value)
            elif value.get(_PATCH) == "delete":
                result.pop(key, None)
            else:
                result[key] = _merge_map(before if isinstance(before, dict) else {}, value, child)
        elif isinstance(value, list):
            result[key] = _merge_list(result.get(key), value, child)
        else:
            result[key] = value
    for key, order in patch.items():
        if key.startswith(_ORDER):
            name = key[len(_ORDER) :]
            child = schema.child(name) if schema is not None else None
            if isinstance(result.get(name), list):
                merge_key = child.merge_key if child is not None else ""
                result[name] = _ordered(result[name], _listed(key, order), merge_key)
    return result


def _merge_list(before: Any, patch: list[Any], schema: PatchSchema | None) -> list[Any]:
    if schema is None or not schema.is_merge_list():
        return [_strip(item) for item in patch]
    current = list(before) if isinstance(before, list) else []
    key = schema.merge_key
    if not key:
        present = {_identity(item) for item in current}
        return current + [item for item in patch if _identity(item) not in present]
    if any(isinstance(item, Mapping) and item.get(_PATCH) == "replace" for item in patch):
        return [_strip(item) for item in patch if not (isinstance(item, Mapping) and item.get(_PATCH) == "replace")]
    # By key once: a search per item would let a long patch hold up everybody.
    positions: dict[Any, int] = {}
    for at, old in enumerate(current):
        if isinstance(old, dict):
            positions.setdefault(_identity(old.get(key)), at)
    deleted: set[int] = set()
    for item in patch:
        if not isinstance(item, Mapping):
            raise PatchError(f"items of a list merged by {key} must be objects")
        if key not in item:
            raise PatchError(f"map: {dict(item)} does not contain declared merge key: {key}")
        name = _identity(item[key])
        if item.get(_PATCH) == "delete":
            if name in positions:
                deleted.add(positions.pop(name))
        elif name not in positions:
            positions[name] = len(current)
            current.append(_merge_map({}, item, schema.items))
        else:
            current[positions[name]] = _merge_map(current[positions[name]], item, schema.items)
    return [item for at, item in enumerate(current) if at not in deleted]


def _ordered(items: list[Any], order: Iterable[Any], key: str) -> list[Any]:
    """Items named by `order` in that order; others keep their place relative to what stood before them."""
    ranks: dict[Any, int] = {}
    for entry in order:
        ranks.setdefault(_identity(entry.get(key) if isinstance(entry, Mapping) else entry), len(ranks))

    def name(item: Any) -> Any:
        return _identity(item.get(key) if key and isinstance(item, Mapping) else item)

    queue = iter(sorted((item for item in items if name(item) in ranks), key=lambda item: ranks[name(item)]))
    return [next(queue) if name(item) in ranks else item for item in items]


def _identity(value: Any) -> Any:
    """Something hashable that is equal for equal JSON values."""
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value, sort_keys=True)


def _listed(directive: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise PatchError(f"{directive} must be a list")
    return value


def _strip(value: Any) -> Any:
    """A copy without directives and nulls, as when a patch lands where nothing was."""
    if isinstance(value, Mapping):
        return {k: _strip(v) for k, v in value.items() if not k.startswith("$") and v is not None}
    if isinstance(value, list):
        return [_strip(item) for item in value if not (isinstance(item, Mapping) and item.get(_PATCH) == "delete")]
    return value
