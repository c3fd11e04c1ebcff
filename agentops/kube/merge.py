"""The smallest merge patch between two states of an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentops.kube.patches import create_merge_patch


def merge_from(base: Mapping[str, Any], obj: Mapping[str, Any], *, optimistic_lock: bool = False) -> dict[str, Any]:
    """What has to be sent as a merge patch to make `obj` of `base`; empty when they are equal.

    With `optimistic_lock` the patch carries the resourceVersion of `base`, so that the server answers
    Conflict when somebody has changed the object meanwhile. Raises ValueError when `base` has none.
    """
    patch = create_merge_patch(base, obj)
    if not patch or not optimistic_lock:
        return patch
    version = (base.get("metadata") or {}).get("resourceVersion")
    if not version:
        raise ValueError("an optimistic lock needs the resourceVersion of the object as it was read")
    return {**patch, "metadata": {**(patch.get("metadata") or {}), "resourceVersion": version}}
