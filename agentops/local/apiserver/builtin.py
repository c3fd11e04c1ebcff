"""The table of built-in resources: names, categories, subresources and which strategy each has."""

from __future__ import annotations

from functools import partial
from typing import Any

from agentops.kube import kinds
from agentops.local.apiserver.events import from_events_v1, to_events_v1
from agentops.local.apiserver.resources import Registry, Resource
from agentops.local.apiserver.schema.builtin import schema_of
from agentops.local.apiserver.schema.usage import usage_schema
from agentops.local.apiserver.strategies import core, limits, workloads
from agentops.local.apiserver.strategies.base import Strategy
from agentops.local.apiserver.strategies.crd import CrdStrategy
from agentops.local.apiserver.strategies.networking import IngressStrategy
from agentops.local.apiserver.strategies.priority import PriorityClassStrategy
from agentops.local.apiserver.strategies.rbac import RbacStrategy
from agentops.local.apiserver.strategies.replicationcontroller import ReplicationControllerStrategy
from agentops.local.apiserver.strategies.webhooks import WebhookStrategy
from agentops.values.kinds import Kind

_Row = tuple[Kind, Strategy, tuple[str, ...], tuple[str, ...], tuple[str, ...]]

_STATUS = ("status",)
_SCALED = ("scale", "status")

_ROWS: tuple[_Row, ...] = (
    (kinds.NAMESPACE, core.NamespaceStrategy(), ("ns",), (), ("finalize", "status")),
    (kinds.NODE, core.NodeStrategy(), ("no",), (), _STATUS),
    (kinds.PV, core.PersistentVolumeStrategy(), ("pv",), (), _STATUS),
    (kinds.POD, workloads.PodStrategy(), ("po",), ("all",),
     ("attach", "binding", "eviction", "exec", "log", "portforward", "proxy", "resize",
      "status")),
    (kinds.SERVICE, core.ServiceStrategy(), ("svc",), ("all",), ("proxy", "status")),
    (kinds.ENDPOINTS, core.EndpointsStrategy(), ("ep",), (), ()),
    (kinds.CONFIG_MAP, core.ConfigMapStrategy(), ("cm",), (), ()),
    (kinds.SECRET, core.SecretStrategy(), (), (), ()),
    (kinds.SERVICE_ACCOUNT, core.ServiceAccountStrategy(), ("sa",), (), ("token",)),
    (kinds.EVENT, core.EventStrategy(), ("ev",), (), ()),
    (kinds.PVC, core.PersistentVolumeClaimStrategy(), ("pvc",), (), _STATUS),
    (kinds.LIMIT_RANGE, limits.LimitRangeStrategy(), ("limits",), (), ()),
    (kinds.RESOURCE_QUOTA, limits.ResourceQuotaStrategy(), ("quota",), (), _STATUS),
    (kinds.REPLICATION_CONTROLLER, ReplicationControllerStrategy(), ("rc",), ("all",), _SCALED),
    (kinds.DEPLOYMENT, workloads.DeploymentStrategy(), ("deploy",), ("all",), _SCALED),
    (kinds.REPLICA_SET, workloads.ReplicaSetStrategy(), ("rs",), ("all",), _SCALED),
    (kinds.STATEFUL_SET, workloads.StatefulSetStrategy(), ("sts",), ("all",), _SCALED),
    (kinds.DAEMON_SET, workloads.DaemonSetStrategy(), ("ds",), ("all",), _STATUS),
    (kinds.CONTROLLER_REVISION, Strategy(), (), (), ()),
    (kinds.JOB, workloads.JobStrategy(), (), ("all",), _STATUS),
    (kinds.CRON_JOB, workloads.CronJobStrategy(), ("cj",), ("all",), _STATUS),
    (kinds.POD_DISRUPTION_BUDGET, workloads.PodDisruptionBudgetStrategy(), ("pdb",), (), _STATUS),
    (kinds.LEASE, core.LeaseStrategy(), (), (), ()),
    (kinds.ENDPOINT_SLICE, core.EndpointSliceStrategy(), (), (), ()),
    (kinds.PRIORITY_CLASS, PriorityClassStrategy(), ("pc",), (), ()),
    (kinds.STORAGE_CLASS, core.StorageClassStrategy(), ("sc",), (), ()),
    (kinds.NETWORK_POLICY, core.NetworkPolicyStrategy(), ("netpol",), (), ()),
    (kinds.INGRESS, IngressStrategy(), ("ing",), (), _STATUS),
    (kinds.INGRESS_CLASS, Strategy(), (), (), ()),
    (kinds.ROLE, RbacStrategy(), (), (), ()),
    (kinds.ROLE_BINDING, RbacStrategy(), (), (), ()),
    (kinds.CLUSTER_ROLE, RbacStrategy(), (), (), ()),
    (kinds.CLUSTER_ROLE_BINDING, RbacStrategy(), (), (), ()),
    (kinds.CRD, CrdStrategy(), ("crd", "crds"), ("api-extensions",), _STATUS),
    (kinds.MUTATING_WEBHOOK_CONFIGURATION, WebhookStrategy(), (), ("api-extensions",), ()),
    (kinds.VALIDATING_WEBHOOK_CONFIGURATION, WebhookStrategy(), (), ("api-extensions",), ()),
)  # fmt: skip

_DEPRECATED = {kinds.ENDPOINTS: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"}
SCALE: dict[str, Any] = {
    "specReplicasPath": ".spec.replicas",
    "statusReplicasPath": ".status.replicas",
    "labelSelectorPath": "",
}


def builtin_registry() -> Registry:
    """All built-in resources."""
    registry = Registry()
    for kind, strategy, short_names, categories, subresources in _ROWS:
        registry.add(
            Resource(
                kind,
                strategy,
                kind.resource,
                partial(schema_of, kind),
                short_names=short_names,
                categories=categories,
                subresources=subresources,
                scale=SCALE if "scale" in subresources else None,
                deprecation=_DEPRECATED.get(kind, ""),
            )
        )
    registry.add(
        Resource(
            kinds.EVENTS_V1,
            core.EventStrategy(),
            kinds.EVENT.resource,
            partial(schema_of, kinds.EVENTS_V1),
            short_names=("ev",),
            storage_api_version="v1",
            outgoing=to_events_v1,
            incoming=from_events_v1,
        )
    )
    for kind in kinds.METRICS:
        registry.add(Resource(kind, Strategy(), "", partial(usage_schema, kind), verbs=("get", "list")))
    for kind in kinds.REVIEWS:
        registry.add(Resource(kind, Strategy(), "", partial(schema_of, kind), verbs=("create",)))
    return registry
