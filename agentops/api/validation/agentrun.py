"""The rules of an AgentRun."""

from __future__ import annotations

import attrs

from agentops.api.fields import fields_of
from agentops.api.types.agent import Agent
from agentops.api.types.agentrun import SOURCES, TERMINAL_PHASES, AgentRun, AgentRunSpec
from agentops.api.validation import common
from agentops.api.validation.common import FieldError, forbidden, invalid, required
from agentops.values.names import is_dns1123_subdomain


def validate_run(run: AgentRun, agent: Agent | None = None) -> list[FieldError]:
    """Every error of the object; with its Agent at hand, also what that Agent cannot do."""
    spec = run.spec
    errors = common.one_of("spec.source", spec.source, SOURCES)
    if len(run.metadata.name) > 63:
        errors.append(invalid("metadata.name", "becomes the value of a label: at most 63 characters"))
    if not spec.agent_ref:
        errors.append(required("spec.agentRef", "write the name of an Agent in the same namespace"))
    elif not is_dns1123_subdomain(spec.agent_ref):
        errors.append(invalid("spec.agentRef", f"{spec.agent_ref!r} is not an object's name: use a-z, 0-9, - and ."))
    if not spec.prompt.strip():
        errors.append(required("spec.prompt", "write what the agent is asked"))
    errors += common.no_nul("spec.prompt", spec.prompt)
    if spec.ttl_seconds_after_finished is not None and spec.ttl_seconds_after_finished < 0:
        errors.append(invalid("spec.ttlSecondsAfterFinished", "is less than zero"))
    if spec.git is not None:
        errors += _git(spec, agent)
    return errors


def _git(spec: AgentRunSpec, agent: Agent | None) -> list[FieldError]:
    assert spec.git is not None
    errors = []
    if not spec.git.resource_ref:
        errors.append(required("spec.git.resourceRef", "write the name of an AgentResource"))
    if not spec.git.branch:
        errors.append(required("spec.git.branch", "write the branch to work on"))
    if agent is None:
        return errors
    if agent.spec.mode != "task":
        errors.append(forbidden("spec.git", f"Agent {spec.agent_ref} is a daemon; git is for task agents"))
    bindings = {binding.name: binding for binding in agent.spec.resource_bindings}
    binding = bindings.get(spec.git.resource_ref)
    if binding is None:
        errors.append(
            forbidden(
                "spec.git.resourceRef",
                f"Agent {spec.agent_ref} is not bound to {spec.git.resource_ref!r}; add it to its resourceBindings",
            )
        )
    elif binding.read_only:
        errors.append(
            forbidden("spec.git.resourceRef", f"Agent {spec.agent_ref} may only read {spec.git.resource_ref!r}")
        )
    return errors


def validate_run_update(old: AgentRun, new: AgentRun) -> list[FieldError]:
    """The spec is immutable but for `cancel` from false to true; a finished run keeps its outcome."""
    errors = [
        invalid(f"spec.{info.json_name}", "is immutable: create another AgentRun")
        for info in fields_of(AgentRunSpec)
        if info.name != "cancel" and getattr(old.spec, info.name) != getattr(new.spec, info.name)
    ]
    if old.spec.cancel and not new.spec.cancel:
        errors.append(invalid("spec.cancel", "cannot be taken back: create another AgentRun"))
    if old.status.phase in TERMINAL_PHASES:
        before, after = attrs.asdict(old.status), attrs.asdict(new.status)
        if before["phase"] != after["phase"]:
            errors.append(forbidden("status.phase", f"the run is {old.status.phase}, which is final"))
        if before["outcome"] != after["outcome"] and before["outcome"] is not None:
            errors.append(forbidden("status.outcome", f"the run is {old.status.phase}; its outcome is final"))
    return errors
