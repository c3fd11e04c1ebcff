"""Objects of the six kinds for operator tests, as a user would write them."""

from __future__ import annotations

import copy
from typing import Any

from agentops.api.kinds import AGENT, AGENT_RUN, PROVIDER
from agentops.api.objects import decode
from agentops.api.types import Agent, AgentRun, Provider

NAMESPACE = "agents"


def provider_object(name: str = "local", **spec: Any) -> dict[str, Any]:
    """An openaicompat Provider without a key, unless `spec` says otherwise."""
    spec = {"type": "openaicompat", "endpoint": {"baseURL": "http://model.agents.svc:8000/v1"}, **spec}
    return _object(PROVIDER, name, spec)


def agent_object(name: str = "hello", **spec: Any) -> dict[str, Any]:
    """A daemon on Provider `local`, unless `spec` says otherwise."""
    spec = {
        "mode": "daemon",
        "model": "local/smollm2",
        "providerRefs": [{"name": "local"}],
        "builtinTools": ["bash", "read"],
        **spec,
    }
    return _object(AGENT, name, spec)


def run_object(
    name: str = "hello-run", agent: str = "hello", prompt: str = "Say hello.", **spec: Any
) -> dict[str, Any]:
    return _object(AGENT_RUN, name, {"agentRef": agent, "prompt": prompt, **spec})


def agent(name: str = "hello", **spec: Any) -> Agent:
    return decode(Agent, agent_object(name, **spec))


def provider(name: str = "local", **spec: Any) -> Provider:
    return decode(Provider, provider_object(name, **spec))


def run(name: str = "hello-run", **spec: Any) -> AgentRun:
    return decode(AgentRun, run_object(name, **spec))


def _object(kind: Any, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": copy.deepcopy(spec),
    }
