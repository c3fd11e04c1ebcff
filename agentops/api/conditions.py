"""Phases, condition types and reasons: the words statuses are written in.

They are part of the API: people script against them, so a word once published stays.
"""

from __future__ import annotations

from enum import StrEnum


class AgentPhase(StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    READY = "Ready"
    FAILED = "Failed"


class RunPhase(StrEnum):
    PENDING = "Pending"
    QUEUED = "Queued"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def terminal(self) -> bool:
        """Whether the run is over."""
        return self in (RunPhase.SUCCEEDED, RunPhase.FAILED)


class ProviderPhase(StrEnum):
    PENDING = "Pending"
    READY = "Ready"
    FAILED = "Failed"


class ConditionType(StrEnum):
    # Agent
    READY = "Ready"
    TOOLS_READY = "ToolsReady"
    PROVIDERS_READY = "ProvidersReady"
    RESOURCES_READY = "ResourcesReady"
    DEPENDENCIES_READY = "DependenciesReady"
    SECURITY_POLICY_VIOLATIONS = "SecurityPolicyViolations"
    """True is bad: the message lists what was clamped."""
    SCHEDULE_VALID = "ScheduleValid"
    # AgentRun
    COMPLETE = "Complete"
    AGENT_READY = "AgentReady"
    OUTPUT_STORED = "OutputStored"
    """False: of a long answer only the beginning is kept; the message says what stood in the way of the rest."""
    STOPPING = "Stopping"
    """True: the run is being stopped, for the reason of the condition; it holds its slot until that is done."""
    # Agent
    CHILDREN_READY = "ChildrenReady"
    """Whether every child could be applied; False names the object in the way and who has it."""
    STORAGE_READY = "StorageReady"
    # Agent and Provider
    CONFIG_VALID = "ConfigValid"
    # Provider
    SECRET_READY = "SecretReady"
    ENDPOINT_REACHABLE = "EndpointReachable"
    """What the operator saw when it asked `endpoint.baseURL` for its models. Never holds anything back."""
    # All kinds
    FIELDS_NOT_IN_EFFECT = "FieldsNotInEffect"
    """True: the message lists fields that were accepted and that nothing acts on yet."""


class Reason(StrEnum):
    # Agent: Ready
    RUNNING = "Running"
    READY = "Ready"
    PENDING = "Pending"
    FAILED = "Failed"
    INVALID_SPEC = "InvalidSpec"
    ROLLING_OUT = "RollingOut"
    FOREIGN_OBJECT = "ForeignObject"
    CRASH_LOOP_BACK_OFF = "CrashLoopBackOff"
    IMAGE_PULL_BACK_OFF = "ImagePullBackOff"
    UNSCHEDULABLE = "Unschedulable"
    REPLICA_FAILURE = "ReplicaFailure"
    CONTAINER_FAILED = "ContainerFailed"
    # Agent: ChildrenReady, StorageReady
    APPLIED = "Applied"
    APPLY_FAILED = "ApplyFailed"
    RENDER_FAILED = "RenderFailed"
    """No children can be made of the spec, which passed for consistent all the same: a defect of ours."""
    TERMINATING = "Terminating"
    CLAIMED = "Claimed"
    SIZE_FIXED = "SizeFixed"
    CLAIM_KEPT = "ClaimKept"
    # Agent: dependencies
    ALL_READY = "AllReady"
    AGENT_TOOL_NOT_READY = "AgentToolNotReady"
    AGENT_TOOL_NOT_FOUND = "AgentToolNotFound"
    RESOURCE_NOT_READY = "ResourceNotReady"
    RESOURCE_NOT_FOUND = "ResourceNotFound"
    CONFIGURED = "Configured"
    PROVIDER_NOT_FOUND = "ProviderNotFound"
    PROVIDER_NOT_READY = "ProviderNotReady"
    MODEL_NOT_ALLOWED = "ModelNotAllowed"
    CONFIG_MAP_NOT_FOUND = "ConfigMapNotFound"
    SERVICE_ACCOUNT_NOT_FOUND = "ServiceAccountNotFound"
    MEMORY_NOT_FOUND = "MemoryNotFound"
    """Holds nothing back: an agent works without its memory service, and finds it when it comes."""
    MEMORY_TOKEN_NOT_READY = "MemoryTokenNotReady"
    OVERRIDES_CLAMPED = "OverridesClamped"
    NO_VIOLATIONS = "NoViolations"
    # AgentRun: Complete
    SUCCEEDED = "Succeeded"
    CANCELLED = "Cancelled"
    REJECTED = "Rejected"
    TIMEOUT = "Timeout"
    LOST = "Lost"
    JOB_LOST = "JobLost"
    AGENT_NOT_FOUND = "AgentNotFound"
    INTERRUPTED = "Interrupted"
    REFUSED = "Refused"
    """The agent will never take this run."""
    JOB_REFUSED = "JobRefused"
    # AgentRun: AgentReady
    AGENT_NOT_RUNNING = "AgentNotRunning"
    AGENT_BUSY = "AgentBusy"
    WAITING_FOR_POD = "WaitingForPod"
    FAILED_CREATE = "FailedCreate"
    """The Job cannot make the run's pod: the word its controller has for it, too."""
    # AgentRun: Stopping
    CANCEL_REQUESTED = "CancelRequested"
    REPLACED = "Replaced"
    AGENT_DELETED = "AgentDeleted"
    # Provider
    VALID = "Valid"
    INVALID_CONFIG = "InvalidConfig"
    SECRET_EXISTS = "SecretExists"
    NOT_APPLICABLE = "NotApplicable"
    SECRET_NOT_FOUND = "SecretNotFound"
    SECRET_ERROR = "SecretError"
    KEY_NOT_FOUND = "KeyNotFound"
    REACHABLE = "Reachable"
    UNREACHABLE = "Unreachable"
    UNAUTHORIZED = "Unauthorized"
    CHECKING = "Checking"
    # All kinds
    NOT_IMPLEMENTED = "NotImplemented"
    ALL_IN_EFFECT = "AllInEffect"
