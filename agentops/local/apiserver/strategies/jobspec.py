"""Checks of Jobs and CronJobs: what the schema does not say, in kube-apiserver's words."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.meta import qualified_name_problem
from agentops.local.apiserver.strategies.base import immutable, not_negative
from agentops.local.apiserver.strategies.placement import validate_label_selector
from agentops.local.apiserver.strategies.podspec import validate_pod_spec
from agentops.local.apiserver.strategies.schedules import schedule_problem, zone_problem
from agentops.values.names import is_dns1123_label
from agentops.values.selector import LabelSelector, SelectorError

Object = dict[str, Any]

CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
_INDEXED = "Indexed"
_MODES = ("NonIndexed", _INDEXED)
_ACTIONS = ("Count", "FailIndex", "FailJob", "Ignore")
_EXIT_OPERATORS = ("In", "NotIn")
_STATUSES = ("False", "True", "Unknown")
_REPLACEMENTS = ("Failed", "TerminatingOrFailed")
_CONCURRENCY = ("Allow", "Forbid", "Replace")
_FIGURES = ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished",
            "backoffLimitPerIndex", "maxFailedIndexes")  # fmt: skip
_MAX_INDEXED = 100_000
_MAX_RULES = 20
_MAX_EXIT_CODES = 255


def generated_labels(job: Object) -> dict[str, str]:
    """What a Job without a selector of its own marks its pods with: the old names and the new."""
    uid, name = job["metadata"]["uid"], job["metadata"]["name"]
    return {
        "controller-uid": uid,
        "job-name": name,
        CONTROLLER_UID: uid,
        "batch.kubernetes.io/job-name": name,
    }


def default_failure_policy(spec: Object) -> None:
    """A condition that names no status means that it is true."""
    for rule in (spec.get("podFailurePolicy") or {}).get("rules") or ():
        for pattern in rule.get("onPodConditions") or ():
            if not pattern.get("status"):
                pattern["status"] = "True"


def validate_new_job(job: Object) -> Iterator[FieldError]:
    """What is asked of a Job only when it is made: its pods' marks, and names that its pods can have."""
    spec = job["spec"]
    if not spec.get("manualSelector"):
        labels, wanted = spec["template"]["metadata"].get("labels") or {}, generated_labels(job)
        for key, value in wanted.items():
            if labels.get(key) != value:
                yield errors.invalid_value(f"spec.template.metadata.labels[{key}]", labels, f"must be '{value}'")
        if _matches(spec.get("selector"), wanted) is False:
            yield errors.invalid_value("spec.selector", spec["selector"], "`selector` not auto-generated")
    completions = spec.get("completions") or 0
    if spec.get("completionMode") == _INDEXED and completions > 0:
        last = f"{job['metadata']['name']}-{completions - 1}"
        if not is_dns1123_label(last):
            detail = f"will not able to create pod with invalid DNS label: {last}"
            yield errors.invalid_value("metadata.name", job["metadata"]["name"], detail)


def validate_job(job: Object) -> Iterator[FieldError]:
    """Of a Job whose selector is there, its own or a generated one."""
    spec = job["spec"]
    yield from validate_job_spec(spec, "spec")
    selector = spec.get("selector")
    if not selector:
        yield errors.required("spec.selector")
    else:
        yield from validate_label_selector(selector, "spec.selector")
    labels = spec["template"]["metadata"].get("labels") or {}
    if _matches(selector, labels) is False:
        yield errors.invalid_value(
            "spec.template.metadata.labels", labels, "`selector` does not match template `labels`"
        )


def _matches(selector: Object | None, labels: dict[str, str]) -> bool | None:
    """None for a selector that selects nothing or cannot be read, which is told elsewhere."""
    try:
        return LabelSelector.from_dict(selector).matches(labels) if selector else None
    except SelectorError:
        return None


def validate_job_spec(spec: Object, at: str) -> Iterator[FieldError]:
    """Of a Job or of a CronJob's template."""
    yield from not_negative(spec, at, _FIGURES)
    yield from _indexes(spec, at)
    yield from _failure_policy(spec, f"{at}.podFailurePolicy")
    yield from _success_policy(spec, f"{at}.successPolicy")
    replacement = spec.get("podReplacementPolicy")
    allowed = ("Failed",) if spec.get("podFailurePolicy") else _REPLACEMENTS
    if replacement is not None and replacement not in allowed:
        yield errors.not_supported(f"{at}.podReplacementPolicy", replacement, allowed)
    pod = spec["template"]["spec"]
    restart, where = pod.get("restartPolicy") or "Always", f"{at}.template.spec.restartPolicy"
    if restart == "Always":
        yield errors.required(where, 'valid values: "OnFailure", "Never"')
    elif restart not in ("OnFailure", "Never"):
        yield errors.not_supported(where, restart, ("OnFailure", "Never"))
    elif spec.get("podFailurePolicy") and restart != "Never":
        yield errors.invalid_value(where, restart, 'only "Never" is supported when podFailurePolicy is specified')
    # Whatever it says about the restart policy has been said.
    yield from validate_pod_spec(pod, f"{at}.template.spec", restart=("Always", "OnFailure", "Never", restart))


def _indexes(spec: Object, at: str) -> Iterator[FieldError]:
    mode, completions = spec.get("completionMode") or "NonIndexed", spec.get("completions")
    per_index, most_failed = spec.get("backoffLimitPerIndex"), spec.get("maxFailedIndexes")
    if most_failed is not None and per_index is None:
        yield errors.required(f"{at}.backoffLimitPerIndex", "when maxFailedIndexes is specified")
    if mode not in _MODES:
        yield errors.not_supported(f"{at}.completionMode", mode, _MODES)
    elif mode == _INDEXED:
        if completions is None:
            yield errors.required(f"{at}.completions", "when completion mode is Indexed")
        if (spec.get("parallelism") or 0) > _MAX_INDEXED:
            detail = f"must be less than or equal to {_MAX_INDEXED} when completion mode is Indexed"
            yield errors.invalid_value(f"{at}.parallelism", spec["parallelism"], detail)
        if most_failed is not None and completions is not None and most_failed > completions:
            yield errors.invalid_value(
                f"{at}.maxFailedIndexes", most_failed, "must be less than or equal to completions"
            )
        if (most_failed or 0) > _MAX_INDEXED:
            detail = f"must be less than or equal to {_MAX_INDEXED}"
            yield errors.invalid_value(f"{at}.maxFailedIndexes", most_failed, detail)
    else:
        for name, value in (("backoffLimitPerIndex", per_index), ("maxFailedIndexes", most_failed)):
            if value is not None:
                yield errors.invalid_value(f"{at}.{name}", value, "requires indexed completion mode")


def _failure_policy(spec: Object, at: str) -> Iterator[FieldError]:
    rules = (spec.get("podFailurePolicy") or {}).get("rules") or ()
    if len(rules) > _MAX_RULES:
        yield _too_many(f"{at}.rules", len(rules), _MAX_RULES)
    pod = spec["template"]["spec"]
    names = {c.get("name") for field in ("containers", "initContainers") for c in pod.get(field) or ()}
    for index, rule in enumerate(rules):
        where, action = f"{at}.rules[{index}]", rule.get("action") or ""
        if action == "FailIndex":
            if spec.get("backoffLimitPerIndex") is None:
                detail = "requires the backoffLimitPerIndex to be set"
                yield errors.invalid_value(f"{where}.action", action, detail)
        else:
            yield from _one_of(action, f"{where}.action", _ACTIONS)
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions") or ()
        if codes is not None:
            yield from _exit_codes(codes, f"{where}.onExitCodes", names)
        if len(conditions) > _MAX_RULES:
            yield _too_many(f"{where}.onPodConditions", len(conditions), _MAX_RULES)
        for number, pattern in enumerate(conditions):
            here = f"{where}.onPodConditions[{number}]"
            if problem := qualified_name_problem(pattern.get("type") or ""):
                yield errors.invalid_value(f"{here}.type", pattern.get("type") or "", problem)
            yield from _one_of(pattern.get("status") or "", f"{here}.status", _STATUSES)
        if codes is not None and conditions:
            detail = "specifying both OnExitCodes and OnPodConditions is not supported"
            yield FieldError(errors.INVALID, where, detail)
        if codes is None and not conditions:
            yield FieldError(errors.INVALID, where, "specifying one of OnExitCodes and OnPodConditions is required")


def _exit_codes(codes: Object, at: str, names: set[Any]) -> Iterator[FieldError]:
    operator, values = codes.get("operator") or "", codes.get("values") or []
    yield from _one_of(operator, f"{at}.operator", _EXIT_OPERATORS)
    name = codes.get("containerName")
    if name is not None and name not in names:
        detail = "must be one of the container or initContainer names in the pod template"
        yield errors.invalid_value(f"{at}.containerName", name, detail)
    if not values:
        yield errors.invalid_value(f"{at}.values", values, "at least one value is required")
    elif len(values) > _MAX_EXIT_CODES:
        yield _too_many(f"{at}.values", len(values), _MAX_EXIT_CODES)
    for index, value in enumerate(values):
        if operator == "In" and value == 0:
            yield errors.invalid_value(f"{at}.values[{index}]", value, "must not be 0 for the In operator")
        if value in values[:index]:
            yield errors.duplicate(f"{at}.values[{index}]", value)
    if values != sorted(values):
        yield errors.invalid_value(f"{at}.values", values, "must be ordered")


def _success_policy(spec: Object, at: str) -> Iterator[FieldError]:
    policy = spec.get("successPolicy")
    if policy is None:
        return
    if spec.get("completionMode") != _INDEXED:
        yield errors.invalid_value(at, policy, "requires indexed completion mode")
        return
    rules = policy.get("rules") or ()
    if not rules:
        detail = "at least one rules must be specified when the successPolicy is specified"
        yield errors.required(f"{at}.rules", detail)
    if len(rules) > _MAX_RULES:
        yield _too_many(f"{at}.rules", len(rules), _MAX_RULES)
    for index, rule in enumerate(rules):
        if rule.get("succeededCount") is None and rule.get("succeededIndexes") is None:
            detail = "at least one of succeededCount or succeededIndexes must be specified"
            yield errors.required(f"{at}.rules[{index}]", detail)
        yield from not_negative(rule, f"{at}.rules[{index}]", ("succeededCount",))


def validate_job_update(new: Object, old: Object) -> Iterator[FieldError]:
    """What of a Job never changes."""
    for field in ("selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "successPolicy"):
        yield from immutable(new, old, f"spec.{field}")
    if new["spec"].get("completionMode") != _INDEXED:
        yield from immutable(new, old, "spec.completions")
    before, after = old["spec"]["template"], new["spec"]["template"]
    if _may_be_placed_anew(old):
        before, after = _without_placement(before), _without_placement(after)
    if before != after:
        yield errors.invalid_value("spec.template", new["spec"]["template"], "field is immutable")


def _may_be_placed_anew(job: Object) -> bool:
    """Whether a queue may still say where the pods go and what they get: it is suspended and nothing of it runs."""
    status = job.get("status") or {}
    if not job["spec"].get("suspend"):
        return False
    told = any(c.get("type") == "Suspended" and c.get("status") == "True" for c in status.get("conditions") or ())
    return not status.get("startTime") or (told and not status.get("active"))


def _without_placement(template: Object) -> Object:
    """Without scheduling directives, labels, annotations (Kubernetes 1.27) and containers' resources (1.36)."""
    left: Object = copy.deepcopy(template)
    for field in ("labels", "annotations"):
        left.get("metadata", {}).pop(field, None)
    pod = left["spec"]
    for field in ("nodeSelector", "tolerations", "schedulingGates"):
        pod.pop(field, None)
    affinity = pod.get("affinity")
    if affinity is not None:
        affinity.pop("nodeAffinity", None)
        if not affinity:
            del pod["affinity"]
    for field in ("containers", "initContainers"):
        for container in pod.get(field) or ():
            container.pop("resources", None)
    return left


def validate_cron_spec(spec: Object, old: Object | None) -> Iterator[FieldError]:
    """Of a CronJob; `old` is its spec before an update."""
    schedule, zone = spec.get("schedule") or "", spec.get("timeZone")
    if not schedule:
        yield errors.required("spec.schedule")
    else:
        if problem := schedule_problem(schedule):
            yield errors.invalid_value("spec.schedule", schedule, problem)
        if "TZ" in schedule:
            if not (old and "TZ" in (old.get("schedule") or "")):
                detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
                yield errors.invalid_value("spec.schedule", schedule, detail)
            elif zone is not None:
                detail = "cannot use both timeZone field and TZ or CRON_TZ in schedule"
                yield errors.invalid_value("spec.schedule", schedule, detail)
    if zone is not None and (old is None or old.get("timeZone") != zone) and (problem := zone_problem(zone)):
        yield errors.invalid_value("spec.timeZone", zone, problem)


def validate_cron_job(spec: Object) -> Iterator[FieldError]:
    """What is asked of a CronJob on every write."""
    figures = ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")
    yield from not_negative(spec, "spec", figures)
    yield from _one_of(spec.get("concurrencyPolicy") or "", "spec.concurrencyPolicy", _CONCURRENCY)
    job, at = spec["jobTemplate"]["spec"], "spec.jobTemplate.spec"
    yield from validate_job_spec(job, at)
    if job.get("selector") is not None:
        yield errors.invalid_value(f"{at}.selector", job["selector"], "`selector` will be auto-generated")
    if job.get("manualSelector"):
        yield errors.not_supported(f"{at}.manualSelector", True, ("nil", "false"))


def _one_of(value: str, at: str, allowed: tuple[str, ...]) -> Iterator[FieldError]:
    if not value:
        listed = " ".join(f'"{word}"' for word in allowed)
        yield errors.required(at, f"valid values: [{listed}]")
    elif value not in allowed:
        yield errors.not_supported(at, value, allowed)


def _too_many(at: str, count: int, most: int) -> FieldError:
    return FieldError(errors.TOO_MANY, at, f"{count}: must have at most {most} items")
