"""What restarts an agent, and what does not."""

from __future__ import annotations

from typing import Any

import pytest
from support.operator import agent, agent_object, provider

from agentops.operator.inputs import AgentInputs, context_config_maps, input_hash, secret_digest, secret_names
from agentops.operator.objects.config import BoundProvider

BASE = AgentInputs(providers=(BoundProvider(name="local", spec=provider().spec),))


def hash_of(inputs: AgentInputs = BASE, image: str = "agentops:1", **spec: Any) -> str:
    return input_hash(agent(**spec).spec, inputs, image)


@pytest.mark.parametrize(
    "spec",
    [
        {"systemPrompt": "Other."},
        {"builtinTools": ["read"]},
        {"env": {"A": "1"}},
        {"resources": {"limits": {"memory": "1Gi"}}},
        {"storage": {"size": "1Gi"}},
        {"podAnnotations": {"a": "b"}},
    ],
)
def test_what_the_pod_is_made_from_changes_the_hash(spec: dict[str, Any]) -> None:
    assert hash_of(**spec) != hash_of()


@pytest.mark.parametrize(
    "spec",
    [
        {"concurrency": {"maxRuns": 1, "policy": "reject"}},
        {"timeout": "1h"},
        {"networkPolicy": {"enabled": True}},
        {"maxSteps": 100},
        {"imagePullPolicy": "IfNotPresent"},
        {"enableQuestionTool": False},
        {"memory": None},
    ],
)
def test_defaults_written_out_and_what_the_pod_never_sees_do_not(spec: dict[str, Any]) -> None:
    assert hash_of(**spec) == hash_of()


def test_a_provider_change_that_agents_use_changes_the_hash() -> None:
    other = AgentInputs(providers=(BoundProvider(name="local", spec=provider(endpoint={"baseURL": "http://b"}).spec),))
    assert hash_of(other) != hash_of()


def test_a_provider_s_list_of_allowed_models_restarts_nobody() -> None:
    other = AgentInputs(providers=(BoundProvider(name="local", spec=provider(models=["smollm2"]).spec),))
    assert hash_of(other) == hash_of()


def test_image_secrets_and_files_change_the_hash() -> None:
    hashes = {
        hash_of(),
        hash_of(image="agentops:2"),
        hash_of(AgentInputs(providers=BASE.providers, secret_digests={"s/k": "1"})),
        hash_of(AgentInputs(providers=BASE.providers, secret_digests={"s/k": "2"})),
        hash_of(AgentInputs(providers=BASE.providers, file_digests={"c/k": "1"})),
        hash_of(AgentInputs(providers=BASE.providers, memory_token="m-token")),
    }
    assert len(hashes) == 6


def test_equal_secrets_of_two_agents_have_different_digests() -> None:
    assert secret_digest(b"salt-a", b"key") != secret_digest(b"salt-b", b"key")


def test_the_watch_indexes_name_what_the_agent_reads() -> None:
    spec = agent_object(
        secrets=[{"name": "A", "secretRef": {"name": "zed", "key": "k"}}],
        memory={"serverRef": "agentops-memory"},
        contextFiles=[{"configMapRef": {"name": "team", "key": "a"}}, {"configMapRef": {"name": "team", "key": "b"}}],
    )["spec"]
    assert secret_names("hello", spec) == ["agentops-memory-token", "hello-token", "zed"]
    assert context_config_maps(spec) == ["team"]
