"""AgentTool: something a model can call, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from agentops.api.fields import Rule, doc
from agentops.api.types.shared import (
    CONDITIONS_DOC,
    NAME_MAX,
    PULL_POLICIES,
    Condition,
    ObjectMeta,
    ResourceRequirements,
    SecretEnvVar,
    SecretKeyRef,
    SecurityOverrides,
)

SOURCES = ("oci", "configMap", "inline", "mcpServer", "mcpEndpoint", "skill")
"""The source blocks, in the order that decides when more than one is set."""
MCP_SOURCES = ("mcpServer", "mcpEndpoint")
PHASES = ("Pending", "Deploying", "Ready", "Failed")
INLINE_MAX_BYTES = 4096


@frozen(slots=True)
class OCISource:
    """An OCI artifact."""

    ref: str = field(metadata=doc("Reference, such as registry/repository:tag.", min_length=1, max_length=1024))
    digest: str | None = field(default=None, metadata=doc("Digest the artifact must have.", max_length=256))
    pull_policy: str | None = field(default=None, metadata=doc("When it is pulled.", enum=PULL_POLICIES))
    pull_secret: SecretKeyRef | None = field(default=None, metadata=doc("Registry credentials."))


@frozen(slots=True)
class ConfigMapSource:
    """A tool in a ConfigMap."""

    name: str = field(metadata=doc("Name of the ConfigMap.", min_length=1, max_length=NAME_MAX))
    key: str = field(metadata=doc("Key in its data.", min_length=1, max_length=NAME_MAX))


@frozen(slots=True)
class InlineSource:
    """A tool written into the object."""

    content: str = field(metadata=doc("The tool, at most 4096 bytes.", min_length=1, max_length=INLINE_MAX_BYTES))


@frozen(slots=True)
class MCPHealthCheck:
    """How the operator knows that a server is up."""

    path: str | None = field(default=None, metadata=doc("Path to GET.", max_length=2048))
    url: str | None = field(default=None, metadata=doc("URL to GET.", max_length=2048))
    interval_seconds: int = field(
        default=30, metadata=doc("Seconds between checks.", minimum=1, maximum=86400, format="int32")
    )


@frozen(slots=True)
class MCPServerSource:
    """An MCP server the operator runs."""

    image: str = field(metadata=doc("Image of the server.", min_length=1, max_length=1024))
    port: int = field(default=8080, metadata=doc("Port it listens on.", minimum=1, maximum=65535, format="int32"))
    command: tuple[str, ...] = field(
        default=(), metadata=doc("Command and arguments of a stdio server.", max_items=64, max_length=4096)
    )
    env: Mapping[str, str] = field(
        factory=dict, metadata=doc("Environment variables.", max_properties=128, max_length=32768)
    )
    secrets: tuple[SecretEnvVar, ...] = field(
        default=(), metadata=doc("Environment variables from Secrets.", max_items=64, list_map_keys=("name",))
    )
    service_account_name: str | None = field(
        default=None, metadata=doc("ServiceAccount of the pod.", max_length=NAME_MAX)
    )
    resources: ResourceRequirements = field(
        factory=ResourceRequirements, metadata=doc("Requests and limits of the server.")
    )
    health_check: MCPHealthCheck | None = field(default=None, metadata=doc("How to know that it is up."))
    security: SecurityOverrides | None = field(default=None, metadata=doc("Wishes about pod security, clamped."))


@frozen(slots=True)
class MCPOAuthConfig:
    """OAuth credentials for an MCP endpoint."""

    client_id_secret: SecretKeyRef = field(
        metadata=doc("Secret key that holds the client id.", json_name="clientIdSecret")
    )
    client_secret_secret: SecretKeyRef = field(metadata=doc("Secret key that holds the client secret."))


@frozen(slots=True)
class MCPEndpointSource:
    """An MCP server that runs elsewhere."""

    url: str = field(metadata=doc("Its http or https URL.", min_length=1, max_length=2048))
    transport: str = field(default="sse", metadata=doc("How it speaks.", enum=("sse", "streamable-http")))
    headers: Mapping[str, str] = field(
        factory=dict, metadata=doc("HTTP headers of every request.", max_properties=64, max_length=4096)
    )
    oauth: MCPOAuthConfig | None = field(default=None, metadata=doc("OAuth credentials."))
    health_check: MCPHealthCheck | None = field(default=None, metadata=doc("How to know that it is up."))


@frozen(slots=True)
class DefaultPermissions:
    """What holds for every agent that binds the tool without permissions of its own."""

    require_approval: bool = field(default=False, metadata=doc("Ask a person before each call."))
    mode: str | None = field(
        default=None,
        metadata=doc("deny: calls that match a rule are refused; allow: only those pass.", enum=("deny", "allow")),
    )
    rules: tuple[str, ...] = field(default=(), metadata=doc("The rules.", max_items=256, max_length=1024))


@frozen(slots=True)
class AgentToolSpec:
    """What the tool is: exactly one source block."""

    description: str | None = field(default=None, metadata=doc("What the tool does.", max_length=4096))
    category: str | None = field(default=None, metadata=doc("Group it is listed under.", max_length=128))
    ui_hint: str | None = field(
        default=None, metadata=doc("How the console shows results, such as terminal or diff.", max_length=128)
    )
    oci: OCISource | None = field(default=None, metadata=doc("Source: an OCI artifact."))
    config_map: ConfigMapSource | None = field(default=None, metadata=doc("Source: a ConfigMap."))
    inline: InlineSource | None = field(default=None, metadata=doc("Source: text in this object."))
    mcp_server: MCPServerSource | None = field(default=None, metadata=doc("Source: an MCP server to run."))
    mcp_endpoint: MCPEndpointSource | None = field(
        default=None, metadata=doc("Source: an MCP server that runs elsewhere.")
    )
    skill: OCISource | None = field(default=None, metadata=doc("Source: an OCI artifact with instructions."))
    default_permissions: DefaultPermissions | None = field(
        default=None, metadata=doc("What holds unless an Agent's binding says otherwise.")
    )


SPEC_RULES = (
    Rule(
        "[" + ", ".join(f"has(self.{source})" for source in SOURCES) + "].filter(given, given).size() == 1",
        f"exactly one source is needed: one of {', '.join(SOURCES)}",
        "",
        "FieldValueInvalid",
    ),
)


@frozen(slots=True)
class DiscoveredTool:
    """A tool an MCP server offers."""

    name: str = field(metadata=doc("Name of the tool."))
    description: str | None = field(default=None, metadata=doc("What it does."))
    input_schema: str | None = field(default=None, metadata=doc("JSON Schema of its arguments, as text."))


@frozen(slots=True)
class AgentToolStatus:
    """What the operator last saw."""

    phase: str | None = field(default=None, metadata=doc("Whether agents can use the tool.", enum=PHASES))
    message: str | None = field(default=None, metadata=doc("Why the phase is what it is, in one line."))
    observed_generation: int | None = field(
        default=None, metadata=doc("The generation of the spec this status was computed from.", format="int64")
    )
    source_type: str | None = field(default=None, metadata=doc("Which source is used.", enum=SOURCES))
    service_url: str | None = field(default=None, metadata=doc("Where an MCP server answers."))
    tools: tuple[DiscoveredTool, ...] = field(
        default=(), metadata=doc("What an MCP server offers.", list_map_keys=("name",), max_items=512)
    )
    conditions: tuple[Condition, ...] = field(default=(), metadata=CONDITIONS_DOC)


@frozen(slots=True)
class AgentTool:
    """Something a model can call, and where it comes from."""

    metadata: ObjectMeta = field(metadata=doc("Standard object metadata."))
    spec: AgentToolSpec = field(metadata=doc("What the tool is."))
    status: AgentToolStatus = field(factory=AgentToolStatus, metadata=doc("What the operator last saw."))
