"""What the state of a daemon's Deployment and pods means for its Agent.

Running means: the controller has seen the current template, every replica is made from it and is ready.
Everything short of that is explained by the first thing that stands in the way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from signal import Signals
from typing import Any

from attrs import evolve, frozen

from agentops.api import labels
from agentops.api.conditions import Reason
from agentops.api.runs import TASK_RESULT_KEY
from agentops.values.clock import parse_rfc3339

MESSAGE_LIMIT = 1024


@frozen(slots=True, kw_only=True)
class Workload:
    """`reason` and `message` say why it is not `running`; `failing` that waiting alone will not mend it."""

    running: bool
    failing: bool = False
    reason: str
    message: str
    counts: Mapping[str, int] = {}
    """`replicas`, `updatedReplicas`, `readyReplicas` and `availableReplicas`, as far as the Deployment says."""


def observe(deployment: Mapping[str, Any] | None, pods: Iterable[Mapping[str, Any]]) -> Workload:
    """`pods` are the agent's runtime pods; what ails those of older templates is not told."""
    status = (deployment or {}).get("status") or {}
    return evolve(_explain(deployment, pods), counts={key: status[key] for key in COUNTS if status.get(key)})


COUNTS = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")


def _explain(deployment: Mapping[str, Any] | None, pods: Iterable[Mapping[str, Any]]) -> Workload:
    if deployment is None:
        return Workload(running=False, reason=Reason.PENDING, message="the Deployment does not exist yet")
    if is_rolled_out(deployment):
        return Workload(running=True, reason=Reason.RUNNING, message="the daemon answers")
    wanted = template_hash(deployment)
    current = [pod for pod in pods if pod_hash(pod) == wanted and not is_deleting(pod)]
    for explain in (_container_trouble, _scheduling_trouble):
        for pod in sorted(current, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True):
            found = explain(pod)
            if found is not None:
                return found
    failure = _condition(deployment, "ReplicaFailure")
    if failure is not None and failure.get("status") == "True":
        return Workload(
            running=False, failing=True, reason=Reason.REPLICA_FAILURE, message=_cut(str(failure.get("message", "")))
        )
    status = deployment.get("status") or {}
    updated, older = status.get("updatedReplicas", 0), status.get("replicas", 0) - status.get("updatedReplicas", 0)
    message = (
        f"{updated} of {deployment['spec'].get('replicas', 1)} pods are made from the current template, "
        f"{status.get('readyReplicas', 0)} ready"
    )
    if older > 0:
        message += f"; {older} of an older one still there"
    return Workload(running=False, reason=Reason.ROLLING_OUT, message=message)


def is_rolled_out(deployment: Mapping[str, Any]) -> bool:
    """observedGeneration current and updatedReplicas == readyReplicas >= 1, and no older pod left.

    Without the last, a surge looks done: one pod made from the new template, and one, the old, ready.
    """
    status = deployment.get("status") or {}
    updated, ready = status.get("updatedReplicas", 0), status.get("readyReplicas", 0)
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    return bool(seen and updated == ready >= 1 and status.get("replicas", updated) == updated)


def template_hash(deployment: Mapping[str, Any]) -> str | None:
    """The config hash its pods are made with."""
    return _annotations(deployment.get("spec", {}).get("template", {})).get(labels.CONFIG_HASH)


def pod_hash(pod: Mapping[str, Any]) -> str | None:
    return _annotations(pod).get(labels.CONFIG_HASH)


def is_deleting(obj: Mapping[str, Any]) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a prompt can be sent to the pod."""
    status = pod.get("status") or {}
    ready = _condition(pod, "Ready")
    return bool(status.get("podIP") and ready is not None and ready.get("status") == "True" and not is_deleting(pod))


def pick_pod(pods: Iterable[Mapping[str, Any]], wanted_hash: str | None) -> Mapping[str, Any] | None:
    """The Ready pod of the current hash a prompt goes to: the oldest, then by name."""
    fit = [pod for pod in pods if is_ready(pod) and pod_hash(pod) == wanted_hash]
    return min(
        fit,
        key=lambda pod: (str(pod["metadata"].get("creationTimestamp", "")), str(pod["metadata"]["name"])),
        default=None,
    )


def pod_failure(pod: Mapping[str, Any]) -> str | None:
    """Why a pod that is over ended as a whole (evicted, its node gone), else what became of its container."""
    status = pod.get("status") or {}
    if status.get("phase") == "Failed" and status.get("reason"):
        return _cut(f"{status['reason']}: {status.get('message') or 'the pod failed'}")
    found = container_failure(pod)
    if found is None:
        return None
    return found[1] if found[0] == Reason.CONTAINER_FAILED else f"{found[0]}, {found[1]}"


def container_failure(pod: Mapping[str, Any]) -> tuple[str, str] | None:
    """Reason and message of the first container that cannot run or last ended badly; None when all is well."""
    status = pod.get("status") or {}
    for item in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        state, last = item.get("state") or {}, (item.get("lastState") or {}).get("terminated")
        waiting, ended = state.get("waiting"), state.get("terminated")
        name = item.get("name", "")
        if waiting and waiting.get("reason") in _WAITING_FAILURES:
            said = _ending(last) or str(waiting.get("message") or waiting["reason"])
            return str(waiting["reason"]), _cut(f"container {name}: {said}")
        if ended and ended.get("exitCode", 0) != 0:
            return _ended_reason(ended), _cut(f"container {name}: {_ending(ended)}")
        if last and last.get("exitCode", 0) != 0 and not item.get("ready"):
            return _ended_reason(last), _cut(f"container {name}: {_ending(last)}")
    return None


def restart_cause(pod: Mapping[str, Any], container: str, since: datetime) -> str | None:
    """Why a container that runs again was ended after `since`, to the second; None when it was not, or ended well."""
    for item in (pod.get("status") or {}).get("containerStatuses") or ():
        last = (item.get("lastState") or {}).get("terminated") or {}
        if item.get("name") != container or not last.get("exitCode") or not last.get("finishedAt"):
            continue
        if parse_rfc3339(last["finishedAt"]) >= since.replace(microsecond=0):
            reason, how = str(last.get("reason") or ""), _ending(last)
            return _cut(f"{reason}, {how}" if reason and reason != "Error" else how)
    return None


def scheduling_failure(pod: Mapping[str, Any]) -> tuple[str, str] | None:
    """Reason and message, when no node takes the pod."""
    scheduled = _condition(pod, "PodScheduled")
    if scheduled is None or scheduled.get("status") != "False":
        return None
    return Reason.UNSCHEDULABLE, _cut(str(scheduled.get("message") or "no node fits"))


_WAITING_FAILURES = {
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
}


def _container_trouble(pod: Mapping[str, Any]) -> Workload | None:
    failure = container_failure(pod)
    if failure is None:
        return None
    return Workload(
        running=False, failing=True, reason=failure[0], message=f"pod {pod['metadata']['name']}, {failure[1]}"
    )


def _scheduling_trouble(pod: Mapping[str, Any]) -> Workload | None:
    failure = scheduling_failure(pod)
    if failure is None:
        return None
    message = _cut(f"pod {pod['metadata']['name']}: {failure[1]}")
    return Workload(running=False, reason=failure[0], message=message)


def _ended_reason(terminated: Mapping[str, Any]) -> str:
    reason = str(terminated.get("reason") or "")
    return reason if reason and reason != "Error" else Reason.CONTAINER_FAILED


def _ending(terminated: Mapping[str, Any] | None) -> str:
    if not terminated:
        return ""
    said = _last_words(str(terminated.get("message") or ""))
    code = int(terminated.get("exitCode") or 0)
    how = f"exit code {code}"
    with suppress(ValueError):
        how += f", {Signals(code - 128).name}"
    return f"{said} ({how})" if said else how


def _last_words(message: str) -> str:
    """Why a container ended, by its own message: a result's error; of a log (the kubelet's stand-in) the last one."""
    lines = [line for line in message.splitlines() if line.strip()]
    entries = [_entry(line) for line in lines]
    if not any(entries):
        return message.strip()
    if entries[-1] is None:
        return lines[-1].strip()
    if TASK_RESULT_KEY in entries[-1]:
        return str(entries[-1].get("error") or "")
    errors = [entry for entry in entries if entry and entry.get("level") in ("error", "critical")]
    return f"{errors[-1].get('event')}: {errors[-1].get('error', '')}".rstrip(": ") if errors else ""


def _entry(line: str) -> Mapping[str, Any] | None:
    """A line of our roles' JSON output: logs, events, results."""
    with suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict):
            return found
    return None


def _condition(obj: Mapping[str, Any], type_: str) -> Mapping[str, Any] | None:
    for condition in (obj.get("status") or {}).get("conditions") or ():
        if condition.get("type") == type_:
            return dict(condition)
    return None


def _annotations(obj: Mapping[str, Any]) -> Mapping[str, str]:
    return (obj.get("metadata") or {}).get("annotations") or {}


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"
