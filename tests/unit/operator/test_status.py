"""Status drafts write what changed, and only when something did."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentops.api.kinds import AGENT
from agentops.operator.status import StatusDraft, merge_patch

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=8,
)


def draft(status: dict[str, Any] | None = None) -> StatusDraft:
    meta = {"name": "a", "namespace": "n", "resourceVersion": "7", "generation": 3}
    return StatusDraft(AGENT, {"metadata": meta, "status": status} if status else {"metadata": meta}, NOW)


def applied(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = applied(result.get(key), value)
    return result


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


OBJECTS = st.dictionaries(st.text("ab", max_size=2), JSON, max_size=3).map(without_nulls)


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_turns_one_object_into_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert applied(before, merge_patch(before, after)) == after


def test_setting_what_is_there_already_is_no_patch() -> None:
    first = draft()
    first.set(phase="Ready")
    first.condition("Ready", True, "Ready", "fine")
    second = draft(first.fields)
    second.set(phase="Ready", message=None)
    second.condition("Ready", True, "Ready", "fine")
    second.drop_condition("Absent")
    assert second.patch == {}


def test_a_condition_keeps_its_time_until_its_status_flips() -> None:
    old = {
        "type": "Ready",
        "status": "True",
        "reason": "A",
        "message": "",
        "lastTransitionTime": "2020-01-01T00:00:00Z",
    }
    changed = draft({"conditions": [old]})
    assert changed.condition("Ready", True, "B", "other") is True
    assert changed.fields["conditions"][0]["lastTransitionTime"] == "2020-01-01T00:00:00Z"
    assert changed.condition("Ready", False, "C", "") is True
    assert changed.fields["conditions"][0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"


def test_a_message_alone_is_no_transition() -> None:
    said = draft()
    said.condition("Ready", True, "A", "one")
    assert said.condition("Ready", True, "A", "two") is False
    assert said.fields["conditions"][0]["message"] == "two"
