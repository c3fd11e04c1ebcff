"""The agent pod: one builder for daemons and tasks.

A task has no port, no probes and never a PVC. State and workspace are two directories of one volume,
so the agent's tools never see `/var/lib/agentops`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from agentops.api import labels
from agentops.api.objects import encode
from agentops.api.types import AgentSpec, ProviderSpec
from agentops.operator.objects import names
from agentops.operator.objects.env import Endpoints, Variable, agent_variables, deduplicate
from agentops.operator.objects.meta import child_labels
from agentops.operator.objects.security import apply_floor
from agentops.values.quantity import parse_quantity

_EPHEMERAL_REQUEST = "64Mi"
_EPHEMERAL_LIMIT = "2Gi"
"""Disk-backed emptyDirs count against it: room for a workspace with a repository in it."""


@frozen(slots=True, kw_only=True)
class PodInputs:
    """What an agent pod is made from. `providers` are (name, spec) in the order of `providerRefs`."""

    agent: str
    namespace: str
    spec: AgentSpec
    image: str
    config_hash: str
    providers: Sequence[tuple[str, ProviderSpec]] = ()
    endpoints: Endpoints = Endpoints()
    memory_token: str | None = None
    """The memory service's Secret when it has one: the agent's own Secret then holds a bearer of its project."""
    upgrade: str | None = None
    """The value of the upgrade annotation: another value is another pod."""


def daemon_template(inputs: PodInputs) -> dict[str, Any]:
    """The pod template of a daemon's Deployment."""
    container = _container(inputs, args=["runtime", "daemon"])
    container["ports"] = [{"name": "http", "containerPort": names.RUNTIME_PORT, "protocol": "TCP"}]
    # One second apart and many: a slow import delays readiness, it must never kill the pod.
    container["startupProbe"] = _probe("/healthz", period_s=1, failures=180)
    container["livenessProbe"] = _probe("/healthz", period_s=30, failures=3)
    container["readinessProbe"] = _probe("/readyz", period_s=5, failures=3)
    claim = names.storage(inputs.agent) if inputs.spec.storage is not None else None
    spec = {
        "terminationGracePeriodSeconds": inputs.spec.termination_grace_period_seconds,
        "serviceAccountName": inputs.spec.service_account_name or names.rbac(inputs.agent),
        "containers": [container],
        "volumes": _volumes(inputs, claim),
    }
    return _template(inputs, child_labels(inputs.agent, labels.COMPONENT_RUNTIME), spec)


def task_template(
    inputs: PodInputs,
    *,
    run_labels: Mapping[str, str],
    variables: Sequence[Variable],
    prompt_config_map: str | None,
) -> dict[str, Any]:
    """The pod template of one run's Job; `variables` are those of the run."""
    container = _container(inputs, args=["runtime", "task"])
    container["env"] = deduplicate([*container["env"], *variables])
    volumes = _volumes(inputs, None)
    if prompt_config_map is not None:
        volumes.append(_config_volume("prompt", prompt_config_map, names.PROMPT_KEY))
        container["volumeMounts"].append({"name": "prompt", "mountPath": names.PROMPT_DIR, "readOnly": True})
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": inputs.spec.termination_grace_period_seconds,
        "serviceAccountName": inputs.spec.service_account_name or names.rbac(inputs.agent),
        "containers": [container],
        "volumes": volumes,
    }
    return _template(inputs, {**child_labels(inputs.agent, labels.COMPONENT_TASK_RUN), **run_labels}, spec)


def _template(inputs: PodInputs, pod_labels: Mapping[str, str], spec: dict[str, Any]) -> dict[str, Any]:
    floored = apply_floor(spec, main=labels.RUNTIME_CONTAINER, overrides=inputs.spec.security)
    annotations = {**inputs.spec.pod_annotations, labels.CONFIG_HASH: inputs.config_hash}
    if inputs.upgrade:
        annotations[labels.UPGRADE] = inputs.upgrade
    return {"metadata": {"labels": dict(pod_labels), "annotations": annotations}, "spec": floored}


def _container(inputs: PodInputs, args: list[str]) -> dict[str, Any]:
    return {
        "name": labels.RUNTIME_CONTAINER,
        "image": inputs.image,
        "imagePullPolicy": inputs.spec.image_pull_policy,
        "args": args,
        "env": agent_variables(
            agent=inputs.agent,
            namespace=inputs.namespace,
            mode=inputs.spec.mode,
            spec=inputs.spec,
            providers=inputs.providers,
            endpoints=inputs.endpoints,
            memory_token=inputs.memory_token is not None,
        ),
        "resources": _resources(encode(inputs.spec.resources)),
        "volumeMounts": _mounts(inputs),
        # A runtime that cannot read its configuration says so here; without a message the log's tail does.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _mounts(inputs: PodInputs) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "operator-config", "mountPath": names.CONFIG_DIR, "readOnly": True},
        {"name": "data", "mountPath": names.WORKSPACE, "subPath": "workspace"},
        {"name": "data", "mountPath": names.DATA_DIR, "subPath": "state"},
        {"name": "token", "mountPath": names.TOKEN_DIR, "readOnly": True},
    ]
    if inputs.memory_token:
        mounts.append({"name": "memory-token", "mountPath": names.MEMORY_TOKEN_DIR, "readOnly": True})
    for index, file in enumerate(inputs.spec.context_files):
        key = file.config_map_ref.key
        mounts.append(
            {"name": f"context-{index}", "mountPath": f"{names.CONTEXT_DIR}/{key}", "subPath": key, "readOnly": True}
        )
    mounts.append({"name": "tmp", "mountPath": "/tmp"})
    return mounts


def _volumes(inputs: PodInputs, claim: str | None) -> list[dict[str, Any]]:
    data = {"persistentVolumeClaim": {"claimName": claim}} if claim else {"emptyDir": {}}
    volumes: list[dict[str, Any]] = [
        _config_volume("operator-config", names.config_map(inputs.agent), names.CONFIG_KEY),
        {"name": "data", **data},
        _token_volume("token", names.token_secret(inputs.agent), key=names.TOKEN_KEY, optional=False),
    ]
    if inputs.memory_token:
        secret = names.token_secret(inputs.agent)
        volumes.append(_token_volume("memory-token", secret, key=names.MEMORY_TOKEN_KEY, optional=True))
    for index, file in enumerate(inputs.spec.context_files):
        ref = file.config_map_ref
        volumes.append(_config_volume(f"context-{index}", ref.name, ref.key))
    return volumes


def _config_volume(volume: str, config_map: str, key: str) -> dict[str, Any]:
    return {"name": volume, "configMap": {"name": config_map, "items": [{"key": key, "path": key}]}}


def _token_volume(volume: str, secret: str, *, key: str, optional: bool) -> dict[str, Any]:
    source: dict[str, Any] = {
        "secretName": secret,
        "items": [{"key": key, "path": names.TOKEN_KEY}],
        "defaultMode": 0o440,
    }
    if optional:
        source["optional"] = True
    return {"name": volume, "secret": source}


def _resources(resources: Mapping[str, Any]) -> dict[str, Any]:
    wanted = copy.deepcopy(dict(resources))
    requests: dict[str, Any] = wanted.setdefault("requests", {})
    limits: dict[str, Any] = wanted.setdefault("limits", {})
    asked, cap = requests.get("ephemeral-storage"), limits.get("ephemeral-storage")
    if cap is None:
        limits["ephemeral-storage"] = _largest(_EPHEMERAL_LIMIT, asked)
    if asked is None:
        requests["ephemeral-storage"] = _smallest(_EPHEMERAL_REQUEST, cap)
    return wanted


def _largest(default: str, other: Any) -> Any:
    return other if other is not None and parse_quantity(other) > parse_quantity(default) else default


def _smallest(default: str, other: Any) -> Any:
    return other if other is not None and parse_quantity(other) < parse_quantity(default) else default


def _probe(path: str, *, period_s: int, failures: int) -> dict[str, Any]:
    # Every default stands here, so that the API server adds nothing to compare against.
    return {
        "httpGet": {"path": path, "port": names.RUNTIME_PORT, "scheme": "HTTP"},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "successThreshold": 1,
        "failureThreshold": failures,
    }
