"""The rules of a Channel: the block of its type, and a prompt for events."""

from __future__ import annotations

from agentops.api.fields import fields_of
from agentops.api.types.channel import BLOCKS, CHAT_TYPES, EVENT_TYPES, TYPES, Channel, ChannelSpec
from agentops.api.validation import common
from agentops.api.validation.common import FieldError, forbidden, invalid, required
from agentops.values.names import is_dns1035_label


def validate_channel(channel: Channel) -> list[FieldError]:
    """Every error of the object by itself."""
    spec = channel.spec
    errors = common.one_of("spec.type", spec.type, TYPES)
    name = channel.metadata.name
    if name and not is_dns1035_label(name):
        errors.append(
            invalid(
                "metadata.name",
                f"{name!r} becomes the name of a Service: at most 63 of a-z, 0-9 and -, starting with a letter",
            )
        )
    wanted = BLOCKS.get(spec.type)
    blocks = set(BLOCKS.values())
    given = {
        info.json_name
        for info in fields_of(ChannelSpec)
        if info.json_name in blocks and getattr(spec, info.name) is not None
    }
    if wanted and wanted not in given and spec.type != "webhook":
        errors.append(required(f"spec.{wanted}", f"type {spec.type} needs this block"))
    errors += [
        forbidden(f"spec.{block}", f"belongs to another type than {spec.type}; remove it")
        for block in sorted(given - {wanted})
    ]
    if spec.type in EVENT_TYPES and not spec.prompt:
        errors.append(required("spec.prompt", f"type {spec.type} needs a template that makes a prompt of an event"))
    if spec.prompt and not _balanced(spec.prompt):
        errors.append(invalid("spec.prompt", "the template has {{ without }}, or }} without {{"))
    tls = spec.webhook.tls if spec.webhook else None
    if tls is not None and tls.issuer and tls.cluster_issuer:
        errors.append(forbidden("spec.webhook.tls.clusterIssuer", "issuer is set; use one of the two"))
    if spec.image:
        errors += common.image("spec.image", spec.image)
    errors += common.resources("spec.resources", spec.resources.requests, spec.resources.limits)
    return errors


def warn_channel(channel: Channel, agent_mode: str | None = None) -> list[FieldError]:
    """What is allowed and probably not meant; `agent_mode` is the mode of the Agent, where it is known."""
    spec = channel.spec
    warnings = []
    if spec.type in EVENT_TYPES and spec.webhook is None:
        warnings.append(required("spec.webhook", "no Ingress is made; events must find the Service another way"))
    if spec.type in CHAT_TYPES and agent_mode == "task":
        warnings.append(invalid("spec.agentRef", "a task agent starts a Job for every message and keeps no session"))
    return warnings


def _balanced(template: str) -> bool:
    depth = 0
    rest = template
    while rest:
        opening, closing = rest.find("{{"), rest.find("}}")
        if opening == closing == -1:
            break
        if opening != -1 and (closing == -1 or opening < closing):
            depth, rest = depth + 1, rest[opening + 2 :]
        else:
            depth, rest = depth - 1, rest[closing + 2 :]
        if depth not in (0, 1):
            return False
    return depth == 0
