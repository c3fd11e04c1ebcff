"""The six kinds as values: frozen attrs classes, one module per kind.

Attribute names are the JSON names in snake_case (`service_url` is `serviceURL`). Lists are tuples.
A class documents every field; `agentops.api.schema` turns the same declarations into the CRDs.
"""

from agentops.api.types.agent import Agent, AgentSpec, AgentStatus
from agentops.api.types.agentresource import AgentResource, AgentResourceSpec, AgentResourceStatus
from agentops.api.types.agentrun import AgentRun, AgentRunSpec, AgentRunStatus
from agentops.api.types.agenttool import AgentTool, AgentToolSpec, AgentToolStatus
from agentops.api.types.channel import Channel, ChannelSpec, ChannelStatus
from agentops.api.types.provider import Provider, ProviderSpec, ProviderStatus
from agentops.api.types.shared import Condition, ObjectMeta, OwnerReference, SecretKeyRef

__all__ = [
    "Agent",
    "AgentResource",
    "AgentResourceSpec",
    "AgentResourceStatus",
    "AgentRun",
    "AgentRunSpec",
    "AgentRunStatus",
    "AgentSpec",
    "AgentStatus",
    "AgentTool",
    "AgentToolSpec",
    "AgentToolStatus",
    "Channel",
    "ChannelSpec",
    "ChannelStatus",
    "Condition",
    "ObjectMeta",
    "OwnerReference",
    "Provider",
    "ProviderSpec",
    "ProviderStatus",
    "SecretKeyRef",
]
