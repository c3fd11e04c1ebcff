"""Container states to pod status: what the Kubernetes kubelet would report. Pure.

`pod_status` is a function from the pod, the records of its containers and a few facts to the whole
`status` object; condition times carry over from the status before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from attrs import frozen

from agentops.values.clock import parse_rfc3339, rfc3339

Object = Mapping[str, Any]

_OWN_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
RUNTIME = "agentops"
"""The scheme of container ids, where a cluster says `containerd`."""


@frozen(slots=True)
class Waiting:
    """Not running yet, or not again."""

    reason: str
    message: str = ""


@frozen(slots=True)
class Running:
    started_at: datetime


@frozen(slots=True)
class Terminated:
    """How a container's run ended. `exit_code` is 128+n for signal n."""

    exit_code: int
    reason: str
    started_at: datetime | None = None
    finished_at: datetime | None = None
    message: str = ""
    container_id: str = ""


State = Waiting | Running | Terminated


@frozen(slots=True)
class ContainerRecord:
    """What the kubelet knows of one container."""

    name: str
    image: str
    state: State
    last: Terminated | None = None
    image_id: str = ""
    container_id: str = ""
    restart_count: int = 0
    started: bool = False
    """The startup probe has succeeded, or there is none and the process runs."""
    ready: bool = False


def is_sidecar(container: Object) -> bool:
    """An init container that keeps running beside the others."""
    return container.get("restartPolicy") == "Always"


def exit_reason(exit_code: int) -> str:
    return "Completed" if exit_code == 0 else "Error"


def should_restart(policy: str, exit_code: int) -> bool:
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def pod_phase(pod: Object, records: Mapping[str, ContainerRecord], *, ended: bool = False) -> str:
    """The phase. `ended` means nothing of the pod runs, or ever will; before that no phase is final.

    So a Job sees Succeeded only when the sidecars have stopped too, as with the Kubernetes kubelet.
    """
    spec = pod.get("spec") or {}
    pending_init = failed_init = 0
    for container in spec.get("initContainers") or ():
        record = records[container["name"]]
        if is_sidecar(container):
            if not record.started and not (isinstance(record.state, Terminated) or record.last):
                pending_init += 1
        elif isinstance(record.state, Terminated):
            failed_init += record.state.exit_code != 0
        else:
            pending_init += 1
    running = waiting = stopped = succeeded = 0
    for container in spec.get("containers") or ():
        state, last = records[container["name"]].state, records[container["name"]].last
        if isinstance(state, Running):
            running += 1
        elif isinstance(state, Terminated):
            stopped += 1
            succeeded += state.exit_code == 0
        elif last is not None:
            stopped += 1
        else:
            waiting += 1
    if ended:
        return "Succeeded" if stopped and stopped == succeeded and not waiting and not failed_init else "Failed"
    if pending_init or failed_init or waiting:
        return "Pending"
    return "Running" if running or stopped else "Pending"


def pod_status(
    pod: Object,
    records: Mapping[str, ContainerRecord],
    *,
    now: datetime,
    pod_ip: str = "",
    host_ip: str = "",
    start_time: datetime | None = None,
    sandbox_ready: bool = False,
    ended: bool = False,
    failure: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """The whole status object.

    `failure` is (reason, message) when the kubelet itself failed the pod (deadline exceeded, lost with the
    plane). Conditions of other owners, readiness gates among them, are kept.
    """
    spec, before = pod.get("spec") or {}, pod.get("status") or {}
    phase = "Failed" if failure else pod_phase(pod, records, ended=ended)
    status: dict[str, Any] = {
        "phase": phase,
        "conditions": _conditions(pod, records, phase, sandbox_ready, now),
        "containerStatuses": [
            _container_status(records[c["name"]]) | _allocated(c) for c in spec.get("containers") or ()
        ],
    }
    generation = (pod.get("metadata") or {}).get("generation")
    if generation:
        status["observedGeneration"] = generation
        for condition in status["conditions"]:
            if condition["type"] in _OWN_CONDITIONS:
                condition["observedGeneration"] = generation
    if spec.get("initContainers"):
        status["initContainerStatuses"] = [
            # Ready means for an init container, unless it stays as a sidecar, that it has done its work.
            _container_status(records[c["name"]])
            | _allocated(c)
            | ({} if is_sidecar(c) else {"ready": _initialised(c, records[c["name"]])})
            for c in spec["initContainers"]
        ]
    if failure:
        status["reason"], status["message"] = failure
    if host_ip:
        status |= {"hostIP": host_ip, "hostIPs": [{"ip": host_ip}]}
    if pod_ip:
        status |= {"podIP": pod_ip, "podIPs": [{"ip": pod_ip}]}
    if start_time:
        status["startTime"] = rfc3339(start_time)
    if before.get("qosClass"):
        status["qosClass"] = before["qosClass"]
    return status


def record_from_status(status: Object) -> ContainerRecord:
    """The inverse of what `pod_status` wrote for one container, to go on after a restart of the plane."""
    state = status.get("state") or {}
    last = (status.get("lastState") or {}).get("terminated")
    return ContainerRecord(
        name=status["name"],
        image=status.get("image", ""),
        state=_parse_state(state),
        last=_parse_terminated(last) if last else None,
        image_id=status.get("imageID", ""),
        container_id=status.get("containerID", ""),
        restart_count=int(status.get("restartCount") or 0),
        started=bool(status.get("started")),
        ready=bool(status.get("ready")),
    )


def _parse_state(state: Object) -> State:
    if "terminated" in state:
        return _parse_terminated(state["terminated"])
    if "running" in state:
        return Running(parse_rfc3339(state["running"]["startedAt"]))
    waiting = state.get("waiting") or {}
    return Waiting(waiting.get("reason", ""), waiting.get("message", ""))


def _parse_terminated(raw: Object) -> Terminated:
    return Terminated(
        exit_code=int(raw.get("exitCode") or 0),
        reason=raw.get("reason", ""),
        started_at=parse_rfc3339(raw["startedAt"]) if raw.get("startedAt") else None,
        finished_at=parse_rfc3339(raw["finishedAt"]) if raw.get("finishedAt") else None,
        message=raw.get("message", ""),
        container_id=raw.get("containerID", ""),
    )


def _container_status(record: ContainerRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "image": record.image,
        "imageID": record.image_id,
        **({"containerID": record.container_id} if record.container_id else {}),
        "ready": record.ready,
        "started": record.started,
        "restartCount": record.restart_count,
        "state": _state(record.state),
        "lastState": _state(record.last) if record.last else {},
    }


def _allocated(container: Object) -> dict[str, Any]:
    """What it has been given: here always what its spec asks for, at once."""
    resources = container.get("resources") or {}
    given = {section: dict(resources[section]) for section in ("limits", "requests") if resources.get(section)}
    if not given:
        return {}
    return {"resources": given} | ({"allocatedResources": given["requests"]} if "requests" in given else {})


def _state(state: State) -> dict[str, Any]:
    match state:
        case Waiting(reason, message):
            return {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        case Running(started_at):
            return {"running": {"startedAt": rfc3339(started_at)}}
        case Terminated():
            body: dict[str, Any] = {"exitCode": state.exit_code, "reason": state.reason}
            if state.message:
                body["message"] = state.message
            if state.started_at:
                body["startedAt"] = rfc3339(state.started_at)
            if state.finished_at:
                body["finishedAt"] = rfc3339(state.finished_at)
            if state.container_id:
                body["containerID"] = state.container_id
            return {"terminated": body}


def _conditions(
    pod: Object, records: Mapping[str, ContainerRecord], phase: str, sandbox_ready: bool, now: datetime
) -> list[dict[str, Any]]:
    spec = pod.get("spec") or {}
    before = {c["type"]: c for c in (pod.get("status") or {}).get("conditions") or ()}
    uninitialised = [c["name"] for c in spec.get("initContainers") or () if not _initialised(c, records[c["name"]])]
    # Native sidecars count towards readiness, plain init containers do not.
    counted = [c for c in spec.get("initContainers") or () if is_sidecar(c)] + list(spec.get("containers") or ())
    unready = [c["name"] for c in counted if not records[c["name"]].ready]
    gates = [g["conditionType"] for g in spec.get("readinessGates") or ()]
    closed = [g for g in gates if before.get(g, {}).get("status") != "True"]

    if phase in ("Succeeded", "Failed"):
        reason = "PodCompleted" if phase == "Succeeded" else "PodFailed"
        containers_ready = ready = ("False", reason, "")
        initialised = (
            ("True", "PodCompleted" if phase == "Succeeded" else "", "")
            if not uninitialised
            else ("False", "PodFailed", "")
        )
    else:
        initialised = _verdict(uninitialised, "ContainersNotInitialized", "containers with incomplete status")
        containers_ready = _verdict(unready, "ContainersNotReady", "containers with unready status")
        ready = containers_ready
        if ready[0] == "True" and closed:
            ready = (
                "False",
                "ReadinessGatesNotReady",
                f"corresponding condition of pod readiness gate {_go(closed)} is not True",
            )
    wanted = {
        "PodReadyToStartContainers": ("True" if sandbox_ready else "False", "", ""),
        "Initialized": initialised,
        "Ready": ready,
        "ContainersReady": containers_ready,
        "PodScheduled": ("True", "", ""),
    }
    conditions = [_condition(kind, *verdict, before.get(kind), now) for kind, verdict in wanted.items()]
    return conditions + [dict(c) for kind, c in before.items() if kind not in wanted]


def _initialised(container: Object, record: ContainerRecord) -> bool:
    if is_sidecar(container):
        return record.started or record.last is not None or isinstance(record.state, Terminated)
    return isinstance(record.state, Terminated) and record.state.exit_code == 0


def _verdict(names: list[str], reason: str, text: str) -> tuple[str, str, str]:
    return ("False", reason, f"{text}: {_go(names)}") if names else ("True", "", "")


def _go(names: Iterable[str]) -> str:
    return f"[{' '.join(names)}]"


def _condition(
    kind: str, status: str, reason: str, message: str, before: Object | None, now: datetime
) -> dict[str, Any]:
    since = rfc3339(now)
    if before and before.get("status") == status and before.get("lastTransitionTime"):
        since = before["lastTransitionTime"]
    condition: dict[str, Any] = {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": since}
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    return condition
