"""What a DaemonSet does next. Pure: the set, the nodes and its pods in, a `DaemonStep` out.

    node     fits ── one pod, the oldest; two while the second takes over (maxSurge)
             bars new pods only (NoSchedule) ── what is there stays
             does not fit, bars all, is gone ── none

First every node gets what it should have; only a step that has nothing to do there replaces pods of an old template.
Source: Kubernetes' daemon set controller; its names are kept so that the two can be read side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from attrs import define, field, frozen

from agentops.local.controllers.pods import (
    Object,
    annotations_of,
    available_in_s,
    created_at,
    is_deleting,
    is_finished,
    is_ready,
    labels_of,
    name_of,
    namespace_of,
    phase_of,
    pod_from_template,
)
from agentops.local.controllers.revisions import REVISION_LABEL
from agentops.local.controllers.rollout import count, scaled_value
from agentops.local.nodefit import NODE_NAME_FIELD, REQUIRED, chooses, untolerated
from agentops.values.kinds import Kind

GENERATION_LABEL = "pod-template-generation"
TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"
_TOLERATED = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)
_TOLERATED_ON_HOST_NETWORK = (*_TOLERATED, ("node.kubernetes.io/network-unavailable", "NoSchedule"))


@define(slots=True)
class DaemonStep:
    """What to do now; `requeue_after_s` is when a pod becomes available or a failed one may be replaced."""

    create: list[str] = field(factory=list)
    """Names of nodes, one for each new pod."""
    deletes: list[Object] = field(factory=list)
    lost: list[Object] = field(factory=list)
    """Pods on a node that is not there: nobody will end them."""
    failed: list[str] = field(factory=list)
    """Names of nodes from which a failed pod is deleted."""
    events: list[tuple[str, str, str]] = field(factory=list)
    """Type, reason, message."""
    status: Object = field(factory=dict)
    requeue_after_s: float | None = None

    @property
    def changes_pods(self) -> bool:
        return bool(self.create or self.deletes or self.lost)

    def wake_in(self, wait_s: float) -> None:
        self.requeue_after_s = min(wait_s, self.requeue_after_s or wait_s)


@frozen(slots=True)
class Verdict:
    """What a node lets the pods of a DaemonSet do."""

    run: bool
    stay: bool


def verdict(daemon_set: Mapping[str, Any], node: Mapping[str, Any]) -> Verdict:
    spec = daemon_set["spec"]["template"]["spec"]
    if (spec.get("nodeName") or name_of(node)) != name_of(node) or not chooses(spec, node):
        return Verdict(run=False, stay=False)
    taints = (node.get("spec") or {}).get("taints")
    tolerations = tolerations_for(spec)
    if untolerated(tolerations, taints) is None:
        return Verdict(run=True, stay=True)
    return Verdict(run=False, stay=untolerated(tolerations, taints, {"NoExecute"}) is None)


def tolerations_for(pod_spec: Mapping[str, Any]) -> list[Object]:
    """The template's own, and what every daemon tolerates: a node in trouble is where it is needed."""
    keys = _TOLERATED_ON_HOST_NETWORK if pod_spec.get("hostNetwork") else _TOLERATED
    standard = [{"key": key, "operator": "Exists", "effect": effect} for key, effect in keys]
    own = [dict(t) for t in pod_spec.get("tolerations") or () if not any(s.items() <= t.items() for s in standard)]
    return [*own, *standard]


def target_node(pod: Mapping[str, Any]) -> str:
    """The node a pod is on, or was made for; empty when nothing says so."""
    spec = pod.get("spec") or {}
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(REQUIRED) or {}
    for term in required.get("nodeSelectorTerms") or ():
        for wanted in term.get("matchFields") or ():
            values: Sequence[str] = wanted.get("values") or ()
            if wanted["key"] == NODE_NAME_FIELD and wanted["operator"] == "In" and len(values) == 1:
                return str(values[0])
    return ""


def pod_for(daemon_set: Mapping[str, Any], node: str, revision_hash: str, kind: Kind) -> Object:
    """The pod of one node. The scheduler binds it: the affinity leaves it no choice, whatever was in its place."""
    pod = pod_from_template(daemon_set["spec"]["template"], daemon_set, kind)
    pod["metadata"]["labels"][REVISION_LABEL] = revision_hash
    if generation := annotations_of(daemon_set).get(TEMPLATE_GENERATION):
        pod["metadata"]["labels"][GENERATION_LABEL] = generation
    spec = pod["spec"]
    spec["tolerations"] = tolerations_for(spec)
    term = {"matchFields": [{"key": NODE_NAME_FIELD, "operator": "In", "values": [node]}]}
    affinity = dict(spec.get("affinity") or {})
    affinity["nodeAffinity"] = {**(affinity.get("nodeAffinity") or {}), REQUIRED: {"nodeSelectorTerms": [term]}}
    spec["affinity"] = affinity
    return pod


def plan(
    daemon_set: Mapping[str, Any],
    nodes: Iterable[Object],
    pods: Sequence[Object],
    *,
    revision_hash: str,
    now: datetime,
    held_s: Callable[[str], float] = lambda node: 0.0,
) -> DaemonStep:
    """The next step. `held_s` says for a node how long a failed pod stays there before it is replaced."""
    return _Planner(daemon_set, nodes, pods, revision_hash, now, held_s).plan()


class _Planner:
    def __init__(
        self,
        daemon_set: Mapping[str, Any],
        nodes: Iterable[Object],
        pods: Sequence[Object],
        revision_hash: str,
        now: datetime,
        held_s: Callable[[str], float],
    ) -> None:
        self._set = daemon_set
        self._hash = revision_hash
        self._now = now
        self._held_s = held_s
        self._min_ready_s = float(daemon_set["spec"].get("minReadySeconds") or 0)
        self._verdicts = {name_of(node): verdict(daemon_set, node) for node in sorted(nodes, key=name_of)}
        self._on: dict[str, list[Object]] = {}
        for pod in sorted(pods, key=_age):
            # One that has ended and is being deleted waits for its finalizers; there is nothing left to do for it.
            if not (is_finished(pod) and is_deleting(pod)) and (node := target_node(pod)):
                self._on.setdefault(node, []).append(pod)
        self._desired = sum(v.run for v in self._verdicts.values())
        self._surge, self._unavailable = self._fenceposts()
        self._step = DaemonStep()

    def plan(self) -> DaemonStep:
        for node, says in self._verdicts.items():
            self._manage(node, says, [p for p in self._on.get(node, ()) if not is_deleting(p)])
        self._sweep()
        if not self._step.changes_pods and self._rolls():
            if self._surge:
                self._roll_with_surge()
            else:
                self._roll()
        for pod in (p for there in self._on.values() for p in there):
            if wait_s := self._available_in(pod):
                self._step.wake_in(wait_s)
        self._step.status = self._status()
        return self._step

    def _rolls(self) -> bool:
        return bool((self._set["spec"].get("updateStrategy") or {}).get("type", "RollingUpdate") == "RollingUpdate")

    def _fenceposts(self) -> tuple[int, int]:
        """(max surge, max unavailable) in nodes; both 0 becomes one unavailable, or nothing could ever move."""
        if not self._rolls():
            return 0, 0
        rolling = (self._set["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
        surge = scaled_value(rolling.get("maxSurge", 0), self._desired, round_up=True)
        unavailable = scaled_value(rolling.get("maxUnavailable", 1), self._desired, round_up=True)
        return surge, unavailable if surge or unavailable else 1

    # every node has what it should have

    def _manage(self, node: str, says: Verdict, staying: list[Object]) -> None:
        if not says.stay:
            self._step.deletes += staying
            return
        running = [p for p in staying if not is_finished(p)]
        ended = [p for p in staying if is_finished(p)]
        held_s = self._held_s(node) if any(phase_of(p) == "Failed" for p in ended) else 0.0
        if held_s:
            self._step.wake_in(held_s)
        for pod in ended:
            if phase_of(pod) != "Failed" or not held_s:
                self._end(node, pod)
        # Whatever is still there has to be gone first, unless two at a time are allowed.
        if says.run and not running and not held_s and (self._surge or not self._on.get(node)):
            self._step.create.append(node)
        elif len(running) > 1:
            self._step.deletes += self._surplus(running)

    def _end(self, node: str, pod: Object) -> None:
        self._step.deletes.append(pod)
        what = f"daemon pod {namespace_of(pod)}/{name_of(pod)} on node {node}"
        if phase_of(pod) == "Failed":
            self._step.failed.append(node)
            self._step.events.append(("Warning", "FailedDaemonPod", f"Found failed {what}, will try to kill it"))
        else:
            text = f"Found succeeded {what}, will try to delete it"
            self._step.events.append(("Normal", "SucceededDaemonPod", text))

    def _surplus(self, running: list[Object]) -> list[Object]:
        """All but the oldest. With maxSurge also the oldest of the current template, while the other one serves."""
        if not self._surge:
            return running[1:]
        new, old = self._split(running)
        surplus = new[1:] + old[1:]
        if new and old and (not is_ready(old[0]) or self._available_in(new[0]) == 0):
            surplus.append(old[0])
        return surplus

    def _sweep(self) -> None:
        """Pods for nodes that are not there."""
        for pod in (p for node, there in self._on.items() if node not in self._verdicts for p in there):
            if pod["spec"].get("nodeName"):
                if pod["metadata"].get("deletionGracePeriodSeconds") != 0:
                    self._step.lost.append(pod)
            elif not is_deleting(pod):
                self._step.deletes.append(pod)

    # pods of an old template make room

    def _roll(self) -> None:
        """Delete the old pods that do not work, and of the others as many as may be missing beside those.

        The next step makes new ones in their place.
        """
        missing = 0
        broken: list[Object] = []
        candidates: list[Object] = []
        for _, new, old in self._pairs():
            if old is None or new is not None:
                missing += new is None or old is not None or self._available_in(new) != 0
            elif self._available_in(old) == 0:
                candidates.append(old)
            else:
                missing += 1
                broken.append(old)
        self._step.deletes += broken + candidates[: max(0, self._unavailable - missing)]

    def _roll_with_surge(self) -> None:
        """Make new pods beside old ones, and delete an old one when the new one is available."""
        surging = available = 0
        broken: list[str] = []
        candidates: list[str] = []
        leaving: list[Object] = []
        for node, new, old in self._pairs():
            serving = old or new
            available += serving is not None and self._available_in(serving) == 0
            if old is None:
                continue
            if new is not None:
                if self._available_in(new) == 0:
                    self._step.deletes.append(old)
                else:
                    surging += 1
            elif not self._verdicts[node].run:
                leaving.append(old)
            else:
                (candidates if self._available_in(old) == 0 else broken).append(node)
        # Where no new pod may come, the old one serves until there are enough elsewhere.
        for pod in leaving:
            if self._available_in(pod) != 0:
                self._step.deletes.append(pod)
            elif available > self._desired:
                available -= 1
                self._step.deletes.append(pod)
        self._step.create += broken + candidates[: max(0, self._surge - surging)]

    def _pairs(self) -> Iterable[tuple[str, Object | None, Object | None]]:
        """By node: the pod of the current template, and the one of another."""
        for node, says in self._verdicts.items():
            there = self._on.get(node, [])
            if says.run or there:
                new, old = self._split([p for p in there if not is_deleting(p)])
                yield node, next(iter(new), None), next(iter(old), None)

    def _split(self, pods: Iterable[Object]) -> tuple[list[Object], list[Object]]:
        new: list[Object] = []
        old: list[Object] = []
        for pod in pods:
            (new if self._is_new(pod) else old).append(pod)
        return new, old

    def _is_new(self, pod: Object) -> bool:
        return labels_of(pod).get(REVISION_LABEL) == self._hash

    def _available_in(self, pod: Object) -> float | None:
        return available_in_s(pod, self._min_ready_s, self._now)

    def _status(self) -> Object:
        first = {node: there[0] for node, there in self._on.items()}
        scheduled = [first[node] for node, says in self._verdicts.items() if says.run and node in first]
        ready = [p for p in scheduled if is_ready(p)]
        available = sum(self._available_in(p) == 0 for p in ready)
        counters = {
            "observedGeneration": int(self._set["metadata"].get("generation") or 0),
            "updatedNumberScheduled": sum(map(self._is_new, scheduled)),
            "numberAvailable": available,
            "numberUnavailable": self._desired - available,
            "collisionCount": count(self._set, "collisionCount"),
        }
        return {
            "currentNumberScheduled": len(scheduled),
            "numberMisscheduled": sum(not says.run and node in first for node, says in self._verdicts.items()),
            "desiredNumberScheduled": self._desired,
            "numberReady": len(ready),
            **{name: value for name, value in counters.items() if value},
        }


def _age(pod: Object) -> tuple[Any, ...]:
    """Bound before unbound, then old before young."""
    return not (pod.get("spec") or {}).get("nodeName"), created_at(pod), name_of(pod)
