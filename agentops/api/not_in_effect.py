"""Fields that are accepted and that nothing acts on yet.

The operator puts what `not_in_effect` returns into condition FieldsNotInEffect, so that nobody waits
for something that will not happen. When a field comes to life, its line leaves the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from agentops.api.fields import fields_of
from agentops.api.types import Agent, AgentResource, AgentRun, AgentTool, Channel, Provider

_FIELDS: dict[type, tuple[str, ...]] = {
    Agent: (
        "spec.delegation",
        "spec.enableQuestionTool",
        "spec.permissionTools",
        "spec.podTemplate",
        "spec.providerRefs[].overrides.google",
        "spec.resourceBindings",
        "spec.schedule",
        "spec.schedulePrompt",
        "spec.toolHooks",
        "spec.tools",
        "spec.waitForDependencies",
    ),
    AgentRun: (
        "spec.git",
        "spec.outcome",
    ),
    Provider: (
        "spec.config.azureAPIVersion",
        "spec.config.bedrock",
        "spec.config.useResponsesAPI",
        "spec.config.vertex",
        "spec.defaults.google",
        "spec.endpoint.secretHeaders",
    ),
}
"""JSON paths; `[]` stands for every item of a list. A field counts as set when it is not at its default."""

_WHOLE = (AgentTool, AgentResource, Channel)
"""Kinds without a reconciler yet."""

PROVIDER_TYPES_IN_EFFECT = ("anthropic", "openai", "openaicompat", "openrouter")
"""Types the runtime has an adapter for."""


def not_in_effect(value: Any) -> tuple[str, ...]:
    """The paths of `value` (a decoded object) that are set and not acted on, sorted, with list indices.

    `("spec",)` for a kind without behaviour. Raises TypeError for a value that is not one of the six kinds.
    """
    if isinstance(value, _WHOLE):
        return ("spec",)
    if type(value) not in _FIELDS:
        raise TypeError(f"{type(value).__name__} is not one of the six kinds")
    paths = [found for path in _FIELDS[type(value)] for found in _set_paths(value, path.split("."), "")]
    if isinstance(value, Provider) and value.spec.type not in PROVIDER_TYPES_IN_EFFECT:
        paths.append("spec.type")
    return tuple(sorted(paths))


def _set_paths(value: Any, steps: list[str], prefix: str) -> Iterator[str]:
    """The concrete paths below `value` that match `steps` and are not at their default."""
    name, rest = steps[0].removesuffix("[]"), steps[1:]
    info = next(info for info in fields_of(type(value)) if info.json_name == name)
    child = getattr(value, info.name)
    path = f"{prefix}.{name}" if prefix else name
    if not rest:
        if info.required or child != info.default:
            yield path
    elif steps[0].endswith("[]"):
        for index, item in enumerate(child):
            yield from _set_paths(item, rest, f"{path}[{index}]")
    elif attrs.has(type(child)):
        yield from _set_paths(child, rest, path)
