"""Owner references: who an object belongs to, and goes with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentops.controller.errors import AlreadyOwned, ControllerError


def owner_reference(owner: Mapping[str, Any], controller: bool = True, block: bool = True) -> dict[str, Any]:
    """What goes into `ownerReferences` for `owner`, which must come from the server (it needs a uid)."""
    metadata = owner["metadata"]
    reference: dict[str, Any] = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    if controller:
        reference["controller"] = True
    if block:
        reference["blockOwnerDeletion"] = True
    return reference


def set_controller_reference(owner: Mapping[str, Any], obj: dict[str, Any]) -> None:
    """Make `owner` the controller of `obj`, in place. Raises AlreadyOwned when there is another one."""
    current = controller_of(obj)
    if current is not None and not _same(current, owner):
        raise AlreadyOwned(
            f"{describe(obj)} is controlled by {current.get('kind')} {current.get('name')}, "
            f"so {describe(owner)} cannot become its controller"
        )
    _set(owner, obj, owner_reference(owner))


def set_owner_reference(owner: Mapping[str, Any], obj: dict[str, Any]) -> None:
    """Make `obj` go when `owner` goes, without controlling it. In place."""
    _set(owner, obj, owner_reference(owner, controller=False, block=False))


def remove_owner_reference(owner: Mapping[str, Any], obj: dict[str, Any]) -> None:
    """In place. Raises ControllerError when it is not there."""
    references = obj["metadata"].get("ownerReferences") or []
    kept = [reference for reference in references if not _same(reference, owner)]
    if len(kept) == len(references):
        raise ControllerError(f"{describe(obj)} has no owner reference to {describe(owner)}")
    obj["metadata"]["ownerReferences"] = kept


def remove_controller_reference(owner: Mapping[str, Any], obj: dict[str, Any]) -> None:
    """In place. Raises ControllerError when `owner` is not the controller of `obj`."""
    current = controller_of(obj)
    if current is None or not _same(current, owner):
        raise ControllerError(f"{describe(obj)} is not controlled by {describe(owner)}")
    remove_owner_reference(owner, obj)


def controller_of(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The owner reference with `controller: true`."""
    references = (obj.get("metadata") or {}).get("ownerReferences") or ()
    return next((reference for reference in references if reference.get("controller")), None)


def is_owned_by(obj: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
    """Whether any owner reference has the owner's uid."""
    references = (obj.get("metadata") or {}).get("ownerReferences") or ()
    return any(reference.get("uid") == owner["metadata"].get("uid") for reference in references)


def is_controlled_by(obj: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
    """Whether the controller reference has the owner's uid."""
    controller = controller_of(obj)
    return controller is not None and controller.get("uid") == owner["metadata"].get("uid")


def describe(obj: Mapping[str, Any]) -> str:
    """`Kind namespace/name`, for messages."""
    metadata = obj.get("metadata") or {}
    name = "/".join(part for part in (metadata.get("namespace"), metadata.get("name")) if part)
    return f"{obj.get('kind') or 'object'} {name}"


def _set(owner: Mapping[str, Any], obj: dict[str, Any], reference: dict[str, Any]) -> None:
    owner_namespace = owner["metadata"].get("namespace") or ""
    namespace = obj["metadata"].get("namespace") or ""
    if owner_namespace and owner_namespace != namespace:
        where = f"in namespace {namespace!r}" if namespace else "cluster-scoped"
        raise ControllerError(
            f"{describe(owner)} cannot own {describe(obj)}, which is {where}: owners must be in the same namespace"
        )
    references = obj["metadata"].setdefault("ownerReferences", [])
    for index, present in enumerate(references):
        if _same(present, owner):
            references[index] = reference
            return
    references.append(reference)


def _same(reference: Mapping[str, Any], owner: Mapping[str, Any]) -> bool:
    """By group, kind and name, whatever version or incarnation."""
    return (
        _group(reference.get("apiVersion")) == _group(owner.get("apiVersion"))
        and reference.get("kind") == owner.get("kind")
        and reference.get("name") == owner["metadata"]["name"]
    )


def _group(api_version: Any) -> str:
    return str(api_version or "").rpartition("/")[0]
