"""Who is asking: certificates, tokens, anonymous; and what the audit log says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from support.apiserver import CONFIG_MAPS, PODS, Api, ManualClock, config_map, make_server, pod

from agentops.local.apiserver import ADMIN, User

pytestmark = pytest.mark.anyio

ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"


async def account(api: Api, name: str = "bot") -> None:
    body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
    assert (await api.post(ACCOUNTS, body)).status == 201


async def token_of(api: Api, **spec: Any) -> str:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    reply = await api.post(f"{ACCOUNTS}/bot/token", body)
    assert reply.status == 201, reply
    return str(reply.body["status"]["token"])


async def who(api: Api, token: str) -> Any:
    nobody = Api(api.server, None)
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    reply = await nobody.post(
        "/apis/authentication.k8s.io/v1/selfsubjectreviews", body, authorization=f"Bearer {token}"
    )
    return reply.body["status"]["userInfo"] if reply.status == 201 else reply.status


async def test_anonymous_users_see_health_and_version_only(api: Api) -> None:
    nobody = Api(api.server, None)
    for path in ("/healthz", "/livez", "/readyz", "/version"):
        assert (await nobody.get(path)).status == 200
    assert (await nobody.get("/readyz")).body == b"ok"
    listed = await nobody.get("/api/v1/pods")
    assert listed.status == 403
    assert listed.message == (
        'pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" at the cluster scope'
    )
    named = await nobody.get(f"{PODS}/x/log")
    assert named.message.startswith(
        'pods "x" is forbidden: User "system:anonymous" cannot get resource "pods/log" in API group "" in the namespace'
    )
    assert (await nobody.get("/metrics")).message == 'forbidden: User "system:anonymous" cannot get path "/metrics"'
    assert (await nobody.get("/apis")).status == 403


async def test_a_wrong_token_is_unauthorized() -> None:
    server = make_server(ManualClock(), admin_token="right")
    nobody = Api(server, None)
    wrong = await nobody.get("/api/v1/pods", authorization="Bearer wrong")
    assert (wrong.status, wrong.message) == (401, "Unauthorized")
    assert (await nobody.get("/api/v1/pods", authorization="Bearer right")).status == 200
    server.close()


async def test_service_account_tokens_say_who_they_are_and_expire(api: Api, clock: ManualClock) -> None:
    await account(api)
    token = await token_of(api, expirationSeconds=600)
    user = await who(api, token)
    assert user["username"] == "system:serviceaccount:default:bot"
    assert user["groups"] == ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]
    clock.advance(601)
    assert await who(api, token) == 401


async def test_a_token_bound_to_a_pod_dies_with_it(api: Api) -> None:
    await account(api)
    body = pod("p", serviceAccountName="bot")
    uid = (await api.post(PODS, body)).body["metadata"]["uid"]
    token = await token_of(api, boundObjectRef={"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid})
    user = await who(api, token)
    assert user["extra"]["authentication.kubernetes.io/pod-name"] == ["p"]
    await api.delete(f"{PODS}/p")
    assert await who(api, token) == 401


async def test_a_token_dies_with_its_account_even_when_the_name_comes_back(api: Api) -> None:
    await account(api)
    token = await token_of(api)
    await api.delete(f"{ACCOUNTS}/bot")
    await account(api)
    assert await who(api, token) == 401


async def test_short_lives_are_refused(api: Api) -> None:
    await account(api)
    body = {"spec": {"expirationSeconds": 10}}
    reply = await api.post(f"{ACCOUNTS}/bot/token", body)
    assert (reply.status, "10 minutes" in reply.message) == (422, True)


async def test_tokens_of_another_audience_are_not_for_us(api: Api) -> None:
    await account(api)
    token = await token_of(api, audiences=["vault"])
    assert await who(api, token) == 401
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    assert "authenticated" not in (await api.post(path, review)).body["status"]
    review["spec"] = {"token": token, "audiences": ["vault"]}
    status = (await api.post(path, review)).body["status"]
    assert status["authenticated"] is True
    assert status["user"]["username"] == "system:serviceaccount:default:bot"


async def test_the_issuer_publishes_its_key(api: Api) -> None:
    import jwt

    await account(api)
    token = await token_of(api)
    meta = (await api.get("/.well-known/openid-configuration")).body
    assert meta["jwks_uri"] == f"{meta['issuer']}/openid/v1/jwks"
    keys = orjson.loads((await api.get("/openid/v1/jwks")).body) if isinstance(
        (await api.get("/openid/v1/jwks")).body, bytes
    ) else (await api.get("/openid/v1/jwks")).body  # fmt: skip
    key = jwt.PyJWK(keys["keys"][0])
    claims = jwt.decode(token, key.key, algorithms=["RS256"], options={"verify_aud": False, "verify_exp": False})
    assert claims["sub"] == "system:serviceaccount:default:bot"
    assert jwt.get_unverified_header(token)["kid"] == keys["keys"][0]["kid"]


async def test_access_reviews_answer(api: Api) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "create", "resource": "pods", "namespace": "default"}},
    }
    assert (await api.post(path, body)).body["status"]["allowed"] is True
    rules = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "x"}}
    reply = await api.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", rules)
    assert reply.body["status"]["resourceRules"][0]["verbs"] == ["*"]


async def test_an_authorizer_can_be_put_in_place(api: Api) -> None:
    class NoSecrets:
        def refuse(self, user: User, attributes: Any) -> str | None:
            return "secrets are secret" if attributes.resource == "secrets" else None

        def rules(self, user: User, namespace: str) -> Any:
            return [], []

    api.server.authorizer = NoSecrets()
    reply = await api.get("/api/v1/secrets")
    assert reply.status == 403
    assert reply.message.endswith("at the cluster scope: secrets are secret")
    assert (await api.get("/api/v1/configmaps")).status == 200


async def test_admins_may_impersonate_and_others_may_not(api: Api) -> None:
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    reply = await api.post(path, body, impersonate_user="system:serviceaccount:ns:a")
    assert "system:serviceaccounts:ns" in reply.body["status"]["userInfo"]["groups"]
    user = Api(api.server, User("joe", ("system:authenticated",)))
    assert (await user.post(path, body, impersonate_user="root")).status == 403


async def test_the_audit_log_has_one_line_a_request(tmp_path: Path) -> None:
    server = make_server(ManualClock(), audit_log=tmp_path / "audit.log")
    api = Api(server, User("joe", ADMIN.groups))
    await api.post(CONFIG_MAPS, config_map("a"), user_agent="test/1")
    await api.get(f"{CONFIG_MAPS}/nope")
    watch = await api.watch(CONFIG_MAPS)
    await watch.next()
    await watch.close()
    lines = [orjson.loads(line) for line in (tmp_path / "audit.log").read_bytes().splitlines()]
    assert [(e["stage"], e["verb"], e["responseStatus"]["code"]) for e in lines] == [
        ("ResponseComplete", "create", 201),
        ("ResponseComplete", "get", 404),
        ("ResponseStarted", "watch", 200),
        ("ResponseComplete", "watch", 200),
    ]
    assert lines[0]["user"]["username"] == "joe"
    assert lines[0]["userAgent"] == "test/1"
    assert lines[0]["objectRef"]["name"] == "a", "of a create, the name is in the body"
    assert lines[1]["objectRef"] == {
        "resource": "configmaps",
        "namespace": "default",
        "name": "nope",
        "apiVersion": "v1",
    }
    assert lines[0]["requestReceivedTimestamp"] == "2026-01-01T00:00:00.000000Z"
    server.close()


async def test_middleware_can_stand_in_for_the_server(api: Api) -> None:
    from agentops.local.apiserver.errors import ApiFailure
    from agentops.local.apiserver.server import failure_response

    async def busy(request: Any, call_next: Any) -> Any:
        if request.method == "POST":
            failure = ApiFailure(429, "TooManyRequests", "slow down", {"retryAfterSeconds": 1})
            return failure_response(failure)
        return await call_next(request)

    api.server.middleware.append(busy)
    reply = await api.post(CONFIG_MAPS, config_map("a"))
    assert (reply.status, reply.headers["retry-after"]) == (429, "1")
    assert (await api.get(CONFIG_MAPS)).status == 200


async def test_the_server_counts_its_answers_by_resources_it_has(api: Api) -> None:
    for path in (PODS, f"{PODS}/nope", "/apis/made.up/v1/names", f"{PODS}/x/madeup"):
        await api.get(path)
    await Api(api.server, None).get(PODS)
    answer = await api.get("/metrics")
    assert answer.status == 200
    lines = answer.body.decode().splitlines()

    def counted(**labels: str) -> int:
        wanted = [f'{name}="{value}"' for name, value in labels.items()]
        rows = [line for line in lines if line.startswith("apiserver_request_total{")]
        return sum(int(float(row.split()[-1])) for row in rows if all(label in row for label in wanted))

    assert counted(verb="LIST", resource="pods", code="200") == 1
    assert counted(verb="LIST", resource="pods", code="403") == 1
    assert counted(verb="GET", resource="pods", code="404") == 2
    assert counted(verb="LIST", resource="", code="404") == 1
    assert "made" not in answer.body.decode()
    assert any(line.startswith("agentops_plane_objects ") for line in lines)
    assert (await Api(api.server, None).get("/metrics")).status == 403


@pytest.mark.parametrize("header", ["impersonate_group", "impersonate_uid", "impersonate_extra_scopes"])
async def test_impersonating_a_group_of_nobody_is_refused_and_not_done_as_oneself(api: Api, header: str) -> None:
    reply = await api.get("/api/v1/namespaces", **{header: "x"})
    assert (reply.status, "without impersonate-user" in reply.message) == (400, True)
