"""`config.json`, out of an Agent's spec and its bound Providers, and the ConfigMap `<agent>-config` it stands in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs import frozen

from agentops.api import labels
from agentops.api.codec import dumps
from agentops.api.objects import encode
from agentops.api.runtime_config import (
    ContextFile,
    DelegationConfig,
    MemoryConfig,
    OAuth2,
    ProviderConfig,
    RuntimeConfig,
    VertexConfig,
)
from agentops.api.types import AgentSpec, ProviderSpec
from agentops.api.types.shared import GoogleDefaults, ProviderCallDefaults
from agentops.kube.kinds import CONFIG_MAP
from agentops.operator.objects import names
from agentops.operator.objects.env import tool_variables
from agentops.operator.objects.meta import child_labels, manifest
from agentops.operator.objects.protocol import MemoryHabits, platform_protocol


@frozen(slots=True, kw_only=True)
class BoundProvider:
    """A Provider as one Agent uses it."""

    name: str
    spec: ProviderSpec
    overrides: ProviderCallDefaults | None = None


def runtime_config(agent: str, namespace: str, spec: AgentSpec, providers: Sequence[BoundProvider]) -> RuntimeConfig:
    """What the runtime is told. Secrets appear as the names of the variables that hold them.

    The protocol is silent about a team as long as the runtime has no tools to reach it
    (`spec.delegation` is in `api.not_in_effect`): a model told of run_agent would call it in vain.
    """
    memory, delegation = spec.memory, spec.delegation
    return RuntimeConfig(
        providers=tuple(provider_config(bound) for bound in providers),
        primary_provider=spec.primary_provider,
        primary_model=spec.model,
        fallback_models=spec.fallback_models,
        title_model=spec.title_model,
        system_prompt=spec.system_prompt or "",
        platform_protocol=platform_protocol(
            agent=agent,
            mode=spec.mode,
            namespace=namespace,
            memory=MemoryHabits(auto_save=memory.auto_save, auto_search=memory.auto_search) if memory else None,
        ),
        builtin_tools=spec.builtin_tools,
        tool_env=tool_variables(spec, [(bound.name, bound.spec) for bound in providers]),
        context_files=tuple(
            ContextFile(path=f"{names.CONTEXT_DIR}/{file.config_map_ref.key}") for file in spec.context_files
        ),
        temperature=spec.temperature,
        max_output_tokens=spec.max_output_tokens,
        max_steps=spec.max_steps,
        permission_tools=spec.permission_tools,
        enable_question_tool=spec.enable_question_tool,
        memory=MemoryConfig(
            server_url=names.memory_url(memory.server_ref, namespace),
            project=memory.project or agent,
            context_limit=memory.context_limit,
            auto_summarize=memory.auto_summarize,
            auto_save=memory.auto_save,
            auto_search=memory.auto_search,
        )
        if memory
        else None,
        delegation=DelegationConfig(team=delegation.team, max_fan_out=delegation.max_fan_out) if delegation else None,
    )


def provider_config(bound: BoundProvider) -> ProviderConfig:
    """One entry of `providers`."""
    spec, endpoint, config = bound.spec, bound.spec.endpoint, bound.spec.config
    grant = endpoint.oauth2_client_credentials
    return ProviderConfig(
        name=bound.name,
        type=spec.type,
        base_url=endpoint.base_url,
        api_key_env=names.variable(bound.name, "API_KEY") if spec.api_key_secret else None,
        headers=dict(endpoint.headers),
        organization=config.organization,
        project=config.project,
        use_responses_api=config.use_responses_api or None,
        azure_api_version=config.azure_api_version,
        vertex=VertexConfig(project=config.vertex.project, location=config.vertex.location) if config.vertex else None,
        bedrock=config.bedrock or None,
        oauth2=OAuth2(
            token_url=grant.token_url,
            client_id_env=names.variable(bound.name, "OAUTH2_CLIENT_ID"),
            client_secret_env=names.variable(bound.name, "OAUTH2_CLIENT_SECRET"),
            scopes=tuple((grant.scope or "").split()),
            audience=grant.audience,
        )
        if grant
        else None,
        call_defaults=call_defaults(spec.defaults, bound.overrides),
    )


def call_defaults(defaults: ProviderCallDefaults, overrides: ProviderCallDefaults | None) -> dict[str, dict[str, Any]]:
    """The Provider's settings with the binding's on top, field by field; lists are replaced whole.

    Google's thinkingLevel and thinkingBudgetTokens exclude each other, so overriding one clears the other.
    """
    merged: dict[str, dict[str, Any]] = {}
    for family in ("anthropic", "openai", "google"):
        base, over = getattr(defaults, family), getattr(overrides, family) if overrides else None
        if isinstance(base, GoogleDefaults) and isinstance(over, GoogleDefaults):
            if over.thinking_level is not None:
                base = attrs.evolve(base, thinking_budget_tokens=None)
            elif over.thinking_budget_tokens is not None:
                base = attrs.evolve(base, thinking_level=None)
        block = {**(encode(base) if base else {}), **(encode(over) if over else {})}
        if block:
            merged[family] = block
    return merged


def config_map(agent: str, namespace: str, config: RuntimeConfig, annotations: Mapping[str, str]) -> dict[str, Any]:
    """The ConfigMap `<agent>-config`, which the pod mounts at `/etc/operator`."""
    return manifest(
        CONFIG_MAP,
        namespace,
        names.config_map(agent),
        child_labels(agent, labels.COMPONENT_CONFIG),
        annotations,
        data={names.CONFIG_KEY: dumps(config, indent=True).decode() + "\n"},
    )


def output_config_map(agent: str, namespace: str, run: str, output: str) -> dict[str, Any]:
    """The ConfigMap `<run>-output` with a whole long answer. Written once, cached by nobody."""
    labelled = child_labels(agent, labels.COMPONENT_OUTPUT, **{labels.RUN: names.label_value(run)})
    return manifest(CONFIG_MAP, namespace, names.output_config_map(run), labelled, data={names.OUTPUT_KEY: output})
