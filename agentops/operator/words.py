"""Condition types and reasons that only the operator writes, beside those of `agentops.api.conditions`."""

from __future__ import annotations

from enum import StrEnum


class Condition(StrEnum):
    # Provider
    ENDPOINT_REACHABLE = "EndpointReachable"
    """What the operator saw when it asked `endpoint.baseURL` for its models. Never holds anything back."""
    # Agent
    CONFIG_VALID = "ConfigValid"
    CHILDREN_READY = "ChildrenReady"
    """Whether every child could be applied; False names the object in the way and who has it."""
    STORAGE_READY = "StorageReady"
    # AgentRun
    STOPPING = "Stopping"
    """True: the run is being stopped, for the reason of the condition; it holds its slot until that is done."""


class Reason(StrEnum):
    # EndpointReachable
    REACHABLE = "Reachable"
    UNREACHABLE = "Unreachable"
    UNAUTHORIZED = "Unauthorized"
    CHECKING = "Checking"
    # ChildrenReady
    APPLIED = "Applied"
    APPLY_FAILED = "ApplyFailed"
    TERMINATING = "Terminating"
    # StorageReady
    CLAIMED = "Claimed"
    SIZE_FIXED = "SizeFixed"
    # DependenciesReady
    CONFIG_MAP_NOT_FOUND = "ConfigMapNotFound"
    MEMORY_TOKEN_NOT_READY = "MemoryTokenNotReady"
    # Ready
    UNSCHEDULABLE = "Unschedulable"
    REPLICA_FAILURE = "ReplicaFailure"
    CONTAINER_FAILED = "ContainerFailed"
    # Stopping
    CANCEL_REQUESTED = "CancelRequested"
    REPLACED = "Replaced"
    AGENT_DELETED = "AgentDeleted"
    TIMEOUT = "Timeout"
    # AgentRun AgentReady
    AGENT_BUSY = "AgentBusy"
    WAITING_FOR_POD = "WaitingForPod"
    JOB_REFUSED = "JobRefused"
    REFUSED = "Refused"
