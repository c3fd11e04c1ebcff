"""Agent: who it is, which model it uses, what it may do, and where it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from agentops.api.fields import Quantity, Rule, doc
from agentops.api.types.shared import (
    CONDITIONS_DOC,
    NAME_MAX,
    PULL_POLICIES,
    TOKENS_MAX,
    Condition,
    ConfigMapKeyRef,
    ObjectMeta,
    ProviderCallDefaults,
    ResourceRequirements,
    SecretEnvVar,
    SecurityOverrides,
)

MODES = ("daemon", "task")
BUILTIN_TOOLS = ("bash", "read", "edit", "write", "grep", "ls", "glob", "fetch")
CONCURRENCY_POLICIES = ("queue", "reject", "replace")
PHASES = ("Pending", "Running", "Ready", "Failed")
DEFAULT_TIMEOUT = "10m"
DEFAULT_MAX_STEPS = 100
STEPS_MAX = 1_000_000


@frozen(slots=True)
class ProviderBinding:
    """A Provider this agent may use."""

    name: str = field(
        metadata=doc(
            "Name of a Provider in the same namespace; the prefix of its models.", min_length=1, max_length=NAME_MAX
        )
    )
    overrides: ProviderCallDefaults | None = field(
        default=None, metadata=doc("Call settings that win over the Provider's, field by field.")
    )


@frozen(slots=True)
class ContextFileRef:
    """A file of context, mounted at `/etc/context/<key>` and shown to the model."""

    config_map_ref: ConfigMapKeyRef = field(metadata=doc("The ConfigMap key that holds the file."))


@frozen(slots=True)
class ToolPermissions:
    """Which calls of an MCP tool are allowed.

    A rule is `tool`, `tool:arg=value`, `tool:arg=prefix*` or `tool:*=pattern`.
    """

    mode: str = field(
        metadata=doc("deny: calls that match a rule are refused; allow: only those pass.", enum=("deny", "allow"))
    )
    rules: tuple[str, ...] = field(metadata=doc("The rules.", max_items=256, max_length=1024))


@frozen(slots=True)
class AgentToolBinding:
    """An AgentTool this agent uses."""

    name: str = field(metadata=doc("Name of an AgentTool in the same namespace.", min_length=1, max_length=NAME_MAX))
    permissions: ToolPermissions | None = field(
        default=None, metadata=doc("Which calls are allowed; for MCP tools. Wins over the tool's own defaults.")
    )
    direct_tools: tuple[str, ...] = field(
        default=(),
        metadata=doc("Tools of an MCP server offered to the model by themselves.", max_items=128, max_length=256),
    )
    auto_context: bool = field(default=False, metadata=doc("Describe the tool in the system prompt."))


@frozen(slots=True)
class AgentResourceBinding:
    """An AgentResource this agent knows about."""

    name: str = field(
        metadata=doc("Name of an AgentResource in the same namespace.", min_length=1, max_length=NAME_MAX)
    )
    read_only: bool = field(default=False, metadata=doc("The agent must not write to it."))
    auto_context: bool = field(default=False, metadata=doc("Describe the resource in the system prompt."))


@frozen(slots=True)
class DelegationSpec:
    """Whom this agent may hand work to. Absent: nobody, and it has no delegation tools."""

    team: tuple[str, ...] = field(
        metadata=doc("Names of Agents in the same namespace.", min_items=1, max_items=64, max_length=NAME_MAX)
    )
    max_fan_out: int = field(
        default=5, metadata=doc("How many runs one fan-out may start.", minimum=1, maximum=10, format="int32")
    )


@frozen(slots=True)
class ConcurrencySpec:
    """How many AgentRuns run at once, and what happens to the rest.

    A daemon answers one prompt at a time, whatever `maxRuns` says.
    """

    max_runs: int = field(default=1, metadata=doc("Runs at the same time.", minimum=1, maximum=1000, format="int32"))
    policy: str = field(
        default="queue",
        metadata=doc(
            "queue: wait in order of creation; reject: fail at once; replace: cancel the oldest running one.",
            enum=CONCURRENCY_POLICIES,
        ),
    )


@frozen(slots=True)
class StorageSpec:
    """A volume that outlives the pod; for daemons."""

    size: Quantity = field(metadata=doc("Size as a quantity, such as 1Gi. Fixed once the volume exists."))
    storage_class: str | None = field(
        default=None, metadata=doc("Storage class; absent: the cluster's default.", max_length=NAME_MAX)
    )


@frozen(slots=True)
class NetworkPolicySpec:
    """Whether ingress is limited to the agent's own port."""

    enabled: bool = field(default=False, metadata=doc("Make a NetworkPolicy for the agent's pods."))


@frozen(slots=True)
class MemorySpec:
    """The agent's memory: which service, and what is saved and searched by itself."""

    server_ref: str = field(
        metadata=doc("Name of the memory Service in the same namespace.", min_length=1, max_length=NAME_MAX)
    )
    project: str | None = field(
        default=None, metadata=doc("Name the memories are filed under; absent: the agent's name.", max_length=253)
    )
    context_limit: int = field(
        default=5,
        metadata=doc("How many memories enter the prompt; 0: none.", minimum=0, maximum=50, format="int32"),
    )
    auto_summarize: bool = field(default=True, metadata=doc("Write a summary at the end of a session."))
    auto_save: bool = field(default=True, metadata=doc("Tell the model to save what it learns."))
    auto_search: bool = field(default=True, metadata=doc("Tell the model to search before it works."))


@frozen(slots=True)
class MemorySaveRule:
    """Save a memory when a tool call matches; every given pattern must match."""

    tool: str = field(metadata=doc("Name of the tool.", min_length=1, max_length=256))
    match_output: str | None = field(
        default=None, metadata=doc("Regular expression (RE2) over the tool's output.", max_length=1024)
    )
    match_args: Mapping[str, str] = field(
        factory=dict,
        metadata=doc("Regular expressions (RE2) by argument name.", max_properties=32, max_length=1024),
    )
    type: str = field(default="discovery", metadata=doc("Type of the memory.", max_length=64))
    scope: str = field(default="project", metadata=doc("Who sees the memory.", enum=("project", "global")))


@frozen(slots=True)
class ContextInjectTool:
    """Add memories to the context before a tool runs."""

    tool: str = field(metadata=doc("Name of the tool.", min_length=1, max_length=256))
    query: str = field(
        default="from_tool_args",
        metadata=doc("What to search for: from_tool_args, or the query itself.", max_length=1024),
    )
    limit: int = field(default=3, metadata=doc("How many memories.", minimum=1, maximum=10, format="int32"))


@frozen(slots=True)
class ToolHooksSpec:
    """What happens around tool calls."""

    blocked_commands: tuple[str, ...] = field(
        default=(), metadata=doc("Commands bash refuses.", max_items=256, max_length=1024)
    )
    allowed_paths: tuple[str, ...] = field(
        default=(), metadata=doc("Absolute paths the file tools are limited to.", max_items=128, max_length=4096)
    )
    audit_tools: tuple[str, ...] = field(
        default=(), metadata=doc("Tools whose every call is written to the audit log.", max_items=128, max_length=256)
    )
    memory_save_rules: tuple[MemorySaveRule, ...] = field(
        default=(), metadata=doc("When a tool call becomes a memory.", max_items=64)
    )
    context_inject_tools: tuple[ContextInjectTool, ...] = field(
        default=(), metadata=doc("Which tool calls bring memories along.", max_items=64)
    )


@frozen(slots=True)
class PodTemplateMetadata:
    """Labels and annotations added to the pod; the platform's own win."""

    labels: Mapping[str, str] = field(factory=dict, metadata=doc("Labels.", max_properties=64, max_length=63))
    annotations: Mapping[str, str] = field(
        factory=dict, metadata=doc("Annotations.", max_properties=64, max_length=262144)
    )


@frozen(slots=True)
class PodTemplatePatch:
    """A strategic merge patch over the generated pod, clamped by the security floor afterwards."""

    metadata: PodTemplateMetadata | None = field(default=None, metadata=doc("Labels and annotations to add."))
    spec: Mapping[str, Any] = field(
        factory=dict,
        metadata=doc(
            "A partial PodSpec, merged as strategic merge patches are. The main container is called "
            "agent-runtime; agent is accepted as another name for it.",
            preserve_unknown=True,
        ),
    )


@frozen(slots=True)
class AgentSpec:
    """What the user wants of the agent."""

    mode: str = field(
        metadata=doc(
            "daemon: a Deployment that answers prompts over HTTP; task: one Job per AgentRun.",
            enum=MODES,
            rules=(
                Rule(
                    "self == oldSelf", "mode is immutable: delete the Agent and create it anew", "", "FieldValueInvalid"
                ),
            ),
        )
    )
    model: str = field(
        metadata=doc(
            "Model as provider/model, where provider is the name of a bound Provider; a name without a prefix "
            "goes to primaryProvider.",
            min_length=1,
            max_length=512,
        )
    )
    provider_refs: tuple[ProviderBinding, ...] = field(
        metadata=doc("Providers the agent may use.", min_items=1, max_items=32, list_map_keys=("name",))
    )
    image: str | None = field(
        default=None, metadata=doc("Runtime image; absent: the operator's own.", min_length=1, max_length=1024)
    )
    image_pull_policy: str = field(
        default="IfNotPresent", metadata=doc("When the image is pulled.", enum=PULL_POLICIES)
    )
    builtin_tools: tuple[str, ...] = field(
        default=(),
        metadata=doc(
            "Built-in tools the model may call. Absent or empty: none.",
            enum=BUILTIN_TOOLS,
            max_items=len(BUILTIN_TOOLS),
        ),
    )
    temperature: float | None = field(default=None, metadata=doc("Sampling temperature.", minimum=0, maximum=2))
    max_output_tokens: int | None = field(
        default=None,
        metadata=doc("Most tokens one model call may produce.", minimum=1, maximum=TOKENS_MAX, format="int64"),
    )
    max_steps: int = field(
        default=DEFAULT_MAX_STEPS,
        metadata=doc("Most model calls in one turn.", minimum=1, maximum=STEPS_MAX, format="int32"),
    )
    primary_provider: str | None = field(
        default=None, metadata=doc("Name of the bound Provider for models without a prefix.", max_length=NAME_MAX)
    )
    title_model: str | None = field(
        default=None,
        metadata=doc("Model that summarises what no longer fits the conversation; absent: model.", max_length=512),
    )
    fallback_models: tuple[str, ...] = field(
        default=(),
        metadata=doc("Models tried in order when the model fails.", max_items=16, min_length=1, max_length=512),
    )
    system_prompt: str | None = field(default=None, metadata=doc("Passed to the model unchanged.", max_length=262144))
    context_files: tuple[ContextFileRef, ...] = field(
        default=(), metadata=doc("Files shown to the model with the system prompt.", max_items=64)
    )
    delegation: DelegationSpec | None = field(default=None, metadata=doc("Whom the agent may hand work to."))
    tools: tuple[AgentToolBinding, ...] = field(
        default=(), metadata=doc("AgentTools the model may call.", max_items=64, list_map_keys=("name",))
    )
    permission_tools: tuple[str, ...] = field(
        default=(), metadata=doc("Tools that ask a person before each call.", max_items=128, max_length=256)
    )
    enable_question_tool: bool = field(default=False, metadata=doc("Let the model ask a person questions."))
    env: Mapping[str, str] = field(
        factory=dict,
        metadata=doc(
            "Environment variables of the agent. Names that say who the agent is (AGENT_NAME, AGENT_NAMESPACE, "
            "AGENT_MODE) are the platform's.",
            max_properties=128,
            max_length=32768,
        ),
    )
    secrets: tuple[SecretEnvVar, ...] = field(
        default=(),
        metadata=doc("Environment variables from Secrets.", max_items=64, list_map_keys=("name",)),
    )
    storage: StorageSpec | None = field(default=None, metadata=doc("A volume that outlives the pod; daemons only."))
    memory: MemorySpec | None = field(default=None, metadata=doc("The agent's memory; absent: it has none."))
    resource_bindings: tuple[AgentResourceBinding, ...] = field(
        default=(),
        metadata=doc("AgentResources the agent knows about.", max_items=64, list_map_keys=("name",)),
    )
    tool_hooks: ToolHooksSpec | None = field(default=None, metadata=doc("What happens around tool calls."))
    schedule: str | None = field(
        default=None,
        metadata=doc(
            "When to run by itself: five cron fields or @hourly and the like, in UTC unless CRON_TZ=<zone> leads.",
            min_length=1,
            max_length=256,
        ),
    )
    schedule_prompt: str | None = field(
        default=None, metadata=doc("Prompt of scheduled runs; required with schedule.", max_length=262144)
    )
    concurrency: ConcurrencySpec = field(
        factory=ConcurrencySpec, metadata=doc("How many runs at once; absent: one, the rest wait in order.")
    )
    resources: ResourceRequirements = field(
        factory=ResourceRequirements, metadata=doc("Requests and limits of the main container.")
    )
    service_account_name: str | None = field(
        default=None,
        metadata=doc(
            "ServiceAccount of the pod; when set, the operator makes no RBAC for the agent. Absent: <agent>-agent.",
            min_length=1,
            max_length=NAME_MAX,
        ),
    )
    timeout: str = field(
        default=DEFAULT_TIMEOUT,
        metadata=doc("Longest time one run may take, in Go notation such as 90s or 1h30m.", max_length=64),
    )
    termination_grace_period_seconds: int = field(
        default=120,
        metadata=doc(
            "Seconds a pod told to stop may use to finish the turn it is in.", minimum=0, maximum=3600, format="int64"
        ),
    )
    network_policy: NetworkPolicySpec | None = field(
        default=None, metadata=doc("Limits on network traffic to the agent; absent: none.")
    )
    pod_annotations: Mapping[str, str] = field(
        factory=dict, metadata=doc("Annotations of the agent's pods.", max_properties=64, max_length=262144)
    )
    pod_template: PodTemplatePatch | None = field(
        default=None, metadata=doc("A patch over the generated pod, for what no other field says.")
    )
    wait_for_dependencies: bool = field(
        default=True,
        metadata=doc("Hold the first start back until Providers, tools and resources are ready."),
    )
    security: SecurityOverrides | None = field(default=None, metadata=doc("Wishes about pod security, clamped."))


SPEC_RULES = (
    Rule(
        "self.mode != 'task' || !has(self.storage)",
        "storage is for daemons: a task's workspace ends with its run; remove storage or set mode to daemon",
        ".storage",
        "FieldValueForbidden",
    ),
    Rule(
        "!has(self.schedule) || (has(self.schedulePrompt) && self.schedulePrompt != '')",
        "schedule needs schedulePrompt, the prompt of the scheduled runs",
        ".schedulePrompt",
        "FieldValueRequired",
    ),
)


@frozen(slots=True)
class AgentStatus:
    """What the operator last saw."""

    phase: str | None = field(
        default=None,
        metadata=doc(
            "Pending: not usable yet; Running: the daemon answers; Ready: the task can be run; Failed: see conditions.",
            enum=PHASES,
        ),
    )
    message: str | None = field(default=None, metadata=doc("Why the phase is what it is, in one line."))
    observed_generation: int | None = field(
        default=None, metadata=doc("The generation of the spec this status was computed from.", format="int64")
    )
    service_url: str | None = field(default=None, metadata=doc("Where a daemon answers inside the cluster."))
    replicas: int | None = field(default=None, metadata=doc("Pods of the Deployment.", format="int32"))
    updated_replicas: int | None = field(
        default=None, metadata=doc("Pods made from the current template.", format="int32")
    )
    ready_replicas: int | None = field(default=None, metadata=doc("Pods that answer.", format="int32"))
    available_replicas: int | None = field(
        default=None, metadata=doc("Pods that have been ready for long enough.", format="int32")
    )
    storage_pvc: str | None = field(default=None, metadata=doc("Name of the PersistentVolumeClaim."))
    active_model: str | None = field(default=None, metadata=doc("The model in use."))
    runtime_image: str | None = field(
        default=None,
        metadata=doc(
            "The image the agent's pods use. It stays when the operator is upgraded; annotation "
            "agents.agentops.io/upgrade moves it."
        ),
    )
    observed_upgrade: str | None = field(
        default=None, metadata=doc("Value of annotation agents.agentops.io/upgrade that runtimeImage answers to.")
    )
    config_hash: str | None = field(
        default=None, metadata=doc("Hash over the inputs the current pod template was made from.")
    )
    linked_resources: Mapping[str, str] = field(
        factory=dict, metadata=doc("Names of the objects that belong to the agent, by kind.")
    )
    last_schedule_time: str | None = field(
        default=None, metadata=doc("When a scheduled run was last created.", format="date-time")
    )
    next_schedule_time: str | None = field(
        default=None, metadata=doc("When the next scheduled run is due.", format="date-time")
    )
    conditions: tuple[Condition, ...] = field(default=(), metadata=CONDITIONS_DOC)


@frozen(slots=True)
class Agent:
    """An AI agent: a model, a prompt, tools and memory, running as a daemon or once per run."""

    metadata: ObjectMeta = field(metadata=doc("Standard object metadata."))
    spec: AgentSpec = field(metadata=doc("What the user wants of the agent."))
    status: AgentStatus = field(factory=AgentStatus, metadata=doc("What the operator last saw."))
