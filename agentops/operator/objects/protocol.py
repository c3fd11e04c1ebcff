"""`platformProtocol`: what the platform tells every agent about itself, kept apart from the user's own prompt."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

OBSERVATION_TYPES = ("bugfix", "decision", "discovery", "pattern", "config", "preference", "learning")


@frozen(slots=True, kw_only=True)
class MemoryHabits:
    """Which memory calls the agent should make by itself."""

    auto_save: bool = True
    auto_search: bool = True


def platform_protocol(
    *,
    agent: str,
    mode: str,
    namespace: str,
    team: Sequence[str] = (),
    max_fan_out: int | None = None,
    memory: MemoryHabits | None = None,
) -> str:
    """Identity, then delegation if there is a team, then memory if there is one. Never part of systemPrompt."""
    sections = [f"You are {agent}, a {mode} agent in the {namespace} namespace."]
    if team:
        sections.append(_delegation(team, max_fan_out))
    if memory is not None:
        sections.append(_memory(memory))
    return "\n\n".join(sections)


def _delegation(team: Sequence[str], max_fan_out: int | None) -> str:
    lines = [
        "## Delegation",
        "You coordinate a team. Find out who can do what with list_task_agents, hand one job to one agent with "
        "run_agent, and independent jobs to several at once with run_agents.",
        "A delegated agent sees nothing but its prompt: state the task and how you will judge the result, the "
        "context it needs, and the repository and branch where there is one.",
        "Your team:",
        *(f"- {name}" for name in team),
    ]
    if max_fan_out is not None and 0 < max_fan_out < 10:
        lines.append(f"Maximum parallel delegations per fan-out: {max_fan_out}")
    return "\n".join(lines)


def _memory(habits: MemoryHabits) -> str:
    lines = [
        "## Memory System",
        "You have a memory that outlives this conversation. What seems relevant from it is added to your context "
        "at the start of each turn.",
    ]
    if habits.auto_save:
        lines.append(
            f"Save what will matter later: call mem_save after you learn something durable, with one of the types "
            f"{', '.join(OBSERVATION_TYPES)}."
        )
    else:
        lines.append("Do NOT call mem_save unless the user asks you to remember something.")
    if habits.auto_search:
        lines.append("Look before you ask: call mem_search when a question may have been answered before.")
    else:
        lines.append("Do NOT call mem_search or mem_context unless the user asks what you remember.")
    return "\n".join(lines)
