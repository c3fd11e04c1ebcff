"""The six kinds AgentOps serves: where they live and what they are called.

All are namespaced, have a `status` subresource and belong to the category `agentops`
(`kubectl get agentops`).
"""

from __future__ import annotations

from agentops.values.kinds import Kind

GROUP = "agents.agentops.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "agentops"

AGENT = Kind(GROUP, VERSION, "Agent", "agents")
AGENT_RUN = Kind(GROUP, VERSION, "AgentRun", "agentruns")
AGENT_TOOL = Kind(GROUP, VERSION, "AgentTool", "agenttools")
AGENT_RESOURCE = Kind(GROUP, VERSION, "AgentResource", "agentresources")
CHANNEL = Kind(GROUP, VERSION, "Channel", "channels")
PROVIDER = Kind(GROUP, VERSION, "Provider", "providers")

ALL: tuple[Kind, ...] = (AGENT, AGENT_RUN, AGENT_TOOL, AGENT_RESOURCE, CHANNEL, PROVIDER)

SHORT_NAMES: dict[str, str] = {
    "Agent": "ag",
    "AgentRun": "ar",
    "AgentTool": "agtool",
    "AgentResource": "ares",
    "Channel": "ch",
    "Provider": "prov",
}


def kind_named(name: str) -> Kind:
    """The kind whose `kind` is `name` (`Agent`). Raises KeyError, listing the known names."""
    for kind in ALL:
        if kind.kind == name:
            return kind
    raise KeyError(f"{name!r} is not one of {', '.join(kind.kind for kind in ALL)}")
