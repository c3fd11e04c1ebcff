"""Every pod of ours, whatever its Agent says, is let into a namespace with Pod Security `restricted`."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.operator import NAMESPACE, agent, provider
from support.pod_security import violations
from support.strategies import dns_labels, instances

from agentops.api.fields import Quantity
from agentops.api.objects import decode
from agentops.api.types import Agent
from agentops.api.types.agent import ContextFileRef, MemorySpec, StorageSpec
from agentops.api.types.shared import (
    ConfigMapKeyRef,
    ResourceRequirements,
    SecretEnvVar,
    SecretKeyRef,
    SecurityOverrides,
)
from agentops.operator.inputs import AgentInputs
from agentops.operator.objects.config import BoundProvider
from agentops.operator.objects.env import Endpoints
from agentops.operator.objects.job import TaskRun, job, prompt_config_map
from agentops.operator.plan import pod_inputs, render, standing_children
from agentops.values.quantity import parse_quantity

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="comes with the extra `local`")

KEYS = st.from_regex(r"[a-z]{1,8}\.md", fullmatch=True)
VARIABLES = st.from_regex(r"[A-Z][A-Z0-9_]{0,12}", fullmatch=True)


def _resources(of: st.SearchStrategy[int]) -> st.SearchStrategy[ResourceRequirements]:
    """Requests and limits that an API server takes: none asks for more than it may use."""

    def build(amounts: dict[str, tuple[int, int]]) -> ResourceRequirements:
        return ResourceRequirements(
            requests={name: Quantity(f"{min(pair)}Mi") for name, pair in amounts.items() if min(pair) % 3},
            limits={name: Quantity(f"{max(pair)}Mi") for name, pair in amounts.items() if max(pair) % 5},
        )

    return st.dictionaries(st.sampled_from(["memory", "ephemeral-storage"]), st.tuples(of, of)).map(build)


SPECS: dict[str, st.SearchStrategy[Any]] = {
    "mode": st.sampled_from(["daemon", "task"]),
    "image": st.none() | st.just("registry.example.com/agent:1"),
    "image_pull_policy": st.sampled_from(["Always", "IfNotPresent", "Never"]),
    "env": st.dictionaries(VARIABLES, st.text(max_size=20), max_size=3),
    "secrets": st.lists(
        st.builds(SecretEnvVar, name=VARIABLES, secret_ref=st.builds(SecretKeyRef, name=dns_labels, key=dns_labels)),
        max_size=2,
        unique_by=lambda item: item.name,
    ).map(tuple),
    "context_files": st.lists(
        st.builds(ContextFileRef, config_map_ref=st.builds(ConfigMapKeyRef, name=dns_labels, key=KEYS)),
        max_size=2,
        unique_by=lambda item: item.config_map_ref.key,
    ).map(tuple),
    "storage": st.none() | st.builds(StorageSpec, size=st.just("1Gi"), storage_class=st.none() | dns_labels),
    "memory": st.none() | st.builds(MemorySpec, server_ref=dns_labels),
    "resources": _resources(st.integers(1, 8192)),
    "service_account_name": st.none() | dns_labels,
    "termination_grace_period_seconds": st.integers(0, 3600),
    "pod_annotations": st.dictionaries(dns_labels, st.text(max_size=20), max_size=2),
    "security": st.none() | instances(SecurityOverrides),
}
AGENTS = st.builds(
    lambda name, fields: attrs.evolve(
        found := agent(name), spec=attrs.evolve(found.spec, **{**fields, "storage": _kept(fields)})
    ),
    dns_labels,
    st.fixed_dictionaries(SPECS),
)
INPUTS = AgentInputs(providers=(BoundProvider(name="local", spec=provider().spec, overrides=None),))


def _kept(fields: dict[str, Any]) -> StorageSpec | None:
    return fields["storage"] if fields["mode"] == "daemon" else None


def rendered(made: Agent, memory_token: str | None, prompt: str) -> list[dict[str, Any]]:
    """Everything the operator makes of an Agent, and of a run of it."""
    inputs = attrs.evolve(INPUTS, memory_token=memory_token if made.spec.memory else None)
    image = made.spec.image or "agentops:test"
    rendering = render(made, inputs, image, Endpoints())
    objects = [*standing_children(made, "agent-system"), *rendering.children]
    if made.spec.mode == "task":
        run = TaskRun(name="the-run", prompt=prompt, timeout_s=90)
        of_run = pod_inputs(made, inputs, image, rendering.config_hash, Endpoints())
        objects += [job(of_run, run), prompt_config_map(made.metadata.name, NAMESPACE, "the-run", prompt)]
    return objects


def wish(**blocks: Any) -> SecurityOverrides:
    return decode(SecurityOverrides, blocks)


def weak(mode: str, **blocks: Any) -> Agent:
    found = agent("hello", mode=mode)
    return attrs.evolve(found, spec=attrs.evolve(found.spec, security=wish(**blocks)))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(AGENTS, st.sampled_from([None, "memory-token"]), st.sampled_from(["Say hello.", "$HOME " * 3000]))
@example(weak("daemon", pod={"seLinuxOptions": {"type": "spc_t", "user": "root"}}), None, "")
@example(weak("task", container={"seLinuxOptions": {"role": "sysadm_r"}}), None, "")
@example(weak("daemon", pod={"runAsUser": 0, "supplementalGroups": [0, 7]}, container={"privileged": True}), None, "")
def test_whatever_an_agent_wishes_its_pods_are_restricted_and_valid(
    made: Agent, memory_token: str | None, prompt: str
) -> None:
    for obj in rendered(made, memory_token, prompt):
        kubernetes_validate.validate(obj, "1.37", strict=True)
        if obj["kind"] not in ("Deployment", "Job"):
            continue
        pod = obj["spec"]["template"]["spec"]
        assert violations(pod) == []
        wants_token = made.spec.security is not None and made.spec.security.automount_service_account_token is True
        assert pod["automountServiceAccountToken"] is wants_token
        assert 0 not in pod["securityContext"].get("supplementalGroups", ())
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert_sane(container["resources"])


def assert_sane(resources: dict[str, Any]) -> None:
    """Disk is bounded, and nothing is asked for beyond its limit."""
    requests, limits = resources["requests"], resources["limits"]
    assert {"ephemeral-storage"} <= set(requests) & set(limits)
    for name in set(requests) & set(limits):
        assert parse_quantity(requests[name]) <= parse_quantity(limits[name]), name


@pytest.mark.parametrize(
    "broken",
    [
        {"hostNetwork": True},
        {"volumes": [{"name": "root", "hostPath": {"path": "/"}}]},
        {"securityContext": {"runAsNonRoot": True}},
        {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}},
        {"securityContext": {"runAsNonRoot": True, "runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}}},
        {"containers": [{"name": "main", "securityContext": {"allowPrivilegeEscalation": False}}]},
        {"containers": [{"name": "main", "securityContext": {"capabilities": {"drop": ["ALL"]}}}]},
    ],
)
def test_the_judge_of_pods_sees_each_rule_broken(broken: dict[str, Any]) -> None:
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    good: dict[str, Any] = {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "main", "securityContext": context}],
    }
    assert violations(good) == []
    assert len(violations({**good, **broken})) == 1
