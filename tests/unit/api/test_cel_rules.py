"""The CEL rules in the CRDs, evaluated as an API server does."""

from __future__ import annotations

from typing import Any

import pytest

from agentops.api.fields import Rule, fields_of
from agentops.api.schema import NAME_IS_A_LABEL
from agentops.api.types import agent, agentresource, agentrun, agenttool, channel, provider

cel = pytest.importorskip("cel_expr_python.cel")


def failures(rules: tuple[Rule, ...], obj: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
    """Messages of the rules that do not hold; transition rules are skipped without `old`."""
    env = cel.NewEnv(variables={"self": cel.Type.DYN, "oldSelf": cel.Type.DYN})
    messages = []
    for rule in rules:
        if "oldSelf" in rule.rule and old is None:
            continue
        result = env.compile(rule.rule).eval(data={"self": obj, "oldSelf": old or {}})
        if result.value() is not True:
            assert result.value() is False, f"{rule.rule}: {result}"
            messages.append(rule.message)
    return messages


RUN = {"agentRef": "hello", "prompt": "hi", "source": "user"}


def test_a_run_may_be_cancelled_and_nothing_else() -> None:
    assert failures(agentrun.SPEC_RULES, RUN, RUN) == []
    assert failures(agentrun.SPEC_RULES, {**RUN, "cancel": True}, RUN) == []
    assert failures(agentrun.SPEC_RULES, {**RUN, "cancel": True}, {**RUN, "cancel": False}) == []
    assert failures(agentrun.SPEC_RULES, {**RUN, "cancel": True}, {**RUN, "cancel": True}) == []


@pytest.mark.parametrize("after", [{}, {"cancel": False}], ids=["removed", "false"])
def test_a_cancel_cannot_be_taken_back(after: dict[str, Any]) -> None:
    (message,) = failures(agentrun.SPEC_RULES, {**RUN, **after}, {**RUN, "cancel": True})
    assert "cannot be taken back" in message


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"prompt": "other"}),
        ({}, {"agentRef": "other"}),
        ({}, {"source": "console"}),
        ({}, {"sourceRef": "x"}),
        ({"sourceRef": "x"}, {}),
        ({}, {"git": {"resourceRef": "r", "branch": "b"}}),
        ({"git": {"resourceRef": "r", "branch": "b"}}, {"git": {"resourceRef": "r", "branch": "c"}}),
        ({"git": {"resourceRef": "r", "branch": "b"}}, {}),
        ({}, {"outcome": {"intent": "plan"}}),
        ({"ttlSecondsAfterFinished": 5}, {"ttlSecondsAfterFinished": 6}),
    ],
)
def test_every_other_field_of_a_run_is_immutable(before: dict[str, Any], after: dict[str, Any]) -> None:
    (message,) = failures(agentrun.SPEC_RULES, {**RUN, **after}, {**RUN, **before})
    assert "is immutable" in message


def test_the_immutable_fields_are_all_fields_but_cancel() -> None:
    named = {rule.field_path.lstrip(".") for rule in agentrun.SPEC_RULES}
    assert named == {info.json_name for info in fields_of(agentrun.AgentRunSpec)}


def test_the_mode_of_an_agent_is_immutable() -> None:
    rules = next(info.doc.rules for info in fields_of(agent.AgentSpec) if info.name == "mode")
    env = cel.NewEnv(variables={"self": cel.Type.DYN, "oldSelf": cel.Type.DYN})
    expression = env.compile(rules[0].rule)
    assert expression.eval(data={"self": "task", "oldSelf": "task"}).value() is True
    assert expression.eval(data={"self": "task", "oldSelf": "daemon"}).value() is False


def test_a_task_has_no_storage() -> None:
    assert failures(agent.SPEC_RULES, {"mode": "daemon", "storage": {"size": "1Gi"}}) == []
    assert failures(agent.SPEC_RULES, {"mode": "task"}) == []
    (message,) = failures(agent.SPEC_RULES, {"mode": "task", "storage": {"size": "1Gi"}})
    assert "storage is for daemons" in message


def test_a_schedule_needs_its_prompt() -> None:
    assert failures(agent.SPEC_RULES, {"mode": "task", "schedule": "@daily", "schedulePrompt": "go"}) == []
    (message,) = failures(agent.SPEC_RULES, {"mode": "task", "schedule": "@daily"})
    assert "schedulePrompt" in message


def test_names_that_become_services_are_labels() -> None:
    for name, good in (("hello", True), ("a-1", True), ("1a", False), ("a.b", False), ("a" * 64, False)):
        assert (failures((NAME_IS_A_LABEL,), {"metadata": {"name": name}}) == []) is good, name


def test_openaicompat_needs_a_base_url_and_one_way_in() -> None:
    rules = provider.SPEC_RULES
    assert failures(rules, {"type": "openai"}) == []
    assert failures(rules, {"type": "openaicompat", "endpoint": {"baseURL": "http://x"}}) == []
    assert "baseURL" in failures(rules, {"type": "openaicompat"})[0]
    both = {"type": "openai", "apiKeySecret": {}, "endpoint": {"oauth2ClientCredentials": {}}}
    assert "exclude each other" in failures(rules, both)[0]


def test_a_tool_has_exactly_one_source() -> None:
    assert failures(agenttool.SPEC_RULES, {"oci": {"ref": "a"}}) == []
    assert len(failures(agenttool.SPEC_RULES, {})) == 1
    assert len(failures(agenttool.SPEC_RULES, {"oci": {}, "skill": {}})) == 1


def test_a_resource_has_the_block_of_its_kind_only() -> None:
    assert failures(agentresource.SPEC_RULES, {"kind": "s3-bucket", "s3": {}}) == []
    assert len(failures(agentresource.SPEC_RULES, {"kind": "s3-bucket"})) == 1
    assert len(failures(agentresource.SPEC_RULES, {"kind": "s3-bucket", "git": {}})) == 2


def test_a_channel_has_the_block_of_its_type() -> None:
    assert failures(channel.SPEC_RULES, {"type": "slack", "slack": {}}) == []
    assert failures(channel.SPEC_RULES, {"type": "webhook", "prompt": "{{.}}"}) == []
    assert len(failures(channel.SPEC_RULES, {"type": "github"})) == 2
