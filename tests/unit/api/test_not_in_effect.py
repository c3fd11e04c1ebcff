"""Which fields nobody acts on yet, and the defaults that depend on other fields."""

from __future__ import annotations

from typing import Any

import pytest

from agentops.api import defaults
from agentops.api import not_in_effect as module
from agentops.api.fields import fields_of
from agentops.api.not_in_effect import not_in_effect
from agentops.api.objects import CLASSES, decode
from agentops.api.types import Agent, AgentRun, AgentTool, Provider


def agent(**spec: Any) -> Agent:
    base = {"mode": "daemon", "model": "local/x", "providerRefs": [{"name": "local"}]}
    return decode(Agent, {"metadata": {"name": "it"}, "spec": {**base, **spec}})


def test_an_agent_that_uses_only_what_works_has_none() -> None:
    assert not_in_effect(agent(builtinTools=["bash"], memory={"serverRef": "m"}, storage={"size": "1Gi"})) == ()


def test_paths_name_the_field_and_the_item() -> None:
    subject = agent(
        tools=[{"name": "a"}],
        schedule="@daily",
        schedulePrompt="go",
        waitForDependencies=False,
        providerRefs=[{"name": "a"}, {"name": "b", "overrides": {"google": {"thinkingLevel": "LOW"}, "openai": {}}}],
    )
    assert not_in_effect(subject) == (
        "spec.providerRefs[1].overrides.google",
        "spec.schedule",
        "spec.schedulePrompt",
        "spec.tools",
        "spec.waitForDependencies",
    )


def test_a_field_written_out_at_its_default_is_not_reported() -> None:
    assert not_in_effect(agent(waitForDependencies=True, tools=[], enableQuestionTool=False)) == ()


def test_a_provider_of_a_type_without_adapter_says_so() -> None:
    assert not_in_effect(decode(Provider, {"metadata": {}, "spec": {"type": "google"}})) == ("spec.type",)
    local = {"type": "openaicompat", "endpoint": {"baseURL": "http://m"}}
    assert not_in_effect(decode(Provider, {"metadata": {}, "spec": local})) == ()


def test_runs_and_kinds_without_a_reconciler() -> None:
    run = {"agentRef": "a", "prompt": "p", "git": {"resourceRef": "r", "branch": "b"}, "cancel": True}
    assert not_in_effect(decode(AgentRun, {"metadata": {}, "spec": run})) == ("spec.git",)
    assert not_in_effect(decode(AgentTool, {"metadata": {}, "spec": {"inline": {"content": "x"}}})) == ("spec",)
    with pytest.raises(TypeError):
        not_in_effect({})


def test_every_path_of_the_table_is_a_field() -> None:
    for cls, paths in module._FIELDS.items():
        for path in paths:
            node: Any = cls
            for step in path.split("."):
                info = next(info for info in fields_of(node) if info.json_name == step.removesuffix("[]"))
                node = info.type.__args__[0] if step.endswith("[]") else info.type
    assert {*module._FIELDS, *module._WHOLE} == set(CLASSES.values())


def test_the_service_account_is_the_users_or_ours() -> None:
    assert (defaults.service_account_name(agent()), defaults.manages_rbac(agent())) == ("it-agent", True)
    theirs = agent(serviceAccountName="bot")
    assert (defaults.service_account_name(theirs), defaults.manages_rbac(theirs)) == ("bot", False)


def test_a_daemon_runs_one_prompt_at_a_time() -> None:
    assert defaults.max_runs(agent(concurrency={"maxRuns": 5})) == 1
    assert defaults.max_runs(agent(mode="task", concurrency={"maxRuns": 5})) == 5


def test_times_and_names_that_follow_from_other_fields() -> None:
    assert defaults.timeout_s(agent()) == 600
    assert defaults.timeout_s(agent(timeout="1h30m")) == 5400
    assert defaults.memory_project(agent()) is None
    assert defaults.memory_project(agent(memory={"serverRef": "m"})) == "it"
    assert defaults.memory_project(agent(memory={"serverRef": "m", "project": "p"})) == "p"
    run = decode(AgentRun, {"metadata": {}, "spec": {"agentRef": "a", "prompt": "p", "ttlSecondsAfterFinished": 0}})
    assert defaults.run_ttl_s(run) == 0
    assert defaults.run_ttl_s(decode(AgentRun, {"metadata": {}, "spec": {"agentRef": "a", "prompt": "p"}})) == 604800
