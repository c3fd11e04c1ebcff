"""Role-based access: who may do what, by the live (Cluster)Roles and their bindings.

    store ── writes ──► RoleIndex: subject ► bindings, role ► rules
                            └────► RbacAuthorizer: refuse, rules, escalation, impersonation

The index follows every write before the write is answered, so a binding counts from the moment its
write is answered, and a decision looks at the rules of one subject, never at all bindings. The group
system:masters is never asked. `rbac_defaults` makes the roles that every cluster has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import frozen

from agentops.local.apiserver.auth import Attributes, forbidden_message
from agentops.local.apiserver.errors import ApiFailure, forbidden
from agentops.local.apiserver.http import User
from agentops.local.apiserver.rbac_rules import EVERYTHING, Rules, compiled
from agentops.local.apiserver.store import Entry, Event, Store
from agentops.values.selector import LabelSelector

Object = dict[str, Any]

GROUP = "rbac.authorization.k8s.io"
ROLES, CLUSTER_ROLES = f"roles.{GROUP}", f"clusterroles.{GROUP}"
ROLE_BINDINGS, CLUSTER_ROLE_BINDINGS = f"rolebindings.{GROUP}", f"clusterrolebindings.{GROUP}"

_AUTHENTICATION = "authentication.k8s.io"
_REMEMBERED = 4096
"""Subjects in namespaces whose rules are kept put together."""


@frozen(slots=True)
class _Ref:
    """The role a binding in `namespace` ("" for the cluster's) gives."""

    namespace: str
    cluster_role: bool
    name: str


class RoleIndex:
    """Bindings by subject and rules by role, kept up with the store from the first question on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._following = False
        self._bindings: dict[tuple[str, str], dict[tuple[str, str], _Ref]] = {}
        self._roles: dict[tuple[str, str], Rules] = {}
        self._selectors: dict[str, list[LabelSelector]] = {}
        self._together: dict[tuple[str, tuple[str, ...], str], Rules] = {}

    def rules_of(self, user: User, namespace: str) -> Rules:
        """Everything `user` holds in `namespace` ("": cluster-wide only)."""
        if "system:masters" in user.groups:
            return EVERYTHING
        key = (user.name, user.groups, namespace)
        found = self._together.get(key)
        if found is None:
            self._follow()
            found = tuple(rule for ref in self._refs(user, namespace) for rule in self._referenced(ref))
            if len(self._together) >= _REMEMBERED:
                self._together.clear()
            self._together[key] = found
        return found

    def referenced(self, role_ref: Object, namespace: str) -> Rules:
        """The rules of what a binding in `namespace` names; none when there is no such role."""
        self._follow()
        return self._referenced(_ref_of(role_ref, namespace))

    def aggregated(self) -> dict[str, Rules]:
        """By name, the rules that each ClusterRole with an aggregationRule puts together."""
        self._follow()
        return {name: self._gathered(name) for name in self._selectors}

    def rules_in(self, role: Object) -> Rules:
        """The rules a role as written grants: its own, or what its aggregationRule gathers."""
        self._follow()
        selectors = _selectors_of(role)
        if selectors:
            return self._matching(selectors, str(role["metadata"].get("name", "")), 0)
        return compiled(role.get("rules"))

    def _refs(self, user: User, namespace: str) -> Iterator[_Ref]:
        for subject in (("User", user.name), *(("Group", group) for group in user.groups)):
            for ref in self._bindings.get(subject, {}).values():
                if not ref.namespace or ref.namespace == namespace:
                    yield ref

    def _referenced(self, ref: _Ref) -> Rules:
        if ref.cluster_role and ref.name in self._selectors:
            return self._gathered(ref.name)
        return self._roles.get(("" if ref.cluster_role else ref.namespace, ref.name), ())

    def _gathered(self, name: str) -> Rules:
        return self._matching(self._selectors[name], name, 0)

    def _matching(self, wanted: list[LabelSelector], name: str, depth: int) -> Rules:
        found: dict[str, Any] = {}
        for entry in self._store.list(CLUSTER_ROLES):
            if entry.name == name or not any(selector.matches(entry.labels) for selector in wanted):
                continue
            inner = self._selectors.get(entry.name)
            if inner is None:
                rules = self._roles.get(("", entry.name), ())
            else:
                rules = self._matching(inner, entry.name, depth + 1) if depth < 4 else ()
            for rule in rules:
                found.setdefault(str(rule), rule)
        return tuple(found.values())

    # following the store

    def _follow(self) -> None:
        if self._following:
            return
        self._following = True
        for storage in (ROLES, CLUSTER_ROLES):
            for entry in self._store.list(storage):
                self._put_role(entry)
            self._store.subscribe(storage, self._role_written)
        for storage in (ROLE_BINDINGS, CLUSTER_ROLE_BINDINGS):
            for entry in self._store.list(storage):
                self._put_binding(entry)
            self._store.subscribe(storage, self._binding_written)

    def _role_written(self, event: Event) -> None:
        self._together.clear()
        key = (event.entry.namespace, event.entry.name)
        self._roles.pop(key, None)
        if not event.entry.namespace:
            self._selectors.pop(event.entry.name, None)
        if event.type != "DELETED":
            self._put_role(event.entry)

    def _put_role(self, entry: Entry) -> None:
        role = entry.obj()
        self._roles[entry.namespace, entry.name] = compiled(role.get("rules"))
        selectors = _selectors_of(role)
        if selectors:
            self._selectors[entry.name] = selectors

    def _binding_written(self, event: Event) -> None:
        self._together.clear()
        previous = event.previous
        if previous is not None:
            for subject in _subjects(previous.obj(), previous.namespace):
                self._bindings.get(subject, {}).pop((previous.namespace, previous.name), None)
        if event.type != "DELETED":
            self._put_binding(event.entry)

    def _put_binding(self, entry: Entry) -> None:
        binding = entry.obj()
        ref = _ref_of(binding.get("roleRef") or {}, entry.namespace)
        for subject in _subjects(binding, entry.namespace):
            self._bindings.setdefault(subject, {})[entry.namespace, entry.name] = ref


class RbacAuthorizer:
    """The union of every binding's rules."""

    def __init__(self, store: Store) -> None:
        self.index = RoleIndex(store)

    def refuse(self, user: User, attributes: Attributes) -> str | None:
        """None when a rule allows it, else "" (no rule is the reason)."""
        for rule in self.index.rules_of(user, attributes.namespace if attributes.is_resource else ""):
            if rule.allows(attributes):
                return None
        return ""

    def rules(self, user: User, namespace: str) -> tuple[list[Object], list[Object]]:
        """Resource and non-resource rules, for SelfSubjectRulesReview."""
        resources: list[Object] = []
        paths: list[Object] = []
        for rule in self.index.rules_of(user, namespace):
            if rule.urls:
                paths.append({key: rule.raw[key] for key in ("verbs", "nonResourceURLs")})
            if rule.resources:
                resources.append({key: value for key, value in rule.raw.items() if key != "nonResourceURLs"})
        return resources, paths

    def check_escalation(self, user: User, kind: str, namespace: str, obj: Object) -> None:
        """Whoever writes a role or a binding must hold what it grants, or hold escalate or bind.

        `kind` is one of the four RBAC kinds, `namespace` "" for the cluster's. Raises ApiFailure 403.
        """
        name = str(obj["metadata"].get("name", ""))
        if kind in ("Role", "ClusterRole"):
            plural, verb, about = kind.lower() + "s", "escalate", name
            wanted = self.index.rules_in(obj)
        elif kind in ("RoleBinding", "ClusterRoleBinding"):
            ref = obj.get("roleRef") or {}
            about = str(ref.get("name", ""))
            plural, verb = str(ref.get("kind", "")).lower() + "s", "bind"
            wanted = self.index.referenced(ref, namespace)
        else:
            return
        asked = Attributes(verb, GROUP, "v1", plural, "", namespace, about)
        if self.refuse(user, asked) is None:
            return
        held = self.index.rules_of(user, namespace)
        missing = [single for rule in wanted for single in rule.singles() if not any(h.covers(single) for h in held)]
        if missing:
            own = kind.lower() + "s"
            groups = " ".join(f'"{group}"' for group in user.groups)
            raise forbidden(
                f'{own}.{GROUP} "{name}" is forbidden: user "{user.name}" (groups=[{groups}]) is attempting to grant '
                f"RBAC permissions not currently held:\n" + "\n".join(str(rule) for rule in missing),
                {"name": name, "group": GROUP, "kind": own},
            )

    def impersonation_refused(self, user: User, other: User) -> ApiFailure | None:
        """Why `user` may not act as `other`, in its groups, with its extras and uid; None when it may."""
        name = other.name
        asked = [Attributes("impersonate", resource="users", name=name)]
        if name.startswith("system:serviceaccount:") and name.count(":") == 3:
            _, _, namespace, account = name.split(":")
            asked = [Attributes("impersonate", resource="serviceaccounts", namespace=namespace, name=account)]
        asked += [Attributes("impersonate", resource="groups", name=group) for group in other.groups]
        asked += [
            Attributes("impersonate", _AUTHENTICATION, "v1", "userextras", key, name=value)
            for key, values in other.extra.items()
            for value in values
        ]
        if other.uid:
            asked.append(Attributes("impersonate", _AUTHENTICATION, "v1", "uids", name=other.uid))
        for attributes in asked:
            if self.refuse(user, attributes) is not None:
                return forbidden_message(user, attributes)
        return None


def _ref_of(role_ref: Object, namespace: str) -> _Ref:
    return _Ref(namespace, role_ref.get("kind") == "ClusterRole", str(role_ref.get("name", "")))


def _selectors_of(role: Object) -> list[LabelSelector]:
    selectors = (role.get("aggregationRule") or {}).get("clusterRoleSelectors")
    return [LabelSelector.from_dict(selector) for selector in selectors or ()]


def _subjects(binding: Object, namespace: str) -> Iterator[tuple[str, str]]:
    """Whom a binding is for: ("User", name) or ("Group", name); ServiceAccounts by their user name."""
    for subject in binding.get("subjects") or ():
        name = str(subject.get("name", ""))
        match subject.get("kind"):
            case "User" | "Group" as kind:
                yield kind, name
            case "ServiceAccount":
                where = subject.get("namespace") or namespace
                if where:
                    yield "User", f"system:serviceaccount:{where}:{name}"
