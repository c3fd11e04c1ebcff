"""What a Deployment's rollout does next. Pure: objects in, a `Step` out.

Each reconcile takes one step and the next ReplicaSet event brings the following one, so the arithmetic never
has to guess what a write led to. Source: Kubernetes' deployment controller (rolling, recreate, proportional scaling,
revisions, conditions); its names are kept so that the two can be read side by side.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from attrs import define, evolve, field, frozen

from agentops.local.controllers.pods import (
    Object,
    annotations_of,
    created_at,
    is_deleting,
    make_controller_ref,
    name_of,
    namespace_of,
    template_hash,
    uid_of,
)
from agentops.values.clock import parse_rfc3339, rfc3339
from agentops.values.kinds import Kind

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED_REPLICAS = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS = "deployment.kubernetes.io/max-replicas"
_OWN_ANNOTATIONS = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION,
        REVISION_HISTORY,
        DESIRED_REPLICAS,
        MAX_REPLICAS,
        "deprecated.deployment.rollback.to",
    }
)


@frozen(slots=True)
class Change:
    """What to do to one ReplicaSet: set `spec.replicas`, `spec.minReadySeconds` and/or annotations (merged)."""

    replica_set: Mapping[str, Any]
    replicas: int | None = None
    annotations: Mapping[str, str] = field(factory=dict)
    min_ready_s: int | None = None


@define(slots=True)
class Step:
    """One step of a rollout. Write in this order: create, changes, deletes, annotations, status."""

    create: Object | None = None
    changes: list[Change] = field(factory=list)
    deletes: list[Object] = field(factory=list)
    annotations: dict[str, str] = field(factory=dict)
    status: Object = field(factory=dict)
    requeue_after_s: float | None = None


def scaled_value(value: Any, total: int, *, round_up: bool) -> int:
    """An IntOrString of a rolling update: `2` or `"25%"` of `total`."""
    if isinstance(value, str) and value.endswith("%"):
        share = int(value[:-1]) * total / 100
        return math.ceil(share) if round_up else math.floor(share)
    return int(value or 0)


def fenceposts(deployment: Mapping[str, Any]) -> tuple[int, int]:
    """(max surge, max unavailable) in pods; both 0 becomes one unavailable, or nothing could ever move."""
    if strategy_of(deployment) != "RollingUpdate":
        return 0, 0
    desired = replicas_of(deployment)
    rolling = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    surge = scaled_value(rolling.get("maxSurge", "25%"), desired, round_up=True)
    unavailable = scaled_value(rolling.get("maxUnavailable", "25%"), desired, round_up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, unavailable


def max_unavailable(deployment: Mapping[str, Any]) -> int:
    desired = replicas_of(deployment)
    return min(fenceposts(deployment)[1], desired)


def strategy_of(deployment: Mapping[str, Any]) -> str:
    return str((deployment["spec"].get("strategy") or {}).get("type") or "RollingUpdate")


def replicas_of(obj: Mapping[str, Any]) -> int:
    """`spec.replicas`, 1 when absent."""
    value = obj["spec"].get("replicas")
    return 1 if value is None else int(value)


def count(obj: Mapping[str, Any], counter: str) -> int:
    """A status counter, 0 when absent."""
    return int((obj.get("status") or {}).get(counter) or 0)


def revision_of(obj: Mapping[str, Any]) -> int:
    try:
        return int(annotations_of(obj).get(REVISION, "0"))
    except ValueError:
        return 0


def _without_hash(template: Mapping[str, Any]) -> Object:
    plain = copy.deepcopy(dict(template))
    metadata = plain.get("metadata") or {}
    labels = metadata.get("labels")
    if labels:
        labels.pop(HASH_LABEL, None)
    metadata.pop("creationTimestamp", None)
    plain["metadata"] = metadata
    return plain


def by_age(replica_sets: Iterable[Object]) -> list[Object]:
    return sorted(replica_sets, key=lambda rs: (created_at(rs), name_of(rs)))


def find_new(deployment: Mapping[str, Any], replica_sets: Iterable[Object]) -> Object | None:
    """The ReplicaSet of the current template: the oldest one, so that two controllers agree."""
    wanted = _without_hash(deployment["spec"]["template"])
    for replica_set in by_age(replica_sets):
        if _without_hash(replica_set["spec"]["template"]) == wanted:
            return replica_set
    return None


def new_replica_set(deployment: Mapping[str, Any], kind: Kind, olds: Sequence[Object], collision_count: int) -> Object:
    """The ReplicaSet to create for the current template, already at its first size and revision."""
    template = copy.deepcopy(deployment["spec"]["template"])
    digest = template_hash(_without_hash(template), collision_count)
    template.setdefault("metadata", {}).setdefault("labels", {})[HASH_LABEL] = digest
    selector = copy.deepcopy(deployment["spec"].get("selector") or {})
    selector.setdefault("matchLabels", {})[HASH_LABEL] = digest
    replica_set: Object = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{name_of(deployment)}-{digest}",
            "namespace": namespace_of(deployment),
            "labels": dict(template["metadata"]["labels"]),
            "annotations": {
                **inherited_annotations(deployment),
                **scale_annotations(deployment),
                REVISION: str(next_revision(olds)),
            },
            "ownerReferences": [make_controller_ref(deployment, kind)],
        },
        "spec": {"replicas": 0, "selector": selector, "template": template},
    }
    if deployment["spec"].get("minReadySeconds"):
        replica_set["spec"]["minReadySeconds"] = deployment["spec"]["minReadySeconds"]
    replica_set["spec"]["replicas"] = new_replicas(deployment, [*olds, replica_set], replica_set)
    return replica_set


def inherited_annotations(deployment: Mapping[str, Any]) -> dict[str, str]:
    """The Deployment's annotations a ReplicaSet carries, `kubernetes.io/change-cause` among them."""
    return {k: v for k, v in annotations_of(deployment).items() if k not in _OWN_ANNOTATIONS}


def scale_annotations(deployment: Mapping[str, Any]) -> dict[str, str]:
    desired = replicas_of(deployment)
    return {DESIRED_REPLICAS: str(desired), MAX_REPLICAS: str(desired + fenceposts(deployment)[0])}


def next_revision(olds: Iterable[Mapping[str, Any]]) -> int:
    return max((revision_of(rs) for rs in olds), default=0) + 1


def new_replicas(deployment: Mapping[str, Any], everything: Iterable[Object], new: Object) -> int:
    """How large the new ReplicaSet may be now."""
    desired, current = replicas_of(deployment), replicas_of(new)
    if strategy_of(deployment) != "RollingUpdate":
        return desired
    total = sum(replicas_of(rs) for rs in everything)
    limit = desired + fenceposts(deployment)[0]
    if total >= limit:
        return current
    return current + max(0, min(limit - total, desired - current))


def plan(
    deployment: Mapping[str, Any],
    replica_sets: Sequence[Object],
    *,
    kind: Kind,
    now: datetime,
    old_pods_running: bool = False,
    collision_count: int | None = None,
) -> Step:
    """The next step of `deployment`, given the ReplicaSets it controls.

    `old_pods_running` is asked for by Recreate only: whether a pod of another template still exists.
    """
    if collision_count is None:
        collision_count = count(deployment, "collisionCount")
    step = Step()
    new = find_new(deployment, replica_sets)
    olds = [rs for rs in by_age(replica_sets) if new is None or uid_of(rs) != uid_of(new)]
    if is_deleting(deployment):
        step.status = next_status(deployment, new, olds, now)
        return step

    paused = bool(deployment["spec"].get("paused"))
    if paused or _scale_pending(deployment, replica_sets):
        if new is not None:
            _sync_new(step, deployment, new, olds)
        _scale(step, deployment, new, olds)
        if paused:
            _cleanup(step, deployment, olds)
    elif strategy_of(deployment) == "Recreate":
        new = _recreate(step, deployment, new, olds, kind, collision_count, old_pods_running)
    else:
        new = _rolling(step, deployment, new, olds, kind, collision_count)

    current = new if new is not None else step.create
    if current is not None and annotations_of(deployment).get(REVISION) != _revision_after(step, current):
        step.annotations[REVISION] = _revision_after(step, current)
    step.status = next_status(deployment, current, olds, now, created=step.create is not None)
    if _complete(deployment, step.status) and not step.changes and step.create is None:
        _cleanup(step, deployment, olds)
    step.requeue_after_s = _deadline_in_s(deployment, step.status, now)
    return step


def _revision_after(step: Step, current: Mapping[str, Any]) -> str:
    for change in step.changes:
        if uid_of(change.replica_set) == uid_of(current) and REVISION in change.annotations:
            return change.annotations[REVISION]
    return annotations_of(current).get(REVISION, "1")


def _scale_pending(deployment: Mapping[str, Any], replica_sets: Iterable[Object]) -> bool:
    """Whether `spec.replicas` was changed since the active ReplicaSets were last sized."""
    desired = str(replicas_of(deployment))
    return any(
        replicas_of(rs) > 0 and annotations_of(rs).get(DESIRED_REPLICAS, desired) != desired for rs in replica_sets
    )


def _sync_new(step: Step, deployment: Mapping[str, Any], new: Object, olds: Sequence[Object]) -> None:
    """Revision and inherited annotations of the current ReplicaSet (an undo makes an old one current again)."""
    have = annotations_of(new)
    wanted = {k: v for k, v in inherited_annotations(deployment).items() if have.get(k) != v}
    revision = next_revision(olds)
    if revision_of(new) < revision:
        wanted[REVISION] = str(revision)
        previous = have.get(REVISION)
        if previous:
            history = have.get(REVISION_HISTORY)
            wanted[REVISION_HISTORY] = f"{history},{previous}" if history else previous
    min_ready_s = int(deployment["spec"].get("minReadySeconds") or 0)
    same = min_ready_s == int(new["spec"].get("minReadySeconds") or 0)
    if wanted or not same:
        step.changes.append(Change(new, annotations=wanted, min_ready_s=None if same else min_ready_s))


def _resize(step: Step, deployment: Mapping[str, Any], replica_set: Object, size: int) -> bool:
    """Record a resize (merged with another change of the same ReplicaSet); False when nothing changes."""
    have = annotations_of(replica_set)
    notes = {k: v for k, v in scale_annotations(deployment).items() if have.get(k) != v}
    resized = size != replicas_of(replica_set)
    if not resized and not notes:
        return False
    for index, change in enumerate(step.changes):
        if uid_of(change.replica_set) == uid_of(replica_set):
            step.changes[index] = evolve(
                change, replicas=size if resized else None, annotations={**change.annotations, **notes}
            )
            break
    else:
        step.changes.append(Change(replica_set, size if resized else None, notes))
    return resized


def _ensure_new(
    step: Step,
    deployment: Mapping[str, Any],
    new: Object | None,
    olds: Sequence[Object],
    kind: Kind,
    collision_count: int,
) -> Object | None:
    if new is None:
        step.create = new_replica_set(deployment, kind, olds, collision_count)
        return None
    _sync_new(step, deployment, new, olds)
    return new


def _rolling(
    step: Step,
    deployment: Mapping[str, Any],
    new: Object | None,
    olds: list[Object],
    kind: Kind,
    collision_count: int,
) -> Object | None:
    new = _ensure_new(step, deployment, new, olds, kind, collision_count)
    if new is None:
        return None
    desired, current = replicas_of(deployment), replicas_of(new)
    target = desired if current > desired else new_replicas(deployment, [*olds, new], new)
    if _resize(step, deployment, new, target):
        return new
    _shrink_olds(step, deployment, new, olds)
    return new


def _shrink_olds(step: Step, deployment: Mapping[str, Any], new: Object, olds: list[Object]) -> None:
    """Unhealthy old replicas first, then healthy ones as far as availability allows."""
    active = [rs for rs in olds if replicas_of(rs) > 0]
    if not active:
        return
    least = replicas_of(deployment) - max_unavailable(deployment)
    total = sum(replicas_of(rs) for rs in [*active, new])
    new_unavailable = replicas_of(new) - count(new, "availableReplicas")
    removable = total - least - new_unavailable
    if removable <= 0:
        return
    sizes = {uid_of(rs): replicas_of(rs) for rs in active}
    removed = 0
    for rs in active:
        gone = min(removable - removed, sizes[uid_of(rs)] - count(rs, "availableReplicas"))
        if gone > 0:
            sizes[uid_of(rs)] -= gone
            removed += gone
    available = sum(min(count(rs, "availableReplicas"), sizes[uid_of(rs)]) for rs in active)
    spare = available + count(new, "availableReplicas") - least
    for rs in active:
        gone = min(sizes[uid_of(rs)], spare)
        if gone > 0:
            sizes[uid_of(rs)] -= gone
            spare -= gone
    for rs in active:
        _resize(step, deployment, rs, sizes[uid_of(rs)])


def _recreate(
    step: Step,
    deployment: Mapping[str, Any],
    new: Object | None,
    olds: list[Object],
    kind: Kind,
    collision_count: int,
    old_pods_running: bool,
) -> Object | None:
    shrunk = [_resize(step, deployment, rs, 0) for rs in olds if replicas_of(rs) > 0]
    if any(shrunk) or old_pods_running:
        return new
    new = _ensure_new(step, deployment, new, olds, kind, collision_count)
    if new is not None:
        _resize(step, deployment, new, replicas_of(deployment))
    return new


def _scale(step: Step, deployment: Mapping[str, Any], new: Object | None, olds: list[Object]) -> None:
    """Follow `spec.replicas`: one active set takes it all, several share it in proportion to their size."""
    desired = replicas_of(deployment)
    everything = [*olds, *([new] if new is not None else [])]
    active = [rs for rs in everything if replicas_of(rs) > 0]
    if len(active) <= 1:
        only = active[0] if active else (new if new is not None else (olds[-1] if olds else None))
        if only is not None:
            _resize(step, deployment, only, desired)
        return
    if new is not None and _saturated(deployment, new):
        for rs in olds:
            if replicas_of(rs) > 0:
                _resize(step, deployment, rs, 0)
        return
    if strategy_of(deployment) != "RollingUpdate":
        return
    total = sum(replicas_of(rs) for rs in active)
    allowed = desired + fenceposts(deployment)[0] if desired > 0 else 0
    sizes = shares([replicas_of(rs) for rs in active], allowed - total)
    for rs, size in zip(active, sizes, strict=True):
        _resize(step, deployment, rs, size)


def shares(sizes: Sequence[int], delta: int) -> list[int]:
    """`sizes` changed by `delta` in all, each in proportion to its size; the largest takes the rounding."""
    total = sum(sizes)
    if total == 0 or delta == 0:
        return list(sizes)
    result = list(sizes)
    left = delta
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    for index in order:
        part = round(sizes[index] * delta / total)
        part = max(-sizes[index], min(part, left)) if delta > 0 else max(-sizes[index], max(part, left))
        result[index] += part
        left -= part
    for index in order:
        if left == 0:
            break
        part = left if left > 0 else max(left, -result[index])
        result[index] += part
        left -= part
    return result


def _saturated(deployment: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    desired = replicas_of(deployment)
    return (
        annotations_of(new).get(DESIRED_REPLICAS) == str(desired)
        and replicas_of(new) == desired
        and count(new, "availableReplicas") == desired
    )


def _cleanup(step: Step, deployment: Mapping[str, Any], olds: Sequence[Object]) -> None:
    """Old, empty ReplicaSets beyond `revisionHistoryLimit`, lowest revision first."""
    limit = deployment["spec"].get("revisionHistoryLimit")
    limit = 10 if limit is None else int(limit)
    empty = [
        rs
        for rs in olds
        if replicas_of(rs) == 0
        and count(rs, "replicas") == 0
        and not is_deleting(rs)
        and count(rs, "observedGeneration") >= int(rs["metadata"].get("generation") or 0)
    ]
    surplus = len([rs for rs in olds if not is_deleting(rs)]) - limit
    if surplus > 0:
        step.deletes.extend(sorted(empty, key=revision_of)[:surplus])


# --- status -------------------------------------------------------------------------------------------------


def next_status(
    deployment: Mapping[str, Any],
    new: Mapping[str, Any] | None,
    olds: Sequence[Mapping[str, Any]],
    now: datetime,
    *,
    created: bool = False,
) -> Object:
    """The Deployment's status as the ReplicaSets' statuses make it. Zero counters are left out."""
    everything = [*olds, *([new] if new is not None else [])]
    available = sum(count(rs, "availableReplicas") for rs in everything)
    counters = {
        "replicas": sum(count(rs, "replicas") for rs in everything),
        "updatedReplicas": count(new, "replicas") if new is not None else 0,
        "readyReplicas": sum(count(rs, "readyReplicas") for rs in everything),
        "availableReplicas": available,
        "unavailableReplicas": max(0, sum(replicas_of(rs) for rs in everything) - available),
        "terminatingReplicas": sum(count(rs, "terminatingReplicas") for rs in everything),
    }
    old_status = deployment.get("status") or {}
    status: Object = {"observedGeneration": int(deployment["metadata"].get("generation") or 0)}
    status.update({name: value for name, value in counters.items() if value})
    if old_status.get("collisionCount"):
        status["collisionCount"] = old_status["collisionCount"]
    conditions = copy.deepcopy(list(old_status.get("conditions") or ()))
    enough = available >= replicas_of(deployment) - max_unavailable(deployment)
    if enough:
        _set(conditions, "Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now)
    else:
        _set(
            conditions,
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
            now,
        )
    status["conditions"] = conditions
    if not is_deleting(deployment):
        _progress(deployment, status, new, now, created=created)
    _replica_failure(status, new, olds, now)
    return status


def progress_deadline_s(deployment: Mapping[str, Any]) -> int | None:
    """`None` when there is no deadline (Kubernetes spells that as the largest int32)."""
    value = deployment["spec"].get("progressDeadlineSeconds")
    value = 600 if value is None else int(value)
    return None if value >= 2147483647 else value


def _progress(
    deployment: Mapping[str, Any], status: Object, new: Mapping[str, Any] | None, now: datetime, *, created: bool
) -> None:
    conditions = status["conditions"]
    if progress_deadline_s(deployment) is None:
        conditions[:] = [c for c in conditions if c["type"] != "Progressing"]
        return
    current = _find(conditions, "Progressing")
    if deployment["spec"].get("paused"):
        if current is None or current["reason"] != "DeploymentPaused":
            _set(conditions, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now)
        return
    if current is not None and current["reason"] == "DeploymentPaused":
        _set(conditions, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", now)
        return
    what = f'ReplicaSet "{name_of(new)}"' if new is not None else f'Deployment "{name_of(deployment)}"'
    if created and new is not None:
        message = f'Created new replica set "{name_of(new)}"'
        _set(conditions, "Progressing", "True", "NewReplicaSetCreated", message, now)
        return
    was_complete = current is not None and current["reason"] == "NewReplicaSetAvailable"
    if was_complete and status.get("replicas", 0) == status.get("updatedReplicas", 0) and _same_template(current, what):
        return
    if current is None and new is not None:
        message = f'Found new replica set "{name_of(new)}"'
        _set(conditions, "Progressing", "True", "FoundNewReplicaSet", message, now)
    if _complete(deployment, status):
        _set(conditions, "Progressing", "True", "NewReplicaSetAvailable", f"{what} has successfully progressed.", now)
    elif _progressed(deployment, status) or (was_complete and not _same_template(current, what)):
        _set(conditions, "Progressing", "True", "ReplicaSetUpdated", f"{what} is progressing.", now, touch=True)
    elif _timed_out(deployment, current, now):
        message = f"{what} has timed out progressing."
        _set(conditions, "Progressing", "False", "ProgressDeadlineExceeded", message, now)


def _same_template(condition: Mapping[str, Any] | None, what: str) -> bool:
    """Whether the finished rollout the condition speaks of is the one of the current ReplicaSet."""
    return condition is not None and str(condition.get("message", "")).startswith(what)


def _complete(deployment: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    desired = replicas_of(deployment)
    return all(status.get(n, 0) == desired for n in ("updatedReplicas", "replicas", "availableReplicas"))


def _progressed(deployment: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    before = deployment.get("status") or {}

    def old(s: Mapping[str, Any]) -> int:
        return int(s.get("replicas") or 0) - int(s.get("updatedReplicas") or 0)

    grew = any(
        int(status.get(n) or 0) > int(before.get(n) or 0)
        for n in ("updatedReplicas", "readyReplicas", "availableReplicas")
    )
    return grew or old(status) < old(before)


def _timed_out(deployment: Mapping[str, Any], condition: Mapping[str, Any] | None, now: datetime) -> bool:
    deadline = progress_deadline_s(deployment)
    if condition is None or deadline is None or condition["reason"] == "NewReplicaSetAvailable":
        return False
    if condition["reason"] == "ProgressDeadlineExceeded":
        return True
    return parse_rfc3339(condition["lastUpdateTime"]) + timedelta(seconds=deadline) <= now


def _deadline_in_s(deployment: Mapping[str, Any], status: Mapping[str, Any], now: datetime) -> float | None:
    """Seconds until the progress deadline would pass, while something is still to progress."""
    condition = _find(status.get("conditions") or [], "Progressing")
    deadline = progress_deadline_s(deployment)
    if condition is None or deadline is None:
        return None
    if condition["reason"] in ("NewReplicaSetAvailable", "ProgressDeadlineExceeded", "DeploymentPaused"):
        return None
    left = parse_rfc3339(condition["lastUpdateTime"]) + timedelta(seconds=deadline) - now
    return max(0.0, left.total_seconds()) + 0.1


def _replica_failure(
    status: Object, new: Mapping[str, Any] | None, olds: Sequence[Mapping[str, Any]], now: datetime
) -> None:
    conditions = status["conditions"]
    candidates = [new] if new is not None else []
    candidates += list(olds)
    for rs in candidates:
        failure = _find((rs.get("status") or {}).get("conditions") or [], "ReplicaFailure")
        if failure is not None and failure.get("status") == "True":
            _set(conditions, "ReplicaFailure", "True", failure.get("reason", ""), failure.get("message", ""), now)
            return
    conditions[:] = [c for c in conditions if c["type"] != "ReplicaFailure"]


def _find(conditions: Sequence[Mapping[str, Any]], type_: str) -> Mapping[str, Any] | None:
    return next((c for c in conditions if c.get("type") == type_), None)


def _set(
    conditions: list[Object], type_: str, status: str, reason: str, message: str, now: datetime, *, touch: bool = False
) -> None:
    """Set a Deployment condition. `touch` renews lastUpdateTime although nothing else changed (it is the
    stopwatch of the progress deadline)."""
    stamp = rfc3339(now)
    fresh = {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastUpdateTime": stamp,
        "lastTransitionTime": stamp,
    }
    current = _find(conditions, type_)
    if current is None:
        conditions.append(fresh)
        return
    unchanged = all(current.get(k) == fresh[k] for k in ("status", "reason", "message"))
    if unchanged and not touch:
        return
    if current.get("status") == status:
        fresh["lastTransitionTime"] = current.get("lastTransitionTime", stamp)
    conditions[:] = [fresh if c.get("type") == type_ else c for c in conditions]
