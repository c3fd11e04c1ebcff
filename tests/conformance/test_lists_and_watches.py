"""Reading: lists, pages, versions, watches, streamed lists, metadata alone."""

from contextlib import aclosing

import anyio
import pytest

from agentops.kube.client import METADATA_ONLY_LIST
from agentops.kube.errors import ApiError, BadRequest, Expired, Invalid, ServerTimeout
from agentops.kube.kinds import CONFIG_MAP
from agentops.kube.watch import LineSplitter, decode_event, decode_list

pytestmark = pytest.mark.anyio


async def make(client, namespace, *names, **labels):
    made = [
        await client.create(
            CONFIG_MAP, {"metadata": {"name": n, "namespace": namespace, "labels": labels}, "data": {"v": n}}
        )
        for n in names
    ]
    return made[-1]


async def page(client, namespace, **arguments):
    return await client.list_page(CONFIG_MAP, namespace, fields="metadata.name!=kube-root-ca.crt", **arguments)


def names_of(listed):
    return [item["metadata"]["name"] for item in listed["items"]]


async def events(client, namespace, count, *, kept=("ADDED", "MODIFIED", "DELETED", "ERROR"), **query):
    """The first `count` events of the `kept` types."""
    found = []
    pairs = [("watch", "1"), ("timeoutSeconds", "20"), *((k, str(v)) for k, v in query.items())]
    if "fieldSelector" not in query:
        pairs.append(("fieldSelector", "metadata.name!=kube-root-ca.crt"))
    with anyio.fail_after(25):
        async with client.stream("GET", CONFIG_MAP.path(namespace), query=pairs) as answer:
            splitter = LineSplitter()
            chunks = answer.chunks()
            async with aclosing(chunks):
                async for chunk in chunks:
                    found += [e for e in map(decode_event, splitter.feed(chunk)) if e.type in kept]
                    if len(found) >= count:
                        return found[:count]
    raise AssertionError(f"the watch ended after {len(found)} of {count} events")


async def test_list_has_a_version_and_its_items_no_kind(client, namespace):
    await make(client, namespace, "a", "b")
    listed = await page(client, namespace)
    assert listed["kind"] == "ConfigMapList"
    assert listed["metadata"]["resourceVersion"]
    assert names_of(listed) == ["a", "b"]
    assert all("kind" not in item and "apiVersion" not in item for item in listed["items"])


async def test_pages_join_to_the_whole_at_the_first_pages_version(client, namespace):
    await make(client, namespace, *"abcde")
    first = await page(client, namespace, limit=2)
    assert names_of(first) == ["a", "b"]
    await make(client, namespace, "bb")
    second = await page(client, namespace, limit=2, continue_token=first["metadata"]["continue"])
    third = await page(client, namespace, limit=2, continue_token=second["metadata"]["continue"])
    assert names_of(second) + names_of(third) == ["c", "d", "e"], "later writes are not in it"
    assert "continue" not in third["metadata"] or not third["metadata"]["continue"]
    assert third["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_damaged_continue_token_is_a_bad_request(client, namespace):
    with pytest.raises((BadRequest, Expired)):
        await page(client, namespace, continue_token="no-such-token")


async def test_list_of_a_version_that_does_not_exist_yet_is_too_large(client, namespace):
    made = await make(client, namespace, "a")
    future = str(int(made["metadata"]["resourceVersion"]) + 10_000_000)
    with pytest.raises(ServerTimeout) as error:
        await client.raw("GET", CONFIG_MAP.path(namespace), query=[("resourceVersion", future)], retry=False)
    assert "Too large resource version" in error.value.message


async def test_list_not_older_than_a_version_has_it(client, namespace):
    made = await make(client, namespace, "a")
    listed = await page(client, namespace, resource_version=made["metadata"]["resourceVersion"])
    assert names_of(listed) == ["a"]


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [("app=x", ["a"]), ("app!=x", ["b", "c"]), ("app in (x,y)", ["a", "b"]), ("!app", ["c"]), ("app", ["a", "b"])],
)
async def test_label_selectors(client, namespace, selector, wanted):
    await make(client, namespace, "a", app="x")
    await make(client, namespace, "b", app="y")
    await make(client, namespace, "c")
    assert names_of(await page(client, namespace, labels=selector)) == wanted


async def test_unknown_field_selector_is_a_bad_request(client, namespace):
    with pytest.raises(BadRequest):
        await client.list(CONFIG_MAP, namespace, fields="data.v=a")


async def test_watch_goes_on_from_a_version_without_gap_or_double(client, namespace):
    start = await make(client, namespace, "a")
    await make(client, namespace, "b")
    await client.patch(CONFIG_MAP, "b", {"data": {"v": "2"}}, namespace)
    await client.delete(CONFIG_MAP, "a", namespace)
    found = await events(client, namespace, 3, resourceVersion=start["metadata"]["resourceVersion"])
    assert [(e.type, e.meta.name) for e in found] == [("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "a")]
    versions = [int(e.meta.resource_version) for e in found]
    assert versions == sorted(set(versions)), "the deletion has a version of its own"
    assert {e.kind for e in found} == {"ConfigMap"}


async def test_watch_from_zero_begins_with_what_is_there(client, namespace):
    await make(client, namespace, "a", "b")
    found = await events(client, namespace, 2, resourceVersion="0")
    assert {(e.type, e.meta.name) for e in found} == {("ADDED", "a"), ("ADDED", "b")}


async def test_object_that_leaves_the_selector_is_deleted_for_the_watch(client, namespace):
    start = await make(client, namespace, "a", app="x")
    await client.patch(CONFIG_MAP, "a", {"metadata": {"labels": {"app": "y"}}}, namespace)
    await client.patch(CONFIG_MAP, "a", {"metadata": {"labels": {"app": "x"}}}, namespace)
    version = start["metadata"]["resourceVersion"]
    found = await events(client, namespace, 2, resourceVersion=version, labelSelector="app=x")
    assert [e.type for e in found] == ["DELETED", "ADDED"]


async def test_watch_of_a_version_long_gone_is_expired(client, namespace):
    """Only where history is that short: version 1 is compacted on any server that has run for a while."""
    try:
        (event,) = await events(client, namespace, 1, resourceVersion="1")
    except (Expired, AssertionError):
        return
    if event.type == "ERROR":
        assert event.decode()["code"] == 410


async def test_watch_ends_cleanly_at_its_timeout(client, namespace):
    version = (await page(client, namespace))["metadata"]["resourceVersion"]
    query = [("watch", "1"), ("timeoutSeconds", "1"), ("resourceVersion", version), ("labelSelector", "app=none")]
    with anyio.fail_after(15):
        async with client.stream("GET", CONFIG_MAP.path(namespace), query=query) as answer:
            await answer.read()


async def test_streamed_list_ends_with_the_marked_bookmark(client, namespace):
    await make(client, namespace, "a", "b")
    found = await events(
        client,
        namespace,
        3,
        kept=("ADDED", "BOOKMARK"),
        sendInitialEvents="true",
        resourceVersionMatch="NotOlderThan",
        allowWatchBookmarks="true",
    )
    assert [e.type for e in found] == ["ADDED", "ADDED", "BOOKMARK"]
    assert found[2].ends_initial_events
    assert int(found[2].meta.resource_version) >= max(int(e.meta.resource_version) for e in found[:2])


async def test_streamed_list_wants_its_match(client, namespace):
    with pytest.raises(Invalid) as error:
        await events(client, namespace, 1, sendInitialEvents="true", allowWatchBookmarks="true")
    assert "sendInitialEvents" in error.value.message or "resourceVersionMatch" in error.value.message


async def test_metadata_alone_can_be_listed(client, namespace):
    await make(client, namespace, "a")
    answer = await client.raw(
        "GET",
        CONFIG_MAP.path(namespace),
        query=[("fieldSelector", "metadata.name=a")],
        headers={"accept": METADATA_ONLY_LIST},
    )
    ((meta, raw),) = decode_list(answer.body).items
    assert meta.name == "a"
    assert b'"data"' not in raw


async def test_path_of_no_kind_is_a_404_of_plain_text(client):
    with pytest.raises(ApiError) as error:
        await client.raw("GET", "/apis/no.such.group/v1/things")
    assert error.value.code == 404
    assert error.value.message == "404 page not found"
