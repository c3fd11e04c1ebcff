"""Section by section of the list and watch protocol."""

from __future__ import annotations

import base64
import json
from typing import Any

import anyio
import pytest
from support.apiserver import CONFIG_MAPS, PODS, WIDGETS, Api, Watch, config_map, make_server, pod, widget
from trio.testing import MockClock

from agentops.local.apiserver import Stream, User

pytestmark = pytest.mark.anyio


async def add(api: Api, name: str, **labels: str) -> dict[str, Any]:
    body = config_map(name)
    body["metadata"]["labels"] = labels
    reply = await api.post(CONFIG_MAPS, body)
    assert reply.status == 201, reply
    return dict(reply.body)


async def relabel(api: Api, name: str, **labels: str | None) -> dict[str, Any]:
    return dict((await api.patch(f"{CONFIG_MAPS}/{name}", {"metadata": {"labels": labels}})).body)


async def test_a_list_carries_the_current_revision(api: Api) -> None:
    await add(api, "b")
    await add(api, "a")
    reply = await api.get(CONFIG_MAPS)
    assert reply.body["kind"] == "ConfigMapList"
    assert reply.body["metadata"]["resourceVersion"] == str(api.server.store.revision)
    assert [i["metadata"]["name"] for i in reply.body["items"]] == ["a", "b"]


async def test_exact_lists_show_the_past(api: Api) -> None:
    first = await add(api, "a")
    await add(api, "b")
    at = first["metadata"]["resourceVersion"]
    reply = await api.get(f"{CONFIG_MAPS}?resourceVersion={at}&resourceVersionMatch=Exact")
    assert [i["metadata"]["name"] for i in reply.body["items"]] == ["a"]
    assert reply.body["metadata"]["resourceVersion"] == at


@pytest.mark.parametrize(
    ("query", "code", "message"),
    [
        ("resourceVersion=abc", 400, 'resourceVersion: Invalid value: "abc": strconv.ParseUint'),
        ("resourceVersionMatch=Exact", 422, "resourceVersionMatch is forbidden unless resourceVersion is provided"),
        ("resourceVersionMatch=Exact&resourceVersion=0", 422, 'is forbidden for resourceVersion "0"'),
        ("continue=%21%21", 400, "invalid continue token"),
        ("labelSelector=a%20==%20=", 400, "found '=', expected: identifier"),
        (
            "fieldSelector=spec.foo=1",
            400,
            '"spec.foo" is not a known field selector: only "metadata.name", "metadata.n',
        ),
        ("watch=true&resourceVersionMatch=NotOlderThan&resourceVersion=1", 422, "unless sendInitialEvents is provided"),
        ("watch=true&sendInitialEvents=true", 422, "sendInitialEvents requires setting resourceVersionMatch"),
        ("watch=true&resourceVersion=abc", 500, "strconv.ParseUint"),
    ],
)
async def test_bad_list_options_are_refused(api: Api, query: str, code: int, message: str) -> None:
    reply = await api.get(f"{CONFIG_MAPS}?{query}")
    assert reply.status == code
    assert message in reply.message


async def test_a_revision_of_the_future_is_a_timeout(api: Api) -> None:
    for path in (CONFIG_MAPS, f"{CONFIG_MAPS}/x"):
        reply = await api.get(f"{path}?resourceVersion=99999")
        assert (reply.status, reply.reason) == (504, "Timeout")
        assert reply.message.startswith("Timeout: Too large resource version: 99999, current: ")
        assert reply.body["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


async def test_pages_are_of_one_snapshot(api: Api) -> None:
    for name in "abcde":
        await add(api, name)
    first = (await api.get(f"{CONFIG_MAPS}?limit=2")).body
    assert first["metadata"]["remainingItemCount"] == 3
    assert (await api.get(f"{CONFIG_MAPS}?limit=2&continue={first['metadata']['continue']}")).body["metadata"][
        "remainingItemCount"
    ] == 1
    await add(api, "bb")
    await api.delete(f"{CONFIG_MAPS}/d")
    names, token = [i["metadata"]["name"] for i in first["items"]], first["metadata"]["continue"]
    while token:
        page = (await api.get(f"{CONFIG_MAPS}?limit=2&continue={token}")).body
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        names += [i["metadata"]["name"] for i in page["items"]]
        token = page["metadata"].get("continue", "")
    assert names == list("abcde")
    assert "remainingItemCount" not in page["metadata"]


async def test_a_compacted_page_is_expired(api: Api) -> None:
    for name in "abc":
        await add(api, name)
    token = (await api.get(f"{CONFIG_MAPS}?limit=1")).body["metadata"]["continue"]
    await add(api, "z")
    api.server.store.compact(api.server.store.revision)
    reply = await api.get(f"{CONFIG_MAPS}?limit=1&continue={token}")
    assert (reply.status, reply.reason) == (410, "Expired")
    fresh = reply.body["metadata"]["continue"]
    rest = await api.get(f"{CONFIG_MAPS}?continue={fresh}")
    assert [i["metadata"]["name"] for i in rest.body["items"]] == ["b", "c", "z"]


async def test_selectors_choose(api: Api) -> None:
    await add(api, "a", tier="x")
    await add(api, "b", tier="y")
    await add(api, "c")
    for selector, names in (
        ("labelSelector=tier=x", ["a"]),
        ("labelSelector=tier!=x", ["b", "c"]),
        ("labelSelector=tier in (x,y)", ["a", "b"]),
        ("labelSelector=!tier", ["c"]),
        ("fieldSelector=metadata.name=b", ["b"]),
        ("fieldSelector=metadata.name!=b,metadata.namespace=default", ["a", "c"]),
    ):
        reply = await api.get(f"{CONFIG_MAPS}?{selector}")
        assert [i["metadata"]["name"] for i in reply.body["items"]] == names, selector


async def test_pods_are_selected_by_node_and_phase(api: Api) -> None:
    await api.post(PODS, pod("a", nodeName="n1"))
    await api.post(PODS, pod("b"))
    by_node = await api.get("/api/v1/pods?fieldSelector=spec.nodeName=n1")
    assert [i["metadata"]["name"] for i in by_node.body["items"]] == ["a"]
    by_phase = await api.get("/api/v1/pods?fieldSelector=status.phase=Pending,spec.nodeName=")
    assert [i["metadata"]["name"] for i in by_phase.body["items"]] == ["b"]


async def test_custom_resources_are_selected_only_by_selectable_fields(widgets: Api) -> None:
    await widgets.post(WIDGETS, widget("a", mode="task"))
    await widgets.post(WIDGETS, widget("b"))
    reply = await widgets.get(f"{WIDGETS}?fieldSelector=spec.mode=task")
    assert [i["metadata"]["name"] for i in reply.body["items"]] == ["a"]
    assert (await widgets.get(f"{WIDGETS}?fieldSelector=spec.model=gpt")).status == 400


async def test_a_watch_without_a_revision_starts_with_what_is_there(api: Api) -> None:
    await add(api, "a")
    watch = await api.watch(CONFIG_MAPS)
    await add(api, "b")
    await api.delete(f"{CONFIG_MAPS}/a")
    assert await watch.take(3) == [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a")]
    await watch.close()
    assert api.server.watches.count == 0


async def test_a_watch_from_a_revision_has_only_what_came_after(api: Api) -> None:
    first = await add(api, "a")
    await relabel(api, "a", x="1")
    watch = await api.watch(f"{CONFIG_MAPS}?resourceVersion={first['metadata']['resourceVersion']}")
    await add(api, "b")
    assert await watch.take(2) == [("MODIFIED", "a"), ("ADDED", "b")]
    await watch.close()


async def test_the_revision_of_a_deletion_is_new(api: Api) -> None:
    created = await add(api, "a")
    watch = await api.watch(f"{CONFIG_MAPS}?resourceVersion={created['metadata']['resourceVersion']}")
    await api.delete(f"{CONFIG_MAPS}/a")
    event = await watch.next()
    assert event["type"] == "DELETED"
    assert int(event["object"]["metadata"]["resourceVersion"]) == api.server.store.revision
    await watch.close()


async def test_selectors_turn_changes_into_added_and_deleted(api: Api) -> None:
    watch = await api.watch(f"{CONFIG_MAPS}?labelSelector=in=yes")
    await add(api, "a")
    await relabel(api, "a", **{"in": "yes"})
    await relabel(api, "a", more="1")
    left = await relabel(api, "a", **{"in": "no"})
    events = [await watch.next() for _ in range(3)]
    assert [e["type"] for e in events] == ["ADDED", "MODIFIED", "DELETED"]
    assert events[2]["object"]["metadata"]["labels"] == {"in": "yes", "more": "1"}
    assert events[2]["object"]["metadata"]["resourceVersion"] == left["metadata"]["resourceVersion"]
    await watch.close()


async def test_a_watch_of_one_name_sees_that_object_only(api: Api) -> None:
    watch = await api.watch(f"{CONFIG_MAPS}?fieldSelector=metadata.name=b")
    await add(api, "a")
    await add(api, "b")
    assert await watch.take(1) == [("ADDED", "b")]
    await watch.close()


async def test_a_compacted_revision_ends_the_watch_with_an_error_event(api: Api) -> None:
    await add(api, "a")
    await add(api, "b")
    api.server.store.compact(api.server.store.revision)
    watch = await api.watch(f"{CONFIG_MAPS}?resourceVersion=1")
    assert watch.status == 200
    events = await watch.rest()
    assert [e["type"] for e in events] == ["ERROR"]
    status = events[0]["object"]
    assert (status["code"], status["reason"]) == (410, "Expired")
    assert status["message"] == f"too old resource version: 1 ({api.server.store.revision})"


async def test_a_watch_list_marks_the_end_of_the_beginning(api: Api) -> None:
    await add(api, "a")
    query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    watch = await api.watch(f"{CONFIG_MAPS}?{query}")
    added, bookmark = await watch.next(), await watch.next()
    assert added["type"] == "ADDED"
    assert bookmark["type"] == "BOOKMARK"
    meta = bookmark["object"]["metadata"]
    assert meta["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert meta["resourceVersion"] == str(api.server.store.revision)
    assert bookmark["object"]["kind"] == "ConfigMap"
    await add(api, "b")
    assert await watch.take(1) == [("ADDED", "b")]
    await watch.close()


async def test_send_initial_events_false_sends_none(api: Api) -> None:
    await add(api, "a")
    watch = await api.watch(f"{CONFIG_MAPS}?sendInitialEvents=false&resourceVersionMatch=NotOlderThan")
    await add(api, "b")
    assert await watch.take(1) == [("ADDED", "b")]
    await watch.close()


@pytest.mark.parametrize("anyio_backend", [("trio", {})])
async def test_timeouts_end_a_watch_cleanly(api: Api, anyio_backend: object) -> None:
    watch = await api.watch(f"{CONFIG_MAPS}?timeoutSeconds=1")
    assert await watch.rest() == []
    assert api.server.watches.count == 0


async def test_a_slow_reader_is_cut_off_and_nothing_is_dropped_silently() -> None:
    server = make_server(watch_queue_size=3)
    api = Api(server)
    watch = await api.watch(f"{CONFIG_MAPS}?resourceVersion={server.store.revision}")
    for number in range(6):
        await add(api, f"n{number}")
    events = await watch.rest()
    assert events == []
    assert server.watches.count == 0
    server.close()


async def test_metadata_only_lists_and_watches_carry_no_spec(api: Api) -> None:
    await add(api, "a", x="1")
    accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    listed = (await api.get(CONFIG_MAPS, accept=accept)).body
    assert listed["kind"] == "PartialObjectMetadataList"
    assert listed["items"][0]["kind"] == "PartialObjectMetadata"
    assert set(listed["items"][0]) == {"kind", "apiVersion", "metadata"}
    watch = await api.watch(CONFIG_MAPS, accept="application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
    event = await watch.next()
    assert event["object"]["kind"] == "PartialObjectMetadata"
    assert event["object"]["metadata"]["labels"] == {"x": "1"}
    await watch.close()


async def test_fifty_watchers_see_every_write(api: Api) -> None:
    watches = [await api.watch(f"{CONFIG_MAPS}?resourceVersion={api.server.store.revision}") for _ in range(50)]
    for number in range(20):
        await add(api, f"n{number}")
    seen: list[int] = []

    async def drain(watch: Any) -> None:
        seen.append(len(await watch.take(20)))
        await watch.close()

    async with anyio.create_task_group() as tasks:
        for watch in watches:
            tasks.start_soon(drain, watch)
    assert seen == [20] * 50


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})])
async def test_bookmarks_come_every_minute_and_before_the_end(api: Api, anyio_backend: object) -> None:
    watch = await api.watch(f"{CONFIG_MAPS}?allowWatchBookmarks=true&timeoutSeconds=100&resourceVersion=1")
    start = anyio.current_time()
    await api.server.handle(api.request("POST", "/api/v1/namespaces/default/secrets", _SECRET))
    events = await watch.rest(within_s=200)
    seen = [(event["type"], event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert seen == [("BOOKMARK", str(api.server.store.revision))] * 2
    assert anyio.current_time() - start == pytest.approx(100)


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})])
async def test_history_is_forgotten_after_five_minutes(api: Api, anyio_backend: object) -> None:
    async with anyio.create_task_group() as tasks:
        await tasks.start(api.server.run)
        first = await add(api, "a")
        for number in range(5):
            await relabel(api, "a", n=str(number))
        await anyio.sleep(200)
        watch = await api.watch(
            f"{CONFIG_MAPS}?resourceVersion={first['metadata']['resourceVersion']}&timeoutSeconds=1"
        )
        assert len(await watch.rest()) == 5
        await anyio.sleep(200)
        watch = await api.watch(
            f"{CONFIG_MAPS}?resourceVersion={first['metadata']['resourceVersion']}&timeoutSeconds=1"
        )
        assert [e["type"] for e in await watch.rest()] == ["ERROR"]
        assert (await api.get(f"{CONFIG_MAPS}/a")).status == 200
        tasks.cancel_scope.cancel()


_SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}


async def test_a_reader_too_slow_for_big_objects_is_cut_off_by_bytes() -> None:
    with make_server() as server:
        api = Api(server)
        revision = server.store.revision
        watch = await api.watch(f"{CONFIG_MAPS}?resourceVersion={revision}")
        await api.post(CONFIG_MAPS, config_map("first"))
        assert await watch.take(1) == [("ADDED", "first")]
        for number in range(12):
            await api.post(CONFIG_MAPS, config_map(f"big{number}", k="x" * 1_000_000))
        assert len(await watch.rest()) < 12
        await watch.close()


async def test_initial_events_are_nothing_for_a_list(api: Api) -> None:
    reply = await api.get(f"{CONFIG_MAPS}?sendInitialEvents=true")
    assert (reply.status, "sendInitialEvents is forbidden for list" in reply.message) == (422, True)


async def test_a_page_of_the_past_reads_that_page_only(api: Api) -> None:
    for number in range(100):
        await add(api, f"a{number:02}")
    token = (await api.get(f"{CONFIG_MAPS}?limit=5")).body["metadata"]["continue"]
    await add(api, "b")
    statements: list[str] = []
    api.server.store._sql.set_trace_callback(statements.append)
    page = (await api.get(f"{CONFIG_MAPS}?limit=5&continue={token}")).body
    api.server.store._sql.set_trace_callback(None)
    assert [item["metadata"]["name"] for item in page["items"]] == [f"a{number:02}" for number in range(5, 10)]
    assert page["metadata"]["remainingItemCount"] == 90
    assert len(statements) <= 8


@pytest.mark.parametrize("rv", [10**15, 10**40, -7, "x", None])
async def test_a_continue_token_of_somebody_elses_making_is_refused_or_harmless(api: Api, rv: object) -> None:
    body = json.dumps({"v": "meta.k8s.io/v1", "rv": rv, "start": "a", "k": ["default", "a"]}).encode()
    reply = await api.get(f"{CONFIG_MAPS}?continue={base64.urlsafe_b64encode(body).decode()}")
    assert reply.status in (200, 400)


async def test_kinds_with_fields_of_their_own_say_that_a_field_is_not_one_of_them(widgets: Api) -> None:
    for path in (PODS, WIDGETS):
        reply = await widgets.get(f"{path}?fieldSelector=spec.foo=1")
        assert (reply.status, reply.message) == (400, "field label not supported: spec.foo")


async def test_the_old_paths_of_watches_are_served(api: Api) -> None:
    await add(api, "a")
    await add(api, "b")
    every = await api.server.handle(api.request("GET", "/api/v1/watch/namespaces/default/configmaps"))
    one = await api.server.handle(api.request("GET", "/api/v1/watch/namespaces/default/configmaps/b"))
    assert isinstance(every, Stream)
    assert isinstance(one, Stream)
    found, single = Watch(every), Watch(one)
    assert await found.take(2) == [("ADDED", "a"), ("ADDED", "b")]
    assert await single.take(1) == [("ADDED", "b")]
    await found.close()
    await single.close()
    written = await api.post("/api/v1/watch/namespaces/default/configmaps", config_map("c"))
    assert written.status == 405
    nobody = Api(api.server, User("joe", ("system:authenticated",)))
    refused = await nobody.get("/api/v1/watch/namespaces/default/configmaps")
    assert 'cannot watch resource "configmaps"' in refused.message
    assert (await api.get("/api/v1/watch/nothings")).status == 404
