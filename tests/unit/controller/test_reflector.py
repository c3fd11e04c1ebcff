import anyio
import pytest
from support.scripted_transport import Feed, ScriptedTransport, listing, pod, refused, reset, status

from agentops.controller.reflector import Reflector
from agentops.controller.target import Target
from agentops.kube.client import ApiClient
from agentops.kube.errors import TransportError
from agentops.kube.kinds import POD

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"


class Sink:
    def __init__(self):
        self.seen = []

    def prepare(self, meta, raw):
        return meta, raw

    async def replaced(self, items, resource_version):
        self.seen.append(("replaced", [meta.name for meta, _ in items], resource_version))

    def changed(self, type, meta, raw):
        self.seen.append((type, meta.name, meta.resource_version))

    def advanced(self, resource_version):
        self.seen.append(("bookmark", resource_version))


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def reflector(transport: ScriptedTransport, sink, clock, rng):
    return Reflector(ApiClient(transport, clock=clock), Target(POD), sink, clock=clock, rng=rng)


async def steps(reflector, count):
    for _ in range(count):
        await reflector.step()


@pytest.mark.guarantee("LI1", "WA1", "WA2")
async def test_first_list_takes_any_cached_state_and_the_watch_goes_on_from_it(reflector, transport, sink):
    transport.on("GET", PODS, listing(10, pod("a", 5)))
    transport.on_watch(PODS, Feed().event("ADDED", pod("b", 11)).event("DELETED", pod("a", 12)).end())
    await steps(reflector, 2)
    assert sink.seen == [("replaced", ["a"], "10"), ("ADDED", "b", "11"), ("DELETED", "a", "12")]
    (first,) = transport.sent("GET")
    assert first.query == {"limit": "500", "resourceVersion": "0"}
    (watch,) = transport.sent("GET", watch=True)
    assert watch.query["resourceVersion"] == "10"
    assert reflector.statistics().resource_version == "12", "deletions count"
    assert watch.query["allowWatchBookmarks"] == "true"
    assert 300 <= int(watch.query["timeoutSeconds"]) < 600


@pytest.mark.guarantee("WA1")
async def test_every_watch_draws_its_own_timeout(reflector, transport):
    transport.on("GET", PODS, listing(10))
    for version in range(11, 21):
        transport.on_watch(PODS, Feed().bookmark(version).end())
    await steps(reflector, 11)
    assert len({w.query["timeoutSeconds"] for w in transport.sent("GET", watch=True)}) > 5


@pytest.mark.guarantee("WA3", "WA5")
async def test_clean_end_watches_again_from_the_bookmark_at_once(reflector, transport, sink):
    transport.on("GET", PODS, listing(10))
    transport.on_watch(PODS, Feed().bookmark(40).end(), Feed().event("ADDED", pod("a", 41)).end())
    before = anyio.current_time()
    await steps(reflector, 3)
    assert anyio.current_time() == before
    assert [w.query["resourceVersion"] for w in transport.sent("GET", watch=True)] == ["10", "40"]
    assert len(transport.sent("GET")) == 1


@pytest.mark.guarantee("WA6")
async def test_very_short_watch_without_events_waits_and_lists_again(reflector, transport):
    transport.on("GET", PODS, listing(10), listing(10))
    transport.on_watch(PODS, Feed().end())
    before = anyio.current_time()
    await steps(reflector, 3)
    assert 0.8 <= anyio.current_time() - before <= 1.6
    assert [r.query for r in transport.sent("GET")] == [
        {"limit": "500", "resourceVersion": "0"},
        {"resourceVersion": "10"},
    ]


@pytest.mark.guarantee("LI5", "LI7")
async def test_pages_are_joined_and_only_the_first_one_asks_for_a_version(reflector, transport, sink):
    transport.on(
        "GET",
        PODS,
        listing(10, pod("a", 1), token="t1"),
        listing(99, pod("b", 2), token="t2"),
        listing(99, pod("c", 3)),
    )
    await reflector.step()
    assert sink.seen == [("replaced", ["a", "b", "c"], "10")]
    assert [r.query for r in transport.sent("GET")] == [
        {"limit": "500", "resourceVersion": "0"},
        {"limit": "500", "continue": "t1"},
        {"limit": "500", "continue": "t2"},
    ]


@pytest.mark.guarantee("LI7")
async def test_server_that_answers_in_pages_is_asked_in_pages_from_then_on(reflector, transport, sink):
    transport.on("GET", PODS, listing(10, pod("a", 1), token="t"), listing(10), listing(30, token="u"), listing(30))
    transport.on_watch(PODS, Feed().bookmark(20).error(410, "Expired"))
    await steps(reflector, 3)
    assert [r.query for r in transport.sent("GET")] == [
        {"limit": "500", "resourceVersion": "0"},
        {"limit": "500", "continue": "t"},
        {"limit": "500", "resourceVersion": "20"},
        {"limit": "500", "continue": "u"},
    ]


@pytest.mark.guarantee("LI6")
async def test_expired_page_token_means_one_list_in_a_single_piece(reflector, transport, sink):
    transport.on(
        "GET", PODS, listing(10, pod("a", 1), token="t1"), status(410, "Expired"), listing(12, pod("a", 1), pod("b", 2))
    )
    await reflector.step()
    assert sink.seen == [("replaced", ["a", "b"], "12")]
    assert transport.sent("GET")[-1].query == {"resourceVersion": "0"}


@pytest.mark.guarantee("LI2", "LI3", "LI4", "WA9")
async def test_expired_watch_lists_at_the_last_version_and_then_without_one(reflector, transport, sink):
    transport.on("GET", PODS, listing(10), status(410, "Expired"), listing(50, pod("a", 49)), listing(60))
    transport.on_watch(
        PODS, Feed().event("ADDED", pod("a", 20)).error(410, "Expired"), Feed().bookmark(55).error(410, "Expired")
    )
    before = anyio.current_time()
    await steps(reflector, 3)
    assert anyio.current_time() == before
    assert [r.query for r in transport.sent("GET")] == [
        {"limit": "500", "resourceVersion": "0"},
        {"resourceVersion": "20"},
        {"limit": "500"},
    ]
    assert sink.seen[-1] == ("replaced", ["a"], "50")
    await steps(reflector, 2)
    assert transport.sent("GET")[-1].query == {"resourceVersion": "55"}, "versions are used again"


@pytest.mark.guarantee("LI3")
async def test_too_large_version_lists_again_without_one(reflector, transport):
    too_large = status(504, "Timeout", "Too large resource version: 20, current: 10")
    transport.on("GET", PODS, listing(20), too_large, listing(10))
    transport.on_watch(PODS, Feed().event("ADDED", pod("a", 21)).error(410, "Gone"))
    await steps(reflector, 3)
    assert transport.sent("GET")[-1].query == {"limit": "500"}


@pytest.mark.guarantee("WA9")
async def test_server_that_expires_what_it_just_listed_is_not_hammered(reflector, transport):
    transport.on("GET", PODS, listing(10))
    transport.on_watch(PODS, *[Feed().error(410, "Expired") for _ in range(10)])
    before = anyio.current_time()
    await steps(reflector, 12)
    assert anyio.current_time() - before > 10


@pytest.mark.parametrize("failure", [refused(), Feed(429, status(429, "TooManyRequests").body)], ids=["refused", "429"])
@pytest.mark.guarantee("WA7")
async def test_refused_watch_is_tried_again_without_a_list(reflector, transport, failure):
    transport.on("GET", PODS, listing(10))
    transport.on_watch(PODS, failure, Feed().event("ADDED", pod("a", 11)).end())
    await steps(reflector, 3)
    assert len(transport.sent("GET")) == 1
    assert len(transport.sent("GET", watch=True)) == 2


@pytest.mark.guarantee("WA10")
async def test_throttled_stream_waits_and_goes_on_without_a_list(reflector, transport):
    transport.on("GET", PODS, listing(10))
    transport.on_watch(PODS, Feed().bookmark(11).error(429, "TooManyRequests"), Feed().bookmark(12).end())
    before = anyio.current_time()
    await steps(reflector, 3)
    assert anyio.current_time() - before >= 0.8
    assert [w.query["resourceVersion"] for w in transport.sent("GET", watch=True)] == ["10", "11"]
    assert len(transport.sent("GET")) == 1


@pytest.mark.guarantee("WA8")
async def test_watch_that_cannot_be_opened_otherwise_lists_again(reflector, transport):
    transport.on("GET", PODS, listing(10), listing(11))
    transport.on_watch(PODS, Feed(500, status(500, "InternalError").body))
    await steps(reflector, 3)
    assert len(transport.sent("GET")) == 2


@pytest.mark.guarantee("WA8")
async def test_watch_that_is_reset_after_a_list_lists_again(reflector, transport):
    transport.on("GET", PODS, listing(10), listing(11))
    transport.on_watch(PODS, reset())
    await steps(reflector, 3)
    assert len(transport.sent("GET")) == 2


@pytest.mark.guarantee("WA15")
async def test_retry_after_is_a_floor_of_the_wait(reflector, transport):
    transport.on("GET", PODS, status(429, "TooManyRequests", headers={"retry-after": "17"}), listing(10))
    before = anyio.current_time()
    await steps(reflector, 2)
    assert anyio.current_time() - before >= 17


@pytest.mark.guarantee("WA12")
async def test_broken_watch_goes_on_from_the_last_event_without_a_list(reflector, transport, sink):
    transport.on("GET", PODS, listing(10))
    transport.on_watch(PODS, Feed().event("ADDED", pod("a", 11)).fail(), Feed().event("MODIFIED", pod("a", 12)).end())
    await steps(reflector, 3)
    assert len(transport.sent("GET")) == 1
    assert [w.query["resourceVersion"] for w in transport.sent("GET", watch=True)] == ["10", "11"]


@pytest.mark.guarantee("WA12")
async def test_watch_cut_in_the_middle_of_an_event_goes_on_from_the_one_before(reflector, transport, sink):
    transport.on("GET", PODS, listing(10))
    transport.on_watch(
        PODS, Feed().event("ADDED", pod("a", 11)).bytes(b'{"type":"MODI').end(), Feed().bookmark(12).end()
    )
    await steps(reflector, 3)
    assert [w.query["resourceVersion"] for w in transport.sent("GET", watch=True)] == ["10", "11"]


@pytest.mark.guarantee("WA12")
async def test_quiet_watch_that_breaks_goes_on_where_it_was_but_is_listed_when_it_breaks_again(
    reflector, transport, sink
):
    transport.on("GET", PODS, listing(10), listing(20))
    transport.on_watch(PODS, Feed().wait(60).fail(), Feed().wait(60).fail())
    await steps(reflector, 3)
    assert [w.query["resourceVersion"] for w in transport.sent("GET", watch=True)] == ["10", "10"]
    assert len(transport.sent("GET")) == 1
    await reflector.step()
    assert len(transport.sent("GET")) == 2


@pytest.mark.parametrize("last", [Feed().bookmark(10), Feed().wait(60)], ids=["an event", "nothing"])
@pytest.mark.guarantee("WA12", "RC2")
async def test_break_whose_first_new_try_is_reset_is_watched_on_and_listed_when_the_next_one_is_too(
    reflector, transport, last
):
    """A server that is killed may let the next connection in before its listener is gone."""
    transport.on("GET", PODS, listing(10), listing(20))
    transport.on_watch(PODS, last.fail(), reset(), refused(), reset())
    await steps(reflector, 2)
    before = anyio.current_time()
    await reflector.step()
    assert anyio.current_time() - before >= 0.8
    await reflector.step()
    assert [w.query["resourceVersion"] for w in transport.sent("GET", watch=True)] == ["10"] * 3
    assert len(transport.sent("GET")) == 1
    await steps(reflector, 2)
    assert len(transport.sent("GET")) == 2


@pytest.mark.guarantee("WA8")
async def test_watch_that_breaks_as_soon_as_it_is_open_is_listed(reflector, transport, sink):
    transport.on("GET", PODS, listing(10), listing(20))
    transport.on_watch(PODS, Feed().wait(0.5).fail())
    await steps(reflector, 3)
    assert len(transport.sent("GET")) == 2


@pytest.mark.guarantee("WA11")
async def test_undecodable_event_lists_again(reflector, transport):
    transport.on("GET", PODS, listing(10), listing(12))
    transport.on_watch(PODS, Feed().event("ADDED", pod("a", 11)).bytes(b"<html>\n"))
    await steps(reflector, 3)
    assert len(transport.sent("GET")) == 2


@pytest.mark.guarantee("WA13")
async def test_event_without_a_version_lists_again_instead_of_being_skipped(reflector, transport, sink):
    transport.on("GET", PODS, listing(10), listing(12))
    transport.on_watch(PODS, Feed().event("DELETED", {"kind": "Pod", "metadata": {"name": "a"}}))
    await steps(reflector, 3)
    assert len(transport.sent("GET")) == 2


@pytest.mark.guarantee("WA13")
async def test_unknown_event_types_are_skipped(reflector, transport, sink):
    transport.on("GET", PODS, listing(10))
    transport.on_watch(PODS, Feed().event("SPARKLE", pod("a", 11)).event("ADDED", pod("b", 12)).end())
    await steps(reflector, 2)
    assert sink.seen[1:] == [("ADDED", "b", "12")]


@pytest.mark.guarantee("WA16")
async def test_silence_after_a_bookmark_is_a_dead_connection_after_90_seconds(reflector, transport):
    transport.on("GET", PODS, listing(10))
    transport.on_watch(PODS, Feed().bookmark(20), Feed().bookmark(21).end())
    before = anyio.current_time()
    await steps(reflector, 2)
    assert anyio.current_time() - before == pytest.approx(90)
    await steps(reflector, 1)
    assert transport.sent("GET", watch=True)[-1].query["resourceVersion"] == "20"


@pytest.mark.guarantee("WA16")
async def test_silence_without_bookmarks_is_bounded_by_the_watch_timeout(reflector, transport):
    transport.on("GET", PODS, listing(10))
    transport.on_watch(PODS, Feed().event("ADDED", pod("a", 11)))
    before = anyio.current_time()
    await steps(reflector, 2)
    seconds = int(transport.sent("GET", watch=True)[0].query["timeoutSeconds"])
    assert anyio.current_time() - before == pytest.approx(seconds + 15)


@pytest.mark.guarantee("WA14")
async def test_backoff_grows_to_its_cap_and_forgets_after_a_calm_time(reflector, transport):
    transport.on("GET", PODS, status(403, "Forbidden"))
    waits = []
    for _ in range(9):
        before = anyio.current_time()
        await reflector.step()
        waits.append(anyio.current_time() - before)
    for wait, base in zip(waits, [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30], strict=True):
        assert base <= wait <= 2 * base
    await anyio.sleep(121)
    before = anyio.current_time()
    await reflector.step()
    assert anyio.current_time() - before <= 1.6


@pytest.mark.guarantee("LI13")
async def test_failures_are_kept_for_the_readiness_check_and_cleared_by_success(reflector, transport):
    transport.on("GET", PODS, status(403, "Forbidden", "pods is forbidden"), listing(10))
    await reflector.step()
    assert "list of pods failed: pods is forbidden" in reflector.last_error
    assert reflector.failing_s() > 0
    await reflector.step()
    assert reflector.last_error == ""
    assert reflector.failing_s() == 0


@pytest.mark.guarantee("LI13")
async def test_failure_is_logged_once_until_it_changes_or_is_over(reflector, transport, caplog):
    forbidden, gone = status(403, "Forbidden"), status(404, "NotFound")
    transport.on("GET", PODS, forbidden, forbidden, forbidden, gone, gone, listing(10))
    await steps(reflector, 6)
    said = [record.message for record in caplog.records if record.message.startswith("reflector.")]
    assert said == ["reflector.failed", "reflector.failed"] + ["reflector.recovered"] * (len(said) - 2)


@pytest.mark.guarantee("LI13")
async def test_who_may_list_but_not_watch_is_told_once_and_stays_out_of_date(reflector, transport, caplog):
    transport.on("GET", PODS, listing(10))
    transport.on_watch(PODS, *[Feed(403, status(403, "Forbidden", "cannot watch pods").body) for _ in range(20)])
    await steps(reflector, 40)
    assert reflector.last_error == "watch of pods failed: cannot watch pods"
    assert reflector.failing_s() > 300
    assert not reflector.kind_is_gone
    said = [record.message for record in caplog.records if record.message.startswith("reflector.")]
    assert said == ["reflector.failed"]
    transport.on_watch(PODS, Feed().bookmark(11).end())
    await steps(reflector, 2)
    assert (reflector.last_error, reflector.failing_s()) == ("", 0)


@pytest.mark.guarantee("LI8", "LI12")
async def test_list_without_a_version_and_tables_are_failures(reflector, transport):
    transport.on("GET", PODS, listing(""), listing(3, kind="Table"), TransportError("reset"), listing(10))
    for why in ("no resourceVersion", "Table", "reset"):
        await reflector.step()
        assert why in reflector.last_error
    await reflector.step()
    assert reflector.last_error == ""


@pytest.mark.guarantee("CA8")
async def test_metadata_only_asks_for_partial_objects(transport, sink, clock, rng):
    reflector = Reflector(ApiClient(transport), Target(POD, metadata_only=True), sink, clock=clock, rng=rng)
    transport.on("GET", PODS, listing(10))
    transport.on_watch(PODS, Feed().bookmark(11).end())
    await steps(reflector, 2)
    assert "as=PartialObjectMetadataList" in transport.sent("GET")[0].headers["accept"]
    assert "as=PartialObjectMetadata;" in transport.sent("GET", watch=True)[0].headers["accept"]


@pytest.mark.guarantee("CA9")
async def test_selectors_and_namespace_go_into_list_and_watch(transport, sink, clock, rng):
    target = Target(POD, "ns", labels="app=x", fields="spec.nodeName=n1")
    reflector = Reflector(ApiClient(transport), target, sink, clock=clock, rng=rng)
    path = "/api/v1/namespaces/ns/pods"
    transport.on("GET", path, listing(10))
    transport.on_watch(path, Feed().bookmark(11).end())
    await steps(reflector, 2)
    for request in transport.requests:
        assert request.query["labelSelector"] == "app=x"
        assert request.query["fieldSelector"] == "spec.nodeName=n1"
