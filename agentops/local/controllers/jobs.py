"""What a Job does next. Pure: the Job and its pods in, a `JobStep` out.

A finished pod is counted exactly once although counting and letting go of the pod are two writes:

    running --finishes--> finished, with finalizer
            --write 1---> its uid stands in status.uncountedTerminatedPods
            --write 2---> finalizer removed
            --write 3---> counter +1, uid removed from uncountedTerminatedPods

Whatever crashes in between, the next step sees where it stood. Source: Kubernetes' job controller.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from attrs import define, field, frozen

from agentops.local.controllers.pods import (
    EPOCH,
    Object,
    annotations_of,
    created_at,
    deletion_order,
    has_condition,
    is_active,
    is_deleting,
    is_ready,
    is_terminating,
    phase_of,
    uid_of,
)
from agentops.values.clock import parse_rfc3339, rfc3339

TRACKING_FINALIZER = "batch.kubernetes.io/job-tracking"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
INDEX_FAILURES = "batch.kubernetes.io/job-index-failure-count"
"""How often a pod's index had failed before it."""
BACKOFF_BASE_S = 10.0
BACKOFF_MAX_S = 360.0


@define(slots=True)
class JobStep:
    """Write in this order: status, release (drop the finalizer), deletes, creates.

    `create` is one entry a pod: its completion index, or `None` where the Job is not indexed.
    """

    status: Object
    release: list[Object] = field(factory=list)
    deletes: list[Object] = field(factory=list)
    create: list[int | None] = field(factory=list)
    failures: dict[int, int] = field(factory=dict)
    """By index, where the Job has a backoffLimitPerIndex: how often it has failed."""
    events: list[tuple[str, str, str]] = field(factory=list)
    requeue_after_s: float | None = None


@frozen(slots=True)
class _Verdict:
    """How the Job ends: the interim condition's type, and the reason and message both conditions carry."""

    interim: str
    reason: str
    message: str

    @property
    def final(self) -> str:
        return "Complete" if self.interim == "SuccessCriteriaMet" else "Failed"


def is_job_finished(job: Mapping[str, Any]) -> bool:
    return has_condition(job, "Complete") or has_condition(job, "Failed")


def finished_at(job: Mapping[str, Any]) -> datetime | None:
    """When the Job reached its final condition; `None` while it has not."""
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition.get("type") in ("Complete", "Failed") and condition.get("status") == "True":
            stamp = condition.get("lastTransitionTime")
            return parse_rfc3339(stamp) if stamp else created_at(job)
    return None


def has_finalizer(pod: Mapping[str, Any]) -> bool:
    return TRACKING_FINALIZER in (pod["metadata"].get("finalizers") or ())


def is_indexed(job: Mapping[str, Any]) -> bool:
    return bool(job["spec"].get("completionMode") == "Indexed")


def plan(job: Mapping[str, Any], pods: Sequence[Object], *, now: datetime, backoff_scale: float = 1.0) -> JobStep:
    """The next step of `job`, given the pods it controls."""
    status = copy.deepcopy(dict(job.get("status") or {}))
    step = JobStep(status)
    tracked = [p for p in pods if has_finalizer(p)]
    if is_job_finished(job) or is_deleting(job):
        step.release = tracked
        return step

    spec = job["spec"]
    suspended = bool(spec.get("suspend"))
    if not suspended and not status.get("startTime"):
        status["startTime"] = rfc3339(now)
    _track(job, step, pods, tracked)

    active = [p for p in pods if is_active(p)]
    terminating = [p for p in pods if is_terminating(p)]
    uncounted = status["uncountedTerminatedPods"]
    succeeded = int(status.get("succeeded") or 0) + len(uncounted.get("succeeded") or ())
    failed = int(status.get("failed") or 0) + len(uncounted.get("failed") or ())
    if is_indexed(job):
        succeeded = len(_completed_indexes(job, status, pods))
    step.failures = _index_failures(job, pods)

    verdict = _verdict(job, status, pods, active, succeeded, failed, now)
    if verdict is not None:
        if not _has(status, verdict.interim):
            _add_condition(status, verdict.interim, verdict.reason, verdict.message, now)
        step.deletes = active
        pending = [p for p in tracked if not _ended(job, p)]
        if not any(uncounted.values()) and not active and not terminating and not pending:
            _finish(step, verdict, now)
    elif suspended:
        _suspend(step, active, now)
    else:
        _resume(step, now)
        _manage(job, step, pods, active, terminating, succeeded, now, backoff_scale)
    _counters(step, active, terminating, will_delete=len(step.deletes))
    return step


def _track(job: Mapping[str, Any], step: JobStep, pods: Sequence[Object], tracked: Sequence[Object]) -> None:
    """Count what was released, and put newly finished pods on the list of those to count."""
    status = step.status
    held = {uid_of(p) for p in tracked}
    uncounted: dict[str, list[str]] = {
        k: list(v) for k, v in (status.get("uncountedTerminatedPods") or {}).items() if v
    }
    for outcome in ("succeeded", "failed"):
        counted = [uid for uid in uncounted.get(outcome, ()) if uid not in held]
        if counted:
            status[outcome] = int(status.get(outcome) or 0) + len(counted)
            uncounted[outcome] = [uid for uid in uncounted[outcome] if uid in held]
    listed = {uid for uids in uncounted.values() for uid in uids}
    for pod in tracked:
        outcome = _ended(job, pod)
        if outcome in ("succeeded", "failed") and uid_of(pod) not in listed:
            uncounted.setdefault(outcome, []).append(uid_of(pod))
        if outcome:
            step.release.append(pod)
    status["uncountedTerminatedPods"] = {k: v for k, v in uncounted.items() if v}
    if is_indexed(job):
        status["completedIndexes"] = format_indexes(_completed_indexes(job, status, pods))
        if not status["completedIndexes"]:
            del status["completedIndexes"]
    if _per_index(job) is not None:
        status["failedIndexes"] = format_indexes(_failed_indexes(job, status, pods))


def _ended(job: Mapping[str, Any], pod: Mapping[str, Any]) -> str:
    """`succeeded`, `failed`, `ignored` by the failure policy, or nothing while the pod may still become one of them."""
    phase = phase_of(pod)
    if phase == "Succeeded":
        return "succeeded"
    if phase == "Failed":
        return "ignored" if _pod_failure_action(job, pod) == "Ignore" else "failed"
    if is_deleting(pod) and not _only_replace_failed(job):
        return "failed"
    return ""


def _only_replace_failed(job: Mapping[str, Any]) -> bool:
    return bool(job["spec"].get("podReplacementPolicy") == "Failed" or job["spec"].get("podFailurePolicy"))


def _verdict(
    job: Mapping[str, Any],
    status: Mapping[str, Any],
    pods: Sequence[Object],
    active: Sequence[Object],
    succeeded: int,
    failed: int,
    now: datetime,
) -> _Verdict | None:
    for interim in ("FailureTarget", "SuccessCriteriaMet"):
        for condition in status.get("conditions") or ():
            if condition.get("type") == interim and condition.get("status") == "True":
                return _Verdict(interim, condition.get("reason", ""), condition.get("message", ""))
    spec = job["spec"]
    if (rule := _success_rule(job, _completed_indexes(job, status, pods))) is not None:
        return _Verdict("SuccessCriteriaMet", "SuccessPolicy", f"Matched rules at index {rule}")
    for pod in pods:
        if phase_of(pod) == "Failed" and _pod_failure_action(job, pod) == "FailJob":
            message = f"Pod {pod['metadata'].get('namespace')}/{pod['metadata']['name']} matched a FailJob rule"
            return _Verdict("FailureTarget", "PodFailurePolicy", message)
    backoff_limit = spec.get("backoffLimit")
    backoff_limit = 6 if backoff_limit is None else int(backoff_limit)
    lost = len(parse_indexes(status.get("failedIndexes", "")))
    if spec.get("maxFailedIndexes") is not None and lost > int(spec["maxFailedIndexes"]):
        message = "Job has exceeded the specified maximal number of failed indexes"
        return _Verdict("FailureTarget", "MaxFailedIndexesExceeded", message)
    if failed > backoff_limit or _restarts_exceed(job, pods, backoff_limit):
        return _Verdict("FailureTarget", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    if not spec.get("suspend") and (left := _deadline_in_s(job, status, now)) is not None and left <= 0:
        return _Verdict("FailureTarget", "DeadlineExceeded", "Job was active longer than specified deadline")
    completions = spec.get("completions")
    if lost and completions is not None and succeeded + lost >= int(completions):
        return _Verdict("FailureTarget", "FailedIndexes", "Job has failed indexes")
    reached = succeeded > 0 if completions is None else succeeded >= int(completions)
    if reached and not active:
        return _Verdict("SuccessCriteriaMet", "CompletionsReached", "Reached expected number of succeeded pods")
    return None


def _pod_failure_action(job: Mapping[str, Any], pod: Mapping[str, Any]) -> str:
    """The action of the first rule of `podFailurePolicy` that matches a failed pod, or nothing."""
    for rule in (job["spec"].get("podFailurePolicy") or {}).get("rules") or ():
        on_exit, on_conditions = rule.get("onExitCodes"), rule.get("onPodConditions")
        if on_exit is not None and _exit_codes_match(on_exit, pod):
            return str(rule.get("action", ""))
        for pattern in on_conditions or ():
            if has_condition(pod, pattern.get("type", ""), pattern.get("status", "True")):
                return str(rule.get("action", ""))
    return ""


def _exit_codes_match(rule: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    status = pod.get("status") or {}
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        if rule.get("containerName") and container.get("name") != rule["containerName"]:
            continue
        code = ((container.get("state") or {}).get("terminated") or {}).get("exitCode")
        if not code:
            continue
        listed = code in (rule.get("values") or ())
        if listed == (rule.get("operator") == "In"):
            return True
    return False


def _restarts_exceed(job: Mapping[str, Any], pods: Iterable[Mapping[str, Any]], limit: int) -> bool:
    """Containers restarted in place (`restartPolicy: OnFailure`) count against the backoff limit."""
    if (job["spec"]["template"].get("spec") or {}).get("restartPolicy") != "OnFailure":
        return False
    total = 0
    for pod in pods:
        if phase_of(pod) in ("Running", "Pending"):
            status = pod.get("status") or {}
            for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
                total += int(container.get("restartCount") or 0)
    return total > 0 if limit == 0 else total >= limit


def _deadline_in_s(job: Mapping[str, Any], status: Mapping[str, Any], now: datetime) -> float | None:
    limit, start = job["spec"].get("activeDeadlineSeconds"), status.get("startTime")
    if limit is None or not start:
        return None
    return (parse_rfc3339(start) + timedelta(seconds=int(limit)) - now).total_seconds()


def _finish(step: JobStep, verdict: _Verdict, now: datetime) -> None:
    _add_condition(step.status, verdict.final, verdict.reason, verdict.message, now)
    if verdict.final == "Complete":
        step.status["completionTime"] = rfc3339(now)
        step.events.append(("Normal", "Completed", "Job completed"))
    else:
        step.events.append(("Warning", verdict.reason, verdict.message))


def _suspend(step: JobStep, active: list[Object], now: datetime) -> None:
    step.deletes = active
    step.release = step.release + [p for p in active if has_finalizer(p)]
    if not _has(step.status, "Suspended"):
        _add_condition(step.status, "Suspended", "JobSuspended", "Job suspended", now)
        step.status.pop("startTime", None)
        step.events.append(("Normal", "Suspended", "Job suspended"))


def _resume(step: JobStep, now: datetime) -> None:
    if _has(step.status, "Suspended"):
        _add_condition(step.status, "Suspended", "JobResumed", "Job resumed", now, value="False")
        step.status["startTime"] = rfc3339(now)
        step.events.append(("Normal", "Resumed", "Job resumed"))


def _manage(
    job: Mapping[str, Any],
    step: JobStep,
    pods: Sequence[Object],
    active: list[Object],
    terminating: Sequence[Object],
    succeeded: int,
    now: datetime,
    backoff_scale: float,
) -> None:
    """As many active pods as parallelism and the missing completions allow, after the failure backoff."""
    spec = job["spec"]
    parallelism = spec.get("parallelism")
    parallelism = 1 if parallelism is None else int(parallelism)
    completions = spec.get("completions")
    if completions is None:
        want = min(parallelism, len(active)) if succeeded else parallelism
    else:
        lost = parse_indexes(step.status.get("failedIndexes", ""))
        want = min(parallelism, max(0, int(completions) - succeeded - len(lost)))
    deadline = _deadline_in_s(job, step.status, now)
    step.requeue_after_s = None if deadline is None else max(0.0, deadline) + 0.05
    if len(active) > want:
        surplus = deletion_order(active)[: len(active) - want]
        step.deletes = surplus
        step.release = step.release + [p for p in surplus if has_finalizer(p)]
        return
    missing = want - len(active)
    if _only_replace_failed(job):
        missing -= len(terminating)
    if missing <= 0:
        return
    if not is_indexed(job):
        wait = backoff_in_s(pods, now, backoff_scale)
        step.create = [None] * missing if wait == 0 else []
    else:
        taken = _completed_indexes(job, step.status, pods) | {i for p in active if (i := index_of(p)) is not None}
        taken |= parse_indexes(step.status.get("failedIndexes", ""))
        free = [i for i in range(int(completions or 0)) if i not in taken]
        waits = _index_waits(job, pods, free, now, backoff_scale)
        wait = min((w for w in waits.values() if w > 0), default=0.0)
        step.create = list([i for i in free if waits[i] == 0][:missing])
    if wait > 0:
        step.requeue_after_s = wait if step.requeue_after_s is None else min(wait, step.requeue_after_s)


def _index_waits(
    job: Mapping[str, Any], pods: Sequence[Object], indexes: Sequence[int], now: datetime, scale: float
) -> dict[int, float]:
    """The failure backoff of each index: its own where the Job counts failures by index, else that of all."""
    if _per_index(job) is None:
        return dict.fromkeys(indexes, backoff_in_s(pods, now, scale))
    by_index: dict[int | None, list[Object]] = {}
    for pod in pods:
        by_index.setdefault(index_of(pod), []).append(pod)
    return {index: backoff_in_s(by_index.get(index, ()), now, scale) for index in indexes}


def backoff_in_s(pods: Iterable[Mapping[str, Any]], now: datetime, scale: float = 1.0) -> float:
    """Seconds to wait before the next pod: 10 s doubled by every failure since the last success, at most 360 s."""
    ends = sorted((_pod_end(p), phase_of(p)) for p in pods if phase_of(p) in ("Succeeded", "Failed"))
    failures, last = 0, EPOCH
    for end, phase in ends:
        failures = failures + 1 if phase == "Failed" else 0
        last = end
    if failures == 0:
        return 0.0
    delay = min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2 ** min(failures - 1, 10)) * scale
    return max(0.0, (last + timedelta(seconds=delay) - now).total_seconds())


def _pod_end(pod: Mapping[str, Any]) -> datetime:
    ends = [
        parse_rfc3339(stamp)
        for container in (pod.get("status") or {}).get("containerStatuses") or ()
        if (stamp := ((container.get("state") or {}).get("terminated") or {}).get("finishedAt"))
    ]
    if ends:
        return max(ends)
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "Ready" and condition.get("lastTransitionTime"):
            return parse_rfc3339(condition["lastTransitionTime"])
    return created_at(pod)


def _counters(step: JobStep, active: Sequence[Object], terminating: Sequence[Object], will_delete: int) -> None:
    status = step.status
    _set_or_drop(status, "active", max(0, len(active) - will_delete) + len(step.create))
    status["ready"] = len([p for p in active if is_ready(p)]) if not will_delete else 0
    status["terminating"] = len(terminating) + will_delete


def _set_or_drop(status: Object, name: str, value: int) -> None:
    if value:
        status[name] = value
    else:
        status.pop(name, None)


def _has(status: Mapping[str, Any], type_: str) -> bool:
    return any(c.get("type") == type_ and c.get("status") == "True" for c in status.get("conditions") or ())


def _add_condition(
    status: Object, type_: str, reason: str, message: str, now: datetime, *, value: str = "True"
) -> None:
    stamp = rfc3339(now)
    fresh = {
        "type": type_,
        "status": value,
        "reason": reason,
        "message": message,
        "lastProbeTime": stamp,
        "lastTransitionTime": stamp,
    }
    conditions = [c for c in status.get("conditions") or () if c.get("type") != type_]
    status["conditions"] = [*conditions, fresh]


# --- indexes ------------------------------------------------------------------------------------------------


def index_of(pod: Mapping[str, Any]) -> int | None:
    text = annotations_of(pod).get(INDEX_ANNOTATION, "")
    return int(text) if text.isdigit() else None


def parse_indexes(text: str) -> set[int]:
    """`"0,2-4"` as a set."""
    result: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        result.update(range(int(first), int(last or first) + 1))
    return result


def format_indexes(indexes: Iterable[int]) -> str:
    """The inverse of `parse_indexes`; runs of three or more are written as a range."""
    parts: list[str] = []
    run: list[int] = []
    for index in [*sorted(set(indexes)), None]:
        if run and (index is None or index != run[-1] + 1):
            parts += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(i) for i in run]
            run = []
        if index is not None:
            run.append(index)
    return ",".join(parts)


def _completed_indexes(job: Mapping[str, Any], status: Mapping[str, Any], pods: Iterable[Object]) -> set[int]:
    completions = int(job["spec"].get("completions") or 0)
    done = parse_indexes(status.get("completedIndexes", ""))
    done |= {i for p in pods if phase_of(p) == "Succeeded" and (i := index_of(p)) is not None}
    return {i for i in done if i < completions}


def _per_index(job: Mapping[str, Any]) -> int | None:
    limit = job["spec"].get("backoffLimitPerIndex") if is_indexed(job) else None
    return None if limit is None else int(limit)


def _index_failures(job: Mapping[str, Any], pods: Iterable[Object]) -> dict[int, int]:
    found: dict[int, int] = {}
    if _per_index(job) is not None:
        for pod in pods:
            if _ended(job, pod) == "failed" and (index := index_of(pod)) is not None:
                before = annotations_of(pod).get(INDEX_FAILURES, "0")
                found[index] = max(found.get(index, 0), int(before if before.isdigit() else 0) + 1)
    return found


def _failed_indexes(job: Mapping[str, Any], status: Mapping[str, Any], pods: Sequence[Object]) -> set[int]:
    """Those that will not be tried again."""
    limit = _per_index(job) or 0
    lost = parse_indexes(status.get("failedIndexes", ""))
    lost |= {index for index, count in _index_failures(job, pods).items() if count > limit}
    for pod in pods:
        given_up = phase_of(pod) == "Failed" and _pod_failure_action(job, pod) == "FailIndex"
        if given_up and (index := index_of(pod)) is not None:
            lost.add(index)
    return lost


def _success_rule(job: Mapping[str, Any], done: set[int]) -> int | None:
    """The first rule of `successPolicy` that the completed indexes meet."""
    for number, rule in enumerate((job["spec"].get("successPolicy") or {}).get("rules") or ()):
        named = rule.get("succeededIndexes")
        meant = done & parse_indexes(named) if named else done
        count = rule.get("succeededCount")
        if len(meant) >= int(count if count is not None else len(parse_indexes(named or "")) or 1):
            return number
    return None
