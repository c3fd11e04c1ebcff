"""Role-based access: who may do what, read from the live (Cluster)Roles and their bindings.

`server.authorizer = RbacAuthorizer(server.store)` enforces it; `ensure_roles(server)` makes the roles every
cluster has. The group system:masters is never asked. Rules are read from the store for every decision, so a
binding counts from the moment its write is answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agentops.kube import kinds
from agentops.local.apiserver.auth import Attributes, forbidden_message
from agentops.local.apiserver.errors import ApiFailure, forbidden
from agentops.local.apiserver.http import ADMIN, User
from agentops.local.apiserver.store import Store
from agentops.local.apiserver.writes import WriteOptions
from agentops.values.selector import LabelSelector

if TYPE_CHECKING:
    from agentops.local.apiserver.server import ApiServer

Object = dict[str, Any]
Rules = list[Object]

GROUP = "rbac.authorization.k8s.io"
_ALL_RULES: Rules = [
    {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
    {"verbs": ["*"], "nonResourceURLs": ["*"]},
]


class RbacAuthorizer:
    """The union of every binding's rules. Stateless beside the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def refuse(self, user: User, attributes: Attributes) -> str | None:
        for rule in self._rules_of(user, attributes.namespace if attributes.is_resource else ""):
            if allows(rule, attributes):
                return None
        return ""

    def rules(self, user: User, namespace: str) -> tuple[list[Object], list[Object]]:
        resources: Rules = []
        paths: Rules = []
        for rule in self._rules_of(user, namespace):
            if rule.get("nonResourceURLs"):
                paths.append({"verbs": rule["verbs"], "nonResourceURLs": rule["nonResourceURLs"]})
            if rule.get("resources"):
                kept = ("verbs", "apiGroups", "resources", "resourceNames")
                resources.append({key: rule[key] for key in kept if rule.get(key)})
        return resources, paths

    def check_escalation(self, user: User, kind: str, namespace: str, obj: Object) -> None:
        """Whoever writes a role or a binding must hold what it grants, or hold escalate or bind.

        `kind` is one of the four RBAC kinds, `namespace` "" for the cluster's. Raises ApiFailure 403.
        """
        name = str(obj["metadata"].get("name", ""))
        if kind in ("Role", "ClusterRole"):
            plural, verb, about = kind.lower() + "s", "escalate", name
            wanted = self._role_rules(obj)
        elif kind in ("RoleBinding", "ClusterRoleBinding"):
            ref = obj.get("roleRef") or {}
            about = str(ref.get("name", ""))
            plural, verb = str(ref.get("kind", "")).lower() + "s", "bind"
            wanted = self._referenced(ref, namespace)
        else:
            return
        asked = Attributes(verb, GROUP, "v1", plural, "", namespace, about)
        if self.refuse(user, asked) is None:
            return
        held = list(self._rules_of(user, namespace))
        missing = [single for rule in wanted for single in _singles(rule) if not any(_covers(h, single) for h in held)]
        if missing:
            own = kind.lower() + "s"
            groups = " ".join(user.groups)
            raise forbidden(
                f'{own}.{GROUP} "{name}" is forbidden: user "{user.name}" (groups=["{groups}"]) is attempting to grant '
                f"RBAC permissions not currently held:\n" + "\n".join(_compact(rule) for rule in missing),
                {"name": name, "group": GROUP, "kind": own},
            )

    def impersonation_refused(self, user: User, name: str, groups: tuple[str, ...]) -> ApiFailure | None:
        """Why `user` may not act as `name` in `groups`; None when it may."""
        asked = [Attributes("impersonate", resource="users", name=name)]
        if name.startswith("system:serviceaccount:") and name.count(":") == 3:
            _, _, namespace, account = name.split(":")
            asked = [Attributes("impersonate", resource="serviceaccounts", namespace=namespace, name=account)]
        asked += [Attributes("impersonate", resource="groups", name=group) for group in groups]
        for attributes in asked:
            if self.refuse(user, attributes) is not None:
                return forbidden_message(user, attributes)
        return None

    def _rules_of(self, user: User, namespace: str) -> Iterator[Object]:
        if "system:masters" in user.groups:
            yield from _ALL_RULES
            return
        for entry in self._store.list("clusterrolebindings.rbac.authorization.k8s.io"):
            binding = entry.obj()
            if _binds(binding, user, ""):
                yield from self._referenced(binding.get("roleRef") or {}, "")
        if not namespace:
            return
        for entry in self._store.list("rolebindings.rbac.authorization.k8s.io", namespace):
            binding = entry.obj()
            if _binds(binding, user, namespace):
                yield from self._referenced(binding.get("roleRef") or {}, namespace)

    def _referenced(self, ref: Object, namespace: str) -> Rules:
        cluster = ref.get("kind") == "ClusterRole"
        storage = f"{'clusterroles' if cluster else 'roles'}.{GROUP}"
        entry = self._store.get(storage, "" if cluster else namespace, str(ref.get("name", "")))
        return [] if entry is None else self._role_rules(entry.obj())

    def _role_rules(self, role: Object, depth: int = 0) -> Rules:
        selectors = (role.get("aggregationRule") or {}).get("clusterRoleSelectors")
        if not selectors or depth > 4:
            return list(role.get("rules") or ())
        found: Rules = []
        wanted = [LabelSelector.from_dict(selector) for selector in selectors]
        for entry in self._store.list(f"clusterroles.{GROUP}"):
            if entry.name != role["metadata"].get("name") and any(s.matches(entry.labels) for s in wanted):
                found += self._role_rules(entry.obj(), depth + 1)
        return found


def allows(rule: Object, a: Attributes) -> bool:
    """Whether one PolicyRule allows what is asked."""
    if not _has(rule.get("verbs"), a.verb):
        return False
    if not a.is_resource:
        return any(_path_matches(url, a.path) for url in rule.get("nonResourceURLs") or ())
    names = rule.get("resourceNames") or ()
    if not _has(rule.get("apiGroups"), a.group) or (names and a.name not in names):
        return False
    full = f"{a.resource}/{a.subresource}" if a.subresource else a.resource
    wanted = ("*", full, f"*/{a.subresource}") if a.subresource else ("*", full)
    return any(resource in wanted for resource in rule.get("resources") or ())


def _has(values: Any, wanted: str) -> bool:
    return any(value in ("*", wanted) for value in values or ())


def _path_matches(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


def _binds(binding: Object, user: User, namespace: str) -> bool:
    for subject in binding.get("subjects") or ():
        name = subject.get("name", "")
        match subject.get("kind"):
            case "User" if name == user.name:
                return True
            case "Group" if name in user.groups:
                return True
            case "ServiceAccount":
                where = subject.get("namespace") or namespace
                if where and user.name == f"system:serviceaccount:{where}:{name}":
                    return True
    return False


def _singles(rule: Object) -> Iterator[Object]:
    for verb in rule.get("verbs") or ():
        for url in rule.get("nonResourceURLs") or ():
            yield {"verbs": [verb], "nonResourceURLs": [url]}
        for group in rule.get("apiGroups") or ():
            for resource in rule.get("resources") or ():
                for name in rule.get("resourceNames") or ("",):
                    named = {"resourceNames": [name]} if name else {}
                    yield {"verbs": [verb], "apiGroups": [group], "resources": [resource], **named}


def _covers(held: Object, single: Object) -> bool:
    verb = single["verbs"][0]
    if not _has(held.get("verbs"), verb):
        return False
    if "nonResourceURLs" in single:
        url = single["nonResourceURLs"][0]
        return any(_path_matches(pattern, url) for pattern in held.get("nonResourceURLs") or ())
    resource, _, sub = single["resources"][0].partition("/")
    name = (single.get("resourceNames") or [""])[0]
    return allows(held, Attributes(verb, single["apiGroups"][0], "", resource, sub, "", name))


def _compact(rule: Object) -> str:
    labels = (
        ("apiGroups", "APIGroups"), ("resources", "Resources"), ("resourceNames", "ResourceNames"),
        ("nonResourceURLs", "NonResourceURLs"), ("verbs", "Verbs"),
    )  # fmt: skip
    parts = [f"{shown}:[" + " ".join(f'"{v}"' for v in rule[key]) + "]" for key, shown in labels if key in rule]
    return "{" + ", ".join(parts) + "}"


# what every cluster has

_READ = ["get", "list", "watch"]
_WRITE = ["create", "delete", "deletecollection", "patch", "update"]
_EVERYONE = ["system:authenticated"]
_DISCOVERY = ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz",
              "/version", "/version/"]  # fmt: skip
_PUBLIC = ["/healthz", "/livez", "/readyz", "/version", "/version/"]
_ISSUER = ["/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks",
           "/openid/v1/jwks/"]  # fmt: skip
_CORE = ["configmaps", "endpoints", "persistentvolumeclaims", "pods", "serviceaccounts", "services"]
_APPS = ["daemonsets", "deployments", "deployments/scale", "replicasets", "replicasets/scale", "statefulsets",
         "statefulsets/scale"]  # fmt: skip


def _rule(groups: list[str], resources: list[str], verbs: list[str]) -> Object:
    return {"apiGroups": groups, "resources": resources, "verbs": verbs}


def _workloads(verbs: list[str]) -> Rules:
    return [
        _rule([""], _CORE, verbs),
        _rule(["apps"], _APPS, verbs),
        _rule(["batch"], ["cronjobs", "jobs"], verbs),
        _rule(["networking.k8s.io"], ["ingresses", "networkpolicies"], verbs),
        _rule(["policy"], ["poddisruptionbudgets"], verbs),
    ]


_VIEW = [
    *_workloads(_READ),
    _rule([""], ["events", "namespaces", "pods/log", "pods/status", "services/status"], _READ),
    _rule(["discovery.k8s.io"], ["endpointslices"], _READ),
    _rule(["events.k8s.io"], ["events"], _READ),
]
_EDIT = [
    *_workloads(_WRITE),
    _rule([""], ["secrets"], [*_READ, *_WRITE]),
    _rule([""], ["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "services/proxy"], ["get", *_WRITE]),
    _rule([""], ["pods/eviction", "serviceaccounts/token"], ["create"]),
    _rule([""], ["serviceaccounts"], ["impersonate"]),
    _rule([""], ["events"], _WRITE),
    _rule(["coordination.k8s.io"], ["leases"], [*_READ, *_WRITE]),
]
_ADMIN = [
    _rule([GROUP], ["roles", "rolebindings"], [*_READ, *_WRITE]),
    _rule(["authorization.k8s.io"], ["localsubjectaccessreviews"], ["create"]),
]
_BASIC = [
    _rule(["authorization.k8s.io"], ["selfsubjectaccessreviews", "selfsubjectrulesreviews"], ["create"]),
    _rule(["authentication.k8s.io"], ["selfsubjectreviews"], ["create"]),
]
_AGGREGATE = "rbac.authorization.k8s.io/aggregate-to-"


def _urls(urls: list[str]) -> Rules:
    return [{"nonResourceURLs": urls, "verbs": ["get"]}]


_ROLES: tuple[tuple[str, Rules, str, list[str]], ...] = (
    # name, rules, aggregated into, bound to groups
    ("cluster-admin", _ALL_RULES, "", ["system:masters"]),
    ("system:aggregate-to-view", _VIEW, "view", []),
    ("system:aggregate-to-edit", _EDIT, "edit", []),
    ("system:aggregate-to-admin", _ADMIN, "admin", []),
    ("system:discovery", _urls(_DISCOVERY), "", _EVERYONE),
    ("system:basic-user", _BASIC, "", _EVERYONE),
    ("system:public-info-viewer", _urls(_PUBLIC), "", [*_EVERYONE, "system:unauthenticated"]),
    ("system:service-account-issuer-discovery", _urls(_ISSUER), "", ["system:serviceaccounts"]),
)
_AGGREGATED = (("admin", ("admin", "edit", "view")), ("edit", ("edit", "view")), ("view", ("view",)))


def ensure_roles(server: ApiServer) -> None:
    """Create the roles and bindings of every cluster that are missing; existing ones are left."""
    for name, rules, into, groups in _ROLES:
        labels = {"kubernetes.io/bootstrapping": "rbac-defaults", **({f"{_AGGREGATE}{into}": "true"} if into else {})}
        _ensure(server, kinds.CLUSTER_ROLE.kind, name, labels, {"rules": rules})
        if groups:
            subjects = [{"kind": "Group", "name": group, "apiGroup": GROUP} for group in groups]
            ref = {"apiGroup": GROUP, "kind": "ClusterRole", "name": name}
            _ensure(server, kinds.CLUSTER_ROLE_BINDING.kind, name, labels, {"subjects": subjects, "roleRef": ref})
    for name, parts in _AGGREGATED:
        selectors = [{"matchLabels": {f"{_AGGREGATE}{part}": "true"}} for part in parts]
        labels = {"kubernetes.io/bootstrapping": "rbac-defaults"}
        _ensure(server, kinds.CLUSTER_ROLE.kind, name, labels, {"aggregationRule": {"clusterRoleSelectors": selectors}})


def _ensure(server: ApiServer, kind: str, name: str, labels: Object, body: Object) -> None:
    resource = server.registry.find(GROUP, "v1", kind.lower() + "s")
    assert resource is not None
    if server.store.get(resource.storage, "", name) is None:
        obj = {"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": {"name": name, "labels": dict(labels)}, **body}
        server.writer.create(resource, "", obj, WriteOptions(ADMIN, "kube-apiserver"))
