"""What a StatefulSet does next. Pure: the set, its pods and its revisions in, an `OrdinalStep` out.

Pods are created from the lowest ordinal up, removed from the highest down, and replaced from the highest down to the
partition; with `OrderedReady` each waits until the one before is available, with `Parallel` only replacing waits.
Source: Kubernetes' stateful set controller.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from attrs import define, field

from agentops.local.controllers.pods import (
    Object,
    available_in_s,
    is_deleting,
    is_finished,
    is_ready,
    labels_of,
    make_controller_ref,
    name_of,
    namespace_of,
    pod_from_template,
    uid_of,
)
from agentops.local.controllers.revisions import REVISION_LABEL
from agentops.local.controllers.rollout import replicas_of
from agentops.values.kinds import Kind

POD_NAME_LABEL = "statefulset.kubernetes.io/pod-name"
POD_INDEX_LABEL = "apps.kubernetes.io/pod-index"
_ORDINAL = re.compile(r"(.*)-(\d+)")


@define(slots=True)
class OrdinalStep:
    """What to do now; `requeue_after_s` is when the next pod becomes available."""

    create: list[int] = field(factory=list)
    deletes: list[Object] = field(factory=list)
    status: Object = field(factory=dict)
    requeue_after_s: float | None = None


def ordinal_of(pod: Mapping[str, Any], set_name: str) -> int | None:
    """The number behind the set's name; `None` for a pod that is not one of its own."""
    match = _ORDINAL.fullmatch(name_of(pod))
    return int(match[2]) if match and match[1] == set_name else None


def first_ordinal(stateful_set: Mapping[str, Any]) -> int:
    return int((stateful_set["spec"].get("ordinals") or {}).get("start") or 0)


def partition_of(stateful_set: Mapping[str, Any]) -> int:
    """Ordinals below it keep their old revision."""
    strategy = stateful_set["spec"].get("updateStrategy") or {}
    return first_ordinal(stateful_set) + int((strategy.get("rollingUpdate") or {}).get("partition") or 0)


def revision_for(stateful_set: Mapping[str, Any], ordinal: int, current: str, update: str) -> str:
    """The revision a new pod of this ordinal is made from."""
    return current if ordinal < partition_of(stateful_set) else update


def ordinals_of(stateful_set: Mapping[str, Any]) -> range:
    """The ordinals that the set wants."""
    start = first_ordinal(stateful_set)
    return range(start, start + replicas_of(stateful_set))


def plan(
    stateful_set: Mapping[str, Any], pods: Sequence[Object], *, current: str, update: str, now: datetime
) -> OrdinalStep:
    """The next step. `current` and `update` are revision names; equal when no update is under way."""
    by_ordinal = {o: p for p in pods if (o := ordinal_of(p, name_of(stateful_set))) is not None}
    wanted = ordinals_of(stateful_set)
    step = OrdinalStep(status=_status(stateful_set, by_ordinal, current, update, now))
    waits = [w for p in by_ordinal.values() if (w := _available_in(stateful_set, p, now))]
    step.requeue_after_s = min(waits, default=None)
    ordered = stateful_set["spec"].get("podManagementPolicy", "OrderedReady") != "Parallel"
    if not _grow(step, by_ordinal, wanted, stateful_set, now, ordered=ordered):
        return step
    if not _shrink(step, by_ordinal, wanted, ordered=ordered):
        return step
    _update(step, by_ordinal, wanted, stateful_set, update, now)
    return step


def _grow(
    step: OrdinalStep,
    by_ordinal: Mapping[int, Object],
    wanted: range,
    stateful_set: Mapping[str, Any],
    now: datetime,
    *,
    ordered: bool,
) -> bool:
    """Create what is missing, replace what has ended; whether what comes after may go on."""
    settled = True
    for ordinal in wanted:
        pod = by_ordinal.get(ordinal)
        if pod is not None and is_finished(pod) and not is_deleting(pod):
            step.deletes.append(pod)
        elif pod is None:
            step.create.append(ordinal)
        elif not is_deleting(pod) and _available_in(stateful_set, pod, now) == 0:
            continue
        settled = False
        if ordered:
            return False
    return settled or not (step.create or step.deletes)


def _shrink(step: OrdinalStep, by_ordinal: Mapping[int, Object], wanted: range, *, ordered: bool) -> bool:
    for ordinal in sorted((o for o in by_ordinal if o not in wanted), reverse=True):
        pod = by_ordinal[ordinal]
        if not is_deleting(pod):
            step.deletes.append(pod)
        if ordered:
            return False
    return not step.deletes


def _update(
    step: OrdinalStep,
    by_ordinal: Mapping[int, Object],
    wanted: range,
    stateful_set: Mapping[str, Any],
    update: str,
    now: datetime,
) -> None:
    if (stateful_set["spec"].get("updateStrategy") or {}).get("type", "RollingUpdate") != "RollingUpdate":
        return
    for ordinal in reversed(wanted):
        pod = by_ordinal.get(ordinal)
        if pod is None or ordinal < partition_of(stateful_set):
            return
        if labels_of(pod).get(REVISION_LABEL) != update and not is_deleting(pod):
            step.deletes.append(pod)
            return
        if is_deleting(pod) or _available_in(stateful_set, pod, now) != 0:
            return


def _available_in(stateful_set: Mapping[str, Any], pod: Mapping[str, Any], now: datetime) -> float | None:
    return available_in_s(pod, float(stateful_set["spec"].get("minReadySeconds") or 0), now)


def _status(
    stateful_set: Mapping[str, Any], by_ordinal: Mapping[int, Object], current: str, update: str, now: datetime
) -> Object:
    alive = [p for p in by_ordinal.values() if not is_finished(p)]
    ready = [p for p in alive if is_ready(p)]
    available = [p for p in ready if _available_in(stateful_set, p, now) == 0]
    staying = [p for p in alive if not is_deleting(p)]
    updated = [p for p in staying if labels_of(p).get(REVISION_LABEL) == update]
    size = replicas_of(stateful_set)
    done = len(updated) == len(alive) == len(ready) == size
    counters = {
        "readyReplicas": len(ready),
        "currentReplicas": len(
            [p for p in staying if labels_of(p).get(REVISION_LABEL) == (update if done else current)]
        ),
        "updatedReplicas": len(updated),
    }
    return {
        "observedGeneration": int(stateful_set["metadata"].get("generation") or 0),
        "replicas": len(alive),
        "availableReplicas": len(available),
        "currentRevision": update if done else current,
        "updateRevision": update,
        "collisionCount": int((stateful_set.get("status") or {}).get("collisionCount") or 0),
        **{name: value for name, value in counters.items() if value},
    }


def claims_for(stateful_set: Mapping[str, Any], ordinal: int) -> list[Object]:
    """The claims of one pod, in the order of `volumeClaimTemplates`."""
    claims = []
    selector_labels = ((stateful_set["spec"].get("selector") or {}).get("matchLabels")) or {}
    for template in stateful_set["spec"].get("volumeClaimTemplates") or ():
        meta = template.get("metadata") or {}
        claims.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {
                    "name": f"{meta.get('name')}-{name_of(stateful_set)}-{ordinal}",
                    "namespace": namespace_of(stateful_set),
                    "labels": {**(meta.get("labels") or {}), **selector_labels},
                    "annotations": dict(meta.get("annotations") or {}),
                },
                "spec": copy.deepcopy(template["spec"]),
            }
        )
    return claims


def claim_owners(
    claim: Mapping[str, Any], stateful_set: Mapping[str, Any], set_kind: Kind, pod: Mapping[str, Any], pod_kind: Kind
) -> list[Object]:
    """The owner references a pod's claim should have by `persistentVolumeClaimRetentionPolicy`.

    With whenScaled Delete a pod beyond the replicas owns its claim, with whenDeleted Delete the set owns the claims
    of the pods it keeps; the garbage collector does the rest. References to others stay. A claim that somebody else
    controls, or that an earlier set or pod of the same name owns, gets no owner from here.
    """
    refs = [dict(r) for r in claim["metadata"].get("ownerReferences") or ()]
    ours = {(set_kind.kind, name_of(stateful_set)): stateful_set, (pod_kind.kind, name_of(pod)): pod}
    mine, others, stale = [], [], False
    for ref in refs:
        owner = ours.get((str(ref.get("kind")), str(ref.get("name"))))
        if owner is None:
            others.append(ref)
        else:
            mine.append(ref)
            stale = stale or ref.get("uid") != uid_of(owner)
    if stale:
        return refs
    policy = stateful_set["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
    stays = ordinal_of(pod, name_of(stateful_set)) in ordinals_of(stateful_set)
    wanted: Object | None = None
    if policy.get("whenScaled") == "Delete" and not stays:
        wanted = make_controller_ref(pod, pod_kind)
    elif policy.get("whenDeleted") == "Delete" and (stays or policy.get("whenScaled") != "Delete"):
        wanted = make_controller_ref(stateful_set, set_kind)
    if wanted is None or any(r.get("controller") for r in others):
        return others
    return refs if mine == [wanted] else [*others, wanted]


def is_stale(claim: Mapping[str, Any], pod_name: str, pod_uid: str = "") -> bool:
    """Whether the claim is on its way out: deleted, or owned by an earlier pod of this name."""
    refs = claim["metadata"].get("ownerReferences") or ()
    earlier = [r for r in refs if (r.get("kind"), r.get("name")) == ("Pod", pod_name) and r.get("uid") != pod_uid]
    return is_deleting(claim) or bool(earlier)


def pod_for(
    stateful_set: Mapping[str, Any], template: Mapping[str, Any], ordinal: int, revision: str, kind: Kind
) -> Object:
    """The pod of one ordinal, with its stable name, host name and volumes."""
    name = f"{name_of(stateful_set)}-{ordinal}"
    pod = pod_from_template(template, stateful_set, kind, name=name)
    pod["metadata"]["labels"] |= {POD_NAME_LABEL: name, POD_INDEX_LABEL: str(ordinal), REVISION_LABEL: revision}
    pod["spec"]["hostname"] = name
    if stateful_set["spec"].get("serviceName"):
        pod["spec"]["subdomain"] = stateful_set["spec"]["serviceName"]
    templates = [t["metadata"]["name"] for t in stateful_set["spec"].get("volumeClaimTemplates") or ()]
    volumes = [v for v in pod["spec"].get("volumes") or () if v["name"] not in templates]
    volumes += [{"name": t, "persistentVolumeClaim": {"claimName": f"{t}-{name}"}} for t in templates]
    if volumes:
        pod["spec"]["volumes"] = volumes
    return pod
