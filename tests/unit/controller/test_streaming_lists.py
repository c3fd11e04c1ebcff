import anyio
import pytest
from support.scripted_transport import Feed, listing, ok, pod, refused, status

from agentops.controller.cache import Cache, CacheOptions
from agentops.controller.reflector import Reflector
from agentops.controller.streaming import StreamingLists
from agentops.controller.target import Target, WatchOptions
from agentops.kube.client import ApiClient
from agentops.kube.errors import TransportError
from agentops.kube.kinds import POD
from agentops.kube.watch import INITIAL_EVENTS_END

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"


class Sink:
    def __init__(self):
        self.seen = []
        self.prepared = []

    def prepare(self, meta, raw):
        self.prepared.append(meta.name)
        return meta.name

    async def replaced(self, items, resource_version):
        self.seen.append(("replaced", items, resource_version))

    def changed(self, type, meta, raw):
        self.seen.append((type, meta.name, meta.resource_version))

    def advanced(self, resource_version):
        self.seen.append(("bookmark", resource_version))


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def client(transport, clock):
    return ApiClient(transport, clock=clock)


@pytest.fixture
def reflector(client, sink, clock, rng):
    return Reflector(client, Target(POD), sink, clock=clock, rng=rng, streaming=StreamingLists(client, "always"))


def end_of_list(feed, version):
    return feed.bookmark(version, annotations={INITIAL_EVENTS_END: "true"})


@pytest.mark.guarantee("WL1", "WL2", "WL3")
async def test_streamed_list_is_stored_at_its_marker_and_the_stream_goes_on(reflector, transport, sink):
    feed = Feed()
    transport.on_watch(PODS, feed)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reflector.step)
        feed.event("ADDED", pod("a", 5)).event("ADDED", pod("b", 3)).bookmark(9)
        await anyio.sleep(1)
        assert sink.seen == []
        end_of_list(feed, 10).event("MODIFIED", pod("a", 11)).bookmark(12).end()
    assert sink.seen == [("replaced", ["a", "b"], "10"), ("MODIFIED", "a", "11"), ("bookmark", "12")]
    assert transport.sent("GET") == []
    (watch,) = transport.sent("GET", watch=True)
    assert watch.query["sendInitialEvents"] == "true"
    assert watch.query["resourceVersionMatch"] == "NotOlderThan"
    assert watch.query["allowWatchBookmarks"] == "true"
    assert "resourceVersion" not in watch.query


@pytest.mark.guarantee("WL7")
async def test_watch_after_a_streamed_list_asks_for_changes_only(reflector, transport):
    transport.on_watch(PODS, end_of_list(Feed(), 10).end(), Feed().bookmark(11).end())
    await reflector.step()
    await reflector.step()
    again = transport.sent("GET", watch=True)[1]
    assert again.query["resourceVersion"] == "10"
    assert "sendInitialEvents" not in again.query


@pytest.mark.guarantee("WL1")
async def test_later_streamed_list_is_not_older_than_what_was_seen(reflector, transport):
    transport.on_watch(PODS, end_of_list(Feed(), 10).bookmark(12).error(410, "Expired"), end_of_list(Feed(), 20).end())
    await reflector.step()
    await reflector.step()
    again = transport.sent("GET", watch=True)[1]
    assert (again.query["resourceVersion"], again.query["resourceVersionMatch"]) == ("12", "NotOlderThan")


@pytest.mark.guarantee("WL8")
async def test_every_object_of_a_streamed_list_is_prepared_once(reflector, transport, sink):
    transport.on_watch(PODS, end_of_list(Feed().event("ADDED", pod("a", 5)).event("ADDED", pod("b", 6)), 10).end())
    await reflector.step()
    assert sink.prepared == ["a", "b"]


@pytest.mark.guarantee("WL4")
@pytest.mark.parametrize("ending", [Feed.end, Feed.fail])
async def test_streamed_list_that_breaks_is_thrown_away_and_replaced_by_a_plain_one(reflector, transport, sink, ending):
    transport.on("GET", PODS, listing(10, pod("b", 6)))
    transport.on_watch(PODS, ending(Feed().event("ADDED", pod("a", 5))))
    await reflector.step()
    await reflector.step()
    assert sink.seen == [("replaced", ["b"], "10")]
    assert anyio.current_time() == 0


@pytest.mark.guarantee("WL4")
@pytest.mark.parametrize("failure", [refused(), Feed(429, status(429, "TooManyRequests").body)])
async def test_streamed_list_of_a_busy_server_is_tried_again_after_a_wait(reflector, transport, sink, failure):
    transport.on_watch(PODS, failure, end_of_list(Feed(), 10).end())
    await reflector.step()
    assert anyio.current_time() >= 0.8
    await reflector.step()
    assert sink.seen == [("replaced", [], "10")]
    assert transport.sent("GET") == []


@pytest.mark.guarantee("WL4")
async def test_expired_version_is_left_out_of_the_next_streamed_list(reflector, transport, sink):
    transport.on_watch(
        PODS,
        end_of_list(Feed(), 10).error(410, "Expired"),
        Feed().error(410, "Expired"),
        end_of_list(Feed(), 20).end(),
    )
    for _ in range(3):
        await reflector.step()
    versions = [watch.query.get("resourceVersion") for watch in transport.sent("GET", watch=True)]
    assert versions == [None, "10", None]
    assert sink.seen == [("replaced", [], "10"), ("replaced", [], "20")]


@pytest.mark.guarantee("WL5")
async def test_server_that_refuses_streaming_is_not_asked_again(client, reflector, transport, sink, clock, rng):
    refusal = status(422, "Invalid", "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch")
    transport.on("GET", PODS, listing(10))
    transport.on_watch(PODS, Feed(422, refusal.body), Feed().error(410, "Expired"))
    for _ in range(4):
        await reflector.step()
    assert [("sendInitialEvents" in w.query) for w in transport.sent("GET", watch=True)] == [True, False]
    assert len(transport.sent("GET")) == 2


@pytest.mark.guarantee("WL6")
async def test_missing_marker_ends_in_a_plain_list_after_30_quiet_seconds(reflector, transport, sink):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    transport.on_watch(PODS, Feed().event("ADDED", pod("a", 5)), Feed().error(410, "Expired"))
    await reflector.step()
    assert anyio.current_time() == pytest.approx(30)
    for _ in range(3):
        await reflector.step()
    assert sink.seen[0] == ("replaced", ["a"], "10")
    assert [("sendInitialEvents" in w.query) for w in transport.sent("GET", watch=True)] == [True, False]


@pytest.mark.guarantee("WL6")
async def test_server_that_goes_on_with_changes_instead_of_a_marker_is_listed_plainly(reflector, transport, sink):
    """An aggregated API that knows nothing of streamed lists, and a kind that is never quiet."""
    transport.on("GET", PODS, listing(900, pod("a", 899)))
    busy = Feed().event("ADDED", pod("a", 5))
    for version in range(11, 200):
        busy.wait(2).event("MODIFIED", pod("a", version))
    transport.on_watch(PODS, busy, Feed().error(410, "Expired"))
    await reflector.step()
    assert anyio.current_time() == pytest.approx(30)
    for _ in range(3):
        await reflector.step()
    assert sink.seen[0] == ("replaced", ["a"], "900")
    assert [("sendInitialEvents" in w.query) for w in transport.sent("GET", watch=True)] == [True, False]


@pytest.mark.guarantee("WL6")
async def test_long_list_may_take_longer_than_its_mark_may(reflector, transport, sink):
    long = Feed()
    for number in range(50):
        long.event("ADDED", pod(f"p{number}", number + 1)).wait(10)
    transport.on_watch(PODS, end_of_list(long.event("MODIFIED", pod("p0", 70)), 99).end())
    await reflector.step()
    assert len(sink.seen[0][1]) == 50
    assert transport.sent("GET") == []


@pytest.mark.guarantee("WL9")
@pytest.mark.parametrize(
    ("mode", "version", "wanted"),
    [
        ("auto", ok({"major": "1", "minor": "34+"}), True),
        ("auto", ok({"major": "1", "minor": "33"}), False),
        ("auto", ok({"major": "2", "minor": "0"}), True),
        ("auto", ok({"something": "else"}), False),
        ("auto", status(403, "Forbidden"), False),
        ("auto", TransportError("down"), False),
        ("always", ok({"major": "1", "minor": "20"}), True),
        ("never", ok({"major": "1", "minor": "40"}), False),
    ],
)
async def test_streaming_is_for_servers_that_promise_it(client, transport, mode, version, wanted):
    transport.on("GET", "/version", version)
    lists = StreamingLists(client, mode)
    assert await lists.wanted(POD) is wanted
    await lists.wanted(POD)
    asked = len(transport.sent("GET", "/version"))
    assert asked == (0 if mode != "auto" else 2 if isinstance(version, Exception) else 1)


@pytest.mark.guarantee("WL9")
def test_unknown_mode_is_refused(client):
    with pytest.raises(ValueError, match="one of auto, always, never"):
        StreamingLists(client, "sometimes")


@pytest.mark.guarantee("WL2", "IN4")
async def test_informer_of_a_streaming_server_reports_what_vanished_meanwhile(client, transport, clock, rng):
    transport.on_watch(
        PODS,
        end_of_list(Feed().event("ADDED", pod("a", 5)).event("ADDED", pod("b", 6)), 10).error(410, "Expired"),
        end_of_list(Feed().event("ADDED", pod("b", 6)).event("ADDED", pod("c", 12)), 13),
    )
    cache = Cache(client, CacheOptions(streaming_lists="always"), clock=clock, rng=rng)
    heard = []
    cache.informer(POD).add_handler(lambda event: heard.append((event.type, event.entry.meta.name, event.initial)))
    async with anyio.create_task_group() as tasks:
        await tasks.start(cache.run)
        await cache.wait_for_sync()
        await anyio.sleep(1)
        tasks.cancel_scope.cancel()
    assert heard == [("create", "a", True), ("create", "b", True), ("delete", "a", False), ("create", "c", False)]


@pytest.mark.guarantee("WA10")
async def test_internal_errors_are_watched_again_while_the_window_is_open(client, sink, clock, rng, transport):
    reflector = Reflector(
        client, Target(POD), sink, clock=clock, rng=rng, options=WatchOptions(max_internal_error_retry_s=5)
    )
    transport.on("GET", PODS, listing(10))
    feeds = [Feed().bookmark(11 + n).error(500, "InternalError") for n in range(20)]
    transport.on_watch(PODS, *feeds)
    for _ in range(2):
        await reflector.step()
    assert len(transport.sent("GET")) == 1
    while len(transport.sent("GET")) == 1:
        await reflector.step()
    assert 5 <= anyio.current_time() < 30
    await anyio.sleep(61)
    before = len(transport.sent("GET"))
    await reflector.step()
    await reflector.step()
    assert len(transport.sent("GET")) == before


@pytest.mark.guarantee("PY5")
async def test_long_ingest_lets_others_run_every_5_milliseconds(client, sink, rng, transport):
    class Slow:
        """A clock on which every look takes a millisecond."""

        now_s = 0.0

        def boottime(self):
            self.now_s += 0.001
            return self.now_s

        async def sleep(self, seconds):
            await anyio.sleep(seconds)

    events = b"".join(
        b'{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"p%d","resourceVersion":"%d"}}}\n' % (n, 11 + n)
        for n in range(320)
    )
    transport.on("GET", PODS, listing(10))
    transport.on_watch(PODS, Feed().bytes(events).end())
    reflector = Reflector(client, Target(POD), sink, clock=Slow(), rng=rng)
    await reflector.step()
    turns = 0

    async def others():
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        await reflector.step()
        tasks.cancel_scope.cancel()
    assert len(sink.seen) == 321
    assert turns >= 4


@pytest.mark.guarantee("LI13", "WL4")
async def test_kind_that_may_not_be_listed_is_complained_of_once_however_often_it_is_tried(
    reflector, transport, caplog
):
    transport.on_watch(PODS, *[Feed(403, status(403, "Forbidden").body) for _ in range(10)])
    transport.on("GET", PODS, status(403, "Forbidden"))
    with caplog.at_level("INFO"):
        for _ in range(10):
            await reflector.step()
    assert len(transport.sent("GET", watch=True)) > 3
    assert caplog.text.count("watch.list_not_complete") == 1
    assert caplog.text.count("reflector.failed") == 1
