"""The roles and bindings every cluster has, and those of the plane's own parts.

`ensure_roles` brings them up to date when a server starts, as kube-apiserver does: what is missing is
made, rules and subjects that are missing in one labelled `kubernetes.io/bootstrapping` are added, what
somebody added stays, and `rbac.authorization.kubernetes.io/autoupdate: "false"` leaves one alone.
`gather_aggregated` writes what aggregated ClusterRoles gather into their `rules`, for people to see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from agentops.kube import kinds
from agentops.local.apiserver.http import ADMIN
from agentops.local.apiserver.rbac import CLUSTER_ROLES, GROUP, RoleIndex
from agentops.local.apiserver.rbac_rules import EVERYTHING, Rule
from agentops.local.apiserver.store import Event
from agentops.local.apiserver.writes import WriteOptions
from agentops.values.kinds import Kind

if TYPE_CHECKING:
    from agentops.local.apiserver.server import ApiServer

Object = dict[str, Any]
RawRules = list[Object]

CONTROLLER_MANAGER = "system:kube-controller-manager"
"""The user that the plane's controllers are."""
NODES = "system:nodes"
"""The group the kubelet is in. It schedules and proxies too, so it holds those roles as well."""

_AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
_BOOTSTRAPPING = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_AGGREGATE = "rbac.authorization.k8s.io/aggregate-to-"

_READ = ["get", "list", "watch"]
_WRITE = ["create", "delete", "deletecollection", "patch", "update"]
_EVERYONE = ["system:authenticated"]
_DISCOVERY = ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz",
              "/version", "/version/"]  # fmt: skip
_PUBLIC = ["/healthz", "/livez", "/readyz", "/version", "/version/"]
_ISSUER = ["/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks",
           "/openid/v1/jwks/"]  # fmt: skip
_CORE = ["configmaps", "endpoints", "persistentvolumeclaims", "pods", "replicationcontrollers",
         "replicationcontrollers/scale", "serviceaccounts", "services"]  # fmt: skip
_APPS = ["daemonsets", "deployments", "deployments/scale", "replicasets", "replicasets/scale", "statefulsets",
         "statefulsets/scale"]  # fmt: skip
_STATUSES = ["bindings", "events", "limitranges", "namespaces", "namespaces/status", "persistentvolumeclaims/status",
             "pods/log", "pods/status", "replicationcontrollers/status", "resourcequotas", "resourcequotas/status",
             "services/status"]  # fmt: skip
_APP_STATUSES = ["daemonsets/status", "deployments/status", "replicasets/status", "statefulsets/status"]


def _rule(groups: list[str], resources: list[str], verbs: list[str]) -> Object:
    return {"apiGroups": groups, "resources": resources, "verbs": verbs}


def _urls(urls: list[str]) -> RawRules:
    return [{"nonResourceURLs": urls, "verbs": ["get"]}]


def _workloads(verbs: list[str]) -> RawRules:
    return [
        _rule([""], _CORE, verbs),
        _rule(["apps"], _APPS, verbs),
        _rule(["autoscaling"], ["horizontalpodautoscalers"], verbs),
        _rule(["batch"], ["cronjobs", "jobs"], verbs),
        _rule(["networking.k8s.io"], ["ingresses", "networkpolicies"], verbs),
        _rule(["policy"], ["poddisruptionbudgets"], verbs),
    ]


_EVENTS = _rule(["", "events.k8s.io"], ["events"], ["create", "patch", "update"])
_VIEW = [
    *_workloads(_READ),
    _rule([""], _STATUSES, _READ),
    _rule(["apps"], [*_APP_STATUSES, "controllerrevisions"], _READ),
    _rule(["batch"], ["cronjobs/status", "jobs/status"], _READ),
    _rule(["networking.k8s.io"], ["ingresses/status"], _READ),
    _rule(["policy"], ["poddisruptionbudgets/status"], _READ),
    _rule(["discovery.k8s.io"], ["endpointslices"], _READ),
]
_EDIT = [
    *_workloads(_WRITE),
    _rule([""], ["secrets"], [*_READ, *_WRITE]),
    _rule([""], ["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "services/proxy"], ["get", *_WRITE]),
    _rule([""], ["pods/eviction", "serviceaccounts/token"], ["create"]),
    _rule([""], ["serviceaccounts"], ["impersonate"]),
    _rule(["", "events.k8s.io"], ["events"], _WRITE),
    _rule(["apps"], ["deployments/rollback"], _WRITE),
    _rule(["coordination.k8s.io"], ["leases"], [*_READ, *_WRITE]),
]
_ADMIN = [
    _rule([GROUP], ["roles", "rolebindings"], [*_READ, *_WRITE]),
    _rule(["authorization.k8s.io"], ["localsubjectaccessreviews"], ["create"]),
]
_METRICS = [_rule(["metrics.k8s.io"], ["nodes", "pods"], _READ)]
_BASIC = [
    _rule(["authorization.k8s.io"], ["selfsubjectaccessreviews", "selfsubjectrulesreviews"], ["create"]),
    _rule(["authentication.k8s.io"], ["selfsubjectreviews"], ["create"]),
]
_DELEGATOR = [
    _rule(["authentication.k8s.io"], ["tokenreviews"], ["create"]),
    _rule(["authorization.k8s.io"], ["subjectaccessreviews"], ["create"]),
]
# The garbage collector and the namespace controller look at and delete objects of every kind there is.
_CONTROLLERS = [
    _rule(["*"], ["*"], [*_READ, "delete", "deletecollection", "patch", "update"]),
    _rule([""], ["namespaces/finalize", "namespaces/status"], ["update"]),
    _rule([""], ["configmaps", "endpoints", "persistentvolumeclaims", "persistentvolumes", "pods", "serviceaccounts"],
          ["create"]),
    _rule(["apps"], ["controllerrevisions", "replicasets"], ["create"]),
    _rule(["batch"], ["jobs"], ["create"]),
    _rule(["discovery.k8s.io"], ["endpointslices"], ["create"]),
    _EVENTS,
    *_urls(_DISCOVERY),
]  # fmt: skip
_NODE = [
    _rule([""], ["nodes"], [*_READ, "create", "patch", "update"]),
    _rule([""], ["nodes/status", "pods/status"], ["patch", "update"]),
    _rule([""], ["pods"], [*_READ, "delete"]),
    _rule([""], ["configmaps", "persistentvolumes", "secrets", "serviceaccounts"], ["get"]),
    _rule([""], ["persistentvolumeclaims", "services"], _READ),
    _rule([""], ["serviceaccounts/token"], ["create"]),
    _rule(["coordination.k8s.io"], ["leases"], ["create", "get", "patch", "update"]),
    _rule(["storage.k8s.io"], ["storageclasses"], ["get"]),
    _EVENTS,
]
_SCHEDULER = [
    _rule([""], ["nodes", "persistentvolumes", "pods"], _READ),
    _rule([""], ["persistentvolumeclaims"], [*_READ, "patch", "update"]),
    _rule([""], ["bindings", "pods/binding"], ["create"]),
    _rule([""], ["pods/status"], ["patch", "update"]),
    _rule(["storage.k8s.io"], ["storageclasses"], _READ),
    _EVENTS,
]
_PROXIER = [
    _rule([""], ["endpoints", "services"], _READ),
    _rule(["discovery.k8s.io"], ["endpointslices"], _READ),
    _EVENTS,
]


def _groups(*names: str) -> list[Object]:
    return [{"kind": "Group", "name": name, "apiGroup": GROUP} for name in names]


def _users(*names: str) -> list[Object]:
    return [{"kind": "User", "name": name, "apiGroup": GROUP} for name in names]


_ROLES: tuple[tuple[str, RawRules, tuple[str, ...], list[Object]], ...] = (
    # name, rules, aggregated into, bound to
    ("cluster-admin", [rule.raw for rule in EVERYTHING], (), _groups("system:masters")),
    ("system:aggregate-to-view", _VIEW, ("view",), []),
    ("system:aggregate-to-edit", _EDIT, ("edit",), []),
    ("system:aggregate-to-admin", _ADMIN, ("admin",), []),
    ("system:aggregated-metrics-reader", _METRICS, ("view", "edit", "admin"), []),
    ("system:discovery", _urls(_DISCOVERY), (), _groups(*_EVERYONE)),
    ("system:basic-user", _BASIC, (), _groups(*_EVERYONE)),
    ("system:public-info-viewer", _urls(_PUBLIC), (), _groups(*_EVERYONE, "system:unauthenticated")),
    ("system:service-account-issuer-discovery", _urls(_ISSUER), (), _groups("system:serviceaccounts")),
    ("system:auth-delegator", _DELEGATOR, (), []),
    (CONTROLLER_MANAGER, _CONTROLLERS, (), _users(CONTROLLER_MANAGER)),
    ("system:node", _NODE, (), _groups(NODES)),
    ("system:kube-scheduler", _SCHEDULER, (), _groups(NODES)),
    ("system:node-proxier", _PROXIER, (), _groups(NODES)),
)
_AGGREGATED = (("admin", ("admin", "edit", "view")), ("edit", ("edit", "view")), ("view", ("view",)))


def ensure_roles(server: ApiServer) -> None:
    """See the module."""
    for name, rules, into, subjects in _ROLES:
        labels = {**_BOOTSTRAPPING, **{f"{_AGGREGATE}{role}": "true" for role in into}}
        _ensure(server, kinds.CLUSTER_ROLE, name, labels, {"rules": rules})
        if subjects:
            ref = {"apiGroup": GROUP, "kind": "ClusterRole", "name": name}
            _ensure(server, kinds.CLUSTER_ROLE_BINDING, name, labels, {"subjects": subjects, "roleRef": ref})
    for name, parts in _AGGREGATED:
        selectors = [{"matchLabels": {f"{_AGGREGATE}{part}": "true"}} for part in parts]
        _ensure(
            server, kinds.CLUSTER_ROLE, name, _BOOTSTRAPPING, {"aggregationRule": {"clusterRoleSelectors": selectors}}
        )


async def keep_aggregated(server: ApiServer, index: RoleIndex) -> None:
    """`gather_aggregated` after every write to a ClusterRole, until cancelled."""
    written = anyio.Event()

    def wake(_event: Event) -> None:
        written.set()

    leave = server.store.subscribe(CLUSTER_ROLES, wake)
    try:
        while True:
            written = anyio.Event()
            gather_aggregated(server, index)
            await written.wait()
    finally:
        leave()


def gather_aggregated(server: ApiServer, index: RoleIndex) -> None:
    """Write into each ClusterRole with an aggregationRule the rules it gathers, where they differ."""
    resource = server.registry.find(GROUP, "v1", kinds.CLUSTER_ROLE.plural)
    assert resource is not None
    for name, rules in index.aggregated().items():
        wanted = [rule.raw for rule in rules]

        def change(live: Object, wanted: RawRules = wanted) -> Object:
            live["metadata"].pop("resourceVersion", None)
            return {**live, "rules": wanted or None}

        server.writer.update(resource, "", name, change, WriteOptions(ADMIN, "clusterrole-aggregation-controller"))


def _ensure(server: ApiServer, kind: Kind, name: str, labels: Object, body: Object) -> None:
    resource = server.registry.find(GROUP, "v1", kind.plural)
    assert resource is not None
    options = WriteOptions(ADMIN, "kube-apiserver")
    entry = server.store.get(resource.storage, "", name)
    if entry is None:
        meta = {"name": name, "labels": dict(labels), "annotations": {_AUTOUPDATE: "true"}}
        server.writer.create(
            resource, "", {"apiVersion": f"{GROUP}/v1", "kind": kind.kind, "metadata": meta, **body}, options
        )
        return
    live = entry.obj()
    if (live["metadata"].get("annotations") or {}).get(_AUTOUPDATE) == "false":
        return
    changed = {key: _with_missing(live.get(key), value) for key, value in body.items() if key in ("rules", "subjects")}

    def change(current: Object) -> Object:
        current["metadata"].pop("resourceVersion", None)
        return {**current, **changed}

    server.writer.update(resource, "", name, change, options)


def _with_missing(live: RawRules | None, wanted: RawRules) -> RawRules:
    """What is there, and behind it what is wanted and not there."""
    there = list(live or ())
    if wanted and "verbs" in wanted[0]:
        held = [Rule.of(rule) for rule in there]
        return there + [
            rule for rule in wanted if not all(any(h.covers(s) for h in held) for s in Rule.of(rule).singles())
        ]
    return there + [subject for subject in wanted if subject not in there]
