"""AgentRun: one prompt to one agent, and what became of it."""

from __future__ import annotations

from attrs import field, frozen

from agentops.api.fields import Rule, doc
from agentops.api.types.shared import CONDITIONS_DOC, NAME_MAX, NAME_RULE, Condition, ObjectMeta

SOURCES = ("user", "channel", "agent", "schedule", "console")
INTENTS = ("change", "plan", "incident", "discovery", "noop")
ARTIFACT_KINDS = ("pr", "mr", "issue", "memory", "commit")
PHASES = ("Pending", "Queued", "Running", "Succeeded", "Failed")
TERMINAL_PHASES = ("Succeeded", "Failed")
PROMPT_MAX = 262144
OUTPUT_MAX_BYTES = 16 * 1024
"""Longest `status.output`, in UTF-8 bytes; the whole stands in the ConfigMap `<run>-output`."""


@frozen(slots=True)
class GitWorkspace:
    """The repository and branch a task works on."""

    resource_ref: str = field(
        metadata=doc(
            "Name of an AgentResource of kind github-repo, gitlab-project or git-repo.",
            min_length=1,
            max_length=NAME_MAX,
        )
    )
    branch: str = field(metadata=doc("Branch to work on; made from the base if missing.", min_length=1, max_length=255))
    base_branch: str | None = field(
        default=None,
        metadata=doc("Branch to start from; absent: the resource's default branch, then main.", max_length=255),
    )


@frozen(slots=True)
class OutcomeHint:
    """What the caller expects to come out."""

    intent: str | None = field(default=None, metadata=doc("Expected kind of outcome.", enum=INTENTS))


@frozen(slots=True)
class AgentRunSpec:
    """What to run. Immutable, but for `cancel` from false to true."""

    agent_ref: str = field(
        metadata=doc("Name of the Agent in the same namespace.", min_length=1, max_length=NAME_MAX, rules=(NAME_RULE,))
    )
    prompt: str = field(metadata=doc("What the agent is asked.", min_length=1, max_length=PROMPT_MAX))
    source: str = field(default="user", metadata=doc("Who created the run.", enum=SOURCES))
    source_ref: str | None = field(
        default=None, metadata=doc("Name of the channel or agent that created the run.", max_length=NAME_MAX)
    )
    git: GitWorkspace | None = field(default=None, metadata=doc("Repository to work on; task agents only."))
    outcome: OutcomeHint | None = field(default=None, metadata=doc("What the caller expects to come out."))
    cancel: bool = field(default=False, metadata=doc("Set to true to stop the run; there is no way back."))
    ttl_seconds_after_finished: int | None = field(
        default=None,
        metadata=doc(
            "Seconds a finished run is kept; absent: the operator's default, 7 days.",
            minimum=0,
            maximum=315360000,
            format="int32",
        ),
    )


def _immutable(name: str, *, required: bool = False) -> Rule:
    same = f"self.{name} == oldSelf.{name}"
    if not required:
        same = f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || {same})"
    return Rule(same, f"{name} is immutable: create another AgentRun", f".{name}", "FieldValueInvalid")


SPEC_RULES = (
    _immutable("agentRef", required=True),
    _immutable("prompt", required=True),
    _immutable("source"),
    _immutable("sourceRef"),
    _immutable("git"),
    _immutable("outcome"),
    _immutable("ttlSecondsAfterFinished"),
    Rule(
        "!has(oldSelf.cancel) || !oldSelf.cancel || (has(self.cancel) && self.cancel)",
        "cancel cannot be taken back: create another AgentRun",
        ".cancel",
        "FieldValueInvalid",
    ),
)


@frozen(slots=True)
class Artifact:
    """Something the run left behind."""

    kind: str = field(metadata=doc("What it is.", enum=ARTIFACT_KINDS))
    provider: str | None = field(default=None, metadata=doc("Where it lives, such as github."))
    url: str | None = field(default=None, metadata=doc("Link to it."))
    ref: str | None = field(default=None, metadata=doc("Number, hash or id."))
    title: str | None = field(default=None, metadata=doc("Title."))


@frozen(slots=True)
class Outcome:
    """What came out of the run, as the agent says."""

    intent: str | None = field(default=None, metadata=doc("Kind of outcome.", enum=INTENTS))
    summary: str | None = field(default=None, metadata=doc("The outcome in one or two sentences."))
    artifacts: tuple[Artifact, ...] = field(default=(), metadata=doc("What the run left behind.", max_items=64))


@frozen(slots=True)
class TokenUsage:
    """Tokens the run's model calls used."""

    input_tokens: int | None = field(default=None, metadata=doc("Tokens sent.", format="int64"))
    output_tokens: int | None = field(default=None, metadata=doc("Tokens received.", format="int64"))
    total_tokens: int | None = field(default=None, metadata=doc("Sum of both.", format="int64"))
    reasoning_tokens: int | None = field(
        default=None, metadata=doc("Tokens of the output spent on reasoning.", format="int64")
    )
    cache_creation_tokens: int | None = field(
        default=None, metadata=doc("Tokens of the input written to the provider's cache.", format="int64")
    )
    cache_read_tokens: int | None = field(
        default=None, metadata=doc("Tokens of the input read from the provider's cache.", format="int64")
    )


@frozen(slots=True)
class OutputRef:
    """Where the whole output stands."""

    name: str = field(metadata=doc("Name of the ConfigMap in the run's namespace."))
    key: str = field(metadata=doc("Key in its data."))


@frozen(slots=True)
class AgentRunStatus:
    """What became of the run. Written by the operator only."""

    phase: str | None = field(
        default=None,
        metadata=doc(
            "Pending: the agent is not ready, or its Job has no pod yet; Queued: other runs come first; Running: "
            "dispatched; Succeeded and Failed: finished, see condition Complete for the reason.",
            enum=PHASES,
        ),
    )
    mode: str | None = field(default=None, metadata=doc("Mode of the agent.", enum=("daemon", "task")))
    observed_generation: int | None = field(
        default=None, metadata=doc("The generation of the spec this status was computed from.", format="int64")
    )
    admitted_at: str | None = field(
        default=None, metadata=doc("When the run got its slot, before anything was started.", format="date-time")
    )
    start_time: str | None = field(default=None, metadata=doc("When the run was dispatched.", format="date-time"))
    completion_time: str | None = field(default=None, metadata=doc("When the run ended.", format="date-time"))
    job_name: str | None = field(default=None, metadata=doc("Name of the Job; task agents."))
    pod_name: str | None = field(default=None, metadata=doc("Name of the pod that runs or ran the prompt."))
    pod_uid: str | None = field(default=None, metadata=doc("UID of that pod."))
    output: str | None = field(
        default=None, metadata=doc("The answer, or the error. At most 16 KiB; see outputTruncated.")
    )
    output_truncated: bool | None = field(
        default=None, metadata=doc("Whether output is only the beginning of the answer.")
    )
    output_digest: str | None = field(default=None, metadata=doc("Digest of the whole answer, such as sha256:<hex>."))
    output_ref: OutputRef | None = field(
        default=None, metadata=doc("Where the whole answer stands, up to 900 KiB, when output is truncated.")
    )
    tool_calls: int | None = field(default=None, metadata=doc("How many tool calls were made.", format="int32"))
    steps: int | None = field(default=None, metadata=doc("How many model calls were made.", format="int32"))
    tokens_used: int | None = field(default=None, metadata=doc("Tokens used in all.", format="int64"))
    usage: TokenUsage | None = field(default=None, metadata=doc("Tokens used, by kind."))
    cost: str | None = field(default=None, metadata=doc("Cost in US dollars, as a decimal number."))
    model: str | None = field(default=None, metadata=doc("The model that answered."))
    trace_id: str | None = field(default=None, metadata=doc("Trace of the run, 32 hex digits."))
    outcome: Outcome | None = field(default=None, metadata=doc("What came out of the run, as the agent says."))
    conditions: tuple[Condition, ...] = field(default=(), metadata=CONDITIONS_DOC)


@frozen(slots=True)
class AgentRun:
    """One prompt to one agent, and what became of it."""

    metadata: ObjectMeta = field(metadata=doc("Standard object metadata."))
    spec: AgentRunSpec = field(metadata=doc("What to run."))
    status: AgentRunStatus = field(factory=AgentRunStatus, metadata=doc("What became of the run."))
