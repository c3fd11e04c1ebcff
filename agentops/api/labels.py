"""Labels, annotations, finalizers and field managers: every metadata key AgentOps reads or writes.

The values of `COMPONENT` say what a child object is for; they are stable, dashboards and
`kubectl -l` select on them.
"""

from __future__ import annotations

from agentops.api.kinds import GROUP

# Labels
AGENT = f"{GROUP}/agent"
"""Agent name: on every child of an Agent, on Jobs and run pods, and on AgentRun objects."""
RUN = f"{GROUP}/run"
"""AgentRun name: on Jobs, their pods, the per-run ConfigMap and the output ConfigMap."""
COMPONENT = f"{GROUP}/component"
CHANNEL = f"{GROUP}/channel"
"""Channel name: on AgentRuns created by a channel bridge."""
SOURCE = f"{GROUP}/source"
"""What created an AgentRun, one of the values of `spec.source`."""
DELEGATION_GROUP = f"{GROUP}/delegation-group"
"""Eight characters shared by the AgentRuns of one fan-out."""
MANAGED_BY = "app.kubernetes.io/managed-by"
NAME = "app.kubernetes.io/name"
APP_COMPONENT = "app.kubernetes.io/component"
INSTANCE = "app.kubernetes.io/instance"
PART_OF = "app.kubernetes.io/part-of"
NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""On every Namespace, by the API server: its name."""
METRICS = f"{GROUP}/metrics"
"""On a Namespace, with value `enabled`: its pods may scrape agents and memory behind NetworkPolicies."""
METRICS_ENABLED = "enabled"
APP = "app"
"""Selector of AgentTool (`agtool-<tool>`) and Channel (`<channel>`) Deployments."""

OPERATOR = "agentops-operator"
"""The value of `MANAGED_BY`, and the field manager of every write by the operator."""
FIELD_MANAGER = OPERATOR

# Values of COMPONENT
COMPONENT_RUNTIME = "runtime"
COMPONENT_SERVICE = "service"
COMPONENT_STORAGE = "storage"
COMPONENT_CONFIG = "config"
COMPONENT_GATEWAY = "gateway"
COMPONENT_MCP = "mcp"
COMPONENT_NETWORK_POLICY = "networkpolicy"
COMPONENT_RBAC = "rbac"
COMPONENT_TASK_RUN = "task-run"
COMPONENT_AGENT_TOOL = "agenttool"
COMPONENT_CHANNEL = "channel"
COMPONENT_TOKEN = "token"
"""The Secret `<agent>-token` that holds the agent's bearer."""
COMPONENT_OUTPUT = "run-output"
"""The ConfigMap `<run>-output`: large, and therefore in no informer."""

# Annotations
TRACEPARENT = f"{GROUP}/traceparent"
"""W3C traceparent of whoever created the AgentRun; the run's spans join that trace."""
PARENT_AGENT = f"{GROUP}/parent-agent"
"""Name of the delegating Agent, on an AgentRun."""
DELEGATION_DEPTH = f"{GROUP}/delegation-depth"
"""How many delegations lead to this AgentRun; 0 or absent for a run by a person."""
CONFIG_HASH = f"{GROUP}/config-hash"
"""On a pod template: the hash over the inputs the pod was made from. Another value rolls the pod."""
UPGRADE = f"{GROUP}/upgrade"
"""On an Agent: set it to any new value to move the Agent to the operator's current runtime image."""
RUNTIME_CONTAINER = "agent-runtime"
"""Name of the main container of an agent pod."""
RUNTIME_CONTAINER_ALIAS = "agent"
"""What `spec.podTemplate` may call the main container as well."""

# Finalizers
RUN_FINALIZER = f"{GROUP}/run"
"""On an AgentRun of a daemon exactly while it is dispatched to a pod."""
