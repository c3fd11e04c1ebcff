"""Whether a pod fits on a node, filter by filter as kube-scheduler has them, and in its words when it does not.

What is only preferred is not looked at: with one node there is nothing to prefer. Nobody is evicted for a pod of a
higher priority.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from attrs import frozen

from agentops.local.nodefit import REQUIRED, chooses, untolerated
from agentops.local.podresources import add, pod_requests, quantities
from agentops.values.selector import LabelSelector

Object = Mapping[str, Any]

_UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
_ANY_ADDRESS = "0.0.0.0"


@frozen(slots=True)
class Candidate:
    """A node, and what a pod would have to share it with."""

    node: Object
    pods: Sequence[Object]
    """Bound to the node and not at their end."""
    namespaces: Mapping[str, Mapping[str, str]]
    """Labels by name: needed only for pods of which `selects_namespaces` is true."""


def misfits(pod: Object, candidate: Candidate) -> list[str]:
    """Why `pod` cannot go to the node, as the first filter that refuses it says; empty when it can."""
    for refuse in _FILTERS:
        if reasons := sorted(refuse(pod, candidate)):
            return reasons
    return []


def selects_namespaces(pods: Iterable[Object]) -> bool:
    """Whether some rule among them picks namespaces by their labels."""
    return any("namespaceSelector" in term for pod in pods for kind in _POD_RULES for term in _pod_terms(pod, kind))


def _cordoned(pod: Object, candidate: Candidate) -> Iterable[str]:
    if _node_spec(candidate).get("unschedulable") and untolerated(pod["spec"].get("tolerations"), [_UNSCHEDULABLE]):
        yield "node(s) were unschedulable"


def _tainted(pod: Object, candidate: Candidate) -> Iterable[str]:
    taint = untolerated(pod["spec"].get("tolerations"), _node_spec(candidate).get("taints"))
    if taint is not None:
        yield f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"


def _node_spec(candidate: Candidate) -> Object:
    found: Object = candidate.node.get("spec") or {}
    return found


def _elsewhere(pod: Object, candidate: Candidate) -> Iterable[str]:
    if not chooses(pod["spec"], candidate.node):
        yield "node(s) didn't match Pod's node affinity/selector"


def _without_port(pod: Object, candidate: Candidate) -> Iterable[str]:
    wanted = set(_host_ports(pod))
    if wanted and any(_same_port(a, b) for a in wanted for other in candidate.pods for b in _host_ports(other)):
        yield "node(s) didn't have free ports for the requested pod ports"


def _host_ports(pod: Object) -> Iterable[tuple[str, str, int]]:
    spec = pod["spec"]
    sidecars = (c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always")
    for container in (*spec.get("containers", ()), *sidecars):
        for port in container.get("ports") or ():
            if port.get("hostPort"):
                yield port.get("hostIP") or _ANY_ADDRESS, port.get("protocol") or "TCP", port["hostPort"]


def _same_port(left: tuple[str, str, int], right: tuple[str, str, int]) -> bool:
    return left[1:] == right[1:] and (left[0] == right[0] or _ANY_ADDRESS in (left[0], right[0]))


def _too_much(pod: Object, candidate: Candidate) -> Iterable[str]:
    allocatable = quantities((candidate.node.get("status") or {}).get("allocatable"))
    if len(candidate.pods) + 1 > allocatable.get("pods", 0):
        yield "Too many pods"
    wanted = {name: amount for name, amount in pod_requests(pod).items() if amount}
    if not wanted:
        return
    taken: dict[str, Decimal] = {}
    for other in candidate.pods:
        add(taken, pod_requests(other))
    for name, amount in wanted.items():
        if amount > allocatable.get(name, Decimal(0)) - taken.get(name, Decimal(0)):
            yield f"Insufficient {name}"


def _uneven(pod: Object, candidate: Candidate) -> Iterable[str]:
    labels = candidate.node["metadata"].get("labels") or {}
    for rule in pod["spec"].get("topologySpreadConstraints") or ():
        if rule.get("whenUnsatisfiable", "DoNotSchedule") != "DoNotSchedule":
            continue
        if rule["topologyKey"] not in labels:
            yield "node(s) didn't match pod topology spread constraints (missing required label)"
            return
        # The one node is the only domain: its own count is the least there is, unless more domains must exist.
        if (rule.get("minDomains") or 1) <= 1:
            continue
        among = [other for other in candidate.pods if not other["metadata"].get("deletionTimestamp")]
        if sum(_spreads(rule, pod, other) for other in [*among, pod]) > rule["maxSkew"]:
            yield "node(s) didn't match pod topology spread constraints"
            return


def _spreads(rule: Object, pod: Object, other: Object) -> bool:
    return other["metadata"]["namespace"] == pod["metadata"]["namespace"] and _selected(rule, other)


def _apart(pod: Object, candidate: Candidate) -> Iterable[str]:
    labels = candidate.node["metadata"].get("labels") or {}

    def picks(owner: Object, term: Object, other: Object) -> bool:
        return _in_namespace(owner, term, other, candidate.namespaces) and _selected(term, other)

    together = _pod_terms(pod, "podAffinity")
    if together:
        near = any(all(picks(pod, term, other) for term in together) for other in candidate.pods)
        # The first of a group that wants to be together has nobody to join.
        first = not near and all(picks(pod, term, pod) for term in together)
        if not (near or first) or any(term["topologyKey"] not in labels for term in together):
            yield "node(s) didn't match pod affinity rules"
            return
    for term in _pod_terms(pod, "podAntiAffinity"):
        if term["topologyKey"] in labels and any(picks(pod, term, other) for other in candidate.pods):
            yield "node(s) didn't match pod anti-affinity rules"
            return
    for other in candidate.pods:
        for term in _pod_terms(other, "podAntiAffinity"):
            if term["topologyKey"] in labels and picks(other, term, pod):
                yield "node(s) didn't satisfy existing pods anti-affinity rules"
                return


def _affinity(pod: Object, kind: str) -> Object:
    found: Object = (pod["spec"].get("affinity") or {}).get(kind) or {}
    return found


def _pod_terms(pod: Object, kind: str) -> Sequence[Object]:
    return _affinity(pod, kind).get(REQUIRED) or ()


def _in_namespace(owner: Object, term: Object, other: Object, namespaces: Mapping[str, Mapping[str, str]]) -> bool:
    name, named, selector = other["metadata"]["namespace"], term.get("namespaces") or (), term.get("namespaceSelector")
    if selector is None:
        return name in (named or (owner["metadata"]["namespace"],))
    return name in named or LabelSelector.from_dict(selector).matches(namespaces.get(name))


def _selected(rule: Object, other: Object) -> bool:
    # No selector selects nothing, an empty one everything.
    selector = rule.get("labelSelector")
    return selector is not None and LabelSelector.from_dict(selector).matches(other["metadata"].get("labels"))


_POD_RULES = ("podAffinity", "podAntiAffinity")
_FILTERS: tuple[Callable[[Object, Candidate], Iterable[str]], ...] = (
    _cordoned,
    _tainted,
    _elsewhere,
    _without_port,
    _too_much,
    _uneven,
    _apart,
)
