"""What an Agent's children should be: pure, from the Agent, its inputs and what stands there now."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
from attrs import frozen

from agentops.api import labels
from agentops.api.defaults import manages_rbac
from agentops.api.kinds import GROUP
from agentops.api.types import Agent
from agentops.operator.inputs import AgentInputs, input_hash
from agentops.operator.objects import names
from agentops.operator.objects.config import config_map, runtime_config
from agentops.operator.objects.deployment import deployment
from agentops.operator.objects.env import Endpoints
from agentops.operator.objects.network_policy import network_policy
from agentops.operator.objects.pod import PodInputs
from agentops.operator.objects.rbac import role, role_binding, service_account
from agentops.operator.objects.service import service
from agentops.operator.objects.storage import storage

RENDERED = f"{GROUP}/rendered"
"""Annotation of the config map and Deployment: a digest of what was rendered from the inputs of the config hash.
When it alone differs, a new operator renders differently, and that restarts nothing."""

Manifest = dict[str, Any]


@frozen(slots=True, kw_only=True)
class Rendering:
    """The children that a roll-out replaces together."""

    config_hash: str
    runtime_image: str
    upgrade: str | None
    children: tuple[Manifest, ...]


def standing_children(agent: Agent, operator_namespace: str) -> list[Manifest]:
    """What needs nothing but the Agent's own spec, in the order of creation."""
    name, namespace, spec = agent.metadata.name, agent.metadata.namespace, agent.spec
    children: list[Manifest] = []
    if manages_rbac(agent):
        children.append(service_account(name, namespace))
        children.append(role(name, namespace, delegates=spec.delegation is not None))
        children.append(role_binding(name, namespace))
    if spec.mode == "daemon":
        if spec.storage is not None:
            children.append(storage(name, namespace, spec.storage))
        children.append(service(name, namespace))
    if spec.network_policy is not None and spec.network_policy.enabled:
        children.append(network_policy(name, namespace, spec.mode, operator_namespace))
    return children


def render(agent: Agent, inputs: AgentInputs, image: str, endpoints: Endpoints) -> Rendering:
    """ConfigMap and, for a daemon, Deployment."""
    name, namespace = agent.metadata.name, agent.metadata.namespace
    upgrade = agent.metadata.annotations.get(labels.UPGRADE)
    config_hash = input_hash(agent.spec, inputs, image)
    config = config_map(name, namespace, runtime_config(name, namespace, agent.spec, inputs.providers), {})
    children = [config]
    if agent.spec.mode == "daemon":
        children.append(deployment(pod_inputs(agent, inputs, image, config_hash, endpoints)))
    rendered = hashlib.sha256(orjson.dumps(children, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
    for child in children:
        child["metadata"].setdefault("annotations", {}).update({labels.CONFIG_HASH: config_hash, RENDERED: rendered})
    return Rendering(config_hash=config_hash, runtime_image=image, upgrade=upgrade, children=tuple(children))


def pod_inputs(agent: Agent, inputs: AgentInputs, image: str, config_hash: str, endpoints: Endpoints) -> PodInputs:
    """What the pod builder takes, for a Deployment or a Job of the agent."""
    return PodInputs(
        agent=agent.metadata.name,
        namespace=agent.metadata.namespace,
        spec=agent.spec,
        image=image,
        config_hash=config_hash,
        providers=tuple((bound.name, bound.spec) for bound in inputs.providers),
        endpoints=endpoints,
        memory_token=inputs.memory_token,
        upgrade=agent.metadata.annotations.get(labels.UPGRADE),
    )


def resolve_image(agent: Agent, default: str) -> str:
    """The user's image; else the one resolved before; else, and when an upgrade was asked for, the operator's."""
    if agent.spec.image:
        return agent.spec.image
    asked = agent.metadata.annotations.get(labels.UPGRADE)
    if agent.status.runtime_image and agent.status.observed_upgrade == asked:
        return agent.status.runtime_image
    return default


def only_rendered_differently(rendering: Rendering, agent: Agent, live: Mapping[str, Any] | None) -> bool:
    """Whether `live` stands for the same inputs in another rendering, and no upgrade was asked for."""
    annotations = ((live or {}).get("metadata") or {}).get("annotations") or {}
    return (
        annotations.get(labels.CONFIG_HASH) == rendering.config_hash
        and annotations.get(RENDERED, rendering_digest(rendering)) != rendering_digest(rendering)
        and agent.status.observed_upgrade == rendering.upgrade
    )


def rendering_digest(rendering: Rendering) -> str:
    return str(rendering.children[0]["metadata"]["annotations"][RENDERED])


def child_names(agent: Agent) -> set[tuple[str, str]]:
    """(kind, name) of every child the spec wants, whether or not it can be made now."""
    wanted = {(child["kind"], child["metadata"]["name"]) for child in standing_children(agent, "")}
    wanted.add(("ConfigMap", names.config_map(agent.metadata.name)))
    wanted.add(("Secret", names.token_secret(agent.metadata.name)))
    if agent.spec.mode == "daemon":
        wanted.add(("Deployment", agent.metadata.name))
    return wanted
