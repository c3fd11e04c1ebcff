"""`config.json`: what the operator tells the runtime, through ConfigMap `<agent>-config`.

A runtime accepts `SCHEMA_VERSION` and the one before, and refuses newer with one line. Secrets never
stand here, only the names of the environment variables that hold them. The shape follows
the AgentOps runtime's documented `config.json`, with the lists always present.
"""

from __future__ import annotations

from typing import Any

from attrs import field, frozen

from agentops.api.codec import wire

SCHEMA_VERSION = 1


@frozen(slots=True, kw_only=True)
class OAuth2:
    """A client_credentials grant; id and secret are read from the named environment variables."""

    token_url: str = wire("tokenURL")
    client_id_env: str = wire("clientIDEnv")
    client_secret_env: str = field()
    scopes: tuple[str, ...] = ()
    audience: str | None = None


@frozen(slots=True, kw_only=True)
class VertexConfig:
    project: str
    location: str


@frozen(slots=True, kw_only=True)
class ProviderConfig:
    """One bound Provider. `name` is the Provider object's name and the prefix of its models."""

    name: str
    type: str = wire("type", always=True, default="openaicompat")
    base_url: str | None = wire("baseURL", default=None)
    api_key_env: str | None = wire("apiKeyEnv", default=None)
    """The variable that holds the key; absent when the provider needs none."""
    headers: dict[str, str] = field(factory=dict)
    organization: str | None = None
    project: str | None = None
    use_responses_api: bool | None = wire("useResponsesAPI", default=None)
    azure_api_version: str | None = wire("azureAPIVersion", default=None)
    vertex: VertexConfig | None = None
    bedrock: bool | None = None
    oauth2: OAuth2 | None = None
    call_defaults: dict[str, dict[str, Any]] = field(factory=dict)
    """Keyed `anthropic`, `openai`, `google`; the block of the provider's own type applies."""


@frozen(slots=True, kw_only=True)
class MemoryConfig:
    server_url: str = wire("serverURL")
    project: str = field()
    context_limit: int = wire("contextLimit", always=True, default=5)
    auto_summarize: bool = wire("autoSummarize", always=True, default=True)
    auto_save: bool = wire("autoSave", always=True, default=True)
    auto_search: bool = wire("autoSearch", always=True, default=True)


@frozen(slots=True, kw_only=True)
class ContextFile:
    path: str


@frozen(slots=True, kw_only=True)
class ToolConfig:
    """A tool directory mounted into the pod."""

    name: str
    path: str
    description: str | None = None
    category: str | None = None
    ui_hint: str | None = None


@frozen(slots=True, kw_only=True)
class DelegationConfig:
    team: tuple[str, ...] = ()
    max_fan_out: int | None = None


@frozen(slots=True, kw_only=True)
class RuntimeConfig:
    """The whole file. `primary_model` is `provider/model`, or a bare model of `primary_provider`."""

    schema_version: int = wire("schemaVersion", always=True, default=SCHEMA_VERSION)
    runtime: str = wire("runtime", always=True, default="fantasy")
    """The runtime flavour, as earlier releases of the format name it."""
    providers: tuple[ProviderConfig, ...] = wire("providers", always=True, default=())
    primary_provider: str | None = None
    primary_model: str = ""
    fallback_models: tuple[str, ...] = ()
    title_model: str | None = None
    system_prompt: str = ""
    platform_protocol: str = ""
    builtin_tools: tuple[str, ...] = wire("builtinTools", always=True, default=())
    tool_env: tuple[str, ...] = ()
    """Names of the variables of `spec.env` that tools get beside the few the platform allows; never a secret's."""
    tools: tuple[ToolConfig, ...] = wire("tools", always=True, default=())
    context_files: tuple[ContextFile, ...] = wire("contextFiles", always=True, default=())
    temperature: float | None = None
    max_output_tokens: int | None = None
    max_steps: int | None = None
    max_tool_result_chars: int = 50_000
    budget_fraction: float = 0.75
    context_windows: dict[str, int] = field(factory=dict)
    """Context window in tokens by model name, where the built-in table is wrong or silent."""
    permission_tools: tuple[str, ...] = ()
    enable_question_tool: bool = False
    memory: MemoryConfig | None = None
    delegation: DelegationConfig | None = None
