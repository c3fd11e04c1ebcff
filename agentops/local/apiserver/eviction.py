"""Evictions: deletions of pods that a PodDisruptionBudget may hold back.

The budget's status says how many pods may go (the disruption controller counts); each eviction takes one from it in
the same turn in which it deletes, so that two cannot share the last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import evolve

from agentops.kube.kinds import POD_DISRUPTION_BUDGET
from agentops.local.apiserver import errors
from agentops.local.apiserver.deleteoptions import checked, dry_run
from agentops.local.apiserver.http import Answer, Request, User, json_response
from agentops.local.apiserver.jsonio import decode_body
from agentops.local.apiserver.resources import Resource
from agentops.local.apiserver.routing import Route
from agentops.local.apiserver.store import Entry
from agentops.local.apiserver.writes import DeleteOptions, WriteOptions
from agentops.values.clock import rfc3339
from agentops.values.selector import LabelSelector, SelectorError

if TYPE_CHECKING:
    from agentops.local.apiserver.server import ApiServer

Object = dict[str, Any]

_REFUSED = "Cannot evict pod as it would violate the pod's disruption budget."
_TWO = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
_STALE_RETRY_S = 10
_MAX_DISRUPTED = 2000


def evict(server: ApiServer, request: Request, resource: Resource, route: Route, user: User) -> Answer:
    """Delete the pod when its budget allows. Raises ApiFailure, 429 when it does not."""
    body = decode_body(request.body, request.header("content-type"))
    if not isinstance(body, dict):
        raise errors.bad_request("the Eviction must be an object")
    wanted = checked(body.get("deleteOptions") or {})
    conditions = wanted.get("preconditions") or {}
    trial = "All" in (wanted.get("dryRun") or ()) or dry_run(request)
    options = DeleteOptions(
        wanted.get("gracePeriodSeconds"), wanted.get("propagationPolicy"), conditions.get("uid"),
        conditions.get("resourceVersion"), trial,
    )  # fmt: skip
    write = evolve(server.write_options(request, user), dry_run=trial)
    pod = server.reader.get(resource, route.namespace, route.name)
    budget = _budget_of(server, route.namespace, pod)
    if budget is not None and not _may_go_anyway(pod.obj(), budget):
        _check(budget)
        if not trial:
            _spend(server, route.namespace, budget, route.name, user)
    if not trial and options.uid in (None, pod.obj()["metadata"]["uid"]) and options.resource_version is None:
        _say_why(server, resource, route, user)
    server.writer.delete(resource, route.namespace, route.name, options, write)
    return json_response({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201)


def _budget_of(server: ApiServer, namespace: str, pod: Entry) -> Object | None:
    found = []
    for entry in server.store.list(_resource(server).storage, namespace):
        budget = entry.obj()
        try:
            selector = LabelSelector.from_dict((budget.get("spec") or {}).get("selector"))
        except SelectorError:
            continue
        if (budget.get("spec") or {}).get("selector") is not None and selector.matches(pod.labels):
            found.append(budget)
    if len(found) > 1:
        raise errors.ApiFailure(500, "InternalError", _TWO)
    return found[0] if found else None


def _may_go_anyway(pod: Object, budget: Object) -> bool:
    """Whether the pod counts for nothing: over, going, not begun, or broken where the policy lets such pods go."""
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp") or status.get("phase") in ("Succeeded", "Failed", "Pending"):
        return True
    if any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ()):
        return False
    if (budget.get("spec") or {}).get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    counted = budget.get("status") or {}
    desired = counted.get("desiredHealthy") or 0
    return bool(desired > 0 and (counted.get("currentHealthy") or 0) >= desired)


def _check(budget: Object) -> None:
    meta, status = budget["metadata"], budget.get("status") or {}
    name = meta["name"]
    if (status.get("observedGeneration") or 0) < (meta.get("generation") or 0):
        raise _refusal(f"The disruption budget {name} is still being processed by the server.", _STALE_RETRY_S)
    if len(status.get("disruptedPods") or ()) > _MAX_DISRUPTED:
        detail = "DisruptedPods map too big - too many evictions not confirmed by PDB controller"
        raise errors.ApiFailure(403, "Forbidden", f'poddisruptionbudgets.policy "{name}" is forbidden: {detail}')
    if (status.get("disruptionsAllowed") or 0) <= 0:
        needs, has = status.get("desiredHealthy") or 0, status.get("currentHealthy") or 0
        raise _refusal(f"The disruption budget {name} needs {needs} healthy pods and has {has} currently", 0)


def _refusal(cause: str, retry_s: int) -> errors.ApiFailure:
    details: Object = {"causes": [{"reason": "DisruptionBudget", "message": cause}]}
    if retry_s:
        details["retryAfterSeconds"] = retry_s
    return errors.ApiFailure(429, "TooManyRequests", _REFUSED, details)


def _spend(server: ApiServer, namespace: str, budget: Object, pod: str, user: User) -> None:
    now = rfc3339(server.clock.now())

    def change(live: Object) -> Object:
        status = live["status"]
        status["disruptionsAllowed"] -= 1
        status.setdefault("disruptedPods", {})[pod] = now
        return live

    server.writer.update_whole(
        _resource(server),
        namespace,
        budget["metadata"]["name"],
        change,
        WriteOptions(user, "eviction", False, "status"),
    )


def _say_why(server: ApiServer, resource: Resource, route: Route, user: User) -> None:
    """The condition by which a Job's `podFailurePolicy` tells an eviction from a failure."""
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "lastProbeTime": None,
        "lastTransitionTime": rfc3339(server.clock.now()),
    }

    def change(pod: Object) -> Object:
        status = pod.setdefault("status", {})
        others = [c for c in status.get("conditions") or () if c.get("type") != condition["type"]]
        status["conditions"] = [*others, condition]
        return pod

    if not server.reader.get(resource, route.namespace, route.name).obj()["metadata"].get("deletionTimestamp"):
        options = WriteOptions(user, "eviction", subresource="status")
        server.writer.update_whole(resource, route.namespace, route.name, change, options)


def _resource(server: ApiServer) -> Resource:
    kind = POD_DISRUPTION_BUDGET
    found = server.registry.find(kind.group, kind.version, kind.plural)
    assert found is not None
    return found
