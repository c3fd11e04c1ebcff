"""How a task's pod ended, when its Job says no more than that it failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentops.api import labels
from agentops.operator.rollout import container_failure

NOT_AGAIN = "the prompt may have been acted on and is not sent a second time; make a new AgentRun to ask again"
"""Of every run whose end nobody can tell."""
_BY_SIGNAL = 128
"""Exit codes above it mean a signal: 137 is SIGKILL."""


def pod_end(pod: Mapping[str, Any] | None) -> tuple[bool, str, str] | None:
    """As the end of a Job, that of a pod on its way out whose runtime has ended: the Job may only learn of it later."""
    ended = _ended(pod)
    if pod is None or not pod["metadata"].get("deletionTimestamp") or not ended:
        return None
    return ended.get("exitCode") == 0, "", f"pod {pod['metadata']['name']} was deleted"


def lost(pod: Mapping[str, Any] | None, name: str | None) -> str | None:
    """Why nobody can tell what the task in `pod`, once called `name`, did; None when the pod itself tells."""
    if pod is None:
        return f"pod {name or 'of the Job'} is gone, and with it what the run was doing; {NOT_AGAIN}"
    ended, failure = _ended(pod), container_failure(pod)
    killed = ended.get("exitCode", 0) > _BY_SIGNAL and ended.get("reason") != "OOMKilled"
    if not killed or failure is None or (pod.get("status") or {}).get("reason"):
        return None
    return f"pod {pod['metadata']['name']}, {failure[1]}; it left no result, and {NOT_AGAIN}"


def termination_message(pod: Mapping[str, Any]) -> str:
    """What the runtime's container left, or the kubelet in its stead; empty while it runs."""
    return str(_ended(pod).get("message") or "")


def _ended(pod: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """How the runtime's container ended; empty while it runs."""
    for item in ((pod or {}).get("status") or {}).get("containerStatuses") or ():
        if item.get("name") == labels.RUNTIME_CONTAINER:
            ended = (item.get("state") or {}).get("terminated") or (item.get("lastState") or {}).get("terminated")
            return dict(ended or {})
    return {}
