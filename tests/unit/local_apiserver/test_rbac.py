"""Role-based access, switched on through the authorizer seam."""

from __future__ import annotations

from typing import Any

import pytest
from support.apiserver import CONFIG_MAPS, PODS, Api, config_map

from agentops.local.apiserver import ApiServer, User
from agentops.local.apiserver.errors import ApiFailure
from agentops.local.apiserver.rbac import RbacAuthorizer, ensure_roles

pytestmark = pytest.mark.anyio

RBAC = "/apis/rbac.authorization.k8s.io/v1"
BOT = User("system:serviceaccount:default:bot",
           ("system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"))  # fmt: skip
ANN = User("ann", ("system:authenticated",))


@pytest.fixture
def guarded(api: Api) -> Api:
    ensure_roles(api.server)
    api.server.authorizer = RbacAuthorizer(api.server.store)
    return api


def rbac_of(server: ApiServer) -> RbacAuthorizer:
    assert isinstance(server.authorizer, RbacAuthorizer)
    return server.authorizer


def named(kind: str, name: str, **body: Any) -> dict[str, Any]:
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, **body}


def rule(verbs: list[str], resources: list[str], **more: Any) -> dict[str, Any]:
    return {"apiGroups": [""], "resources": resources, "verbs": verbs, **more}


async def grant(api: Api, rules: list[dict[str, Any]], subject: dict[str, Any], name: str = "r") -> None:
    base = f"{RBAC}/namespaces/default"
    assert (await api.post(f"{base}/roles", named("Role", name, rules=rules))).status == 201
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    made = await api.post(f"{base}/rolebindings", named("RoleBinding", name, roleRef=ref, subjects=[subject]))
    assert made.status == 201, made


BOT_SUBJECT = {"kind": "ServiceAccount", "name": "bot", "namespace": "default"}


async def test_nothing_is_allowed_until_a_binding_says_so_and_nothing_after_it_is_gone(guarded: Api) -> None:
    bot = Api(guarded.server, BOT)
    refused = await bot.get(PODS)
    assert refused.status == 403
    assert refused.message == (
        'pods is forbidden: User "system:serviceaccount:default:bot" cannot list resource "pods" in API group "" '
        'in the namespace "default"'
    )
    await grant(guarded, [rule(["list"], ["pods"])], BOT_SUBJECT)
    assert (await bot.get(PODS)).status == 200
    assert (await bot.get("/api/v1/pods")).status == 403
    await guarded.delete(f"{RBAC}/namespaces/default/rolebindings/r")
    assert (await bot.get(PODS)).status == 403


async def test_subresources_and_names_are_granted_one_by_one(guarded: Api) -> None:
    await grant(guarded, [rule(["get"], ["pods/log"]), rule(["get"], ["configmaps"], resourceNames=["a"])], BOT_SUBJECT)
    bot = Api(guarded.server, BOT)
    for name in ("a", "b"):
        assert (await guarded.post(CONFIG_MAPS, config_map(name))).status == 201
    assert (await bot.get(f"{CONFIG_MAPS}/a")).status == 200
    assert (await bot.get(f"{CONFIG_MAPS}/b")).status == 403
    assert (await bot.get(f"{PODS}/x/log")).status == 404
    assert (await bot.get(f"{PODS}/x")).status == 403


@pytest.mark.parametrize("group", ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
async def test_groups_hold_what_is_bound_to_them(guarded: Api, group: str) -> None:
    subject = {"kind": "Group", "name": group, "apiGroup": "rbac.authorization.k8s.io"}
    await grant(guarded, [rule(["*"], ["*"])], subject)
    assert (await Api(guarded.server, BOT).get(PODS)).status == 200


async def test_everybody_known_may_discover_and_the_unknown_see_health_only(guarded: Api) -> None:
    assert (await Api(guarded.server, ANN).get("/apis")).status == 200
    assert (await Api(guarded.server, ANN).get("/api/v1")).status == 200
    nobody = Api(guarded.server, None)
    assert (await nobody.get("/healthz")).status == 200
    assert (await nobody.get("/apis")).status == 403
    assert (await Api(guarded.server, ANN).get("/metrics")).message == (
        'forbidden: User "ann" cannot get path "/metrics"'
    )


async def test_aggregated_roles_hold_what_labelled_roles_hold(guarded: Api) -> None:
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
    subject = {"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}
    body = named("ClusterRoleBinding", "ann", roleRef=ref, subjects=[subject])
    assert (await guarded.post(f"{RBAC}/clusterrolebindings", body)).status == 201
    ann = Api(guarded.server, ANN)
    assert (await ann.get(PODS)).status == 200
    assert (await ann.get("/api/v1/namespaces/default/secrets")).status == 403
    assert (await ann.post(CONFIG_MAPS, config_map("a"))).status == 403
    extra = named("ClusterRole", "more", rules=[rule(["list"], ["secrets"])])
    extra["metadata"]["labels"] = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
    assert (await guarded.post(f"{RBAC}/clusterroles", extra)).status == 201
    assert (await ann.get("/api/v1/namespaces/default/secrets")).status == 200


async def test_access_reviews_answer_what_a_request_would(guarded: Api) -> None:
    await grant(guarded, [rule(["list"], ["pods"])], BOT_SUBJECT)
    bot = Api(guarded.server, BOT)
    for verb, expected in (("list", True), ("delete", False)):
        spec = {"resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "default"}}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec}
        reply = await bot.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
        assert reply.status == 201
        assert reply.body["status"]["allowed"] is expected
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}}
    reply = await bot.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", body)
    assert {"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]} in reply.body["status"]["resourceRules"]


async def test_nobody_grants_what_he_does_not_hold(guarded: Api) -> None:
    await grant(guarded, [rule(["get"], ["pods"])], BOT_SUBJECT)
    rbac = rbac_of(guarded.server)
    rbac.check_escalation(BOT, "Role", "default", named("Role", "x", rules=[rule(["get"], ["pods"])]))
    with pytest.raises(ApiFailure) as caught:
        rbac.check_escalation(BOT, "Role", "default", named("Role", "x", rules=[rule(["delete"], ["pods"])]))
    assert "is attempting to grant RBAC permissions not currently held" in caught.value.message
    assert '{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}' in caught.value.message
    ref = {"kind": "ClusterRole", "name": "cluster-admin"}
    with pytest.raises(ApiFailure):
        rbac.check_escalation(BOT, "RoleBinding", "default", named("RoleBinding", "x", roleRef=ref))
    may_bind = {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["bind"]}
    await grant(guarded, [may_bind], BOT_SUBJECT, "binder")
    rbac.check_escalation(BOT, "RoleBinding", "default", named("RoleBinding", "x", roleRef=ref))


async def test_acting_as_somebody_needs_the_verb_for_user_and_groups(guarded: Api) -> None:
    rbac = rbac_of(guarded.server)
    refused = rbac.impersonation_refused(ANN, "system:serviceaccount:default:bot", ())
    assert refused is not None
    assert 'cannot impersonate resource "serviceaccounts"' in refused.message
    subject = {"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}
    await grant(guarded, [rule(["impersonate"], ["serviceaccounts"])], subject)
    assert rbac.impersonation_refused(ANN, "system:serviceaccount:default:bot", ()) is None
    assert rbac.impersonation_refused(ANN, "system:serviceaccount:default:bot", ("system:masters",)) is not None


async def test_as_another_user_a_request_has_that_users_rights(guarded: Api) -> None:
    assert (await guarded.get(PODS, impersonate_user="ann")).status == 403
    assert (await Api(guarded.server, ANN).get(PODS, impersonate_user="root")).message == (
        'users "root" is forbidden: User "ann" cannot impersonate resource "users" in API group "" at the cluster scope'
    )


async def test_a_role_write_that_grants_more_is_refused_and_nothing_is_stored(guarded: Api) -> None:
    roles = {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create", "get"]}
    await grant(guarded, [roles, rule(["get"], ["pods"])], BOT_SUBJECT)
    bot = Api(guarded.server, BOT)
    path = f"{RBAC}/namespaces/default/roles"
    assert (await bot.post(path, named("Role", "same", rules=[rule(["get"], ["pods"])]))).status == 201
    assert (await bot.post(path, named("Role", "more", rules=[rule(["list"], ["pods"])]))).status == 403
    assert (await bot.get(f"{path}/more")).status == 404
