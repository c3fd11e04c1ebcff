"""From config.json's providers and model references to a `ModelChain`.

What the primary model needs must be there: its absence is a ConfigFault that names provider, field
and fix. A fallback that cannot be built is left out and logged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import httpx2
from attrs import frozen

from agentops.api.model_reference import BadModelReference, find_model
from agentops.api.runtime_config import ProviderConfig, RuntimeConfig
from agentops.runtime.errors import ConfigFault
from agentops.runtime.providers.base import Adapter
from agentops.runtime.providers.bounds import bounded
from agentops.runtime.providers.chain import BoundModel, ModelChain
from agentops.runtime.providers.oauth2 import ClientCredentials, OAuth2Auth
from agentops.runtime.providers.secrets import Secrets
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock
from agentops.values.headers import name_problem, value_problem

log = get_logger("runtime.models")

OPENROUTER_URL = "https://openrouter.ai/api/v1"
SUPPORTED = ("openaicompat", "openai", "openrouter", "anthropic")
OPENROUTER_HEADERS = {"X-Title": "AgentOps"}
"""How OpenRouter's pages name the caller; a Provider's headers replace them."""
TIMEOUT = httpx2.Timeout(300.0, connect=10.0, write=60.0, pool=10.0)
"""Reading waits five minutes: local models think long before the first token."""


@frozen
class ModelRef:
    """A model reference with its provider found."""

    provider: ProviderConfig
    model: str


def api_key_variable(provider: ProviderConfig) -> str:
    """The environment variable of the provider's key: what config.json says, else `<NAME>_API_KEY`."""
    return provider.api_key_env or re.sub(r"[^A-Za-z0-9]", "_", provider.name).upper() + "_API_KEY"


def resolve_model(reference: str, config: RuntimeConfig, field: str) -> ModelRef:
    """The provider and model that `reference` means, by the rule of `api.model_reference`.

    Raises ConfigFault, which names `field` and the fix.
    """
    if not config.providers:
        raise ConfigFault("providers: the agent has no provider; bind one in spec.providers")
    if not reference:
        raise ConfigFault(f"{field}: no model is set; write provider/model in spec.model")
    by_name = {provider.name: provider for provider in config.providers}
    if config.primary_provider is not None and config.primary_provider not in by_name:
        raise ConfigFault(
            f"primaryProvider: {config.primary_provider!r} is not among the bound providers {sorted(by_name)}"
        )
    try:
        found = find_model(reference, by_name, config.primary_provider)
    except BadModelReference as problem:
        raise ConfigFault(f"{field}: {problem}") from None
    return ModelRef(by_name[found.provider], found.model)


class AdapterFactory:
    """Builds one adapter per provider name. `http_client` makes a client of the runtime's network."""

    def __init__(
        self,
        env: Mapping[str, str],
        http_client: Callable[..., httpx2.AsyncClient],
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._env = env
        self._http_client = http_client
        self._clock = clock
        self._new_id = new_id
        self._built: dict[str, Adapter] = {}

    def adapter(self, provider: ProviderConfig) -> Adapter:
        """Raises ConfigFault when the provider's type, URL, key or SDK is missing."""
        if provider.name not in self._built:
            self._built[provider.name] = self._build(provider)
        return self._built[provider.name]

    def chain(self, config: RuntimeConfig) -> ModelChain:
        """The primary model and every usable fallback. Raises ConfigFault for the primary only."""
        primary = self._bind(config.primary_model, config, "primaryModel")
        models = [primary]
        for index, reference in enumerate(config.fallback_models):
            try:
                models.append(self._bind(reference, config, f"fallbackModels[{index}]"))
            except ConfigFault as fault:
                log.warning("model.fallback_unusable", model=reference, error=str(fault))
        return ModelChain(tuple(models), self._clock)

    def _bind(self, reference: str, config: RuntimeConfig, field: str) -> BoundModel:
        ref = resolve_model(reference, config, field)
        return BoundModel(self.adapter(ref.provider), ref.model)

    def _build(self, provider: ProviderConfig) -> Adapter:
        if provider.type not in SUPPORTED:
            raise ConfigFault(
                f"provider {provider.name}: type {provider.type!r} is not served by this runtime yet; "
                f"use one of {', '.join(SUPPORTED)}"
            )
        if provider.type == "openaicompat" and not provider.base_url:
            raise ConfigFault(f"provider {provider.name}: type openaicompat needs baseURL")
        if provider.type == "anthropic" and (provider.bedrock or provider.vertex is not None):
            raise ConfigFault(
                f"provider {provider.name}: Anthropic on Bedrock or Vertex is not served by this runtime yet; "
                "remove config.bedrock and config.vertex and set apiKeySecret"
            )
        variable = api_key_variable(provider)
        key = self._env.get(variable, "").strip()
        headers = _checked_headers(provider)
        needs_key = provider.oauth2 is None and (provider.type != "openaicompat" or provider.api_key_env is not None)
        if needs_key and not key:
            raise ConfigFault(
                f"provider {provider.name}: environment variable {variable} is empty or not set; "
                "check the Secret named in the Provider's apiKeySecret"
            )
        if provider.oauth2 is None and (held := value_problem(key)):
            raise ConfigFault(
                f"provider {provider.name}: the key in environment variable {variable} {held}, which no HTTP "
                "header can carry; write the key alone, on one line, into the Secret named in the Provider's "
                "spec.apiKeySecret"
            )
        client = self._client(provider)
        secrets = Secrets([key, *headers.values(), *((client.client_id, client.client_secret) if client else ())])
        auth = OAuth2Auth(provider.name, client, self._clock, secrets) if client else None
        http = partial(self._http_client, timeout=TIMEOUT, auth=auth)
        key_source = (
            f"the client of {provider.oauth2.token_url}"
            if provider.oauth2
            else f"environment variable {variable} (the Provider's apiKeySecret)"
        )
        if provider.type == "anthropic":
            return self._anthropic(provider, "" if provider.oauth2 else key, key_source, secrets, headers, http)
        try:
            from agentops.runtime.providers.openaicompat import OpenAICompatAdapter

            return OpenAICompatAdapter(
                provider.name,
                kind=provider.type,
                base_url=provider.base_url or (OPENROUTER_URL if provider.type == "openrouter" else None),
                api_key="" if provider.oauth2 else key,
                key_source=key_source,
                secrets=secrets,
                http_client=bounded(http()),
                clock=self._clock,
                organization=provider.organization,
                project=provider.project,
                headers=(OPENROUTER_HEADERS if provider.type == "openrouter" else {}) | headers,
                extra_body=_call_defaults(provider),
                new_id=self._new_id,
            )
        except ImportError as error:
            raise ConfigFault(
                f"provider {provider.name}: the openai package cannot be imported ({error}); "
                "install agentops-platform[runtime]"
            ) from error

    def _anthropic(
        self,
        provider: ProviderConfig,
        key: str,
        key_source: str,
        secrets: Secrets,
        headers: Mapping[str, str],
        http: Callable[[], httpx2.AsyncClient],
    ) -> Adapter:
        try:
            from agentops.runtime.providers.anthropic import AnthropicAdapter

            return AnthropicAdapter(
                provider.name,
                base_url=provider.base_url,
                api_key=key,
                key_source=key_source,
                secrets=secrets,
                http_client=bounded(http()),
                clock=self._clock,
                headers=headers,
                defaults=provider.call_defaults.get("anthropic", {}),
            )
        except ImportError as error:
            raise ConfigFault(
                f"provider {provider.name}: the anthropic package cannot be imported ({error}); "
                "install agentops-platform[runtime]"
            ) from error

    def _client(self, provider: ProviderConfig) -> ClientCredentials | None:
        if provider.oauth2 is None:
            return None
        values = []
        for variable in (provider.oauth2.client_id_env, provider.oauth2.client_secret_env):
            value = self._env.get(variable, "").strip()
            if not value:
                raise ConfigFault(f"provider {provider.name}: environment variable {variable} is empty or not set")
            if not _is_utf8(value):
                raise ConfigFault(f"provider {provider.name}: environment variable {variable} is not UTF-8 text")
            values.append(value)
        return ClientCredentials(
            provider.oauth2.token_url, values[0], values[1], provider.oauth2.scopes, provider.oauth2.audience
        )


def _checked_headers(provider: ProviderConfig) -> dict[str, str]:
    """The provider's headers, without the white space around their values. Raises ConfigFault for one that cannot
    be sent."""
    headers = {name: value.strip() for name, value in provider.headers.items()}
    sent = {f"header {name} (spec.endpoint.headers)": value for name, value in headers.items()}
    sent |= {"spec.config.organization": provider.organization or "", "spec.config.project": provider.project or ""}
    for place, value in sent.items():
        if held := value_problem(value):
            raise ConfigFault(
                f"provider {provider.name}: {place} {held}, which no HTTP header can carry; correct the Provider"
            )
    for name in headers:
        if unusable := name_problem(name):
            raise ConfigFault(f"provider {provider.name}: header {name!r} (spec.endpoint.headers) {unusable}")
    return headers


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _call_defaults(provider: ProviderConfig) -> dict[str, Any]:
    """The `openai` block of callDefaults as request fields."""
    defaults = provider.call_defaults.get("openai", {})
    names = {"reasoningEffort": "reasoning_effort", "serviceTier": "service_tier"}
    return {wire: defaults[key] for key, wire in names.items() if defaults.get(key)}
