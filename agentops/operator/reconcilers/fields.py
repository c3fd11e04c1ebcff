"""FieldsNotInEffect, for every kind alike."""

from __future__ import annotations

from typing import Any

from agentops.api.conditions import ConditionType, Reason
from agentops.api.not_in_effect import not_in_effect
from agentops.operator.status import StatusDraft


def report_fields(draft: StatusDraft, value: Any, *more: str) -> None:
    """Name the fields of `value` that nothing acts on, and `more`; the condition goes when there are none."""
    paths = [*not_in_effect(value), *more]
    if paths:
        message = f"accepted, and without effect in this release: {', '.join(paths)}"
        draft.condition(ConditionType.FIELDS_NOT_IN_EFFECT, True, Reason.NOT_IMPLEMENTED, message)
    else:
        draft.drop_condition(ConditionType.FIELDS_NOT_IN_EFFECT)
