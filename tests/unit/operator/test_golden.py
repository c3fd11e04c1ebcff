"""Every manifest the operator renders, beside the spec it comes from.

Set AGENTOPS_WRITE_GOLDEN=1 to write the files anew, then read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.operator import NAMESPACE, agent, provider

from agentops.operator.inputs import AgentInputs
from agentops.operator.objects.config import BoundProvider, output_config_map
from agentops.operator.objects.env import Endpoints
from agentops.operator.objects.job import TaskRun, job, prompt_config_map
from agentops.operator.objects.token_secret import token_manifest
from agentops.operator.plan import pod_inputs, render, standing_children

GOLDEN = Path(__file__).parent / "golden"
IMAGE = "agentops:0.1.0"

PLAIN = agent()
FULL = agent(
    "full",
    systemPrompt="Be brief.\n",
    titleModel="cloud/small",
    fallbackModels=["cloud/big"],
    providerRefs=[{"name": "local"}, {"name": "cloud", "overrides": {"openai": {"reasoningEffort": "low"}}}],
    temperature=0.5,
    maxOutputTokens=256,
    contextFiles=[{"configMapRef": {"name": "team", "key": "AGENTS.md"}}],
    env={"B": "2", "A": "1", "WORKSPACE": "/data/repo", "AGENT_NAME": "impostor"},
    secrets=[{"name": "GH_TOKEN", "secretRef": {"name": "github", "key": "token"}}],
    memory={"serverRef": "agentops-memory", "contextLimit": 0, "autoSearch": False},
    storage={"size": "2Gi", "storageClass": "fast"},
    networkPolicy={"enabled": True},
    podAnnotations={"team": "red"},
    resources={"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}},
    delegation={"team": ["scribe"], "maxFanOut": 3},
    security={"pod": {"runAsUser": 0, "fsGroup": 2000}, "container": {"privileged": True}},
)
TASK = agent("scribe", mode="task", timeout="90s", networkPolicy={"enabled": True})
LOCAL = BoundProvider(name="local", spec=provider().spec)
CLOUD = BoundProvider(
    name="cloud",
    spec=provider(
        "cloud",
        type="openai",
        apiKeySecret={"name": "cloud-key", "key": "api-key"},
        endpoint={"headers": {"X-Team": "red"}},
        defaults={"openai": {"reasoningEffort": "high", "serviceTier": "flex"}},
    ).spec,
    overrides=FULL.spec.provider_refs[1].overrides,
)
INPUTS = AgentInputs(providers=(LOCAL,))
FULL_INPUTS = AgentInputs(
    providers=(LOCAL, CLOUD),
    secret_digests={"cloud-key/api-key": "aaaa", "github/token": "bbbb"},
    file_digests={"team/AGENTS.md": "cccc"},
    memory_token="agentops-memory-token",
)
ENDPOINTS = Endpoints(otel="http://tempo:4318", nats="nats://nats:4222")


class _Dumper(yaml.SafeDumper):
    """Text of several lines as a block, so that a diff of config.json can be read."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _manifests() -> dict[str, list[dict[str, Any]]]:
    plain, full = render(PLAIN, INPUTS, IMAGE, Endpoints()), render(FULL, FULL_INPUTS, IMAGE, ENDPOINTS)
    task = render(TASK, INPUTS, IMAGE, Endpoints())
    inputs = pod_inputs(TASK, INPUTS, IMAGE, task.config_hash, Endpoints())
    short = TaskRun(name="scribe-run", prompt="Write.", timeout_s=90, traceparent="00-ab-cd-01", parent_agent="hello")
    long = TaskRun(name="scribe-long", prompt="Spend $HOME " * 10, timeout_s=90)
    return {
        "daemon": [*standing_children(PLAIN, "agent-system"), *plain.children],
        "daemon-full": [*standing_children(FULL, "agent-system"), *full.children],
        "task": [*standing_children(TASK, "agent-system"), *task.children],
        "task-job": [job(inputs, short)],
        "task-job-long-prompt": [
            prompt_config_map("scribe", NAMESPACE, "scribe-long", long.prompt),
            job(inputs, long),
        ],
        "run-output": [output_config_map("hello", NAMESPACE, "hello-run", "a long answer")],
        "token": [token_manifest(NAMESPACE, "hello-token", {"a": "b"}, {"token": "secret", "hash-salt": "salt"})],
    }


@pytest.mark.parametrize("name", sorted(_manifests()))
def test_manifests_are_as_their_golden_file_says(name: str) -> None:
    path = GOLDEN / f"{name}.yaml"
    text = yaml.dump_all(_manifests()[name], Dumper=_Dumper, sort_keys=True, width=120)
    if os.environ.get("AGENTOPS_WRITE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text, (
        f"{path.name} differs; write it anew with AGENTOPS_WRITE_GOLDEN=1 and read the diff"
    )


def test_rendering_twice_from_reordered_maps_is_byte_identical() -> None:
    reordered = (
        agent("hello", env={"B": "2", "A": "1"}, providerRefs=[{"name": "local"}]),
        agent("hello", env={"A": "1", "B": "2"}, providerRefs=[{"name": "local"}]),
    )
    first, second = (render(item, INPUTS, IMAGE, Endpoints()) for item in reordered)
    assert first == second


def test_an_agent_without_storage_lets_the_cluster_choose_its_strategy() -> None:
    deployment = render(PLAIN, INPUTS, IMAGE, Endpoints()).children[1]
    assert "strategy" not in deployment["spec"]
