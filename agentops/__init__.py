"""AgentOps: AI agents as Kubernetes workloads.

One package holds every role; imports only go down:

    cli/          parse flags, build one object, run it
    operator/     runtime/  memory/  model/      the roles; none imports another
    local/        the embedded control plane: apiserver/, controllers/, kubelet/
    controller/   the reconciler framework      clients/  HTTP clients of our own services
    kube/         access to an API server       api/      the kinds and wire formats
    net/          sockets, serving, retries     telemetry/  logs, metrics, traces
    values/       pure values

`controller/` and `kube/` know nothing of agents: they can be lifted out for another operator.
"""

from agentops._version import __version__

__all__ = ["__version__"]
