"""Pods, and the kinds that make them: defaults, labels, immutability."""

from __future__ import annotations

import copy
import re
from typing import Any, ClassVar

from agentops.local.apiserver import errors
from agentops.local.apiserver.errors import FieldError
from agentops.local.apiserver.limitranges import check_pod, default_amounts
from agentops.local.apiserver.pod_security import refused
from agentops.local.apiserver.strategies.base import Context, Strategy, immutable, text_at
from agentops.local.apiserver.strategies.jobspec import (
    CONTROLLER_UID,
    default_failure_policy,
    generated_labels,
    validate_cron_job,
    validate_cron_spec,
    validate_job,
    validate_job_update,
    validate_new_job,
)
from agentops.local.apiserver.strategies.podspec import default_pod_spec, default_requests, qos_class, validate_pod_spec
from agentops.local.apiserver.strategies.resize import keep_the_rest, validate_resize
from agentops.local.apiserver.strategies.rollouts import validate_deployment, validate_stateful_set
from agentops.values.names import random_suffix
from agentops.values.selector import LabelSelector, SelectorError

Object = dict[str, Any]

_PERCENT = re.compile(r"[0-9]{1,3}%")
TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"
"""How often a DaemonSet's template was changed; nobody but the server writes it."""
_CRON_JOB_NAME = 52
"""Its Jobs' names have eleven characters more, and at most 63."""
TOKEN_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class PodStrategy(Strategy):
    has_generation = True
    has_status = True
    delete_returns_object = True
    fields: ClassVar[dict[str, str]] = {name: name for name in (
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
        "status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName")}  # fmt: skip

    def field_value(self, obj: Object, selector: str) -> str | None:
        if selector == "status.podIPs":
            return ",".join(ip.get("ip", "") for ip in (obj.get("status") or {}).get("podIPs") or ())
        if selector == "spec.hostNetwork":
            return text_at(obj, selector) or "false"
        return super().field_value(obj, selector)

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        default_pod_spec(spec)
        default_requests(spec)
        spec.setdefault("enableServiceLinks", True)

    def prepare_create(self, ctx: Context, obj: Object) -> None:
        spec = obj["spec"]
        self._runtime_class(obj)
        default_amounts(ctx.store, obj)
        obj["status"] = {"phase": "Pending", "qosClass": qos_class(spec)}
        if spec.get("schedulingGates"):
            obj["status"]["conditions"] = [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "lastProbeTime": None,
                    "lastTransitionTime": None,
                    "reason": "SchedulingGated",
                    "message": "Scheduling is blocked due to non-empty scheduling gates",
                }
            ]
        account = spec.setdefault("serviceAccountName", "default")
        spec["serviceAccount"] = account
        found = ctx.store.get("serviceaccounts", obj["metadata"]["namespace"], account)
        if found is None and ctx.require_service_account:
            raise errors.forbidden(
                f'pods "{obj["metadata"]["name"]}" is forbidden: error looking up service account '
                f'{obj["metadata"]["namespace"]}/{account}: serviceaccount "{account}" not found',
                {"name": obj["metadata"]["name"], "kind": "pods"},
            )
        self._mount_token(ctx, spec, found.obj() if found is not None else {})
        tolerations = spec.setdefault("tolerations", [])
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
            if not any(t.get("key") == key or not t.get("key") for t in tolerations):
                tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
        self._priority(ctx, obj)

    def _runtime_class(self, obj: Object) -> None:
        """This plane serves no RuntimeClass, so none is found: its pods would run without what it stands for."""
        name = obj["spec"].get("runtimeClassName")
        if name:
            why = f'pod rejected: RuntimeClass "{name}" not found'
            raise errors.forbidden_object("", "pods", obj["metadata"]["name"], why)

    def admit_update(self, ctx: Context, new: Object, old: Object) -> None:
        if ctx.subresource == "resize" and (refusal := check_pod(ctx.store, new)):
            raise refusal

    def admit(self, ctx: Context, obj: Object) -> None:
        namespace = ctx.store.get("namespaces", "", obj["metadata"]["namespace"])
        refusal = None if namespace is None else refused(namespace.obj(), obj, obj["metadata"]["name"])
        if refusal := refusal or check_pod(ctx.store, obj):
            raise refusal

    def _priority(self, ctx: Context, obj: Object) -> None:
        spec, value, policy = obj["spec"], 0, "PreemptLowerPriority"
        name = spec.get("priorityClassName")
        if name:
            entry = ctx.store.get("priorityclasses.scheduling.k8s.io", "", name)
            if entry is None:
                why = f"no PriorityClass with name {name} was found"
                raise errors.forbidden_object("", "pods", obj["metadata"]["name"], why)
            found = entry.obj()
            value, policy = found.get("value", 0), found.get("preemptionPolicy", policy)
        spec["priority"] = value
        spec.setdefault("preemptionPolicy", policy)

    def _mount_token(self, ctx: Context, spec: Object, account: Object) -> None:
        wanted = spec.get("automountServiceAccountToken")
        if wanted is None:
            wanted = account.get("automountServiceAccountToken", True)
        if account.get("imagePullSecrets") and not spec.get("imagePullSecrets"):
            spec["imagePullSecrets"] = copy.deepcopy(account["imagePullSecrets"])
        if not wanted:
            return
        volume = None
        for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
            mounts = container.setdefault("volumeMounts", [])
            if mounts is None:
                mounts = container["volumeMounts"] = []
            if any(mount.get("mountPath") == TOKEN_MOUNT for mount in mounts):
                continue
            if volume is None:
                volume = f"kube-api-access-{random_suffix(ctx.rng)}"
            mounts.append({"name": volume, "readOnly": True, "mountPath": TOKEN_MOUNT})
        if volume is None:
            return
        field = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
        sources = [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}},
        ]
        spec.setdefault("volumes", []).append({"name": volume, "projected": {"sources": sources, "defaultMode": 420}})

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        return validate_pod_spec(obj["spec"], "spec")

    def prepare_update(self, ctx: Context, new: Object, old: Object) -> None:
        if ctx.subresource == "resize":
            keep_the_rest(new, old)

    def validate_update(self, ctx: Context, new: Object, old: Object) -> list[FieldError]:
        if ctx.subresource == "status":
            return []
        if ctx.subresource == "resize":
            return list(validate_resize(new, old))

        def fixed(obj: Object) -> Object:
            spec: Object = copy.deepcopy(obj["spec"])
            for field in ("containers", "initContainers"):
                for container in spec.get(field) or ():
                    container.pop("image", None)
            for field in ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"):
                spec.pop(field, None)
            return spec

        if fixed(new) != fixed(old):
            detail = (
                "pod updates may not change fields other than "
                "`spec.containers[*].image`,`spec.initContainers[*].image`,"
                "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
                "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
            )
            return [errors.forbidden_field("spec", detail)]
        return []


class TemplateStrategy(Strategy):
    """A kind with spec.selector and spec.template."""

    has_generation = True
    has_status = True

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        template = spec.setdefault("template", {})
        _default_template(template)
        self.default_spec(spec)

    def default_spec(self, spec: Object) -> None:
        """The kind's own fields."""

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        spec = obj["spec"]
        out: list[FieldError] = []
        selector = spec.get("selector")
        labels = (spec["template"].get("metadata") or {}).get("labels") or {}
        if not selector:
            out.append(errors.required("spec.selector"))
        elif not (selector.get("matchLabels") or selector.get("matchExpressions")):
            detail = "empty selector is invalid for deployment"
            out.append(errors.invalid_value("spec.selector", selector, detail))
        else:
            try:
                if not LabelSelector.from_dict(selector).matches(labels):
                    detail = "`selector` does not match template `labels`"
                    out.append(errors.invalid_value("spec.template.metadata.labels", labels, detail))
            except SelectorError as error:
                out.append(errors.invalid_value("spec.selector", selector, str(error)))
        replicas = spec.get("replicas")
        if replicas is not None and replicas < 0:
            out.append(errors.invalid_value("spec.replicas", replicas, "must be greater than or equal to 0"))
        pod, claims = spec["template"]["spec"], self.claims(spec)
        out.extend(validate_pod_spec(pod, "spec.template.spec", restart=("Always",), claims=claims))
        return out

    def claims(self, spec: Object) -> list[str]:
        """Volumes that the pods get beside those of the template."""
        return []

    def validate_update(self, ctx: Context, new: Object, old: Object) -> list[FieldError]:
        return immutable(new, old, "spec.selector")


def _default_template(template: Object) -> None:
    if template.get("metadata") is None:
        template["metadata"] = {}
    if template.get("spec") is None:
        template["spec"] = {}
    default_pod_spec(template["spec"])


class DeploymentStrategy(TemplateStrategy):
    def default_spec(self, spec: Object) -> None:
        spec.setdefault("replicas", 1)
        strategy = spec.setdefault("strategy", {})
        strategy.setdefault("type", "RollingUpdate")
        if strategy["type"] == "RollingUpdate":
            rolling = strategy.get("rollingUpdate")
            if rolling is None:
                rolling = strategy["rollingUpdate"] = {}
            rolling.setdefault("maxUnavailable", "25%")
            rolling.setdefault("maxSurge", "25%")
        spec.setdefault("revisionHistoryLimit", 10)
        spec.setdefault("progressDeadlineSeconds", 600)

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        return [*super().validate(ctx, obj), *validate_deployment(obj["spec"])]


class ReplicaSetStrategy(TemplateStrategy):
    def default_spec(self, spec: Object) -> None:
        spec.setdefault("replicas", 1)

    def prepare_create(self, ctx: Context, obj: Object) -> None:
        obj["status"] = {"replicas": 0}


class StatefulSetStrategy(TemplateStrategy):
    def default_spec(self, spec: Object) -> None:
        spec.setdefault("replicas", 1)
        spec.setdefault("podManagementPolicy", "OrderedReady")
        update = spec.setdefault("updateStrategy", {})
        update.setdefault("type", "RollingUpdate")
        if update["type"] == "RollingUpdate":
            if update.get("rollingUpdate") is None:
                update["rollingUpdate"] = {}
            update["rollingUpdate"].setdefault("partition", 0)
        spec.setdefault("revisionHistoryLimit", 10)
        retention = spec.get("persistentVolumeClaimRetentionPolicy")
        if retention is None:
            retention = spec["persistentVolumeClaimRetentionPolicy"] = {}
        for when in ("whenDeleted", "whenScaled"):
            retention[when] = retention.get(when) or "Retain"
        spec.setdefault("serviceName", "")
        for claim in spec.get("volumeClaimTemplates") or ():
            claim.setdefault("apiVersion", "v1")
            claim.setdefault("kind", "PersistentVolumeClaim")
            claim.setdefault("metadata", {})
            claim.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
            claim.setdefault("status", {}).setdefault("phase", "Pending")

    def prepare_create(self, ctx: Context, obj: Object) -> None:
        obj["status"] = {"replicas": 0, "availableReplicas": 0}

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        return [*super().validate(ctx, obj), *validate_stateful_set(obj["spec"])]

    def claims(self, spec: Object) -> list[str]:
        return [str(claim["metadata"].get("name", "")) for claim in spec.get("volumeClaimTemplates") or ()]

    def validate_update(self, ctx: Context, new: Object, old: Object) -> list[FieldError]:
        free = (
            "replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit", "minReadySeconds",
            "persistentVolumeClaimRetentionPolicy",
        )  # fmt: skip

        def fixed(obj: Object) -> Object:
            return {k: v for k, v in obj["spec"].items() if k not in free}

        if fixed(new) != fixed(old):
            detail = (
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
                "'updateStrategy', "
                "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
            )
            return [errors.forbidden_field("spec", detail)]
        return []


class DaemonSetStrategy(TemplateStrategy):
    def default_spec(self, spec: Object) -> None:
        update = spec.setdefault("updateStrategy", {})
        update.setdefault("type", "RollingUpdate")
        if update["type"] == "RollingUpdate":
            if update.get("rollingUpdate") is None:
                update["rollingUpdate"] = {}
            update["rollingUpdate"].setdefault("maxUnavailable", 1)
            update["rollingUpdate"].setdefault("maxSurge", 0)
        spec.setdefault("revisionHistoryLimit", 10)

    def prepare_create(self, ctx: Context, obj: Object) -> None:
        _annotate(obj, TEMPLATE_GENERATION, "1")
        obj["status"] = {
            "currentNumberScheduled": 0,
            "numberMisscheduled": 0,
            "desiredNumberScheduled": 0,
            "numberReady": 0,
        }

    def prepare_update(self, ctx: Context, new: Object, old: Object) -> None:
        count = (old["metadata"].get("annotations") or {}).get(TEMPLATE_GENERATION, "1")
        changed = new["spec"].get("template") != old["spec"].get("template")
        _annotate(new, TEMPLATE_GENERATION, str(int(count) + changed))

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        out = super().validate(ctx, obj)
        strategy, at = obj["spec"]["updateStrategy"], "spec.updateStrategy"
        if strategy["type"] not in ("OnDelete", "RollingUpdate"):
            return [*out, errors.not_supported(f"{at}.type", strategy["type"], ("OnDelete", "RollingUpdate"))]
        if strategy["type"] == "RollingUpdate":
            out += _validate_rolling_daemons(strategy["rollingUpdate"], f"{at}.rollingUpdate")
        return out


def _validate_rolling_daemons(rolling: Object, at: str) -> list[FieldError]:
    """Either some pods may be missing or there may be more than one on a node: exactly one of the two."""
    out: list[FieldError] = []
    for field in ("maxUnavailable", "maxSurge"):
        value = rolling[field]
        if isinstance(value, str) and not _PERCENT.fullmatch(value):
            detail = "must be an integer or percentage (e.g '5%')"
            out.append(errors.invalid_value(f"{at}.{field}", value, detail))
        elif isinstance(value, str) and int(value[:-1]) > 100:
            out.append(errors.invalid_value(f"{at}.{field}", value, "must not be greater than 100%"))
        elif isinstance(value, int) and value < 0:
            out.append(errors.invalid_value(f"{at}.{field}", value, "must be greater than or equal to 0"))
    nothing = (0, "0%")
    if rolling["maxUnavailable"] not in nothing and rolling["maxSurge"] not in nothing:
        detail = "may not be set when maxUnavailable is non-zero"
        out.append(errors.invalid_value(f"{at}.maxSurge", rolling["maxSurge"], detail))
    elif rolling["maxUnavailable"] in nothing and rolling["maxSurge"] in nothing:
        out.append(errors.required(f"{at}.maxUnavailable", "cannot be 0 when maxSurge is 0"))
    return out


def _annotate(obj: Object, key: str, value: str) -> None:
    obj["metadata"]["annotations"] = {**(obj["metadata"].get("annotations") or {}), key: value}


def default_job_spec(spec: Object) -> None:
    """Shared by Jobs and the templates of CronJobs."""
    _default_template(spec.setdefault("template", {}))
    default_failure_policy(spec)
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
        spec["parallelism"] = 1
    if spec.get("parallelism") is None:
        spec["parallelism"] = 1
    spec.setdefault("backoffLimit", 6 if spec.get("backoffLimitPerIndex") is None else 2**31 - 1)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    spec.setdefault("manualSelector", False)
    spec.setdefault("podReplacementPolicy", "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed")


class JobStrategy(Strategy):
    has_generation = True
    has_status = True
    fields: ClassVar[dict[str, str]] = {"status.successful": "status.succeeded"}
    default_propagation = "Background"

    def field_value(self, obj: Object, selector: str) -> str | None:
        value = super().field_value(obj, selector)
        return "0" if selector == "status.successful" and not value else value

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        default_job_spec(spec)
        labels = (spec["template"]["metadata"] or {}).get("labels")
        if labels and not obj["metadata"].get("labels"):
            obj["metadata"]["labels"] = {
                k: v for k, v in labels.items()
                if k not in ("controller-uid", "job-name") and not k.startswith("batch.kubernetes.io/")
            }  # fmt: skip
            if not obj["metadata"]["labels"]:
                del obj["metadata"]["labels"]

    def prepare_create(self, ctx: Context, obj: Object) -> None:
        spec, meta = obj["spec"], obj["metadata"]
        obj["status"] = {}
        if spec.get("manualSelector"):
            return
        # Marks of the user's own stay: they are refused unless they are the generated ones.
        marks = generated_labels(obj)
        template_meta = spec["template"]["metadata"]
        template_meta["labels"] = {**marks, **(template_meta.get("labels") or {})}
        meta["labels"] = {**(meta.get("labels") or {}), **marks}
        selector = spec.get("selector") or {}
        chosen = {CONTROLLER_UID: meta["uid"], **(selector.get("matchLabels") or {})}
        spec["selector"] = {**selector, "matchLabels": chosen}

    def validate_create(self, ctx: Context, obj: Object) -> list[FieldError]:
        return list(validate_new_job(obj))

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        return list(validate_job(obj))

    def validate_update(self, ctx: Context, new: Object, old: Object) -> list[FieldError]:
        return list(validate_job_update(new, old))


class CronJobStrategy(Strategy):
    has_generation = True
    has_status = True

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("concurrencyPolicy", "Allow")
        spec.setdefault("suspend", False)
        spec.setdefault("successfulJobsHistoryLimit", 3)
        spec.setdefault("failedJobsHistoryLimit", 1)
        template = spec.setdefault("jobTemplate", {})
        template.setdefault("metadata", {})
        inner = template.setdefault("spec", {})
        _default_template(inner.setdefault("template", {}))
        default_failure_policy(inner)

    def prepare_create(self, ctx: Context, obj: Object) -> None:
        obj["status"] = {}

    def validate_create(self, ctx: Context, obj: Object) -> list[FieldError]:
        name, out = obj["metadata"]["name"], list(validate_cron_spec(obj["spec"], None))
        if len(name) > _CRON_JOB_NAME:
            detail = f"must be no more than {_CRON_JOB_NAME} characters"
            out.append(errors.invalid_value("metadata.name", name, detail))
        return out

    def validate_update(self, ctx: Context, new: Object, old: Object) -> list[FieldError]:
        return list(validate_cron_spec(new["spec"], old["spec"]))

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        return list(validate_cron_job(obj["spec"]))


class PodDisruptionBudgetStrategy(Strategy):
    has_generation = True
    has_status = True

    def default(self, obj: Object) -> None:
        obj.setdefault("spec", {})

    def validate(self, ctx: Context, obj: Object) -> list[FieldError]:
        spec = obj["spec"]
        out: list[FieldError] = []
        if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
            out.append(errors.invalid_value("spec", spec, "minAvailable and maxUnavailable cannot be both set"))
        for field in ("minAvailable", "maxUnavailable"):
            value = spec.get(field)
            if isinstance(value, str) and not _PERCENT.fullmatch(value):
                detail = "must be an integer or percentage (e.g '5%')"
                out.append(errors.invalid_value(f"spec.{field}", value, detail))
            elif isinstance(value, int) and value < 0:
                out.append(errors.invalid_value(f"spec.{field}", value, "must be greater than or equal to 0"))
        try:
            LabelSelector.from_dict(spec.get("selector"))
        except SelectorError as error:
            out.append(errors.invalid_value("spec.selector", spec.get("selector"), str(error)))
        return out

    def prepare_create(self, ctx: Context, obj: Object) -> None:
        obj["status"] = {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}
