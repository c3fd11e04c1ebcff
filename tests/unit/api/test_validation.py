"""The rules of the six kinds; the comments carry the numbers of docs/reference."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.strategies import instances

from agentops.api import kinds
from agentops.api.objects import CLASSES, decode
from agentops.api.types import Agent, AgentRun, AgentTool, Provider
from agentops.api.validation import (
    ErrorType,
    Findings,
    model_allowed,
    needs_auth,
    split_model,
    validate,
    validate_agent_bindings,
    validate_agent_update,
    validate_run,
    validate_run_update,
)

Obj = dict[str, Any]

AGENT: Obj = {
    "mode": "daemon",
    "model": "local/smollm2",
    "providerRefs": [{"name": "local"}],
    "builtinTools": ["bash"],
}
SECRET = {"name": "s", "key": "k"}
OAUTH2 = {"tokenURL": "https://login/token", "clientIdSecret": SECRET, "clientSecretSecret": SECRET}


def check(kind: str, spec: Obj, *, name: str = "it", agent: Agent | None = None) -> Findings:
    return validate(decode(CLASSES[kinds.kind_named(kind)], {"metadata": {"name": name}, "spec": spec}), agent=agent)


def errors(kind: str, spec: Obj, **more: Any) -> list[tuple[str, ErrorType]]:
    return [(error.path, error.type) for error in check(kind, spec, **more).errors]


def agent(**spec: Any) -> Agent:
    return decode(Agent, {"metadata": {"name": "it"}, "spec": {**AGENT, **spec}})


R, I, F, D, N = (  # noqa: E741 (one letter a column)
    ErrorType.REQUIRED,
    ErrorType.INVALID,
    ErrorType.FORBIDDEN,
    ErrorType.DUPLICATE,
    ErrorType.NOT_SUPPORTED,
)


def test_a_good_agent_has_no_findings() -> None:
    assert check("Agent", AGENT) == Findings()


@pytest.mark.parametrize(
    ("change", "path", "type_"),
    [
        ({"mode": "deamon"}, "spec.mode", N),  # A1
        ({"mode": "task", "storage": {"size": "1Gi"}}, "spec.storage", F),  # A2
        ({"storage": {"size": ""}}, "spec.storage.size", R),  # A3
        ({"storage": {"size": "1GB"}}, "spec.storage.size", I),
        ({"storage": {"size": "0"}}, "spec.storage.size", I),
        ({"builtinTools": ["bash", "curl"]}, "spec.builtinTools[1]", N),  # A4
        ({"builtinTools": ["bash", "bash"]}, "spec.builtinTools[1]", D),
        ({"temperature": 2.1}, "spec.temperature", I),  # A5
        ({"temperature": -0.1}, "spec.temperature", I),
        ({"maxSteps": 0}, "spec.maxSteps", I),  # A6
        ({"maxSteps": 2**40}, "spec.maxSteps", I),
        ({"maxOutputTokens": 0}, "spec.maxOutputTokens", I),
        ({"maxOutputTokens": 2**40}, "spec.maxOutputTokens", I),
        ({"fallbackModels": ["local/a", "other/b"]}, "spec.fallbackModels[1]", I),  # A8
        ({"builtinTools": []}, "spec.tools", R),  # A9
        ({"toolHooks": {"allowedPaths": ["/data", "tmp"]}}, "spec.toolHooks.allowedPaths[1]", I),  # A10
        ({"resourceBindings": [{"name": "a"}, {"name": "a"}]}, "spec.resourceBindings[1].name", D),  # A12
        ({"resourceBindings": [{"name": ""}]}, "spec.resourceBindings[0].name", R),
        ({"schedule": "@daily"}, "spec.schedulePrompt", R),  # A13
        ({"tools": [{"name": "a"}, {"name": "a"}]}, "spec.tools[1].name", D),
        ({"providerRefs": [{"name": "local"}, {"name": "local"}]}, "spec.providerRefs[1].name", D),
        ({"providerRefs": [{"name": "local"}, {"name": "a-b"}, {"name": "a.b"}]}, "spec.providerRefs[2].name", I),
        ({"schedule": "* * * *", "schedulePrompt": "go"}, "spec.schedule", I),
        ({"timeout": "10"}, "spec.timeout", I),
        ({"timeout": "0s"}, "spec.timeout", I),
        ({"timeout": "-5m"}, "spec.timeout", I),
        ({"model": "remote/smollm2"}, "spec.model", I),
        ({"model": "local/"}, "spec.model", I),
        ({"titleModel": "remote/x"}, "spec.titleModel", I),
        ({"primaryProvider": "remote"}, "spec.primaryProvider", I),
        ({"model": "bare", "providerRefs": [{"name": "a"}, {"name": "b"}]}, "spec.primaryProvider", R),
        ({"delegation": {"team": ["other", "it"]}}, "spec.delegation.team[1]", I),
        ({"delegation": {"team": ["a", "a"]}}, "spec.delegation.team[1]", D),
        ({"delegation": {"team": []}}, "spec.delegation.team", R),
        ({"env": {"A=B": "x"}}, "spec.env.A=B", I),
        ({"env": {"A": "x"}, "secrets": [{"name": "A", "secretRef": SECRET}]}, "spec.secrets[0].name", I),
        ({"secrets": [{"name": "A", "secretRef": SECRET}] * 2}, "spec.secrets[1].name", D),
        (
            {"contextFiles": [{"configMapRef": SECRET}, {"configMapRef": {"name": "t", "key": "k"}}]},
            "spec.contextFiles[1].configMapRef.key",
            I,
        ),
        ({"memory": {"serverRef": "a.b"}}, "spec.memory.serverRef", I),
        ({"model": "  "}, "spec.model", I),
        ({"model": "local/ x"}, "spec.model", I),
        ({"model": "local/x\n"}, "spec.model", I),
        ({"model": "local/x\u200b"}, "spec.model", I),
        ({"model": " "}, "spec.model", I),
        ({"fallbackModels": ["local/x", "local /y"]}, "spec.fallbackModels[1]", I),
        ({"image": "a b"}, "spec.image", I),
        ({"image": "agentops:1\n"}, "spec.image", I),
        ({"serviceAccountName": "-x"}, "spec.serviceAccountName", I),
        ({"storage": {"size": "1Gi", "storageClass": "-x"}}, "spec.storage.storageClass", I),
        ({"resources": {"limits": {"memory": "0"}}}, "spec.resources.limits.memory", I),
        ({"resources": {"limits": {"a b": "1"}}}, "spec.resources.limits.a b", I),
        ({"podAnnotations": {"a b": "x"}}, "spec.podAnnotations.a b", I),
        ({"podAnnotations": {"a": "x" * 200_000, "b": "x" * 200_000}}, "spec.podAnnotations", I),
        ({"env": {"A": "a\0b"}}, "spec.env.A", I),
        ({"resources": {"limits": {"cpu": "lots"}}}, "spec.resources.limits.cpu", I),
        ({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1500m"}}}, "spec.resources.requests.cpu", I),
        (
            {"toolHooks": {"memorySaveRules": [{"tool": "bash", "matchOutput": "(a"}]}},
            "spec.toolHooks.memorySaveRules[0].matchOutput",
            I,
        ),
        (
            {"toolHooks": {"memorySaveRules": [{"tool": "bash", "matchArgs": {"command": r"(a)\1"}}]}},
            "spec.toolHooks.memorySaveRules[0].matchArgs.command",
            I,
        ),
        (
            {
                "providerRefs": [
                    {"name": "local", "overrides": {"google": {"thinkingLevel": "LOW", "thinkingBudgetTokens": 128}}}
                ]
            },
            "spec.providerRefs[0].overrides.google.thinkingBudgetTokens",
            F,
        ),
    ],
)
def test_agent_rules(change: Obj, path: str, type_: ErrorType) -> None:
    assert errors("Agent", {**AGENT, **change}) == [(path, type_)]


def test_an_agent_without_a_provider_is_told_to_bind_one() -> None:
    assert ("spec.providerRefs", R) in errors("Agent", {**AGENT, "providerRefs": []})  # A7


@pytest.mark.parametrize("name", ["1hello", "he.llo", "Hello", "h" * 64])
def test_the_name_of_an_agent_must_do_for_a_service(name: str) -> None:
    assert errors("Agent", AGENT, name=name) == [("metadata.name", I)]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "bare"},
        {"model": "bare", "providerRefs": [{"name": "a"}, {"name": "local"}], "primaryProvider": "local"},
        {"schedule": "CRON_TZ=Europe/Vienna */5 9-17 * jan,mar mon-fri", "schedulePrompt": "go"},
        {"builtinTools": [], "tools": [{"name": "a.b"}]},
        {"toolHooks": {"memorySaveRules": [{"tool": "bash", "matchOutput": r"(?i)error: \w+"}]}},
        {"fallbackModels": ["bare", "local/meta/llama"]},
        {"model": "meta/llama", "primaryProvider": "local"},
        {"model": "local/My Model Q4.gguf"},
        {"model": "local/accounts/fireworks/models/x:free@2"},
        {"image": "registry.example.com:5000/team/agent_1:v1.0@sha256:" + "0" * 64},
        {"serviceAccountName": "my.account", "podAnnotations": {"Example.com/Team": "a b", "plain": ""}},
        {"resources": {"requests": {"memory": "0"}, "limits": {"example.com/gpu": "0"}}},
        {"env": {"A": "two\nlines"}},
    ],
)
def test_agents_that_are_fine(change: Obj) -> None:
    assert check("Agent", {**AGENT, **change}) == Findings()


def test_an_unknown_prefix_names_the_bound_providers_and_the_fix() -> None:
    (error,) = check("Agent", {**AGENT, "model": "remote/x"}).errors
    assert str(error) == (
        "spec.model: 'remote/x': 'remote' is not one of the bound providers (local); add it to spec.providerRefs or "
        "fix the prefix, or set primaryProvider to take the whole text as its model"
    )


def test_what_is_odd_but_allowed_is_a_warning() -> None:
    findings = check(
        "Agent",
        {
            **AGENT,
            "concurrency": {"maxRuns": 3},
            "toolHooks": {"auditTools": ["bash", "run_agent", "nope"]},
            "env": {"AGENT_NAME": "x", "MINE": "y"},
            "secrets": [{"name": "AGENT_TOKEN_FILE", "secretRef": {"name": "s", "key": "k"}}],
        },
    )
    assert findings.ok
    assert [warning.path for warning in findings.warnings] == [
        "spec.concurrency.maxRuns",
        "spec.env.AGENT_NAME",
        "spec.secrets[0]",
        "spec.toolHooks.auditTools[2]",  # A11
    ]


def test_the_mode_of_an_agent_cannot_change() -> None:
    assert [e.path for e in validate_agent_update(agent(), agent(mode="task"))] == ["spec.mode"]
    assert validate_agent_update(agent(), agent(model="local/other")) == []


def test_bindings_are_checked_next_to_the_bound_objects() -> None:
    bound = decode(
        Provider,
        {
            "metadata": {"name": "local"},
            "spec": {"type": "openaicompat", "endpoint": {"baseURL": "http://m"}, "models": ["qwen*", "smollm2"]},
        },
    )
    tool = decode(AgentTool, {"metadata": {"name": "t"}, "spec": {"inline": {"content": "x"}}})
    subject = agent(
        model="local/gpt",
        fallbackModels=["local/qwen3", "absent/x"],
        providerRefs=[{"name": "local", "overrides": {"google": {"thinkingLevel": "LOW"}, "openai": {}}}],
        tools=[{"name": "t", "permissions": {"mode": "deny", "rules": ["x"]}}, {"name": "absent"}],
    )
    found = validate_agent_bindings(subject, {"local": bound}, {"t": tool})
    assert [(error.path, error.type) for error in found] == [
        ("spec.providerRefs[0].overrides.google", F),
        ("spec.model", I),
        ("spec.tools[0].permissions", F),
    ]
    assert "it allows qwen*, smollm2" in str(found[1])


@pytest.mark.parametrize(
    ("allowed", "model", "good"),
    [((), "x", True), (("*",), "x", True), (("a/*",), "a/b", True), (("a/*",), "ab", False), (("x",), "xy", False)],
)
def test_the_allow_list_of_a_provider(allowed: tuple[str, ...], model: str, good: bool) -> None:
    assert model_allowed(allowed, model) is good


def test_models_are_split_at_the_first_slash() -> None:
    spec = agent(providerRefs=[{"name": "a"}, {"name": "local"}]).spec
    assert split_model("local/meta/llama", spec) == ("local", "meta/llama")
    assert split_model("bare", spec) == ("", "bare"), "nobody knows whose"
    assert split_model("bare", agent(primaryProvider="local").spec) == ("local", "bare")


RUN: Obj = {"agentRef": "it", "prompt": "hi"}


@pytest.mark.parametrize(
    ("change", "path", "type_"),
    [
        ({"prompt": " \n"}, "spec.prompt", R),
        ({"prompt": "say\0hello"}, "spec.prompt", I),
        ({"agentRef": ""}, "spec.agentRef", R),
        ({"agentRef": "It"}, "spec.agentRef", I),
        ({"source": "cron"}, "spec.source", N),
        ({"ttlSecondsAfterFinished": -1}, "spec.ttlSecondsAfterFinished", I),
        ({"git": {"resourceRef": "", "branch": "b"}}, "spec.git.resourceRef", R),
    ],
)
def test_run_rules(change: Obj, path: str, type_: ErrorType) -> None:
    assert errors("AgentRun", {**RUN, **change}) == [(path, type_)]


def test_a_run_with_git_needs_a_task_agent_bound_to_the_resource() -> None:
    run = decode(AgentRun, {"metadata": {}, "spec": {**RUN, "git": {"resourceRef": "repo", "branch": "b"}}})
    assert [e.path for e in validate_run(run, agent())] == ["spec.git", "spec.git.resourceRef"]
    bound = agent(mode="task", resourceBindings=[{"name": "repo"}])
    assert validate_run(run, bound) == []
    read_only = agent(mode="task", resourceBindings=[{"name": "repo", "readOnly": True}])
    assert "may only read" in str(validate_run(run, read_only)[0])


def test_a_run_can_only_be_cancelled() -> None:
    def run(status: Obj | None = None, **spec: Any) -> AgentRun:
        return decode(AgentRun, {"metadata": {}, "spec": {**RUN, **spec}, "status": status or {}})

    assert validate_run_update(run(), run(cancel=True)) == []
    assert [e.path for e in validate_run_update(run(cancel=True), run())] == ["spec.cancel"]
    assert [e.path for e in validate_run_update(run(), run(prompt="other"))] == ["spec.prompt"]
    done = run({"phase": "Succeeded", "outcome": {"intent": "plan"}})
    assert [e.path for e in validate_run_update(done, run({"phase": "Running"}))] == ["status.phase", "status.outcome"]
    assert validate_run_update(run({"phase": "Running"}), done) == []


def provider(type_: str, **spec: Any) -> Obj:
    base: Obj = {"type": type_, "apiKeySecret": SECRET}
    if type_ == "openaicompat":
        base["endpoint"] = {"baseURL": "http://host:8000/v1"}
    return {**base, **spec}


@pytest.mark.parametrize(
    ("spec", "path", "type_"),
    [
        (provider("antropic"), "spec.type", N),  # P1
        ({"type": "openaicompat"}, "spec.endpoint.baseURL", R),  # P2
        (provider("openai", config={"vertex": {"project": "p", "location": "l"}}), "spec.config.vertex", F),  # P3
        (provider("openai", config={"bedrock": True}), "spec.config.bedrock", F),  # P4
        (
            provider("anthropic", config={"bedrock": True, "vertex": {"project": "p", "location": "l"}}),
            "spec.config.bedrock",
            F,
        ),  # P5
        (provider("openai", config={"azureAPIVersion": "1"}), "spec.config.azureAPIVersion", F),  # P6
        (provider("azure", config={"organization": "o"}), "spec.config.organization", F),  # P7
        (provider("google", config={"project": "p"}), "spec.config.project", F),
        (provider("google", config={"useResponsesAPI": True}), "spec.config.useResponsesAPI", F),  # P8
        (provider("openai", defaults={"anthropic": {"effort": "low"}}), "spec.defaults.anthropic", F),  # P9
        (provider("anthropic", defaults={"google": {"thinkingLevel": "LOW"}}), "spec.defaults.google", F),
        (provider("google", defaults={"openai": {"serviceTier": "x"}}), "spec.defaults.openai", F),
        (
            provider("google", defaults={"google": {"thinkingLevel": "LOW", "thinkingBudgetTokens": 128}}),
            "spec.defaults.google.thinkingBudgetTokens",
            F,
        ),  # P10
        ({"type": "anthropic"}, "spec.apiKeySecret", R),
        (
            provider("openai", endpoint={"baseURL": "https://x", "oauth2ClientCredentials": OAUTH2}),
            "spec.apiKeySecret",
            F,
        ),
        ({"type": "openai", "endpoint": {"oauth2ClientCredentials": OAUTH2}}, "spec.endpoint.baseURL", R),
        (provider("openai", endpoint={"baseURL": "host:8000"}), "spec.endpoint.baseURL", I),
        (provider("openai", endpoint={"baseURL": "http://host:port"}), "spec.endpoint.baseURL", I),
        (provider("openai", endpoint={"headers": {"X Y": "1"}}), "spec.endpoint.headers.X Y", I),
        (provider("openai", endpoint={"headers": {"X": "a\nb"}}), "spec.endpoint.headers.X", I),
        (provider("openai", endpoint={"headers": {"X": "\u00fc"}}), "spec.endpoint.headers.X", I),
        (provider("openai", endpoint={"headers": {"X": "a\x7f"}}), "spec.endpoint.headers.X", I),
        (provider("openai", endpoint={"headers": {"Content-Length": "5"}}), "spec.endpoint.headers.Content-Length", I),
        (
            provider("openai", endpoint={"secretHeaders": [{"name": "Transfer-Encoding", "secretRef": SECRET}]}),
            "spec.endpoint.secretHeaders[0].name",
            I,
        ),
        (provider("openai", endpoint={"baseURL": "https://x/v1?a=1"}), "spec.endpoint.baseURL", I),
        (provider("openai", endpoint={"baseURL": "https://x/v1#"}), "spec.endpoint.baseURL", I),
        (provider("openai", endpoint={"baseURL": "https://u:p@x/v1"}), "spec.endpoint.baseURL", I),
        (
            provider(
                "openai", endpoint={"headers": {"X-A": "1"}, "secretHeaders": [{"name": "x-a", "secretRef": SECRET}]}
            ),
            "spec.endpoint.secretHeaders[0].name",
            D,
        ),
        (provider("openai", models=["a*b"]), "spec.models[0]", I),
        (provider("openai", apiKeySecret={"name": "s", "key": ""}), "spec.apiKeySecret.key", R),
    ],
)
def test_provider_rules(spec: Obj, path: str, type_: ErrorType) -> None:
    assert errors("Provider", spec) == [(path, type_)]


def test_every_problem_of_a_provider_is_reported_not_only_the_first() -> None:
    found = errors("Provider", {"type": "openaicompat", "config": {"bedrock": True, "organization": "o"}})
    assert [path for path, _ in found] == ["spec.endpoint.baseURL", "spec.config.bedrock", "spec.config.organization"]


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "openaicompat", "endpoint": {"baseURL": "http://agentops-model.agents.svc:8000/v1"}},
        {"type": "bedrock"},
        {"type": "google", "config": {"vertex": {"project": "p", "location": "l"}}},
        {"type": "anthropic", "config": {"bedrock": True}},
        {"type": "openai", "endpoint": {"baseURL": "https://x", "oauth2ClientCredentials": OAUTH2}},
    ],
)
def test_providers_that_need_no_key(spec: Obj) -> None:
    assert check("Provider", spec) == Findings()
    assert needs_auth(decode(Provider, {"metadata": {}, "spec": spec}).spec) == (spec["type"] == "openai")


@pytest.mark.parametrize(
    ("spec", "path", "type_"),
    [
        ({}, "spec", R),  # T1
        ({"oci": {"ref": "a/b:1"}, "skill": {"ref": "a/b:1"}}, "spec", I),
        ({"oci": {"ref": "a b"}}, "spec.oci.ref", I),  # T2
        ({"skill": {"ref": ""}}, "spec.skill.ref", R),
        ({"oci": {"ref": "a/b", "digest": "latest"}}, "spec.oci.digest", I),
        ({"configMap": {"name": "c", "key": ""}}, "spec.configMap.key", R),  # T3
        ({"inline": {"content": ""}}, "spec.inline.content", R),  # T4
        ({"inline": {"content": "ä" * 2049}}, "spec.inline.content", I),
        ({"mcpServer": {"image": ""}}, "spec.mcpServer.image", R),  # T5
        ({"mcpEndpoint": {"url": ""}}, "spec.mcpEndpoint.url", R),  # T6
        ({"mcpEndpoint": {"url": "ftp://x"}}, "spec.mcpEndpoint.url", I),
        ({"oci": {"ref": "a/b"}, "defaultPermissions": {"mode": "deny"}}, "spec.defaultPermissions.mode", I),  # T7
    ],
)
def test_tool_rules(spec: Obj, path: str, type_: ErrorType) -> None:
    assert errors("AgentTool", spec) == [(path, type_)]


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ({"kind": "git-repo", "git": {"url": "ssh://x"}}, []),
        ({"kind": "git-repo"}, [("spec.git", R)]),
        ({"kind": "git-repo", "git": {"url": "u"}, "s3": {"bucket": "b"}}, [("spec.s3", F)]),
        ({"kind": "svn"}, [("spec.kind", N)]),
        ({"kind": "documentation", "documentation": {}}, [("spec.documentation", R)]),
        ({"kind": "documentation", "documentation": {"urls": ["x"]}}, [("spec.documentation.urls[0]", I)]),
        ({"kind": "gitlab-project", "gitlab": {"baseURL": "gitlab", "project": "a/b"}}, [("spec.gitlab.baseURL", I)]),
    ],
)
def test_resource_rules(spec: Obj, found: list[tuple[str, ErrorType]]) -> None:
    assert errors("AgentResource", {"displayName": "R", **spec}) == found


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ({"type": "slack", "slack": {"botTokenSecret": SECRET}}, []),
        ({"type": "slack"}, [("spec.slack", R)]),
        ({"type": "webhook"}, [("spec.prompt", R)]),
        ({"type": "webhook", "prompt": "{{ .body }}"}, []),
        ({"type": "webhook", "prompt": "{{ .body }"}, [("spec.prompt", I)]),
        ({"type": "webhook", "prompt": "x", "slack": {"botTokenSecret": SECRET}}, [("spec.slack", F)]),
        (
            {"type": "webhook", "prompt": "x", "webhook": {"host": "h", "tls": {"issuer": "a", "clusterIssuer": "b"}}},
            [("spec.webhook.tls.clusterIssuer", F)],
        ),
    ],
)
def test_channel_rules(spec: Obj, found: list[tuple[str, ErrorType]]) -> None:
    assert errors("Channel", {"agentRef": "it", "image": "i", **spec}) == found


def test_a_chat_channel_to_a_task_agent_is_a_warning() -> None:
    spec = {"type": "slack", "agentRef": "it", "image": "i", "slack": {"botTokenSecret": SECRET}}
    assert [w.path for w in check("Channel", spec, agent=agent(mode="task")).warnings] == ["spec.agentRef"]
    assert check("Channel", spec, agent=agent()) == Findings()


@pytest.mark.parametrize("cls", CLASSES.values(), ids=lambda cls: cls.__name__)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_validation_never_fails_on_what_the_schema_lets_in(cls: type, data: st.DataObject) -> None:
    findings = validate(data.draw(instances(cls)))
    for finding in (*findings.errors, *findings.warnings):
        assert finding.path.startswith(("spec", "metadata"))
        assert finding.message


def test_other_values_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="not one of the six kinds"):
        validate({"kind": "Agent"})
