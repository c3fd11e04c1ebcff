"""What makes an object wrong beyond the types of its fields: pure functions, one module per kind.

Admission, the reconcilers (webhooks are off until admission is complete) and `agentops lint` ask
the same functions and report the same paths and sentences.
"""

from __future__ import annotations

from typing import Any

from agentops.api.types import Agent, AgentResource, AgentRun, AgentTool, Channel, Provider
from agentops.api.validation.agent import (
    model_allowed,
    split_model,
    tool_sources,
    validate_agent,
    validate_agent_bindings,
    validate_agent_update,
    warn_agent,
)
from agentops.api.validation.agentresource import validate_resource
from agentops.api.validation.agentrun import validate_run, validate_run_update
from agentops.api.validation.agenttool import validate_tool
from agentops.api.validation.channel import validate_channel, warn_channel
from agentops.api.validation.common import ErrorType, FieldError, Findings
from agentops.api.validation.provider import needs_auth, validate_provider

__all__ = [
    "ErrorType",
    "FieldError",
    "Findings",
    "model_allowed",
    "needs_auth",
    "split_model",
    "tool_sources",
    "validate",
    "validate_agent",
    "validate_agent_bindings",
    "validate_agent_update",
    "validate_channel",
    "validate_provider",
    "validate_resource",
    "validate_run",
    "validate_run_update",
    "validate_tool",
    "warn_agent",
    "warn_channel",
]


def validate(value: Any, *, agent: Agent | None = None) -> Findings:
    """All findings for a decoded object of any of the six kinds.

    `agent` is the Agent an AgentRun or a Channel refers to, where it is known. Raises TypeError for
    another type of value.
    """
    match value:
        case Agent():
            return Findings(tuple(validate_agent(value)), tuple(warn_agent(value)))
        case AgentRun():
            return Findings(tuple(validate_run(value, agent)))
        case Provider():
            return Findings(tuple(validate_provider(value)))
        case AgentTool():
            return Findings(tuple(validate_tool(value)))
        case AgentResource():
            return Findings(tuple(validate_resource(value)))
        case Channel():
            mode = agent.spec.mode if agent else None
            return Findings(tuple(validate_channel(value)), tuple(warn_channel(value, mode)))
        case _:
            raise TypeError(f"{type(value).__name__} is not one of the six kinds")
