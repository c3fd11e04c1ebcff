"""Whatever a server, a proxy before it, or somebody who may create objects sends: the manager lives."""

import json

import anyio
import pytest
from support.scripted_transport import Feed, listing, ok, pod, status

from agentops.controller import Builder, CacheOptions, Manager, ManagerOptions
from agentops.controller.informer import Informer
from agentops.controller.target import Target
from agentops.kube.client import ApiClient
from agentops.kube.kinds import POD
from agentops.kube.transport import Response
from agentops.kube.watch import MalformedObject

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"


@pytest.fixture
def manager(transport, clock, rng):
    return Manager(transport, ManagerOptions(clock=clock, rng=rng, cache=CacheOptions(streaming_lists="never")))


async def running(manager, body):
    async with anyio.create_task_group() as tasks:
        await tasks.start(manager.run)
        await body()
        tasks.cancel_scope.cancel()


def error_event(obj):
    return json.dumps({"type": "ERROR", "object": obj}).encode() + b"\n"


LINES = {
    "error-null": error_event(None),
    "error-list": error_event([1]),
    "error-code-text": error_event({"kind": "Status", "code": "many"}),
    "error-details": error_event({"kind": "Status", "code": 504, "details": [1]}),
    "error-causes": error_event({"kind": "Status", "code": 504, "details": {"causes": [1, None]}}),
    "html": b"<html><body>Bad gateway</body></html>\n",
    "html-without-a-line": b"<html>",
    "null": b"null\n",
    "nul-byte": b'{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"\x00"}}}\n',
    "surrogate": b'{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"a","annotations":{"a":"\\ud800"}}}}\n',
    "type-is-a-number": b'{"type":7,"object":{}}\n',
    "labels-are-a-list": b'{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"a","labels":[]}}}\n',
    "bookmark-marks": b'{"type":"BOOKMARK","object":{"metadata":{"annotations":["k8s.io/initial-events-end"]}}}\n',
    "nested-beyond-reason": b'{"type":"ADDED","object":{"spec":' + b"[" * 200_000 + b"]" * 200_000 + b"}}\n",
}


@pytest.mark.guarantee("WA21", "WA11")
@pytest.mark.parametrize("streamed", [False, True], ids=["listed", "streamed"])
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
async def test_line_that_makes_no_sense_is_survived(transport, clock, rng, line, streamed):
    transport.on("GET", PODS, listing(10, pod("a", 5)), listing(20, pod("b", 15)))
    transport.on_watch(PODS, Feed().bytes(line).end(), Feed().bytes(line).end())
    options = CacheOptions(streaming_lists="always" if streamed else "never")
    manager = Manager(transport, ManagerOptions(clock=clock, rng=rng, cache=options))
    manager.cache.informer(POD)

    async def body():
        await anyio.sleep(90)
        assert [obj["metadata"]["name"] for obj in await manager.client.list(POD)] == ["b"]

    await running(manager, body)


ANSWERS = {
    "html": Response(200, b"<html>"),
    "empty": Response(200),
    "no-content": Response(204),
    "redirect": Response(302, b"", {"location": "/login"}),
    "a-status": ok({"kind": "Status", "status": "Success", "metadata": {"resourceVersion": "12"}}),
    "one-object": ok(pod("x", 12)),
    "table": ok({"kind": "Table", "metadata": {"resourceVersion": "12"}, "rows": []}),
    "error-of-depth": Response(500, b"[" * 100_000),
    "error-code-text": Response(500, b'{"kind":"Status","code":"x","details":[]}'),
    "item-null": ok({"kind": "PodList", "metadata": {"resourceVersion": "12"}, "items": [None]}),
    "item-not-utf8": Response(200, listing(12, pod("x", 5)).body.replace(b'"n1"', b'"\xe9"')),
}


@pytest.mark.guarantee("WA21", "LI14")
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_answer_that_is_no_list_deletes_nothing_and_is_asked_for_again(manager, transport, answer):
    transport.on("GET", PODS, listing(10, pod("a", 5)), answer, answer, listing(20, pod("a", 5), pod("b", 15)))
    transport.on_watch(PODS, Feed().bookmark(11).error(410, "Expired"))
    heard = []
    manager.cache.informer(POD).add_handler(lambda event: heard.append((event.type, event.entry.meta.name)))

    async def body():
        await anyio.sleep(0.5)
        assert manager.cache.informer(POD).last_error
        assert len(await manager.client.list(POD)) == 1
        await anyio.sleep(30)

    await running(manager, body)
    assert heard == [("create", "a"), ("create", "b")]


def nested(name, version, depth):
    obj = json.dumps(pod(name, version)).replace('"n1"', "[" * depth + "]" * depth)
    return obj.encode()


@pytest.mark.guarantee("IN27", "WA21")
async def test_object_nested_as_deep_as_servers_allow_is_read_like_any_other(manager, transport):
    deep = nested("deep", 6, 1_200)
    body = listing(10, pod("a", 5)).body.replace(b'"items":[', b'"items":[' + deep + b",")
    transport.on("GET", PODS, Response(200, body))
    transport.on_watch(PODS, Feed().bytes(b'{"type":"ADDED","object":' + nested("deeper", 11, 1_200) + b"}\n"))
    manager.cache.informer(POD)
    manager.cache.add_index(POD, "kind", lambda obj: [type(obj["spec"]["nodeName"]).__name__])
    reconciled = []

    async def reconcile(request):
        obj = await manager.client.get(POD, request.name, request.namespace)
        reconciled.append((request.name, type(obj["spec"]["nodeName"])))

    Builder(manager).for_(POD).build(reconcile)

    async def body_():
        await anyio.sleep(1)
        found = await manager.client.list(POD, index=("kind", "list"))
        assert [obj["metadata"]["name"] for obj in found] == ["deep", "deeper"]

    await running(manager, body_)
    assert sorted(reconciled) == [("a", str), ("deep", list), ("deeper", list)]


@pytest.mark.guarantee("IN27")
async def test_object_that_cannot_be_read_is_under_no_index_and_harms_no_other(manager, transport, caplog):
    unreadable = json.dumps(pod("bad", 6)).replace('"n1"', "1e999").encode()
    feed = Feed()
    transport.on("GET", PODS, Response(200, listing(10).body.replace(b'"items":[', b'"items":[' + unreadable)))
    transport.on_watch(PODS, feed)
    manager.cache.informer(POD)
    manager.cache.add_index(POD, "node", lambda obj: [obj["spec"]["nodeName"]])

    async def body():
        feed.event("ADDED", pod("good", 11))
        await anyio.sleep(1)
        assert len(await manager.client.list(POD, index=("node", "n1"))) == 1
        with pytest.raises(MalformedObject, match="pods default/bad: object is not understood"):
            await manager.client.get(POD, "bad", "default")
        feed.event("MODIFIED", pod("bad", 12))
        await anyio.sleep(1)
        assert len(await manager.client.list(POD, index=("node", "n1"))) == 2
        feed.bytes(b'{"type":"MODIFIED","object":' + unreadable.replace(b'"6"', b'"13"') + b"}\n")
        await anyio.sleep(1)
        assert len(await manager.client.list(POD, index=("node", "n1"))) == 1

    await running(manager, body)
    assert "index.failed" in caplog.text


@pytest.mark.guarantee("IN15")
@pytest.mark.parametrize(
    "transform",
    [lambda obj: None, lambda obj: {}, lambda obj: {**obj, "metadata": {"name": "other"}}, lambda obj: [obj]],
    ids=["nothing", "empty", "another", "list"],
)
async def test_transform_that_does_not_return_the_object_leaves_it_as_it_was(transport, clock, rng, transform, caplog):
    feed = Feed()
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    transport.on_watch(PODS, feed.event("MODIFIED", pod("a", 11)))
    informer = Informer(ApiClient(transport, clock=clock), Target(POD), clock=clock, rng=rng, transform=transform)
    informer.store.add_index("node", lambda obj: [obj["spec"]["nodeName"]])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(informer.run)
        await anyio.sleep(1)
        tasks.cancel_scope.cancel()
    assert informer.store.keys() == [("default", "a")]
    assert [entry.rv for entry in informer.store.by_index("node", "n1")] == [11]
    assert informer.store.get(("default", "a")).object() == pod("a", 11)
    assert "transform.failed" in caplog.text


@pytest.mark.guarantee("WA9")
async def test_server_that_expires_every_streamed_list_is_not_hammered(transport, clock, rng):
    for version in range(200):
        feed = (
            Feed().event("ADDED", pod("a", 5)).bookmark(10 + version, annotations={"k8s.io/initial-events-end": "true"})
        )
        transport.on_watch(PODS, feed.error(410, "Expired"))
    options = CacheOptions(streaming_lists="always")
    manager = Manager(transport, ManagerOptions(clock=clock, rng=rng, cache=options))
    manager.cache.informer(POD)
    await running(manager, lambda: anyio.sleep(60))
    assert 3 <= len(transport.sent("GET", PODS, watch=True)) < 10


@pytest.mark.guarantee("WA9")
async def test_server_that_expires_watches_after_a_bookmark_is_not_hammered(manager, transport):
    transport.on("GET", PODS, listing(10))
    transport.on_watch(PODS, *[Feed().bookmark(11).error(410, "Expired") for _ in range(200)])
    manager.cache.informer(POD)
    await running(manager, lambda: anyio.sleep(60))
    assert 3 <= len(transport.sent("GET", PODS)) < 10


@pytest.mark.guarantee("WA3")
async def test_bookmark_that_goes_back_is_not_followed(manager, transport):
    transport.on("GET", PODS, listing(100, pod("a", 50)))
    transport.on_watch(PODS, Feed().bookmark(120).bookmark(70).end())
    manager.cache.informer(POD)
    await running(manager, lambda: anyio.sleep(1))
    assert [w.query["resourceVersion"] for w in transport.sent("GET", PODS, watch=True)] == ["100", "120"]


@pytest.mark.guarantee("WA18", "PQ10")
async def test_versions_that_are_no_numbers_work_and_their_changes_are_no_reminders(manager, transport):
    feed = Feed().wait(0.5).event("MODIFIED", pod("a", "c")).bookmark("b").end()
    transport.on("GET", PODS, listing("z", pod("a", "x")))
    transport.on_watch(PODS, feed)
    priorities = []

    async def reconcile(request):
        pass

    controller = Builder(manager).for_(POD).build(reconcile)
    controller.queue.add = lambda item, priority=None: priorities.append(priority)
    await running(manager, lambda: anyio.sleep(1))
    assert priorities == [-100, 0]
    assert [w.query["resourceVersion"] for w in transport.sent("GET", PODS, watch=True)] == ["z", "b"]


@pytest.mark.guarantee("LI11")
async def test_events_without_a_kind_are_of_the_kind_that_is_watched(manager, transport):
    bare = {key: value for key, value in pod("b", 11).items() if key not in ("kind", "apiVersion")}
    transport.on("GET", PODS, listing(10))
    transport.on_watch(PODS, Feed().event("ADDED", bare))
    manager.cache.informer(POD)

    async def body():
        await anyio.sleep(1)
        assert (await manager.client.get(POD, "b", "default"))["kind"] == "Pod"

    await running(manager, body)


@pytest.mark.guarantee("WA12")
async def test_quiet_breaks_are_counted_anew_after_a_list(manager, transport):
    """A balancer that cuts idle connections costs a list every other time, not every time."""
    transport.on("GET", PODS, listing(10))
    transport.on_watch(PODS, *[Feed().wait(60).fail() for _ in range(20)])
    manager.cache.informer(POD)
    await running(manager, lambda: anyio.sleep(610))
    assert len(transport.sent("GET", PODS, watch=True)) >= 10
    assert len(transport.sent("GET", PODS)) <= 6


@pytest.mark.guarantee("WA15")
@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"retry-after": "17"}, 17, 18),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:40 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 40, 41),
        ({"retry-after": "86400"}, 600, 601),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:40 GMT"}, 0.8, 2),
        *[({"retry-after": odd}, 0.8, 2) for odd in ("inf", "nan", "-5", "soon", "9" * 400)],
    ],
)
async def test_server_may_ask_for_patience_in_seconds_or_until_a_date(manager, transport, headers, least, most):
    transport.on("GET", PODS, status(503, "ServiceUnavailable", headers=headers), listing(10))
    informer = manager.cache.informer(POD)

    async def body():
        with anyio.fail_after(most):
            await informer.wait_for_sync()
        assert anyio.current_time() >= least

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(manager.cache.run)
        await body()
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("IN24")
async def test_namespace_that_is_deleted_while_it_is_watched_takes_its_objects_along(transport, clock, rng):
    path = "/api/v1/namespaces/gone/pods"
    transport.on("GET", path, listing(10, pod("a", 5, "gone"), pod("b", 6, "gone")))
    feed = Feed().event("DELETED", pod("a", 11, "gone")).event("DELETED", pod("b", 12, "gone")).end()
    transport.on_watch(path, feed, Feed().bookmark(13))
    options = ManagerOptions(clock=clock, rng=rng, namespaces=("gone",))
    manager = Manager(transport, options)
    manager.cache.informer(POD)

    async def body():
        await anyio.sleep(60)
        assert await manager.client.list(POD, "gone") == []
        assert manager.cache.problems() == []

    await running(manager, body)
