"""Channel: work that comes in from chat and forges."""

from __future__ import annotations

from attrs import field, frozen

from agentops.api.fields import Rule, doc
from agentops.api.types.shared import (
    CONDITIONS_DOC,
    NAME_MAX,
    NAME_RULE,
    PULL_POLICIES,
    Condition,
    ObjectMeta,
    ResourceRequirements,
    SecretKeyRef,
    SecurityOverrides,
)

CHAT_TYPES = ("telegram", "slack", "discord")
EVENT_TYPES = ("gitlab", "github", "webhook")
TYPES = (*CHAT_TYPES, *EVENT_TYPES)
BLOCKS = {
    "telegram": "telegram",
    "slack": "slack",
    "discord": "discord",
    "gitlab": "gitlab",
    "github": "github",
    "webhook": "webhookConfig",
}
"""Which block belongs to which type; webhookConfig may be left out."""
PHASES = ("Pending", "Ready", "Failed")


@frozen(slots=True)
class TelegramConfig:
    """A Telegram bot."""

    bot_token_secret: SecretKeyRef = field(metadata=doc("Secret key that holds the bot token."))
    allowed_users: tuple[str, ...] = field(
        default=(), metadata=doc("Users who may write; absent: all.", max_items=1024, max_length=256)
    )
    allowed_chats: tuple[str, ...] = field(
        default=(), metadata=doc("Chats that are listened to; absent: all.", max_items=1024, max_length=256)
    )


@frozen(slots=True)
class ChatConfig:
    """A Slack or Discord bot."""

    bot_token_secret: SecretKeyRef = field(metadata=doc("Secret key that holds the bot token."))
    allowed_channels: tuple[str, ...] = field(
        default=(), metadata=doc("Channels that are listened to; absent: all.", max_items=1024, max_length=256)
    )


@frozen(slots=True)
class ForgeConfig:
    """Events of a GitLab or GitHub project."""

    events: tuple[str, ...] = field(metadata=doc("Events that start a run.", min_items=1, max_items=64, max_length=256))
    secret: SecretKeyRef = field(metadata=doc("Secret key the webhook is signed with."))
    actions: tuple[str, ...] = field(
        default=(), metadata=doc("Actions that count; absent: all.", max_items=64, max_length=256)
    )
    labels: tuple[str, ...] = field(
        default=(), metadata=doc("Labels of which one must be set; absent: none.", max_items=64, max_length=256)
    )


@frozen(slots=True)
class WebhookConfig:
    """A plain webhook."""

    secret: SecretKeyRef | None = field(
        default=None, metadata=doc("Secret key for the HMAC signature; absent: unsigned.")
    )


@frozen(slots=True)
class IngressTLS:
    """The certificate of the Ingress, from cert-manager. The two exclude each other."""

    cluster_issuer: str | None = field(default=None, metadata=doc("Name of a ClusterIssuer.", max_length=NAME_MAX))
    issuer: str | None = field(default=None, metadata=doc("Name of an Issuer.", max_length=NAME_MAX))


@frozen(slots=True)
class WebhookIngress:
    """How the outside reaches the bridge."""

    host: str = field(metadata=doc("Host name.", min_length=1, max_length=253))
    path: str = field(default="/", metadata=doc("Path.", max_length=2048))
    ingress_class_name: str | None = field(
        default=None, metadata=doc("Ingress class; absent: the cluster's default.", max_length=NAME_MAX)
    )
    tls: IngressTLS | None = field(default=None, metadata=doc("The certificate; absent: plain HTTP."))


@frozen(slots=True)
class ChannelSpec:
    """Where work comes from, and which agent gets it."""

    type: str = field(metadata=doc("Where work comes from.", enum=TYPES))
    agent_ref: str = field(
        metadata=doc("Name of the Agent in the same namespace.", min_length=1, max_length=NAME_MAX, rules=(NAME_RULE,))
    )
    image: str = field(metadata=doc("Image of the bridge.", min_length=1, max_length=1024))
    telegram: TelegramConfig | None = field(default=None, metadata=doc("For type telegram."))
    slack: ChatConfig | None = field(default=None, metadata=doc("For type slack."))
    discord: ChatConfig | None = field(default=None, metadata=doc("For type discord."))
    gitlab: ForgeConfig | None = field(default=None, metadata=doc("For type gitlab."))
    github: ForgeConfig | None = field(default=None, metadata=doc("For type github."))
    webhook_config: WebhookConfig | None = field(default=None, metadata=doc("For type webhook."))
    prompt: str | None = field(
        default=None,
        metadata=doc("Template of the prompt; required for gitlab, github and webhook.", max_length=65536),
    )
    webhook: WebhookIngress | None = field(
        default=None, metadata=doc("How the outside reaches the bridge; absent: no Ingress.")
    )
    image_pull_policy: str = field(
        default="IfNotPresent", metadata=doc("When the image is pulled.", enum=PULL_POLICIES)
    )
    replicas: int = field(default=1, metadata=doc("Pods of the bridge.", minimum=1, maximum=100, format="int32"))
    resources: ResourceRequirements = field(
        factory=ResourceRequirements, metadata=doc("Requests and limits of the bridge.")
    )
    security: SecurityOverrides | None = field(default=None, metadata=doc("Wishes about pod security, clamped."))


SPEC_RULES = (
    *(
        Rule(
            f"self.type != '{type_}' || has(self.{block})",
            f"type {type_} needs block {block}",
            f".{block}",
            "FieldValueRequired",
        )
        for type_, block in BLOCKS.items()
        if type_ != "webhook"
    ),
    Rule(
        "!(self.type in ['gitlab', 'github', 'webhook']) || (has(self.prompt) && self.prompt != '')",
        "types gitlab, github and webhook need a prompt template",
        ".prompt",
        "FieldValueRequired",
    ),
)


@frozen(slots=True)
class ChannelStatus:
    """What the operator last saw."""

    phase: str | None = field(default=None, metadata=doc("Whether work comes in.", enum=PHASES))
    message: str | None = field(default=None, metadata=doc("Why the phase is what it is, in one line."))
    observed_generation: int | None = field(
        default=None, metadata=doc("The generation of the spec this status was computed from.", format="int64")
    )
    service_url: str | None = field(default=None, metadata=doc("Where the bridge answers inside the cluster."))
    webhook_url: str | None = field(default=None, metadata=doc("Where the outside reaches the bridge."))
    conditions: tuple[Condition, ...] = field(default=(), metadata=CONDITIONS_DOC)


@frozen(slots=True)
class Channel:
    """Work that comes in from chat and forges, and the agent that gets it."""

    metadata: ObjectMeta = field(metadata=doc("Standard object metadata."))
    spec: ChannelSpec = field(metadata=doc("Where work comes from, and which agent gets it."))
    status: ChannelStatus = field(factory=ChannelStatus, metadata=doc("What the operator last saw."))
