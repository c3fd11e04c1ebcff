"""What the workload controllers read from a pod, and how they make one from a template. Pure.

The meanings are those of Kubernetes' `controller` package: an active pod is one that still counts as a
replica, an available one has been ready for `minReadySeconds`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from agentops.values.clock import parse_rfc3339
from agentops.values.kinds import Kind

Object = dict[str, Any]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
POD_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_ALPHANUMS = "bcdfghjklmnpqrstvwxz2456789"
_PHASE_RANK = {"Pending": 0, "Unknown": 1, "Running": 2}


def name_of(obj: Mapping[str, Any]) -> str:
    return str(obj["metadata"].get("name", ""))


def namespace_of(obj: Mapping[str, Any]) -> str:
    return str(obj["metadata"].get("namespace", ""))


def uid_of(obj: Mapping[str, Any]) -> str:
    return str(obj["metadata"].get("uid", ""))


def labels_of(obj: Mapping[str, Any]) -> dict[str, str]:
    return dict(obj["metadata"].get("labels") or {})


def annotations_of(obj: Mapping[str, Any]) -> dict[str, str]:
    return dict(obj["metadata"].get("annotations") or {})


def created_at(obj: Mapping[str, Any]) -> datetime:
    """The creation time; the epoch for an object that has none yet."""
    stamp = obj["metadata"].get("creationTimestamp")
    return parse_rfc3339(stamp) if stamp else EPOCH


def is_deleting(obj: Mapping[str, Any]) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def controller_ref(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The owner reference with `controller: true`, if there is one."""
    for ref in obj["metadata"].get("ownerReferences") or ():
        if ref.get("controller"):
            return dict(ref)
    return None


def make_controller_ref(owner: Mapping[str, Any], kind: Kind) -> Object:
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "name": name_of(owner),
        "uid": uid_of(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def phase_of(obj: Mapping[str, Any]) -> str:
    return str((obj.get("status") or {}).get("phase") or "")


def is_finished(pod: Mapping[str, Any]) -> bool:
    return phase_of(pod) in ("Succeeded", "Failed")


def is_active(pod: Mapping[str, Any]) -> bool:
    """Whether the pod still counts as a replica."""
    return not is_finished(pod) and not is_deleting(pod)


def is_terminating(pod: Mapping[str, Any]) -> bool:
    return is_deleting(pod) and not is_finished(pod)


def condition_of(obj: Mapping[str, Any], type_: str) -> Mapping[str, Any] | None:
    for condition in (obj.get("status") or {}).get("conditions") or ():
        if condition.get("type") == type_:
            return dict(condition)
    return None


def has_condition(obj: Mapping[str, Any], type_: str, status: str = "True") -> bool:
    condition = condition_of(obj, type_)
    return condition is not None and condition.get("status") == status


def is_ready(pod: Mapping[str, Any]) -> bool:
    return has_condition(pod, "Ready")


def ready_since(pod: Mapping[str, Any]) -> datetime | None:
    """When the pod last became ready; `None` while it is not."""
    condition = condition_of(pod, "Ready")
    if condition is None or condition.get("status") != "True":
        return None
    stamp = condition.get("lastTransitionTime")
    return parse_rfc3339(stamp) if stamp else created_at(pod)


def available_in_s(pod: Mapping[str, Any], min_ready_s: float, now: datetime) -> float | None:
    """Seconds until the pod counts as available: 0 when it does, `None` while it is not ready."""
    since = ready_since(pod)
    if since is None:
        return None
    if min_ready_s <= 0:
        return 0.0
    return max(0.0, (since + timedelta(seconds=min_ready_s) - now).total_seconds())


def restarts(pod: Mapping[str, Any]) -> int:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return max((int(s.get("restartCount") or 0) for s in statuses), default=0)


def deletion_order(pods: Iterable[Object]) -> list[Object]:
    """`pods`, the ones that hurt least to lose first.

    Unscheduled before scheduled, pending before running, not ready before ready, lower deletion cost first,
    then briefly ready before long ready, often restarted before steady, young before old.
    """

    def rank(pod: Object) -> tuple[Any, ...]:
        since = ready_since(pod)
        return (
            bool((pod.get("spec") or {}).get("nodeName")),
            _PHASE_RANK.get(phase_of(pod), 0),
            since is not None,
            _deletion_cost(pod),
            -(since or EPOCH).timestamp(),
            -restarts(pod),
            -created_at(pod).timestamp(),
            name_of(pod),
        )

    return sorted(pods, key=rank)


def _deletion_cost(pod: Mapping[str, Any]) -> int:
    try:
        return int(annotations_of(pod).get(POD_DELETION_COST, "0"))
    except ValueError:
        return 0


def template_hash(template: Mapping[str, Any], collision_count: int = 0) -> str:
    """A short, label-safe digest of a pod template; another `collision_count` gives another digest."""
    text = json.dumps(template, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = _fnv32a(f"{text}#{collision_count}" if collision_count else text)
    return safe_encode(str(digest))


def safe_encode(text: str) -> str:
    """Each character mapped into Kubernetes' word-free alphabet."""
    return "".join(_ALPHANUMS[byte % len(_ALPHANUMS)] for byte in text.encode())


def _fnv32a(text: str) -> int:
    value = 0x811C9DC5
    for byte in text.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def pod_from_template(
    template: Mapping[str, Any],
    owner: Mapping[str, Any],
    owner_kind: Kind,
    *,
    name: str = "",
    generate_name: str = "",
    finalizers: Iterable[str] = (),
) -> Object:
    """A pod to create: the template's metadata and spec, controlled by `owner`, in its namespace."""
    meta = template.get("metadata") or {}
    metadata: Object = {
        "namespace": namespace_of(owner),
        "labels": dict(meta.get("labels") or {}),
        "annotations": dict(meta.get("annotations") or {}),
        "ownerReferences": [make_controller_ref(owner, owner_kind)],
    }
    if name:
        metadata["name"] = name
    else:
        metadata["generateName"] = generate_name or f"{name_of(owner)}-"
    wanted = [*(meta.get("finalizers") or ()), *finalizers]
    if wanted:
        metadata["finalizers"] = wanted
    if not metadata["annotations"]:
        del metadata["annotations"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": copy.deepcopy(template.get("spec") or {})}
