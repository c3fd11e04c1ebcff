"""How the operator is set up: one value, made by the command line."""

from __future__ import annotations

from attrs import field, frozen

from agentops.api.defaults import RUN_TTL_S
from agentops.operator.objects.env import Endpoints

LEASE_NAME = "agentops-operator"


@frozen(slots=True, kw_only=True)
class OperatorOptions:
    """Every default is that of a pod of manifests/."""

    runtime_image: str | None = None
    """Image of agent pods; None: that of the operator's own pod, else `agentops:<version>`."""
    endpoints: Endpoints = field(factory=Endpoints)
    """Injected into agent pods when given."""
    watch_namespaces: tuple[str, ...] = ()
    """Empty: the whole cluster."""
    metrics_bind: str | None = ":8080"
    probes_bind: str | None = ":8081"
    explain: bool = False
    """Whether `/debug/queue` shows why objects were reconciled."""
    leader_elect: bool = False
    pod_name: str | None = None
    """The operator's own pod, from the downward API; None outside a cluster."""
    pod_namespace: str = "agent-system"
    """Where the Lease lives."""
    run_ttl_s: int = RUN_TTL_S
    """How long finished runs are kept, seconds, unless they say otherwise."""
    grace_s: float = 30.0
    owns_process: bool = False
    """Nothing else runs in this process, so the garbage collector may be tuned for the cache."""
    agent_workers: int = 4
    run_workers: int = 8
