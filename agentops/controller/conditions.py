"""Conditions: what a status says about one aspect of an object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from agentops.values.clock import rfc3339

MAX_MESSAGE = 32768


def set_condition(
    conditions: list[dict[str, Any]],
    type: str,
    status: str | bool,
    reason: str,
    message: str,
    observed_generation: int | None,
    now: datetime,
) -> bool:
    """Set the condition of `type` in place; whether anything changed.

    `lastTransitionTime` moves only when the status does. `status` is True, False, Unknown, or a bool.
    """
    value = str(status)
    if value not in ("True", "False", "Unknown"):
        raise ValueError(f"condition {type}: status {value!r} must be True, False or Unknown")
    wanted: dict[str, Any] = {"type": type, "status": value, "reason": reason, "message": message[:MAX_MESSAGE]}
    if observed_generation is not None:
        wanted["observedGeneration"] = observed_generation
    for condition in conditions:
        if condition.get("type") != type:
            continue
        changed = any(condition.get(key) != value for key, value in wanted.items())
        if condition.get("status") != value or "lastTransitionTime" not in condition:
            condition["lastTransitionTime"] = rfc3339(now)
            changed = True
        condition.update(wanted)
        return changed
    conditions.append({**wanted, "lastTransitionTime": rfc3339(now)})
    return True


def get_condition(conditions: Iterable[Mapping[str, Any]] | None, type: str) -> Mapping[str, Any] | None:
    """The condition of `type`."""
    return next((condition for condition in conditions or () if condition.get("type") == type), None)


def is_true(conditions: Iterable[Mapping[str, Any]] | None, type: str) -> bool:
    """Whether the condition of `type` is there and True."""
    condition = get_condition(conditions, type)
    return condition is not None and condition.get("status") == "True"


def remove_condition(conditions: list[dict[str, Any]], type: str) -> bool:
    """Remove the condition of `type` in place; whether it was there."""
    before = len(conditions)
    conditions[:] = [condition for condition in conditions if condition.get("type") != type]
    return len(conditions) != before
