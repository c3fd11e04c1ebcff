"""Environment variables by which the operator tells the runtime who it is and where its things are."""

from __future__ import annotations

from collections.abc import Iterator

from agentops.api.types import AgentSpec

RESERVED = frozenset(
    {
        "AGENT_NAME",
        "AGENT_NAMESPACE",
        "AGENT_MODE",
        "AGENT_RUNTIME",
        "AGENT_CONFIG_PATH",
        "AGENT_DATA_DIR",
        "AGENT_GRACE_SECONDS",
        "AGENT_LISTEN",
        "AGENT_TOKEN_FILE",
        "AGENT_PROMPT",
        "AGENT_PROMPT_FILE",
        "AGENT_RUN_NAME",
        "AGENT_RUN_SOURCE_AGENT",
        "MEMORY_TOKEN_FILE",
    }
)
"""Variables that `spec.env` and `spec.secrets` cannot set."""


def reserved_in(spec: AgentSpec) -> Iterator[str]:
    """Paths of the fields of `spec` that try all the same."""
    yield from (f"spec.env.{name}" for name in sorted(RESERVED.intersection(spec.env)))
    yield from (f"spec.secrets[{index}]" for index, item in enumerate(spec.secrets) if item.name in RESERVED)
