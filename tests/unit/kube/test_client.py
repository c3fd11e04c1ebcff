import anyio
import pytest
from support.scripted_transport import listing, ok, pod, status

from agentops.kube import ApiClient, retry_on_conflict
from agentops.kube.discovery import Discovery, NoKindMatch
from agentops.kube.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    TooManyRequests,
    TransportError,
)
from agentops.kube.kinds import BUILTIN, DEPLOYMENT, NODE, POD, REVIEWS
from agentops.kube.transport import Response
from agentops.kube.watch import encode

pytestmark = pytest.mark.anyio

PODS = "/api/v1/namespaces/ns/pods"


@pytest.fixture
def seen():
    return []


@pytest.fixture
def client(transport, clock, seen):
    return ApiClient(
        transport, user_agent="t/1", field_manager="me", clock=clock, observe=lambda *counted: seen.append(counted)
    )


@pytest.mark.guarantee("MX3")
async def test_requests_say_who_they_are_and_are_counted(client, transport, seen):
    transport.on("GET", PODS + "/a", ok(pod("a", 1)))
    assert (await client.get(POD, "a", "ns"))["metadata"]["name"] == "a"
    assert transport.requests[0].headers["user-agent"] == "t/1"
    assert seen == [("GET", "200")]


@pytest.mark.guarantee("LI11")
async def test_list_follows_pages_and_fills_in_the_kind(client, transport):
    transport.on("GET", PODS, listing(9, pod("a", 1), token="next"), listing(9, pod("b", 2)))
    found = await client.list(POD, "ns", labels="app=x", fields="spec.nodeName=n", limit=1)
    assert [(o["kind"], o["metadata"]["name"]) for o in found] == [("Pod", "a"), ("Pod", "b")]
    assert transport.requests[1].query == {
        "labelSelector": "app=x",
        "fieldSelector": "spec.nodeName=n",
        "limit": "1",
        "continue": "next",
    }


@pytest.mark.guarantee("CL6", "CL7")
async def test_writes_carry_the_field_manager_and_their_content_type(client, transport):
    for method, path in (("POST", PODS), ("PUT", PODS + "/a"), ("PUT", PODS + "/a/status"), ("PATCH", PODS + "/a")):
        transport.on(method, path, ok(pod("a", 2, "ns")))
    obj = pod("a", 1, "ns")
    await client.create(POD, obj, dry_run=True)
    await client.update(POD, obj)
    await client.update(POD, obj, subresource="status", field_manager="other")
    await client.patch(POD, "a", {"spec": {}}, "ns")
    await client.patch(POD, "a", [], "ns", type="json")
    await client.patch(POD, "a", {}, "ns", type="strategic")
    await client.apply(POD, {"metadata": obj["metadata"]})
    create, update, update_status, merge, json_patch, strategic, apply = transport.requests
    assert create.query == {"fieldManager": "me", "dryRun": "All"}
    assert update.query == {"fieldManager": "me"}
    assert update_status.query == {"fieldManager": "other"}
    assert merge.headers["content-type"] == "application/merge-patch+json"
    assert json_patch.headers["content-type"] == "application/json-patch+json"
    assert strategic.headers["content-type"] == "application/strategic-merge-patch+json"
    assert apply.headers["content-type"] == "application/apply-patch+yaml"
    assert apply.query == {"fieldManager": "me", "force": "true", "fieldValidation": "Strict"}
    assert (apply.body["apiVersion"], apply.body["kind"]) == ("v1", "Pod")


@pytest.mark.guarantee("CL10")
async def test_delete_sends_preconditions_and_propagation(client, transport):
    transport.on("DELETE", PODS + "/a", ok({"kind": "Status"}))
    await client.delete(POD, "a", "ns", propagation="Foreground", grace_s=0, uid="u", resource_version="7")
    assert transport.requests[0].body == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": "Foreground",
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": "u", "resourceVersion": "7"},
    }


@pytest.mark.guarantee("CL9")
async def test_subresources_are_posted_below_the_object(client, transport):
    transport.on("POST", PODS + "/a/eviction", ok({"kind": "Status"}))
    await client.create(POD, {"metadata": {"name": "a"}}, namespace="ns", name="a", subresource="eviction")
    assert transport.requests[0].path == PODS + "/a/eviction"


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (403, "Forbidden", Forbidden),
        (422, "Invalid", Invalid),
        (418, "Teapot", ApiError),
    ],
)
@pytest.mark.guarantee("CL4", "CL11")
async def test_statuses_become_their_exceptions(client, transport, code, reason, error):
    transport.on("GET", PODS + "/a", status(code, reason, "the message"))
    with pytest.raises(error, match="the message") as caught:
        await client.get(POD, "a", "ns")
    assert type(caught.value) is error
    assert (caught.value.code, caught.value.reason) == (code, reason)


async def test_plain_text_errors_keep_their_text(client, transport):
    transport.on("GET", "/nope", Response(404, b"404 page not found"))
    with pytest.raises(NotFound, match="404 page not found"):
        await client.raw("GET", "/nope")


@pytest.mark.guarantee("CL13")
async def test_answers_that_ask_to_be_retried_are_retried_after_that_time(client, transport):
    busy = status(429, "TooManyRequests", headers={"retry-after": "3"})
    down = status(503, "ServiceUnavailable", headers={"retry-after": "2"})
    transport.on("PUT", PODS + "/a", busy, down, ok(pod("a", 2)))
    start = anyio.current_time()
    await client.update(POD, pod("a", 1, "ns"))
    assert anyio.current_time() - start == pytest.approx(5)


@pytest.mark.guarantee("CL13")
async def test_retries_end_at_ten_and_at_the_timeout(client, transport):
    transport.on("GET", "/quick", status(429, "TooManyRequests", headers={"retry-after": "1"}))
    transport.on("GET", "/slow", status(429, "TooManyRequests", headers={"retry-after": "31"}))
    for path, tries in (("/quick", 11), ("/slow", 1)):
        with pytest.raises(TooManyRequests):
            await client.raw("GET", path)
        assert len(transport.sent("GET", path)) == tries


@pytest.mark.guarantee("CL13")
async def test_other_failures_are_not_repeated(client, transport, seen):
    transport.on("PUT", PODS + "/a", status(500, "InternalError"))
    with pytest.raises(ApiError):
        await client.update(POD, pod("a", 1, "ns"))
    transport.on("POST", PODS, TransportError("reset"))
    with pytest.raises(TransportError):
        await client.create(POD, pod("b", 1, "ns"))
    assert seen == [("PUT", "500"), ("POST", "<error>")]
    assert len(transport.requests) == 2


@pytest.mark.parametrize(("name", "namespace", "field"), [("", "ns", "name"), ("a", "", "namespace")])
async def test_urls_that_would_address_something_else_are_refused(client, name, namespace, field):
    with pytest.raises(ValueError, match=f"{field} is empty"):
        await client.delete(POD, name, namespace)


def test_cluster_scoped_objects_have_no_namespace_in_their_url():
    assert NODE.path("", "n") == "/api/v1/nodes/n"


@pytest.mark.guarantee("CL15")
async def test_each_of_several_warnings_is_logged_once(client, transport, caplog):
    both = {"warning": '299 - "say \\"v2\\", not v1", 299 kube-apiserver "deprecated"'}
    transport.on("GET", "/x", Response(200, b"{}", {"warning": '299 - "deprecated"'}), Response(200, b"{}", both))
    for _ in range(3):
        await client.raw("GET", "/x")
    assert caplog.text.count("server.warning") == 2


@pytest.mark.guarantee("CL15")
async def test_server_warnings_are_logged_once(client, transport, caplog):
    transport.on("GET", "/x", Response(200, b"{}", {"warning": '299 - "deprecated"'}))
    for _ in range(3):
        await client.raw("GET", "/x")
    assert caplog.text.count("server.warning") == 1


@pytest.mark.guarantee("CL5")
async def test_conflicts_are_retried_and_the_last_is_raised():
    calls = []

    async def attempt():
        calls.append(1)
        if len(calls) % 3:
            raise Conflict(409, "Conflict", "changed")
        return "done"

    assert await retry_on_conflict(attempt) == "done"
    assert await retry_on_conflict(lambda: attempt()) == "done", "what returns an awaitable, of whatever kind"
    with pytest.raises(Conflict):
        await retry_on_conflict(attempt, tries=2)

    waits = []

    async def never():
        raise Conflict(409, "Conflict", "changed")

    async def sleep(seconds):
        waits.append(seconds)

    with pytest.raises(Conflict):
        await retry_on_conflict(never, sleep=sleep)
    assert len(waits) == 4
    assert all(0.010 <= wait <= 0.011 for wait in waits), "client-go's DefaultRetry"
    waits.clear()
    with pytest.raises(Conflict):
        await retry_on_conflict(never, tries=4, factor=5, sleep=sleep)
    assert waits == pytest.approx([0.010, 0.050, 0.250], abs=0.001)

    async def other():
        calls.append("other")
        raise NotFound(404, "NotFound", "gone")

    with pytest.raises(NotFound):
        await retry_on_conflict(other)
    assert calls.count("other") == 1


@pytest.mark.parametrize("answer", [Response(200, b"<html>"), ok([]), ok({"resources": [{"name": "pods"}]})])
async def test_answer_that_names_no_resources_is_no_answer(client, transport, clock, answer):
    transport.on("GET", "/api/v1", answer)
    with pytest.raises(TransportError, match="no list of resources"):
        await Discovery(client, clock=clock).find("v1", "Pod")


@pytest.mark.guarantee("IN27")
async def test_deep_objects_are_read_and_written_as_they_are(client, transport):
    deep = "x"
    for _ in range(1_200):
        deep = {"a": deep}
    transport.on("GET", PODS + "/a", ok(pod("a", 1)))
    raw = encode({**pod("a", 1), "spec": deep})
    transport.on("GET", PODS + "/a", Response(200, raw))
    await client.get(POD, "a", "ns")
    sent = await client.get(POD, "a", "ns")
    assert encode(sent) == raw
    assert encode(sent["spec"]["a"]) in raw


@pytest.mark.guarantee("K4")
async def test_discovery_finds_kinds_and_asks_again_after_a_miss_but_not_at_once(client, transport, clock):
    resources = [
        {"name": "deployments", "kind": "Deployment", "namespaced": True},
        {"name": "deployments/status", "kind": "X"},
    ]
    transport.on("GET", "/apis/apps/v1", ok({"resources": resources}))
    discovery = Discovery(client, clock=clock)
    assert await discovery.find("apps/v1", "Deployment") == DEPLOYMENT
    for _ in range(3):
        with pytest.raises(NoKindMatch, match="no kind 'Later'"):
            await discovery.find("apps/v1", "Later")
    assert len(transport.requests) == 1
    await anyio.sleep(11)
    with pytest.raises(NoKindMatch):
        await discovery.find("apps/v1", "Later")
    assert len(transport.requests) == 2


def test_builtin_kinds_are_unique():
    kinds = [*BUILTIN, *REVIEWS]
    assert len({(k.group, k.plural) for k in kinds}) == len(kinds)
