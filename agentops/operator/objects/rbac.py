"""ServiceAccount, Role and RoleBinding `<agent>-agent`.

The runtime's results travel in its answers, so an agent needs no write access to any status. Without
delegation it may read its own Agent and nothing else.
"""

from __future__ import annotations

from typing import Any

from agentops.api import labels
from agentops.api.kinds import AGENT, AGENT_RESOURCE, AGENT_RUN, GROUP
from agentops.kube.kinds import ROLE, ROLE_BINDING, SERVICE_ACCOUNT
from agentops.operator.objects import names
from agentops.operator.objects.meta import child_labels, manifest


def service_account(agent: str, namespace: str) -> dict[str, Any]:
    return manifest(SERVICE_ACCOUNT, namespace, names.rbac(agent), child_labels(agent, labels.COMPONENT_RBAC))


def role(agent: str, namespace: str, *, delegates: bool) -> dict[str, Any]:
    """What the agent may ask the API server, should its token be mounted."""
    if delegates:
        rules = [
            _rule(AGENT.plural, ["get", "list", "watch"]),
            _rule(AGENT_RUN.plural, ["create", "get", "list", "watch"]),
            _rule(AGENT_RESOURCE.plural, ["get", "list"]),
        ]
    else:
        rules = [{**_rule(AGENT.plural, ["get"]), "resourceNames": [agent]}]
    return manifest(ROLE, namespace, names.rbac(agent), child_labels(agent, labels.COMPONENT_RBAC), rules=rules)


def role_binding(agent: str, namespace: str) -> dict[str, Any]:
    name = names.rbac(agent)
    return manifest(
        ROLE_BINDING,
        namespace,
        name,
        child_labels(agent, labels.COMPONENT_RBAC),
        roleRef={"apiGroup": ROLE.group, "kind": ROLE.kind, "name": name},
        subjects=[{"kind": SERVICE_ACCOUNT.kind, "name": name, "namespace": namespace}],
    )


def _rule(resource: str, verbs: list[str]) -> dict[str, Any]:
    return {"apiGroups": [GROUP], "resources": [resource], "verbs": verbs}
