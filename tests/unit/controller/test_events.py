import json

import anyio
import pytest
from support.scripted_transport import ok, pod, status

from agentops.controller.events import EventBroadcaster
from agentops.kube.client import ApiClient
from agentops.kube.errors import TransportError
from agentops.values.names import is_dns1123_subdomain

pytestmark = pytest.mark.anyio

EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"


@pytest.fixture
def broadcaster(transport, clock, rng):
    transport.on("POST", EVENTS, lambda request: ok(request.body))
    return EventBroadcaster(ApiClient(transport, clock=clock), instance="host", clock=clock, rng=rng)


@pytest.fixture
def recorder(broadcaster):
    return broadcaster.recorder("agent-controller")


async def running(broadcaster, body):
    async with anyio.create_task_group() as tasks:
        await tasks.start(broadcaster.run)
        await body()
        tasks.cancel_scope.cancel()
    await broadcaster.flush()


@pytest.mark.guarantee("EV1", "EV2")
async def test_event_has_what_kubectl_shows(broadcaster, recorder, transport):
    async def body():
        recorder.event(pod("a", 5), "Warning", "Failed", "it broke", "Reconciling", related=pod("b", 6))
        await anyio.sleep(1)

    await running(broadcaster, body)
    (request,) = transport.sent("POST")
    event = request.body
    assert event["metadata"]["name"].startswith("a.")
    assert event["regarding"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "default",
        "name": "a",
        "uid": "uid-a",
        "resourceVersion": "5",
    }
    assert event["related"]["name"] == "b"
    assert (event["type"], event["reason"], event["action"], event["note"]) == (
        "Warning",
        "Failed",
        "Reconciling",
        "it broke",
    )
    assert event["reportingController"] == "agent-controller"
    assert event["reportingInstance"] == "agent-controller-host"
    assert event["eventTime"].endswith("Z")
    assert "series" not in event


@pytest.mark.guarantee("EV3", "EV4")
async def test_repetitions_become_a_series_that_is_written_twice_and_counted(broadcaster, recorder, transport):
    def patched(request):
        return ok(request.body)

    async def body():
        recorder.event(pod("a", 5), "Normal", "Waiting", "first")
        await anyio.sleep(1)
        name = transport.sent("POST")[0].body["metadata"]["name"]
        transport.on("PATCH", f"{EVENTS}/{name}", patched)
        for version in range(6, 36):
            recorder.event(pod("a", version), "Normal", "Waiting", f"note {version}")
            await anyio.sleep(1)
        assert [r.body["series"]["count"] for r in transport.sent("PATCH")] == [2]
        await anyio.sleep(600)

    await running(broadcaster, body)
    assert len(transport.sent("POST")) == 1
    assert [r.body["series"]["count"] for r in transport.sent("PATCH")] == [2, 31]
    assert broadcaster.statistics().series == 0


@pytest.mark.guarantee("EV3")
async def test_another_reason_is_another_event(broadcaster, recorder, transport):
    async def body():
        for reason in ("A", "B"):
            recorder.event(pod("a", 5), "Normal", reason, "same note")
        await anyio.sleep(1)

    await running(broadcaster, body)
    assert len(transport.sent("POST")) == 2


@pytest.mark.guarantee("EV5")
async def test_series_whose_event_has_expired_begins_again(broadcaster, recorder, transport):
    async def body():
        recorder.event(pod("a", 5), "Normal", "R", "n")
        await anyio.sleep(1)
        recorder.event(pod("a", 5), "Normal", "R", "n")
        await anyio.sleep(1)

    await running(broadcaster, body)
    posts = transport.sent("POST")
    assert len(posts) == 2, "PATCH was answered 404"
    assert posts[1].body["series"]["count"] == 2


@pytest.mark.guarantee("EV6")
async def test_recording_never_raises_and_never_blocks(broadcaster, recorder, caplog):
    recorder.event({}, "Normal", "R", "no metadata")
    recorder.event(pod("a", 5), "Terrible", "R", "no such type")
    assert caplog.text.count("event.not_recorded") == 2
    for number in range(1500):
        recorder.event(pod(f"p{number}", 5), "Normal", "R", "n")
    statistics = broadcaster.statistics()
    assert statistics.queued == 1000
    assert statistics.dropped == 500
    assert statistics.series == 1000, "what is dropped is not remembered either"


@pytest.mark.guarantee("EV5")
async def test_unreachable_server_is_tried_again(transport, clock, rng):
    transport.on("POST", EVENTS, TransportError("down"), TransportError("down"), lambda request: ok(request.body))
    broadcaster = EventBroadcaster(ApiClient(transport, clock=clock), clock=clock, rng=rng)

    async def body():
        broadcaster.recorder("c").event(pod("a", 5), "Normal", "R", "n")
        await anyio.sleep(60)

    await running(broadcaster, body)
    assert broadcaster.statistics().written == 1


@pytest.mark.guarantee("EV5")
async def test_refused_event_is_dropped(transport, clock, rng):
    transport.on("POST", EVENTS, status(403, "Forbidden"))
    broadcaster = EventBroadcaster(ApiClient(transport, clock=clock), clock=clock, rng=rng)

    async def body():
        broadcaster.recorder("c").event(pod("a", 5), "Normal", "R", "n")
        await anyio.sleep(60)

    await running(broadcaster, body)
    assert len(transport.sent("POST")) == 1
    assert broadcaster.statistics().failed == 1


@pytest.mark.guarantee("EV6")
async def test_flush_writes_what_is_queued_and_is_bounded(broadcaster, recorder, transport, clock):
    recorder.event(pod("a", 5), "Normal", "R", "n")
    await broadcaster.flush()
    assert len(transport.sent("POST")) == 1


class Stalled:
    """A line on which the first `lost` requests are never answered, though stored with `stores`."""

    host = "stalled"

    def __init__(self, lost, *, stores=False):
        self.lost, self.stores, self.stored, self.patches = lost, stores, [], 0

    async def request(self, method, path, *, query=(), headers=None, body=None, timeout_s=None):
        event = json.loads(body)
        self.lost -= 1
        if method == "PATCH":
            self.patches += 1
            return ok(event)
        known = event["metadata"]["name"] in [each["metadata"]["name"] for each in self.stored]
        if not known and (self.lost < 0 or self.stores):
            self.stored.append(event)
        if self.lost >= 0:
            await anyio.sleep_forever()
        return status(409, "AlreadyExists") if known else ok(event)


@pytest.mark.guarantee("EV6")
@pytest.mark.parametrize("stores", [False, True])
async def test_event_that_is_on_its_way_when_the_manager_stops_is_written_all_the_same(clock, rng, stores):
    line = Stalled(1, stores=stores)
    broadcaster = EventBroadcaster(ApiClient(line, clock=clock), clock=clock, rng=rng)

    async def body():
        broadcaster.recorder("c").event(pod("a", 5), "Normal", "R", "n")
        await anyio.sleep(1)

    await running(broadcaster, body)
    assert [event["note"] for event in line.stored] == ["n"]
    assert line.patches == 0, "one that was said once is no series"
    assert broadcaster.statistics().written == 1


@pytest.mark.guarantee("EV6")
async def test_flush_does_not_wait_for_a_server_that_does_not_answer(clock, rng):
    broadcaster = EventBroadcaster(ApiClient(Stalled(10), clock=clock), clock=clock, rng=rng)
    broadcaster.recorder("c").event(pod("a", 5), "Normal", "R", "n")
    began = anyio.current_time()
    await broadcaster.flush(5)
    assert anyio.current_time() - began == pytest.approx(5)


@pytest.mark.guarantee("EV8")
@pytest.mark.parametrize(("cause", "said"), [("NamespaceTerminating", 0), ("SomethingElse", 1)])
async def test_namespace_that_ends_drops_its_events_without_a_word(transport, clock, rng, caplog, cause, said):
    transport.on("POST", EVENTS, status(403, "Forbidden", causes=[{"reason": cause}]))
    broadcaster = EventBroadcaster(ApiClient(transport, clock=clock), clock=clock, rng=rng)
    broadcaster.recorder("c").event(pod("a", 5), "Normal", "R", "n")
    await broadcaster.flush()
    assert broadcaster.statistics().failed == 1
    assert caplog.text.count("event.refused") == said


@pytest.mark.guarantee("EV2")
async def test_cluster_scoped_objects_have_their_events_in_default(broadcaster, recorder, transport):
    recorder.event(
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "uid": "u"}}, "Normal", "R", "x" * 2000
    )
    await broadcaster.flush()
    (request,) = transport.sent("POST")
    assert request.body["metadata"]["namespace"] == "default"
    assert len(request.body["note"]) == 1024


@pytest.mark.guarantee("EV2")
@pytest.mark.parametrize("name", ["system:node", "a" * 250, "Ends-with.dot."])
async def test_objects_whose_names_an_event_cannot_have_get_events_of_another_name(
    broadcaster, recorder, transport, name
):
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name, "uid": "u"}}
    recorder.event(role, "Normal", "Bound", "to everybody")
    recorder.event(role, "Normal", "Unbound", "again")
    await broadcaster.flush()
    names = [request.body["metadata"]["name"] for request in transport.sent("POST")]
    assert all(is_dns1123_subdomain(each) for each in names), names
    assert len(set(names)) == 2


@pytest.mark.guarantee("EV4")
async def test_series_that_ended_between_two_looks_is_written_with_its_last_count(broadcaster, recorder, transport):
    async def body():
        recorder.event(pod("a", 5), "Normal", "Waiting", "first")
        await anyio.sleep(1)
        first = transport.sent("POST")[0].body["metadata"]["name"]
        transport.on("PATCH", f"{EVENTS}/{first}", lambda request: ok(request.body))
        for _ in range(4):
            recorder.event(pod("a", 5), "Normal", "Waiting", "again")
            await anyio.sleep(1)
        await anyio.sleep(360)  # the series has ended, and the next look at it is some seconds away
        recorder.event(pod("a", 5), "Normal", "Waiting", "a new one")
        await anyio.sleep(1)

    await running(broadcaster, body)
    assert [r.body["series"]["count"] for r in transport.sent("PATCH")] == [2, 5]
    assert len(transport.sent("POST")) == 2


def container(name):
    return f"spec.containers{{{name}}}"


@pytest.mark.guarantee("EV9")
async def test_events_of_two_containers_are_not_the_same(broadcaster, recorder, transport):
    async def body():
        for name in ("a", "b"):
            recorder.event(pod("p", 5), "Normal", "Created", f"Container created: {name}", field_path=container(name))
        await anyio.sleep(1)

    await running(broadcaster, body)
    assert [r.body["regarding"]["fieldPath"] for r in transport.sent("POST")] == [container("a"), container("b")]


CORE_EVENTS = "/api/v1/namespaces/default/events"


@pytest.fixture
def written(transport):
    """The legacy events as the server has them, by message."""
    stored = {}

    def create(request):
        stored[request.body["metadata"]["name"]] = dict(request.body)
        transport.on("PATCH", f"{CORE_EVENTS}/{request.body['metadata']['name']}", patch)
        return ok(request.body)

    def patch(request):
        stored[request.path.rpartition("/")[2]].update(request.body)
        return ok(request.body)

    transport.on("POST", CORE_EVENTS, create)
    return lambda: {event["message"]: event for event in stored.values()}


@pytest.mark.guarantee("EV9", "EV10")
async def test_legacy_events_are_one_per_note_and_count_each_repetition(broadcaster, transport, written):
    recorder = broadcaster.legacy_recorder("kubelet", "node-1")

    async def body():
        for round in (1, 2, 3):
            for name in ("a", "b"):
                recorder.event(pod("p", 5), "Normal", "Created", f"created {name}", field_path=container(name))
            await anyio.sleep(600)
            assert written()["created a"]["count"] == round

    await running(broadcaster, body)
    events = written()
    assert set(events) == {"created a", "created b"}
    event = events["created b"]
    assert event["involvedObject"]["fieldPath"] == container("b")
    assert (event["source"], event["reportingComponent"], event["reportingInstance"]) == (
        {"component": "kubelet", "host": "node-1"},
        "kubelet",
        "node-1",
    )
    assert event["count"] == 3
    assert event["firstTimestamp"] < event["lastTimestamp"]
    assert not {"series", "eventTime", "action"} & event.keys()


@pytest.mark.guarantee("EV7", "EV10")
async def test_a_noisy_object_is_bounded_and_its_many_notes_are_combined(broadcaster, transport, written):
    recorder = broadcaster.legacy_recorder("job-controller")

    async def body():
        for number in range(40):
            recorder.event(pod("p", 5), "Warning", "Failed", f"try {number}")
        await anyio.sleep(1)

    await running(broadcaster, body)
    events = written()
    assert len(events) == 11
    (combined,) = [e for m, e in events.items() if m.startswith("(combined from similar events): ")]
    assert combined["count"] == 15, "10 notes and 15 more, then the object has said enough"
    assert broadcaster.statistics().dropped == 15


@pytest.mark.guarantee("EV5", "EV10")
async def test_a_legacy_event_that_has_expired_begins_anew(broadcaster, transport, written):
    recorder = broadcaster.legacy_recorder("job-controller")

    async def body():
        recorder.event(pod("p", 5), "Normal", "R", "n")
        await anyio.sleep(3601)
        recorder.event(pod("p", 5), "Normal", "R", "n")
        await anyio.sleep(1)

    await running(broadcaster, body)
    assert [r.body["count"] for r in transport.sent("POST")] == [1, 1]
