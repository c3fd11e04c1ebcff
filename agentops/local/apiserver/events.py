"""Events are one kind under two groups: core/v1 is stored, events.k8s.io/v1 is translated."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

_PAIRS = (
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
)
_SAME = ("action", "eventTime", "reason", "related", "reportingInstance", "series", "type")


def to_events_v1(obj: Object) -> Object:
    """A stored core/v1 Event as events.k8s.io/v1 serves it."""
    out: Object = {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": obj.get("metadata") or {}}
    for new, old in _PAIRS:
        if obj.get(old) not in (None, ""):
            out[new] = obj[old]
    for name in _SAME:
        if name in obj:
            out[name] = obj[name]
    out.setdefault("eventTime", None)
    return out


def from_events_v1(obj: Object) -> Object:
    """The inverse, for writes through events.k8s.io/v1."""
    out: Object = {"apiVersion": "v1", "kind": "Event", "metadata": obj.get("metadata") or {}}
    for new, old in _PAIRS:
        if new in obj:
            out[old] = obj[new]
    for name in _SAME:
        if name in obj:
            out[name] = obj[name]
    out.setdefault("source", {})
    for name in ("firstTimestamp", "lastTimestamp", "eventTime"):
        out.setdefault(name, None)
    out.setdefault("reportingComponent", "")
    out.setdefault("reportingInstance", "")
    return out
