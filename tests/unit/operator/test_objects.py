"""Rules of the builders that a golden file does not make plain."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.operator import agent, provider

from agentops.operator.inputs import AgentInputs
from agentops.operator.objects import names
from agentops.operator.objects.config import BoundProvider, call_defaults, runtime_config
from agentops.operator.objects.env import Endpoints, agent_variables, tool_variables
from agentops.operator.objects.job import fits_inline
from agentops.operator.objects.pod import PodInputs, daemon_template
from agentops.operator.objects.probe_request import models_request
from agentops.operator.objects.protocol import platform_protocol
from agentops.operator.plan import render

INPUTS = AgentInputs(providers=(BoundProvider(name="local", spec=provider().spec),))


def variables(**spec: Any) -> dict[str, Any]:
    built = agent_variables(
        agent="hello",
        namespace="agents",
        mode="daemon",
        spec=agent(**spec).spec,
        providers=[],
        endpoints=Endpoints(),
        memory_token=False,
    )
    assert len({item["name"] for item in built}) == len(built), "a name stands twice"
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in built}


def test_a_user_s_variable_replaces_a_default_of_the_platform() -> None:
    assert variables(env={"WORKSPACE": "/data/repo"})["WORKSPACE"] == "/data/repo"


def test_a_user_cannot_be_another_agent() -> None:
    assert variables(env={"AGENT_NAME": "boss"})["AGENT_NAME"] == "hello"


def test_nothing_says_otel_or_nats_unless_the_operator_was_told() -> None:
    assert not {"OTEL_EXPORTER_OTLP_ENDPOINT", "NATS_URL"} & set(variables())


@pytest.mark.parametrize(
    ("provider_name", "expected"),
    [("openai", "OPENAI_API_KEY"), ("my-llm", "MY_LLM_API_KEY"), ("a.b", "A_B_API_KEY"), ("0ai", "_0AI_API_KEY")],
)
def test_key_variables_are_shell_identifiers(provider_name: str, expected: str) -> None:
    assert names.variable(provider_name, "API_KEY") == expected


def resources(**wanted: Any) -> dict[str, Any]:
    inputs = PodInputs(agent="a", namespace="n", spec=agent(resources=wanted).spec, image="i", config_hash="h")
    return daemon_template(inputs)["spec"]["containers"][0]["resources"]


def test_ephemeral_storage_has_room_for_a_repository() -> None:
    assert resources()["limits"]["ephemeral-storage"] == "2Gi"


def test_the_user_s_ephemeral_storage_stands_and_stays_consistent() -> None:
    assert resources(limits={"ephemeral-storage": "10Mi"}) == {
        "limits": {"ephemeral-storage": "10Mi"},
        "requests": {"ephemeral-storage": "10Mi"},
    }
    assert resources(requests={"ephemeral-storage": "5Gi"})["limits"]["ephemeral-storage"] == "5Gi"


def test_prompts_with_a_dollar_travel_in_a_file() -> None:
    assert fits_inline("plain")
    assert not fits_inline("costs $(PRICE)")
    assert not fits_inline("x" * 9000)


def test_config_json_always_has_its_lists_and_no_secret() -> None:
    config_map = render(agent(builtinTools=["read"]), INPUTS, "i", Endpoints()).children[0]
    config = json.loads(config_map["data"]["config.json"])
    assert config["schemaVersion"] == 1
    assert config["tools"] == []
    assert config["contextFiles"] == []
    assert config["providers"][0] == {
        "name": "local",
        "type": "openaicompat",
        "baseURL": "http://model.agents.svc:8000/v1",
    }


def test_memory_defaults_to_the_agent_s_name_and_its_limit_may_be_zero() -> None:
    spec = agent(memory={"serverRef": "agentops-memory", "contextLimit": 0}).spec
    config = runtime_config("hello", "agents", spec, INPUTS.providers)
    assert config.memory is not None
    assert config.memory.server_url == "http://agentops-memory.agents.svc:7437"
    assert (config.memory.project, config.memory.context_limit) == ("hello", 0)


def protocol(**spec: Any) -> str:
    return runtime_config("test-agent", "agents", agent(**spec).spec, INPUTS.providers).platform_protocol


def test_the_protocol_introduces_the_agent_and_nothing_it_has_not() -> None:
    text = protocol()
    assert text == "You are test-agent, a daemon agent in the agents namespace."


@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("search", [True, False])
def test_the_protocol_follows_the_memory_settings(save: bool, search: bool) -> None:
    text = protocol(memory={"serverRef": "m", "autoSave": save, "autoSearch": search})
    assert "## Memory System" in text
    assert ("call mem_save after" in text) is save
    assert ("Do NOT call mem_save" in text) is not save
    assert ("call mem_search when" in text) is search
    assert ("Do NOT call mem_search" in text) is not search


def test_a_team_that_cannot_be_reached_yet_is_not_in_the_protocol() -> None:
    assert protocol(delegation={"team": ["scribe"]}) == protocol()


def test_tools_see_the_variables_of_the_spec_and_no_secret() -> None:
    spec = agent(
        env={"REGION": "eu", "AGENT_NAME": "x", "BOTH": "plain", "SM_API_KEY": "pasted"},
        secrets=[{"name": "BOTH", "secretRef": {"name": "s", "key": "k"}}],
    ).spec
    keyed = provider(apiKeySecret={"name": "s", "key": "k"}).spec
    assert tool_variables(spec, [("sm", keyed)]) == ("REGION",)


def test_the_protocol_lists_the_team_and_its_cap() -> None:
    text = platform_protocol(agent="a", mode="daemon", namespace="n", team=("scribe", "tester"), max_fan_out=3)
    assert "## Delegation" in text
    assert "- scribe\n- tester" in text
    assert "Maximum parallel delegations per fan-out: 3" in text


def test_overriding_one_google_setting_clears_the_other() -> None:
    defaults = provider(type="google", defaults={"google": {"thinkingLevel": "LOW"}}).spec.defaults
    bound = agent(providerRefs=[{"name": "g", "overrides": {"google": {"thinkingBudgetTokens": 512}}}])
    merged = call_defaults(defaults, bound.spec.provider_refs[0].overrides)
    assert merged == {"google": {"thinkingBudgetTokens": 512}}


def test_each_type_is_asked_for_its_models_in_its_own_way() -> None:
    at = {"endpoint": {"baseURL": "https://x/v1/"}}
    assert models_request(provider(**at).spec, "k") == ("https://x/v1/models", {"Authorization": "Bearer k"})
    assert models_request(provider(type="anthropic", **at).spec, "k") == (
        "https://x/v1/v1/models",
        {"anthropic-version": "2023-06-01", "x-api-key": "k"},
    )
    assert models_request(provider(type="openai", endpoint={}).spec, "k") is None
