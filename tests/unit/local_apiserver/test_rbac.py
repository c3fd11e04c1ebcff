"""Role-based access: what bindings allow, and what every cluster has bound."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from support.apiserver import CONFIG_MAPS, PODS, Api, config_map

from agentops.local.apiserver import ApiServer, User
from agentops.local.apiserver.auth import Attributes
from agentops.local.apiserver.errors import ApiFailure
from agentops.local.apiserver.rbac import RbacAuthorizer
from agentops.local.apiserver.store import Entry

pytestmark = pytest.mark.anyio

RBAC = "/apis/rbac.authorization.k8s.io/v1"
BOT = User("system:serviceaccount:default:bot",
           ("system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"))  # fmt: skip
ANN = User("ann", ("system:authenticated",))


def rbac_of(server: ApiServer) -> RbacAuthorizer:
    assert isinstance(server.authorizer, RbacAuthorizer)
    return server.authorizer


def named(kind: str, name: str, **body: Any) -> dict[str, Any]:
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, **body}


def rule(verbs: list[str], resources: list[str], **more: Any) -> dict[str, Any]:
    return {"apiGroups": [""], "resources": resources, "verbs": verbs, **more}


async def grant_everywhere(api: Api, rules: list[dict[str, Any]], subject: dict[str, Any], name: str) -> None:
    await api.post(f"{RBAC}/clusterroles", named("ClusterRole", name, rules=rules))
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    binding = named("ClusterRoleBinding", name, roleRef=ref, subjects=[subject])
    assert (await api.post(f"{RBAC}/clusterrolebindings", binding)).status == 201


async def grant(api: Api, rules: list[dict[str, Any]], subject: dict[str, Any], name: str = "r") -> None:
    base = f"{RBAC}/namespaces/default"
    assert (await api.post(f"{base}/roles", named("Role", name, rules=rules))).status == 201
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    made = await api.post(f"{base}/rolebindings", named("RoleBinding", name, roleRef=ref, subjects=[subject]))
    assert made.status == 201, made


ANN_SUBJECT = {"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}
BOT_SUBJECT = {"kind": "ServiceAccount", "name": "bot", "namespace": "default"}


async def test_nothing_is_allowed_until_a_binding_says_so_and_nothing_after_it_is_gone(api: Api) -> None:
    bot = Api(api.server, BOT)
    refused = await bot.get(PODS)
    assert refused.status == 403
    assert refused.message == (
        'pods is forbidden: User "system:serviceaccount:default:bot" cannot list resource "pods" in API group "" '
        'in the namespace "default"'
    )
    await grant(api, [rule(["list"], ["pods"])], BOT_SUBJECT)
    assert (await bot.get(PODS)).status == 200
    assert (await bot.get("/api/v1/pods")).status == 403
    await api.delete(f"{RBAC}/namespaces/default/rolebindings/r")
    assert (await bot.get(PODS)).status == 403


async def test_subresources_and_names_are_granted_one_by_one(api: Api) -> None:
    await grant(api, [rule(["get"], ["pods/log"]), rule(["get"], ["configmaps"], resourceNames=["a"])], BOT_SUBJECT)
    bot = Api(api.server, BOT)
    for name in ("a", "b"):
        assert (await api.post(CONFIG_MAPS, config_map(name))).status == 201
    assert (await bot.get(f"{CONFIG_MAPS}/a")).status == 200
    assert (await bot.get(f"{CONFIG_MAPS}/b")).status == 403
    assert (await bot.get(f"{PODS}/x/log")).status == 404
    assert (await bot.get(f"{PODS}/x")).status == 403


@pytest.mark.parametrize("group", ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
async def test_groups_hold_what_is_bound_to_them(api: Api, group: str) -> None:
    subject = {"kind": "Group", "name": group, "apiGroup": "rbac.authorization.k8s.io"}
    await grant(api, [rule(["*"], ["*"])], subject)
    assert (await Api(api.server, BOT).get(PODS)).status == 200


async def test_everybody_known_may_discover_and_the_unknown_see_health_only(api: Api) -> None:
    assert (await Api(api.server, ANN).get("/apis")).status == 200
    assert (await Api(api.server, ANN).get("/api/v1")).status == 200
    nobody = Api(api.server, None)
    assert (await nobody.get("/healthz")).status == 200
    assert (await nobody.get("/apis")).status == 403
    assert (await Api(api.server, ANN).get("/metrics")).message == ('forbidden: User "ann" cannot get path "/metrics"')


async def test_aggregated_roles_hold_what_labelled_roles_hold(api: Api) -> None:
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
    subject = {"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}
    body = named("ClusterRoleBinding", "ann", roleRef=ref, subjects=[subject])
    assert (await api.post(f"{RBAC}/clusterrolebindings", body)).status == 201
    ann = Api(api.server, ANN)
    assert (await ann.get(PODS)).status == 200
    assert (await ann.get("/api/v1/namespaces/default/secrets")).status == 403
    assert (await ann.post(CONFIG_MAPS, config_map("a"))).status == 403
    extra = named("ClusterRole", "more", rules=[rule(["list"], ["secrets"])])
    extra["metadata"]["labels"] = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
    assert (await api.post(f"{RBAC}/clusterroles", extra)).status == 201
    assert (await ann.get("/api/v1/namespaces/default/secrets")).status == 200


async def test_access_reviews_answer_what_a_request_would(api: Api) -> None:
    await grant(api, [rule(["list"], ["pods"])], BOT_SUBJECT)
    bot = Api(api.server, BOT)
    for verb, expected in (("list", True), ("delete", False)):
        spec = {"resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "default"}}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec}
        reply = await bot.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
        assert reply.status == 201
        assert reply.body["status"]["allowed"] is expected
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}}
    reply = await bot.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", body)
    assert {"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]} in reply.body["status"]["resourceRules"]


async def test_nobody_grants_what_he_does_not_hold(api: Api) -> None:
    await grant(api, [rule(["get"], ["pods"])], BOT_SUBJECT)
    rbac = rbac_of(api.server)
    rbac.check_escalation(BOT, "Role", "default", named("Role", "x", rules=[rule(["get"], ["pods"])]))
    with pytest.raises(ApiFailure) as caught:
        rbac.check_escalation(BOT, "Role", "default", named("Role", "x", rules=[rule(["delete"], ["pods"])]))
    assert "is attempting to grant RBAC permissions not currently held" in caught.value.message
    assert '{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}' in caught.value.message
    ref = {"kind": "ClusterRole", "name": "cluster-admin"}
    with pytest.raises(ApiFailure):
        rbac.check_escalation(BOT, "RoleBinding", "default", named("RoleBinding", "x", roleRef=ref))
    may_bind = {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["bind"]}
    await grant(api, [may_bind], BOT_SUBJECT, "binder")
    rbac.check_escalation(BOT, "RoleBinding", "default", named("RoleBinding", "x", roleRef=ref))


async def test_acting_as_somebody_needs_the_verb_for_user_and_groups(api: Api) -> None:
    rbac = rbac_of(api.server)
    refused = rbac.impersonation_refused(ANN, User("system:serviceaccount:default:bot"))
    assert refused is not None
    assert 'cannot impersonate resource "serviceaccounts"' in refused.message
    await grant(api, [rule(["impersonate"], ["serviceaccounts"])], ANN_SUBJECT)
    assert rbac.impersonation_refused(ANN, User("system:serviceaccount:default:bot")) is None
    as_master = User("system:serviceaccount:default:bot", ("system:masters",))
    assert rbac.impersonation_refused(ANN, as_master) is not None


async def test_extras_and_the_uid_of_somebody_are_taken_over_when_they_may_be(api: Api) -> None:
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    sent = {"impersonate_user": "bob", "impersonate_uid": "u-1", "impersonate_extra_scopes": "view\ndevelopment"}
    encoded = {"impersonate_extra_acme.com%2fproject": "x"}
    told = (await api.post(path, body, **sent, **encoded)).body["status"]["userInfo"]
    assert told["extra"] == {"scopes": ["view", "development"], "acme.com/project": ["x"]}
    assert (told["username"], told["uid"]) == ("bob", "u-1")
    ann = Api(api.server, ANN)
    await grant_everywhere(api, [rule(["impersonate"], ["users"])], ANN_SUBJECT, "users")
    group = "authentication.k8s.io"
    refused = await ann.post(path, body, **sent)
    assert refused.message == (
        f'userextras.{group} "view" is forbidden: User "ann" cannot impersonate resource "userextras/scopes" '
        f'in API group "{group}" at the cluster scope'
    )
    extras = {"apiGroups": [group], "resources": ["userextras/scopes"], "verbs": ["impersonate"]}
    await grant_everywhere(api, [extras], ANN_SUBJECT, "extras")
    assert 'cannot impersonate resource "uids"' in (await ann.post(path, body, **sent)).message
    uids = {"apiGroups": [group], "resources": ["uids"], "resourceNames": ["u-1"], "verbs": ["impersonate"]}
    await grant_everywhere(api, [uids], ANN_SUBJECT, "uids")
    assert (await ann.post(path, body, **sent)).status == 201


async def test_as_another_user_a_request_has_that_users_rights(api: Api) -> None:
    assert (await api.get(PODS, impersonate_user="ann")).status == 403
    assert (await Api(api.server, ANN).get(PODS, impersonate_user="root")).message == (
        'users "root" is forbidden: User "ann" cannot impersonate resource "users" in API group "" at the cluster scope'
    )


async def test_a_role_write_that_grants_more_is_refused_and_nothing_is_stored(api: Api) -> None:
    roles = {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create", "get"]}
    await grant(api, [roles, rule(["get"], ["pods"])], BOT_SUBJECT)
    bot = Api(api.server, BOT)
    path = f"{RBAC}/namespaces/default/roles"
    assert (await bot.post(path, named("Role", "same", rules=[rule(["get"], ["pods"])]))).status == 201
    assert (await bot.post(path, named("Role", "more", rules=[rule(["list"], ["pods"])]))).status == 403
    assert (await bot.get(f"{path}/more")).status == 404


async def test_an_access_review_about_somebody_adds_no_groups_of_its_own(api: Api) -> None:
    """A cluster answers for exactly the user and groups it is asked about."""
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"

    async def allowed(**subject: Any) -> bool:
        spec = {"nonResourceAttributes": {"verb": "get", "path": "/api"}, **subject}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        reply = await api.post(path, body)
        assert reply.status == 201, reply
        return bool(reply.body["status"]["allowed"])

    assert not await allowed(user="ann")
    assert await allowed(user="ann", groups=["system:authenticated"])


@pytest.mark.parametrize(
    ("kind", "spec", "told"),
    [
        ("SelfSubjectAccessReview", {}, "exactly one of nonResourceAttributes or resourceAttributes must be specified"),
        (
            "SubjectAccessReview",
            {"resourceAttributes": {"verb": "get"}},
            "at least one of user or group must be specified",
        ),
        (
            "LocalSubjectAccessReview",
            {"user": "ann", "resourceAttributes": {"verb": "get", "namespace": "other"}},
            "must match metadata.namespace",
        ),
    ],
)
async def test_an_access_review_that_asks_nothing_is_refused(
    api: Api, kind: str, spec: dict[str, Any], told: str
) -> None:
    where = "namespaces/default/" if kind.startswith("Local") else ""
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
    reply = await api.post(f"/apis/authorization.k8s.io/v1/{where}{kind.lower()}s", body)
    assert (reply.status, told in reply.message) == (422, True), reply


async def test_aggregated_roles_show_what_they_gather_and_keep_up(api: Api) -> None:
    path = f"{RBAC}/clusterroles/view"
    shown = (await api.get(path)).body["rules"]
    assert any("pods" in r["resources"] for r in shown)
    async with anyio.create_task_group() as tasks:
        await tasks.start(api.server.run)
        watch = await api.watch(f"{RBAC}/clusterroles?fieldSelector=metadata.name=view&resourceVersion=0")
        await watch.next()
        extra = named("ClusterRole", "widgets-view", rules=[rule(["get"], ["widgets"])])
        extra["metadata"]["labels"] = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
        await api.post(f"{RBAC}/clusterroles", extra)
        assert rule(["get"], ["widgets"]) in (await watch.next())["object"]["rules"]
        await api.delete(f"{RBAC}/clusterroles/widgets-view")
        assert (await watch.next())["object"]["rules"] == shown
        await watch.close()
        tasks.cancel_scope.cancel()


async def test_a_start_gives_back_what_a_cluster_needs_and_keeps_what_was_added(api: Api) -> None:
    path = f"{RBAC}/clusterroles/system:discovery"
    role = (await api.get(path)).body
    wanted = role["rules"]
    role["rules"] = [{"nonResourceURLs": ["/more"], "verbs": ["get"]}]
    assert (await api.put(path, role)).status == 200
    await api.delete(f"{RBAC}/clusterrolebindings/system:basic-user")
    api.server.bootstrap()
    assert (await api.get(path)).body["rules"] == [{"nonResourceURLs": ["/more"], "verbs": ["get"]}, *wanted]
    assert (await api.get(f"{RBAC}/clusterrolebindings/system:basic-user")).status == 200


async def test_a_role_that_says_so_is_left_alone_at_a_start(api: Api) -> None:
    path = f"{RBAC}/clusterroles/system:discovery"
    marked = {"metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}, "rules": []}
    assert (await api.patch(path, marked)).status == 200
    api.server.bootstrap()
    assert (await api.get(path)).body["rules"] == []


async def test_roles_and_bindings_of_the_wrong_shape_are_refused(api: Api) -> None:
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
    for body, field in (
        (named("ClusterRoleBinding", "x", roleRef=ref, subjects=[]), "roleRef.kind"),
        (named("ClusterRoleBinding", "x", roleRef={**ref, "kind": "ClusterRole", "name": ""}), "roleRef.name"),
        (
            named("ClusterRoleBinding", "x", roleRef={**ref, "kind": "ClusterRole"}, subjects=[{"kind": "Robot"}]),
            "subjects[0].kind",
        ),
    ):
        reply = await api.post(f"{RBAC}/clusterrolebindings", body)
        assert (reply.status, field in reply.message) == (422, True), reply
    bad = {"clusterRoleSelectors": [{"matchExpressions": [{"key": "a", "operator": "Near"}]}]}
    reply = await api.post(f"{RBAC}/clusterroles", named("ClusterRole", "x", aggregationRule=bad))
    assert (reply.status, "clusterRoleSelectors[0]" in reply.message) == (422, True), reply


async def test_taking_an_owner_off_a_role_needs_none_of_its_rights(api: Api) -> None:
    """The garbage collector holds neither the rights of the roles it lets go nor escalate."""
    everything = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
    role = named("Role", "owned", rules=everything)
    role["metadata"]["finalizers"] = ["example.com/held"]
    path = f"{RBAC}/namespaces/default/roles"
    assert (await api.post(path, role)).status == 201
    roles = {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["patch"]}
    await grant(api, [roles], BOT_SUBJECT)
    bot = Api(api.server, BOT)
    assert (await bot.patch(f"{path}/owned", {"metadata": {"finalizers": None}})).status == 200
    assert (await bot.patch(f"{path}/owned", {"metadata": {"labels": {"a": "b"}}})).status == 403


async def test_a_decision_looks_at_the_rules_of_one_subject_not_at_all_bindings(api: Api) -> None:
    """One binding or a thousand: the same few microseconds, without parsing any object."""
    path = f"{RBAC}/namespaces/default/rolebindings"
    await grant(api, [rule(["get"], ["pods"])], BOT_SUBJECT)
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
    for number in range(300):
        subject = {"kind": "ServiceAccount", "name": f"other-{number}", "namespace": "default"}
        made = await api.post(path, named("RoleBinding", f"b{number}", roleRef=ref, subjects=[subject]))
        assert made.status == 201
    asked = Attributes("get", resource="pods", namespace="default", name="x")
    authorizer = rbac_of(api.server)
    assert authorizer.refuse(BOT, asked) is None
    parsed = 0
    original = Entry.obj

    def counted(entry: Entry) -> dict[str, Any]:
        nonlocal parsed
        parsed += 1
        return original(entry)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Entry, "obj", counted)
        for _ in range(50):
            assert authorizer.refuse(BOT, asked) is None
    assert parsed == 0


async def test_a_name_in_a_field_selector_counts_as_the_name_asked_for(api: Api) -> None:
    """So a role with resourceNames lets its holder list and watch that one object, as kube-apiserver does."""
    await grant(api, [rule(["list", "watch"], ["configmaps"], resourceNames=["a"])], BOT_SUBJECT)
    bot = Api(api.server, BOT)
    assert (await bot.get(f"{CONFIG_MAPS}?fieldSelector=metadata.name%3Da")).status == 200
    assert (await bot.get(f"{CONFIG_MAPS}?fieldSelector=metadata.name%3Db")).status == 403
    assert (await bot.get(CONFIG_MAPS)).status == 403
    watch = await bot.watch(f"{CONFIG_MAPS}?fieldSelector=metadata.name%3Da")
    await watch.close()


@pytest.mark.parametrize("sub", ["exec", "attach", "portforward"])
async def test_a_stream_into_a_pod_needs_create_however_it_is_opened(api: Api, sub: str) -> None:
    """A WebSocket is opened with GET; since Kubernetes 1.35 that asks for the verb create too."""
    await grant(api, [rule(["get"], [f"pods/{sub}"])], BOT_SUBJECT)
    bot = Api(api.server, BOT)
    refused = await bot.get(f"{PODS}/x/{sub}?command=a")
    assert (refused.status, f'cannot create resource "pods/{sub}"' in refused.message) == (403, True), refused
    await grant(api, [rule(["create"], [f"pods/{sub}"])], BOT_SUBJECT, "creator")
    assert (await bot.get(f"{PODS}/x/{sub}?command=a")).status != 403


async def test_an_apply_that_makes_the_object_needs_create_too(api: Api) -> None:
    await grant(api, [rule(["patch"], ["configmaps"])], BOT_SUBJECT)
    bot = Api(api.server, BOT)
    refused = await bot.apply(f"{CONFIG_MAPS}/a", config_map("a", x="1"), "bot")
    assert (refused.status, 'cannot create resource "configmaps"' in refused.message) == (403, True), refused
    assert (await api.post(CONFIG_MAPS, config_map("a", x="0"))).status == 201
    assert (await bot.apply(f"{CONFIG_MAPS}/a", config_map("a", y="1"), "bot")).status == 200
