"""Provider: where models are, and how to be let in."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from agentops.api.fields import Rule, doc
from agentops.api.types.shared import (
    CONDITIONS_DOC,
    Condition,
    ObjectMeta,
    ProviderCallDefaults,
    SecretKeyRef,
)

TYPES = ("anthropic", "openai", "google", "azure", "bedrock", "openrouter", "openaicompat")
PHASES = ("Pending", "Ready", "Failed")


@frozen(slots=True)
class OAuth2ClientCredentials:
    """The OAuth 2 client credentials grant."""

    token_url: str = field(metadata=doc("Where tokens are issued.", min_length=1, max_length=2048))
    client_id_secret: SecretKeyRef = field(
        metadata=doc("Secret key that holds the client id.", json_name="clientIdSecret")
    )
    client_secret_secret: SecretKeyRef = field(metadata=doc("Secret key that holds the client secret."))
    scope: str | None = field(default=None, metadata=doc("Scopes, separated by spaces.", max_length=2048))
    audience: str | None = field(default=None, metadata=doc("Audience of the token.", max_length=2048))


@frozen(slots=True)
class SecretHeader:
    """An HTTP header whose value comes from a Secret."""

    name: str = field(metadata=doc("Name of the header.", min_length=1, max_length=256))
    secret_ref: SecretKeyRef = field(metadata=doc("Where the value comes from."))


@frozen(slots=True)
class ProviderEndpoint:
    """How requests reach the models."""

    base_url: str | None = field(
        default=None,
        metadata=doc(
            "Base URL of the API; absent: the vendor's. Required for openaicompat.", min_length=1, max_length=2048
        ),
    )
    headers: Mapping[str, str] = field(
        factory=dict,
        metadata=doc(
            "HTTP headers of every call. Readable by everybody who can read the Provider; keep secrets in "
            "secretHeaders.",
            max_properties=64,
            max_length=4096,
        ),
    )
    secret_headers: tuple[SecretHeader, ...] = field(
        default=(), metadata=doc("HTTP headers from Secrets.", max_items=32, list_map_keys=("name",))
    )
    oauth2_client_credentials: OAuth2ClientCredentials | None = field(
        default=None, metadata=doc("Authenticate by OAuth 2 instead of a key.")
    )


@frozen(slots=True)
class VertexConfig:
    """Google Cloud Vertex AI."""

    project: str = field(metadata=doc("Google Cloud project.", min_length=1, max_length=256))
    location: str = field(metadata=doc("Region.", min_length=1, max_length=256))


@frozen(slots=True)
class ProviderConfig:
    """Settings that only some types have."""

    organization: str | None = field(default=None, metadata=doc("Organization; openai.", max_length=256))
    project: str | None = field(default=None, metadata=doc("Project; openai.", max_length=256))
    use_responses_api: bool = field(
        default=False,
        metadata=doc("Use the Responses API; openai, azure, openaicompat."),
    )
    azure_api_version: str | None = field(default=None, metadata=doc("API version; azure.", max_length=64))
    vertex: VertexConfig | None = field(default=None, metadata=doc("Use Vertex AI; anthropic, google."))
    bedrock: bool = field(default=False, metadata=doc("Use Amazon Bedrock; anthropic, bedrock."))


@frozen(slots=True)
class ProviderSpec:
    """What the provider is."""

    type: str = field(metadata=doc("Which API it speaks.", enum=TYPES))
    api_key_secret: SecretKeyRef | None = field(
        default=None, metadata=doc("Secret key that holds the API key. Not together with OAuth 2.")
    )
    models: tuple[str, ...] = field(
        default=(),
        metadata=doc(
            "Models agents may use, without the provider's prefix: a name, a prefix ending in *, or *. Absent: any.",
            max_items=256,
            min_length=1,
            max_length=512,
        ),
    )
    endpoint: ProviderEndpoint = field(factory=ProviderEndpoint, metadata=doc("How requests reach the models."))
    config: ProviderConfig = field(factory=ProviderConfig, metadata=doc("Settings that only some types have."))
    defaults: ProviderCallDefaults = field(
        factory=ProviderCallDefaults, metadata=doc("Call settings; an Agent may override them.")
    )


SPEC_RULES = (
    Rule(
        "self.type != 'openaicompat' || (has(self.endpoint) && has(self.endpoint.baseURL))",
        "openaicompat needs endpoint.baseURL, such as http://host:8000/v1",
        ".endpoint.baseURL",
        "FieldValueRequired",
    ),
    Rule(
        "!has(self.apiKeySecret) || !has(self.endpoint) || !has(self.endpoint.oauth2ClientCredentials)",
        "apiKeySecret and endpoint.oauth2ClientCredentials exclude each other: remove one",
        ".apiKeySecret",
        "FieldValueForbidden",
    ),
)


@frozen(slots=True)
class ProviderStatus:
    """What the operator last saw."""

    phase: str | None = field(
        default=None, metadata=doc("Ready: agents may use it; Failed: see message and conditions.", enum=PHASES)
    )
    message: str | None = field(default=None, metadata=doc("Why the phase is what it is, in one line."))
    observed_generation: int | None = field(
        default=None, metadata=doc("The generation of the spec this status was computed from.", format="int64")
    )
    bound_agents: int | None = field(
        default=None, metadata=doc("How many Agents in the namespace name this provider.", format="int32")
    )
    conditions: tuple[Condition, ...] = field(default=(), metadata=CONDITIONS_DOC)


@frozen(slots=True)
class Provider:
    """Where models are, and how to be let in. Its name is the prefix of its models."""

    metadata: ObjectMeta = field(metadata=doc("Standard object metadata."))
    spec: ProviderSpec = field(metadata=doc("What the provider is."))
    status: ProviderStatus = field(factory=ProviderStatus, metadata=doc("What the operator last saw."))
