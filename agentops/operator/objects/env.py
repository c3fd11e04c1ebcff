"""The environment of the runtime container.

A name appears once: server-side apply refuses duplicates, and of two values nobody knows which one
wins. A user's value replaces the platform's default, except for what says who the agent is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from attrs import frozen

from agentops.api.types import AgentSpec, ProviderSpec, SecretKeyRef
from agentops.api.variables import RESERVED
from agentops.operator.objects import names

Variable = dict[str, Any]


@frozen(slots=True, kw_only=True)
class Endpoints:
    """Where the operator was told telemetry and events go; None means the variable is left out."""

    otel: str | None = None
    nats: str | None = None


def agent_variables(
    *,
    agent: str,
    namespace: str,
    mode: str,
    spec: AgentSpec,
    providers: Sequence[tuple[str, ProviderSpec]],
    endpoints: Endpoints,
    memory_token: bool,
) -> list[Variable]:
    """The variables of a daemon; a task's Job appends those of its run."""
    variables = [
        plain("AGENT_NAME", agent),
        plain("AGENT_NAMESPACE", namespace),
        plain("AGENT_MODE", mode),
        plain("AGENT_RUNTIME", "fantasy"),
        plain("WORKSPACE", names.WORKSPACE),
        plain("HOME", "/tmp"),
        plain("AGENT_GRACE_SECONDS", str(turn_grace_s(spec.termination_grace_period_seconds))),
        plain("AGENT_TOKEN_FILE", f"{names.TOKEN_DIR}/{names.TOKEN_KEY}"),
    ]
    if memory_token:
        variables.append(plain("MEMORY_TOKEN_FILE", f"{names.MEMORY_TOKEN_DIR}/{names.TOKEN_KEY}"))
    if endpoints.otel:
        variables.append(plain("OTEL_EXPORTER_OTLP_ENDPOINT", endpoints.otel))
        variables.append(plain("OTEL_SERVICE_NAME", agent))
    if endpoints.nats:
        variables.append(plain("NATS_URL", endpoints.nats))
    for name, provider in providers:
        variables += provider_variables(name, provider)
    theirs = [plain(name, value) for name, value in sorted(spec.env.items())]
    theirs += [from_secret(item.name, item.secret_ref) for item in spec.secrets]
    return deduplicate([*variables, *(item for item in theirs if item["name"] not in RESERVED)])


def tool_variables(spec: AgentSpec, providers: Sequence[tuple[str, ProviderSpec]]) -> tuple[str, ...]:
    """Names of `spec.env` that tools may see: what stands readable in the spec, and is not also a secret's name."""
    secret = {item.name for item in spec.secrets}
    secret.update(variable["name"] for name, provider in providers for variable in provider_variables(name, provider))
    return tuple(sorted(name for name in spec.env if name not in RESERVED and name not in secret))


def turn_grace_s(pod_grace_s: int) -> int:
    """How much of the pod's grace a turn may use: the last ten seconds, or half, are for writing things down."""
    return pod_grace_s - min(10, pod_grace_s // 2)


def provider_variables(name: str, provider: ProviderSpec) -> list[Variable]:
    """The credentials of one bound Provider, by reference."""
    if provider.api_key_secret is not None:
        return [from_secret(names.variable(name, "API_KEY"), provider.api_key_secret)]
    oauth2 = provider.endpoint.oauth2_client_credentials
    if oauth2 is None:
        return []
    return [
        from_secret(names.variable(name, "OAUTH2_CLIENT_ID"), oauth2.client_id_secret),
        from_secret(names.variable(name, "OAUTH2_CLIENT_SECRET"), oauth2.client_secret_secret),
    ]


def plain(name: str, value: str) -> Variable:
    return {"name": name, "value": value}


def from_secret(name: str, ref: SecretKeyRef) -> Variable:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": ref.name, "key": ref.key}}}


def deduplicate(variables: Iterable[Variable]) -> list[Variable]:
    """The last value of each name, at the place where the name first stood."""
    last: dict[str, Variable] = {}
    for variable in variables:
        last[variable["name"]] = variable
    return list(last.values())
