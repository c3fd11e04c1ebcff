"""What an agent's pods are made from, and the hash that says whether they would be made differently.

The hash covers inputs, never rendered text: fields at their default are left out, so neither a new
operator nor a new default in the CRDs restarts an agent. Secrets enter as salted digests.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import orjson
from attrs import frozen

from agentops.api.conditions import ConditionType
from agentops.api.fields import fields_of
from agentops.api.types import AgentSpec, ProviderSpec, SecretKeyRef
from agentops.operator.objects import names
from agentops.operator.objects.config import BoundProvider

_NOT_IN_THE_POD = frozenset(
    {"concurrency", "schedule", "schedule_prompt", "network_policy", "timeout", "wait_for_dependencies"}
)
"""Fields of AgentSpec that the pod never sees: changing them restarts nothing."""


@frozen(slots=True, kw_only=True)
class Blocker:
    """Something that holds back the first creation and roll-outs, told in condition `condition`."""

    condition: ConditionType
    reason: str
    message: str


@frozen(slots=True, kw_only=True)
class AgentInputs:
    """Everything outside the Agent object that its pods depend on."""

    providers: tuple[BoundProvider, ...] = ()
    secret_digests: Mapping[str, str] = {}
    """`secret/key` to salted digest."""
    file_digests: Mapping[str, str] = {}
    """`configmap/key` to digest."""
    memory_token: str | None = None
    """The Secret with the memory service's bearer, if the service has one."""


def input_hash(spec: AgentSpec, inputs: AgentInputs, runtime_image: str) -> str:
    """16 hex digits over everything above and the image."""
    covered = {
        "spec": {key: value for key, value in essence(spec).items() if key not in _NOT_IN_THE_POD},
        "providers": [
            {"name": bound.name, "spec": {k: v for k, v in essence(bound.spec).items() if k != "models"}}
            for bound in inputs.providers
        ],
        "secrets": dict(inputs.secret_digests),
        "files": dict(inputs.file_digests),
        "memoryToken": inputs.memory_token,
        "image": runtime_image,
    }
    return hashlib.sha256(orjson.dumps(covered, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def essence(value: Any) -> Any:
    """A value of `api.types` as plain data, keyed by attribute, without what equals its default."""
    if attrs.has(type(value)):
        return {
            info.name: essence(getattr(value, info.name))
            for info in fields_of(type(value))
            if info.required or getattr(value, info.name) != info.default
        }
    if isinstance(value, Mapping):
        return {str(key): essence(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [essence(item) for item in value]
    return value


def secret_digest(salt: bytes, value: bytes) -> str:
    """Tells a changed value from an unchanged one and nothing else: the salt is the agent's own secret."""
    return hmac.new(salt, value, hashlib.sha256).hexdigest()[:16]


def file_digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def used_secrets(spec: AgentSpec, providers: Iterable[BoundProvider]) -> list[tuple[str, SecretKeyRef]]:
    """(field, reference) of every Secret key the pod's environment needs."""
    refs = [(f"spec.secrets[{index}].secretRef", item.secret_ref) for index, item in enumerate(spec.secrets)]
    for bound in providers:
        refs += [(f"Provider {bound.name} {path}", ref) for path, ref in provider_secrets(bound.spec)]
    return refs


def provider_secrets(spec: ProviderSpec) -> list[tuple[str, SecretKeyRef]]:
    """(field, reference) of every Secret key a Provider names."""
    refs = []
    if spec.api_key_secret is not None:
        refs.append(("spec.apiKeySecret", spec.api_key_secret))
    grant = spec.endpoint.oauth2_client_credentials
    if grant is not None:
        path = "spec.endpoint.oauth2ClientCredentials"
        refs += [(f"{path}.clientIdSecret", grant.client_id_secret)]
        refs += [(f"{path}.clientSecretSecret", grant.client_secret_secret)]
    return refs


def secret_names(agent: str, spec: Mapping[str, Any]) -> list[str]:
    """Names of the Secrets whose change concerns an Agent (a raw spec), Providers' apart: the watch index."""
    found = [names.token_secret(agent)]
    found += [(item.get("secretRef") or {}).get("name", "") for item in spec.get("secrets") or ()]
    server = (spec.get("memory") or {}).get("serverRef")
    if server:
        found.append(names.token_secret(server))
    return sorted({name for name in found if name})


def context_config_maps(spec: Mapping[str, Any]) -> list[str]:
    """Names of the ConfigMaps of an Agent's context files (a raw spec): the watch index."""
    refs = [(item.get("configMapRef") or {}).get("name", "") for item in spec.get("contextFiles") or ()]
    return sorted({name for name in refs if name})
