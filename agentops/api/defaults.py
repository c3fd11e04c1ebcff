"""What an object means where its fields are silent.

Defaults that are plain values stand in the types (and, from there, in the CRDs). Here are the ones
that depend on other fields, each a pure function of the decoded object.
"""

from __future__ import annotations

from agentops.api.types.agent import Agent
from agentops.api.types.agentrun import AgentRun
from agentops.values.duration import parse_duration

RUN_TTL_S = 7 * 24 * 3600
"""How long a finished AgentRun is kept, in seconds, when neither it nor the operator says otherwise."""
MIN_TIMEOUT_S = 1.0


def service_account_name(agent: Agent) -> str:
    """The ServiceAccount of the agent's pods: the given one, else `<agent>-agent`."""
    return agent.spec.service_account_name or f"{agent.metadata.name}-agent"


def manages_rbac(agent: Agent) -> bool:
    """Whether the operator makes ServiceAccount, Role and RoleBinding: not when the user names one."""
    return agent.spec.service_account_name is None


def max_runs(agent: Agent) -> int:
    """Runs at the same time: one for a daemon, whatever `concurrency.maxRuns` says."""
    return 1 if agent.spec.mode == "daemon" else agent.spec.concurrency.max_runs


def timeout_s(agent: Agent) -> float:
    """Seconds one run may take. Raises ValueError when `spec.timeout` is not a duration."""
    return max(MIN_TIMEOUT_S, parse_duration(agent.spec.timeout))


def memory_project(agent: Agent) -> str | None:
    """What the agent's memories are filed under; None when it has no memory."""
    if agent.spec.memory is None:
        return None
    return agent.spec.memory.project or agent.metadata.name


def run_ttl_s(run: AgentRun, operator_default_s: int = RUN_TTL_S) -> int:
    """Seconds the run is kept after it finished."""
    given = run.spec.ttl_seconds_after_finished
    return operator_default_s if given is None else given
