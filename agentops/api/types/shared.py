"""Types that several kinds share: metadata, conditions, references, security and resources."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from agentops.api.fields import Quantity, Rule, doc

NAME_MAX = 253
ID_MAX = 2**31 - 1
"""Largest user or group id that Kubernetes takes."""
TOKENS_MAX = 10_000_000
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
NAME_RULE = Rule(
    "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",
    "is not the name of an object: use a-z, 0-9, - and .",
    "",
    "FieldValueInvalid",
)
ENV_NAME_PATTERN = r"^[A-Za-z_][A-Za-z0-9_.-]*$"


# --- metadata -----------------------------------------------------------------------------------


@frozen(slots=True)
class OwnerReference:
    """Who an object belongs to."""

    api_version: str = field(metadata=doc("API version of the owner.", json_name="apiVersion"))
    kind: str = field(metadata=doc("Kind of the owner."))
    name: str = field(metadata=doc("Name of the owner."))
    uid: str = field(metadata=doc("UID of the owner."))
    controller: bool = field(default=False, metadata=doc("Whether the owner manages the object."))
    block_owner_deletion: bool = field(
        default=False, metadata=doc("Whether the owner's foreground deletion waits for this object.")
    )


@frozen(slots=True)
class ObjectMeta:
    """The part of Kubernetes' ObjectMeta that AgentOps reads. Times are RFC 3339 text."""

    name: str = field(default="", metadata=doc("Name, unique within kind and namespace."))
    generate_name: str = field(default="", metadata=doc("Prefix the API server completes to a name."))
    namespace: str = field(default="", metadata=doc("Namespace."))
    uid: str = field(default="", metadata=doc("Identity of this incarnation of the object."))
    resource_version: str = field(default="", metadata=doc("Opaque version for optimistic concurrency."))
    generation: int = field(default=0, metadata=doc("Counts changes of the spec."))
    creation_timestamp: str = field(default="", metadata=doc("When the object was created."))
    deletion_timestamp: str = field(default="", metadata=doc("When deletion was asked for; empty otherwise."))
    labels: Mapping[str, str] = field(factory=dict, metadata=doc("Labels."))
    annotations: Mapping[str, str] = field(factory=dict, metadata=doc("Annotations."))
    finalizers: tuple[str, ...] = field(default=(), metadata=doc("What must happen before the object goes."))
    owner_references: tuple[OwnerReference, ...] = field(default=(), metadata=doc("Owners."))


@frozen(slots=True)
class Condition:
    """One aspect of an object's state, as in metav1.Condition."""

    type: str = field(metadata=doc("Which aspect.", max_length=316))
    status: str = field(metadata=doc("Whether it holds.", enum=("True", "False", "Unknown")))
    reason: str = field(metadata=doc("One word in CamelCase for machines.", max_length=1024))
    message: str = field(default="", metadata=doc("One sentence for people.", max_length=32768))
    last_transition_time: str = field(default="", metadata=doc("When `status` last changed.", format="date-time"))
    observed_generation: int | None = field(
        default=None, metadata=doc("The generation of the spec this was computed from.", minimum=0)
    )


CONDITIONS_DOC = doc("What is known about the object, one entry per aspect.", list_map_keys=("type",), max_items=32)


# --- references ---------------------------------------------------------------------------------


@frozen(slots=True)
class SecretKeyRef:
    """One key of a Secret in the same namespace."""

    name: str = field(metadata=doc("Name of the Secret.", min_length=1, max_length=NAME_MAX))
    key: str = field(metadata=doc("Key in its data.", min_length=1, max_length=NAME_MAX))


@frozen(slots=True)
class ConfigMapKeyRef:
    """One key of a ConfigMap in the same namespace."""

    name: str = field(metadata=doc("Name of the ConfigMap.", min_length=1, max_length=NAME_MAX))
    key: str = field(metadata=doc("Key in its data.", min_length=1, max_length=NAME_MAX))


@frozen(slots=True)
class SecretEnvVar:
    """An environment variable whose value comes from a Secret."""

    name: str = field(
        metadata=doc("Name of the variable.", min_length=1, max_length=256, pattern=ENV_NAME_PATTERN),
    )
    secret_ref: SecretKeyRef = field(metadata=doc("Where the value comes from."))


# --- pod settings (the parts of core/v1 that AgentOps understands) --------------------------------


@frozen(slots=True)
class ResourceRequirements:
    """Requests and limits of a container."""

    requests: Mapping[str, Quantity] = field(
        factory=dict, metadata=doc("What the scheduler sets aside, by resource name.", max_properties=32)
    )
    limits: Mapping[str, Quantity] = field(
        factory=dict, metadata=doc("What the container may use at most, by resource name.", max_properties=32)
    )


@frozen(slots=True)
class SELinuxOptions:
    """SELinux context."""

    level: str = field(default="", metadata=doc("SELinux level.", max_length=256))
    role: str = field(default="", metadata=doc("SELinux role.", max_length=256))
    type: str = field(default="", metadata=doc("SELinux type.", max_length=256))
    user: str = field(default="", metadata=doc("SELinux user.", max_length=256))


@frozen(slots=True)
class SeccompProfile:
    """Which system calls are allowed."""

    type: str = field(metadata=doc("Kind of profile.", enum=("RuntimeDefault", "Localhost", "Unconfined")))
    localhost_profile: str = field(
        default="", metadata=doc("File under the kubelet's profile root; with type Localhost.", max_length=4096)
    )


@frozen(slots=True)
class AppArmorProfile:
    """Which AppArmor profile applies."""

    type: str = field(metadata=doc("Kind of profile.", enum=("RuntimeDefault", "Localhost", "Unconfined")))
    localhost_profile: str = field(
        default="", metadata=doc("Loaded profile's name; with type Localhost.", max_length=4096)
    )


@frozen(slots=True)
class Sysctl:
    """A kernel parameter."""

    name: str = field(metadata=doc("Name of the parameter.", max_length=253))
    value: str = field(metadata=doc("Value of the parameter.", max_length=1024))


@frozen(slots=True)
class PodSecurityContext:
    """Security settings of a pod. What would weaken the platform's floor is refused and reported."""

    run_as_user: int | None = field(
        default=None, metadata=doc("User id of every process; not 0.", minimum=0, maximum=ID_MAX)
    )
    run_as_group: int | None = field(
        default=None, metadata=doc("Group id of every process.", minimum=0, maximum=ID_MAX)
    )
    run_as_non_root: bool | None = field(default=None, metadata=doc("Refuse to run as root; false is refused."))
    fs_group: int | None = field(
        default=None, metadata=doc("Group that owns mounted volumes.", minimum=0, maximum=ID_MAX)
    )
    fs_group_change_policy: str | None = field(
        default=None, metadata=doc("When volume ownership is changed.", enum=("OnRootMismatch", "Always"))
    )
    supplemental_groups: tuple[int, ...] = field(
        default=(), metadata=doc("Further group ids.", max_items=32, minimum=0, maximum=ID_MAX)
    )
    se_linux_options: SELinuxOptions | None = field(default=None, metadata=doc("SELinux context."))
    seccomp_profile: SeccompProfile | None = field(
        default=None, metadata=doc("Seccomp profile; Unconfined is refused.")
    )
    app_armor_profile: AppArmorProfile | None = field(
        default=None, metadata=doc("Accepted and ignored: the platform's floor decides.")
    )
    sysctls: tuple[Sysctl, ...] = field(
        default=(), metadata=doc("Accepted and ignored: the platform's floor decides.", max_items=32)
    )


@frozen(slots=True)
class Capabilities:
    """Linux capabilities."""

    add: tuple[str, ...] = field(default=(), metadata=doc("Refused, whatever it names.", max_items=64, max_length=64))
    drop: tuple[str, ...] = field(default=(), metadata=doc("All are dropped in any case.", max_items=64, max_length=64))


@frozen(slots=True)
class SecurityContext:
    """Security settings of a container. What would weaken the platform's floor is refused and reported."""

    run_as_user: int | None = field(
        default=None, metadata=doc("User id of the process; not 0.", minimum=0, maximum=ID_MAX)
    )
    run_as_group: int | None = field(default=None, metadata=doc("Group id of the process.", minimum=0, maximum=ID_MAX))
    run_as_non_root: bool | None = field(default=None, metadata=doc("Refuse to run as root; false is refused."))
    allow_privilege_escalation: bool | None = field(default=None, metadata=doc("true is refused."))
    privileged: bool | None = field(default=None, metadata=doc("true is refused."))
    read_only_root_filesystem: bool | None = field(default=None, metadata=doc("false is refused."))
    capabilities: Capabilities | None = field(default=None, metadata=doc("Linux capabilities."))
    se_linux_options: SELinuxOptions | None = field(default=None, metadata=doc("SELinux context."))
    seccomp_profile: SeccompProfile | None = field(
        default=None, metadata=doc("Seccomp profile; Unconfined is refused.")
    )
    app_armor_profile: AppArmorProfile | None = field(
        default=None, metadata=doc("Accepted and ignored: the platform's floor decides.")
    )
    proc_mount: str | None = field(
        default=None,
        metadata=doc("Accepted and ignored: the platform's floor decides.", enum=("Default", "Unmasked")),
    )


@frozen(slots=True)
class SecurityOverrides:
    """Wishes about pod security, clamped by the platform's floor.

    A wish below the floor is replaced by the floor and named in condition SecurityPolicyViolations.
    """

    pod: PodSecurityContext | None = field(default=None, metadata=doc("Settings of the pod."))
    container: SecurityContext | None = field(default=None, metadata=doc("Settings of the main container."))
    automount_service_account_token: bool | None = field(
        default=None, metadata=doc("Whether the pod gets a ServiceAccount token.")
    )


# --- model calls --------------------------------------------------------------------------------


@frozen(slots=True)
class AnthropicDefaults:
    """Call settings for Anthropic models."""

    effort: str | None = field(
        default=None, metadata=doc("How much work the model puts in.", enum=("low", "medium", "high", "max"))
    )
    thinking_budget_tokens: int | None = field(
        default=None, metadata=doc("Tokens the model may think with.", minimum=1024, maximum=TOKENS_MAX, format="int64")
    )
    disable_parallel_tool_use: bool | None = field(default=None, metadata=doc("One tool call at a time."))


@frozen(slots=True)
class OpenAIDefaults:
    """Call settings for OpenAI-shaped models."""

    reasoning_effort: str | None = field(
        default=None,
        metadata=doc("How much the model reasons.", enum=("none", "minimal", "low", "medium", "high", "xhigh")),
    )
    service_tier: str | None = field(default=None, metadata=doc("Service tier of the request.", max_length=64))


@frozen(slots=True)
class SafetySetting:
    """One of Google's content filters."""

    category: str = field(metadata=doc("Harm category.", min_length=1, max_length=128))
    threshold: str = field(metadata=doc("Block threshold.", min_length=1, max_length=128))


@frozen(slots=True)
class GoogleDefaults:
    """Call settings for Google models. `thinkingLevel` and `thinkingBudgetTokens` exclude each other."""

    thinking_level: str | None = field(
        default=None, metadata=doc("How much the model thinks.", enum=("MINIMAL", "LOW", "MEDIUM", "HIGH"))
    )
    thinking_budget_tokens: int | None = field(
        default=None, metadata=doc("Tokens the model may think with.", minimum=128, maximum=TOKENS_MAX, format="int64")
    )
    safety_settings: tuple[SafetySetting, ...] = field(
        default=(), metadata=doc("Content filters.", max_items=32, list_map_keys=("category",))
    )


@frozen(slots=True)
class ProviderCallDefaults:
    """Call settings by model family; a provider uses the block of its type."""

    anthropic: AnthropicDefaults | None = field(default=None, metadata=doc("For types anthropic and bedrock."))
    openai: OpenAIDefaults | None = field(
        default=None, metadata=doc("For types openai, azure, openaicompat and openrouter.")
    )
    google: GoogleDefaults | None = field(default=None, metadata=doc("For type google."))
