"""Everything an Agent depends on, read once: its inputs, and what stands in the way of using them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from agentops.api import labels
from agentops.api.conditions import ConditionType, ProviderPhase, Reason
from agentops.api.kinds import PROVIDER
from agentops.api.memory_access import project_bearer
from agentops.api.objects import decode
from agentops.api.types import Agent, Provider
from agentops.api.validation import FieldError, validate_agent, validate_agent_bindings
from agentops.controller import Client
from agentops.kube.errors import NotFound
from agentops.kube.kinds import SERVICE, SERVICE_ACCOUNT
from agentops.operator.inputs import AgentInputs, Blocker, file_digest, secret_digest, used_secrets
from agentops.operator.objects import names
from agentops.operator.objects.config import BoundProvider
from agentops.operator.obstacles import Obstacle
from agentops.operator.secrets import Missing, SecretReader
from agentops.values.kinds import Kind
from agentops.values.names import is_dns1123_label, is_dns1123_subdomain


@frozen(slots=True, kw_only=True)
class Review:
    """`problems` are errors of the Agent itself, `blockers` what it waits for. `inputs` count only without either."""

    inputs: AgentInputs
    problems: tuple[FieldError, ...] = ()
    blockers: tuple[Blocker, ...] = ()
    shortfalls: tuple[Blocker, ...] = ()
    """What is missing too, and holds nothing back."""
    missing: tuple[Obstacle, ...] = ()
    """Which of all that no watch of the cache will tell of when it comes."""
    memory_bearer: str | None = None
    """What the agent sends to its memory service: reaches the agent's project only. None when there is none to make."""

    @property
    def complete(self) -> bool:
        return not self.problems and not self.blockers

    @property
    def summary(self) -> str:
        """All of what is wrong, in one line."""
        return "; ".join([*(str(problem) for problem in self.problems), *(item.message for item in self.blockers)])


class Reviewer:
    """Reads Providers from the cache, and the Secrets and files it needs live."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def review(self, agent: Agent, own: Mapping[str, bytes]) -> Review:
        """Never raises for something that is missing: that is what the answer is about.

        `own` is the content of the agent's token Secret: its bearer is an input, its salt goes into every digest.
        """
        salt = own[names.SALT_KEY]
        bound, blockers = await self._providers(agent)
        problems = validate_agent(agent)
        if not problems:
            problems = validate_agent_bindings(agent, bound)
        providers = tuple(
            BoundProvider(name=ref.name, spec=bound[ref.name].spec, overrides=ref.overrides)
            for ref in agent.spec.provider_refs
            if ref.name in bound
        )
        reader = SecretReader(self._client, agent.metadata.namespace)
        secret_digests, missing = await self._secrets(agent, providers, reader, salt)
        file_digests, missing_files = await self._files(agent, reader)
        memory_token, memory_bearer, memory_blocker = await self._memory(agent, reader, salt)
        account, service = await self._missing_account(agent), await self._missing_memory(agent)
        bearer = f"{names.token_secret(agent.metadata.name)}/{names.TOKEN_KEY}"
        secret_digests |= {bearer: secret_digest(salt, own[names.TOKEN_KEY]), **memory_token}
        blockers += [
            Blocker(condition=ConditionType.DEPENDENCIES_READY, reason=item.reason, message=item.message)
            for item in [*missing, *missing_files, *filter(None, [account])]
        ]
        blockers += [memory_blocker] if memory_blocker else []
        inputs = AgentInputs(
            providers=providers,
            secret_digests=secret_digests,
            file_digests=file_digests,
            memory_token=names.token_secret(agent.spec.memory.server_ref)
            if agent.spec.memory and memory_token
            else None,
        )
        return Review(
            inputs=inputs,
            problems=tuple(problems),
            blockers=tuple(blockers),
            shortfalls=tuple(
                Blocker(condition=ConditionType.DEPENDENCIES_READY, reason=item.reason, message=item.message)
                for item in filter(None, [service])
            ),
            missing=tuple(
                Obstacle(kind, agent.metadata.namespace, name, missing=True)
                for kind, name, absent in (
                    (SERVICE_ACCOUNT, agent.spec.service_account_name or "", account),
                    (SERVICE, agent.spec.memory.server_ref if agent.spec.memory else "", service),
                )
                if absent
            ),
            memory_bearer=memory_bearer,
        )

    async def _providers(self, agent: Agent) -> tuple[dict[str, Provider], list[Blocker]]:
        bound: dict[str, Provider] = {}
        blockers = []
        for index, ref in enumerate(agent.spec.provider_refs):
            found = await self._client.try_get(PROVIDER, ref.name, agent.metadata.namespace)
            where = f"Provider {agent.metadata.namespace}/{ref.name}"
            if found is None:
                message = f"{where} of spec.providerRefs[{index}] does not exist; create it or correct the name"
                blockers.append(_provider_blocker(Reason.PROVIDER_NOT_FOUND, message))
                continue
            provider = bound[ref.name] = decode(Provider, found)
            if provider.status.observed_generation != provider.metadata.generation:
                blockers.append(_provider_blocker(Reason.PROVIDER_NOT_READY, f"{where} is being checked"))
            elif provider.status.phase != ProviderPhase.READY:
                message = f"{where} is not ready: {provider.status.message or provider.status.phase}"
                blockers.append(_provider_blocker(Reason.PROVIDER_NOT_READY, message))
        return bound, blockers

    async def _secrets(
        self, agent: Agent, providers: tuple[BoundProvider, ...], reader: SecretReader, salt: bytes
    ) -> tuple[dict[str, str], list[Missing]]:
        digests: dict[str, str] = {}
        missing = []
        own = len(agent.spec.secrets)
        for index, (path, ref) in enumerate(used_secrets(agent.spec, providers)):
            value = await reader.secret_value(path, ref)
            if not isinstance(value, Missing):
                digests[f"{ref.name}/{ref.key}"] = secret_digest(salt, value)
            elif index < own:
                missing.append(value)  # a Provider's own are told by the Provider, which is then not ready
        return digests, missing

    async def _files(self, agent: Agent, reader: SecretReader) -> tuple[dict[str, str], list[Missing]]:
        digests: dict[str, str] = {}
        missing = []
        for index, file in enumerate(agent.spec.context_files):
            ref = file.config_map_ref
            content = await reader.file_content(f"spec.contextFiles[{index}].configMapRef", ref.name, ref.key)
            if isinstance(content, Missing):
                missing.append(content)
            else:
                digests[f"{ref.name}/{ref.key}"] = file_digest(content)
        return digests, missing

    async def _memory(
        self, agent: Agent, reader: SecretReader, salt: bytes
    ) -> tuple[dict[str, str], str | None, Blocker | None]:
        """The digest of the memory service's bearer and the one made from it for the agent's project.

        A service of ours that has none yet is waited for.
        """
        memory = agent.spec.memory
        if memory is None:
            return {}, None, None
        namespace, secret = agent.metadata.namespace, names.token_secret(memory.server_ref)
        value = await reader.secret_text(secret, names.TOKEN_KEY)
        if value:
            bearer = project_bearer(value.decode("utf-8", "replace").strip(), memory.project or agent.metadata.name)
            return {f"{secret}/{names.TOKEN_KEY}": secret_digest(salt, value)}, bearer, None
        service = await self._client.try_get(SERVICE, memory.server_ref, namespace)
        if service is None or component(service) != COMPONENT_MEMORY:
            return {}, None, None
        message = f"Secret {namespace}/{secret} with the bearer of memory service {memory.server_ref} is being made"
        return (
            {},
            None,
            Blocker(condition=ConditionType.DEPENDENCIES_READY, reason=Reason.MEMORY_TOKEN_NOT_READY, message=message),
        )

    async def _missing_account(self, agent: Agent) -> Missing | None:
        """Without it no pod can be made. One that goes later is told by the next review, and by the pods."""
        name, namespace = agent.spec.service_account_name, agent.metadata.namespace
        if not name or not is_dns1123_subdomain(name) or await self._exists(SERVICE_ACCOUNT, name, namespace):
            return None
        where = f"ServiceAccount {namespace}/{name} of spec.serviceAccountName"
        message = f"{where} does not exist; create it or correct the name"
        return Missing(reason=Reason.SERVICE_ACCOUNT_NOT_FOUND, message=message)

    async def _missing_memory(self, agent: Agent) -> Missing | None:
        memory, namespace = agent.spec.memory, agent.metadata.namespace
        if memory is None or not is_dns1123_label(memory.server_ref):
            return None
        if await self._exists(SERVICE, memory.server_ref, namespace):
            return None
        where = f"Service {namespace}/{memory.server_ref} of spec.memory.serverRef"
        message = f"{where} does not exist; create it or correct the name: until then the agent works without memory"
        return Missing(reason=Reason.MEMORY_NOT_FOUND, message=message)

    async def _exists(self, kind: Kind, name: str, namespace: str) -> bool:
        """Also without our labels, which the cache wants to see."""
        if await self._client.try_get(kind, name, namespace) is not None:
            return True
        try:
            await self._client.live.get(kind, name, namespace)
        except NotFound:
            return False
        return True


COMPONENT_MEMORY = "memory"
"""Label value of the Services of memory services, whose bearer the operator makes."""


def component(obj: Mapping[str, Any]) -> str:
    """What an object is for, by its label."""
    return str((obj["metadata"].get("labels") or {}).get(labels.COMPONENT, ""))


def _provider_blocker(reason: Reason, message: str) -> Blocker:
    return Blocker(condition=ConditionType.PROVIDERS_READY, reason=reason, message=message)
