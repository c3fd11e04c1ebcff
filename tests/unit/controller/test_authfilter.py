"""Who may read the metrics, in virtual time."""

import pytest

from agentops.controller.authfilter import AuthFilter, AuthOptions
from agentops.kube.client import ApiClient

pytestmark = pytest.mark.anyio


class Reviewer:
    """A transport that answers reviews; `good` tokens are users, `may` says what is allowed."""

    def __init__(self):
        self.good = {"alice-token": "alice", "anon-token": "system:anonymous"}
        self.may = {("alice", "get", "/metrics")}
        self.asked = []
        self.failures = []

    async def request(self, method, path, *, query=(), headers=None, body=None, timeout_s=30.0):
        import orjson

        from agentops.kube.transport import Response

        obj = orjson.loads(body)
        self.asked.append(obj["kind"])
        if self.failures:
            return Response(self.failures.pop(0), b"{}")
        spec = obj["spec"]
        if obj["kind"] == "TokenReview":
            name = self.good.get(spec["token"])
            status = {"authenticated": True, "user": {"username": name, "groups": ["g"]}} if name else {"user": {}}
        else:
            attributes = spec["nonResourceAttributes"]
            assert spec["groups"] == ["g"]
            status = {"allowed": (spec["user"], attributes["verb"], attributes["path"]) in self.may}
        return Response(201, orjson.dumps({**obj, "status": status}))


@pytest.fixture
def reviewer():
    return Reviewer()


@pytest.fixture
def filtered(reviewer, clock, rng):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"metrics"})

    return AuthFilter(app, ApiClient(reviewer, clock=clock), AuthOptions(max_entries=3), clock=clock, rng=rng)


async def get(app, token=None, path="/metrics", method="GET", scheme="Bearer"):
    sent = []
    headers = [(b"authorization", f"{scheme} {token}".encode())] if token is not None else []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    await app(scope, None, send)
    return sent[0]["status"]


@pytest.mark.parametrize("token", [None, "", "wrong", "anon-token"])
@pytest.mark.guarantee("HM4", "HM5")
async def test_who_is_not_known_gets_401(filtered, token):
    assert await get(filtered, token) == 401


async def test_another_scheme_is_no_token(filtered, reviewer):
    assert await get(filtered, "alice-token", scheme="Basic") == 401
    assert reviewer.asked == []


@pytest.mark.guarantee("HM4", "HM5")
async def test_who_may_gets_the_metrics_and_who_may_not_403(filtered):
    assert await get(filtered, "alice-token") == 200
    assert await get(filtered, "alice-token", path="/debug") == 403
    assert await get(filtered, "alice-token", method="POST") == 403


@pytest.mark.guarantee("HM4")
async def test_answers_are_kept_for_their_time(filtered, reviewer, clock):
    assert await get(filtered, "alice-token") == 200
    await clock.sleep(59)
    assert await get(filtered, "alice-token") == 200
    assert reviewer.asked == ["TokenReview", "SubjectAccessReview"]
    await clock.sleep(2)
    assert await get(filtered, "alice-token") == 200
    assert reviewer.asked[2:] == ["TokenReview"], "the token is asked about after 60 s, the right is kept for 300 s"
    await clock.sleep(240)
    assert await get(filtered, "alice-token") == 200
    assert reviewer.asked[3:] == ["TokenReview", "SubjectAccessReview"]


@pytest.mark.guarantee("HM4")
async def test_a_refusal_is_kept_for_30_s(filtered, reviewer, clock):
    reviewer.may.clear()
    assert await get(filtered, "alice-token") == 403
    reviewer.may.add(("alice", "get", "/metrics"))
    await clock.sleep(29)
    assert await get(filtered, "alice-token") == 403
    await clock.sleep(2)
    assert await get(filtered, "alice-token") == 200


async def test_an_invalid_token_is_not_remembered(filtered, reviewer):
    assert await get(filtered, "new-token") == 401
    reviewer.good["new-token"] = "alice"
    assert await get(filtered, "new-token") == 200


@pytest.mark.guarantee("HM5")
async def test_a_review_that_fails_is_tried_five_times_and_then_500(filtered, reviewer, clock):
    reviewer.failures = [500] * 4
    began = clock.boottime()
    assert await get(filtered, "alice-token") == 200
    waited = clock.boottime() - began
    assert 0.5 + 0.75 + 1.125 + 1.6875 <= waited <= 1.2 * 4.07
    reviewer.failures = [500] * 5
    assert await get(filtered, "alice-token", path="/other") == 500


async def test_a_review_we_may_not_ask_for_is_500_at_once(filtered, reviewer):
    reviewer.failures = [403]
    assert await get(filtered, "alice-token") == 500
    assert reviewer.asked == ["TokenReview"]


@pytest.mark.guarantee("HM5")
async def test_tables_are_bounded_and_hold_no_token(filtered, reviewer):
    for index in range(10):
        reviewer.good[f"token-{index}"] = "alice"
        assert await get(filtered, f"token-{index}") == 200
    assert len(filtered._users) == 3
    assert len(filtered._rights) == 3
    assert "token-9" not in repr(filtered._users._items) + repr(filtered._rights._items)
