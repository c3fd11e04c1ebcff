"""Whether a pod may be on a node at all: the node's taints, and the labels the pod asks for. Pure.

Shared by the scheduler, which looks at much more, and the DaemonSet controller, which looks at nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from agentops.values.selector import Requirement

Object = Mapping[str, Any]

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
BARRING = frozenset({"NoSchedule", "NoExecute"})
"""Effects of a taint that keep a pod from coming; `PreferNoSchedule` does not."""
NODE_NAME_FIELD = "metadata.name"
"""The one field that `matchFields` knows."""
_OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!", "Gt": ">", "Lt": "<"}


def untolerated(
    tolerations: Iterable[Object] | None, taints: Iterable[Object] | None, effects: Collection[str] = BARRING
) -> Object | None:
    """The first of `taints` with one of `effects` that no toleration covers."""
    held = tuple(tolerations or ())
    for taint in taints or ():
        if taint.get("effect") in effects and not any(_tolerates(toleration, taint) for toleration in held):
            return taint
    return None


def chooses(pod_spec: Object, node: Object) -> bool:
    """Whether `node` has what the pod's nodeSelector and required node affinity ask for."""
    meta = node["metadata"]
    labels = meta.get("labels") or {}
    if any(labels.get(key) != value for key, value in (pod_spec.get("nodeSelector") or {}).items()):
        return False
    required = ((pod_spec.get("affinity") or {}).get("nodeAffinity") or {}).get(REQUIRED)
    return required is None or any(_matches(term, meta) for term in required.get("nodeSelectorTerms") or ())


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("key") not in (None, "", taint["key"]):
        return False
    if toleration.get("operator") == "Exists":
        return True
    return (toleration.get("value") or "") == (taint.get("value") or "")


def _matches(term: Object, meta: Object) -> bool:
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    return bool(expressions or fields) and all(
        Requirement(wanted["key"], _OPERATORS[wanted["operator"]], tuple(wanted.get("values") or ())).matches(have)
        for wants, have in ((expressions, meta.get("labels") or {}), (fields, {NODE_NAME_FIELD: meta["name"]}))
        for wanted in wants
    )
