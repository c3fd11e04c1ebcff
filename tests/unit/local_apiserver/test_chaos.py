"""Every fault does what it says, to the requests it is meant for and no others."""

import contextlib
import random

import anyio
import attrs
import orjson
import pytest
from support.apiserver import ADMIN, CONFIG_MAPS, Api, config_map

from agentops.kube.errors import TransportError
from agentops.local.apiserver import InProcessTransport, User
from agentops.local.apiserver.chaos import Chaos, ChaosSpecError, Disconnected, Fault, Rule, parse, parse_seed

pytestmark = pytest.mark.anyio


@pytest.fixture
async def chaos(server):
    with Chaos(server, rng=random.Random(3)) as chaos:
        await Api(server).post(CONFIG_MAPS, config_map("a", text="grün 青い" * 20))
        yield chaos


@pytest.fixture
def transport(server):
    return InProcessTransport(server, ADMIN)


async def read(transport, path=CONFIG_MAPS, *, timeout_s=5.0):
    return await transport.request("GET", path, timeout_s=timeout_s)


async def watched(transport, count=1, *, idle_s=5.0, path=CONFIG_MAPS, query=()):
    """The first `count` events from the beginning, as the client sees the bytes."""
    data = b""
    async with transport.stream("GET", path, query=(("watch", "1"), *query), idle_s=idle_s) as answer:
        async for chunk in answer.chunks():
            data += chunk
            if data.count(b"\n") >= count:
                return data
    return data


async def test_without_rules_nothing_happens(chaos, transport):
    assert (await read(transport)).status == 200
    assert chaos.fired == {}


async def test_throttle_is_a_429_with_retry_after_and_ends_after_its_times(chaos, transport):
    chaos.rules = [Rule(Fault.THROTTLE, verb="list", times=2, seconds=3)]
    for _ in range(2):
        answer = await read(transport)
        assert (answer.status, answer.headers["retry-after"]) == (429, "3")
        assert orjson.loads(answer.body)["details"]["retryAfterSeconds"] == 3
    assert (await read(transport)).status == 200
    assert chaos.fired == {"throttle": 2}


async def test_error_has_the_code_asked_for(chaos, transport):
    chaos.rules = [Rule(Fault.ERROR, code=410)]
    assert orjson.loads((await read(transport)).body)["reason"] == "Expired"
    chaos.rules = [Rule(Fault.ERROR)]
    assert (await read(transport)).status == 500


async def test_unauthorized_once_is_a_401_once(chaos, transport):
    chaos.rules = [Rule(Fault.UNAUTHORIZED, times=1)]
    assert [(await read(transport)).status for _ in range(3)] == [401, 200, 200]


async def test_delay_holds_the_request_back(chaos, transport):
    chaos.rules = [Rule(Fault.DELAY, seconds=30)]
    with pytest.raises(TransportError, match="no answer within"):
        await read(transport, timeout_s=0.01)


async def test_reset_before_headers_loses_the_answer_and_sometimes_the_request(chaos, transport, server):
    chaos.rules = [Rule(Fault.RESET_BEFORE, verb="create")]
    for number in range(12):
        with pytest.raises(Disconnected):
            await transport.request(
                "POST",
                CONFIG_MAPS,
                headers={"content-type": "application/json"},
                body=orjson.dumps(config_map(f"n{number}")),
            )
    done = server.store.count("configmaps")
    assert 1 < done < 13, "some were done, some were not"


async def test_reset_before_headers_of_a_watch_leaves_no_watch_on_the_server(chaos, transport, server):
    chaos.rules = [Rule(Fault.RESET_BEFORE, verb="watch")]
    for _ in range(8):
        with pytest.raises(Disconnected):
            await watched(transport)
    assert server.watches.count == 0


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.TRUNCATE, Fault.HALF_OPEN])
async def test_broken_list_is_never_a_whole_one(chaos, transport, fault):
    chaos.rules = [Rule(fault, verb="list")]
    try:
        body = (await read(transport, timeout_s=0.05)).body
    except TransportError:
        assert fault is not Fault.TRUNCATE
        return
    assert fault is Fault.TRUNCATE
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(body)


async def test_reset_watch_breaks_within_an_event(chaos, transport, server):
    chaos.rules = [Rule(Fault.RESET_AFTER, verb="watch", after=0)]
    with pytest.raises(Disconnected):
        await watched(transport)
    assert server.watches.count == 0


async def test_truncated_watch_ends_within_an_event(chaos, transport):
    chaos.rules = [Rule(Fault.TRUNCATE, verb="watch", after=0)]
    assert not (await watched(transport)).endswith(b"\n")


async def test_half_open_watch_goes_silent_after_the_events_asked_for(chaos, transport, server):
    await Api(server).post(CONFIG_MAPS, config_map("b"))
    chaos.rules = [Rule(Fault.HALF_OPEN, verb="watch", after=1)]
    with pytest.raises(TransportError, match="silent"):
        await watched(transport, 2, idle_s=0.05)
    assert server.watches.count == 0


async def test_split_slices_join_to_the_same_bytes_and_cut_characters(chaos, transport):
    whole = await watched(transport)
    chaos.rules = [Rule(Fault.SPLIT)]
    pieces = []
    async with transport.stream("GET", CONFIG_MAPS, query=(("watch", "1"),)) as answer:
        async for chunk in answer.chunks():
            pieces.append(chunk)
            if chunk.endswith(b"\n"):
                break
    assert b"".join(pieces) == whole
    assert any(0x80 <= piece[0] < 0xC0 for piece in pieces), "no piece begins inside of a character"
    assert orjson.loads((await read(transport)).body)["items"][0]["data"]["text"] == "grün 青い" * 20


async def test_duplicate_repeats_events(chaos, transport):
    chaos.rules = [Rule(Fault.DUPLICATE)]
    lengths = {(await watched(transport)).count(b"\n") for _ in range(12)}
    assert lengths == {1, 2}


async def test_dropped_bookmark_takes_the_end_marker_of_a_streamed_list(chaos, transport):
    query = (
        ("sendInitialEvents", "true"),
        ("resourceVersionMatch", "NotOlderThan"),
        ("allowWatchBookmarks", "true"),
        ("timeoutSeconds", "1"),
    )
    assert b"initial-events-end" in await watched(transport, 2, query=query)
    chaos.rules = [Rule(Fault.DROP_BOOKMARK, verb="watchlist")]
    data = await watched(transport, 2, query=query)
    assert b"ADDED" in data
    assert b"BOOKMARK" not in data


async def test_error_event_ends_the_stream_with_a_status(chaos, transport):
    chaos.rules = [Rule(Fault.ERROR_EVENT, code=410, after=0)]
    event = orjson.loads(await watched(transport, 2))
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


async def test_expired_history_refuses_old_versions(chaos, transport, server):
    old = server.store.revision
    await Api(server).post(CONFIG_MAPS, config_map("b"))
    chaos.rules = [Rule(Fault.EXPIRE, verb="list")]
    await read(transport)
    data = await watched(transport, query=(("resourceVersion", str(old)),))
    assert orjson.loads(data)["object"]["reason"] == "Expired"


@pytest.mark.parametrize(
    ("rule", "hit"),
    [
        (Rule(Fault.ERROR, verb="get"), False),
        (Rule(Fault.ERROR, verb="list"), True),
        (Rule(Fault.ERROR, resource="secrets"), False),
        (Rule(Fault.ERROR, resource="config*"), True),
        (Rule(Fault.ERROR, namespace="kube-*"), False),
        (Rule(Fault.ERROR, namespace="default"), True),
        (Rule(Fault.ERROR, user="eve"), False),
        (Rule(Fault.ERROR, user="system:adm*"), True),
        (Rule(Fault.ERROR, resource="/version"), False),
        (Rule(Fault.ERROR, p=0.0), False),
        (Rule(Fault.ERROR_EVENT), False),
    ],
    ids=lambda value: "" if isinstance(value, bool) else repr(value).partition("(")[2][:60],
)
async def test_rule_hits_what_it_names_and_nothing_else(chaos, transport, rule, hit):
    chaos.rules = [rule]
    assert ((await read(transport)).status == 500) is hit


async def test_paths_that_are_no_resources_are_hit_only_by_name(chaos, transport):
    chaos.rules = [Rule(Fault.ERROR)]
    assert (await read(transport, "/version")).status == 200
    chaos.rules = [Rule(Fault.ERROR, resource="/version")]
    assert (await read(transport, "/version")).status == 500


async def test_users_are_told_apart_by_their_token_too(chaos, server):
    chaos.rules = [Rule(Fault.ERROR, user="system:anonymous")]
    api = Api(server, None)
    assert (await api.get(CONFIG_MAPS)).status == 500
    assert (await Api(server, User("bob", ("system:masters",))).get(CONFIG_MAPS)).status == 200


async def test_same_seed_gives_the_same_faults(server, transport):
    async def statuses():
        rules = [Rule(Fault.ERROR, p=0.5)]
        with Chaos(server, rules, rng=random.Random(9)):
            return [(await read(transport)).status for _ in range(20)]

    first = await statuses()
    assert first == await statuses()
    assert set(first) == {200, 500}


async def test_after_its_end_nothing_happens_to_open_streams(chaos, transport, server):
    chaos.rules = [Rule(Fault.RESET_AFTER, verb="watch", after=1)]
    async with transport.stream("GET", CONFIG_MAPS, query=(("watch", "1"),), idle_s=5) as answer:
        chunks = answer.chunks()
        await anext(chunks)
        chaos.remove()
        await Api(server).post(CONFIG_MAPS, config_map("b"))
        with anyio.fail_after(5):
            assert b'"b"' in await anext(chunks)


def test_text_form_is_read():
    text = "seed=7; throttle verb=list resource=configmaps p=0.25 seconds=2 ; half-open verb=watch times=1 after=0"
    throttle, half_open = parse(text)
    assert attrs.asdict(throttle) == attrs.asdict(
        Rule(Fault.THROTTLE, verb="list", resource="configmaps", p=0.25, seconds=2.0)
    )
    assert attrs.asdict(half_open) == attrs.asdict(Rule(Fault.HALF_OPEN, verb="watch", times=1, after=0))
    assert parse_seed(text) == 7
    assert parse_seed("delay") is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no rule"),
        ("seed=3", "has no rule"),
        ("explode", "no fault 'explode'; there are delay, throttle"),
        ("delay now", "'now' is not understood; settings are verb"),
        ("delay p=2", "between 0 and 1"),
        ("error code=200", "between 400 and 599"),
        ("delay seconds=-1", "must not be negative"),
        ("delay times=x", "invalid literal"),
    ],
)
def test_text_that_is_wrong_says_where_and_what_is_possible(text, why):
    with pytest.raises(ChaosSpecError, match=why.replace("(", r"\(")):
        parse(text)


def test_seed_that_is_no_number_is_refused():
    with pytest.raises(ChaosSpecError, match="whole number"):
        parse_seed("seed=x; delay")


async def test_faults_together_damage_nothing_but_what_they_cut(chaos, transport, server):
    for number in range(20):
        await Api(server).post(CONFIG_MAPS, config_map(f"n{number}", text="grün 青い" * 5))
    chaos.rules = [Rule(Fault.SPLIT), Rule(Fault.DUPLICATE), Rule(Fault.RESET_AFTER, after=15)]
    data = b""
    async with transport.stream("GET", CONFIG_MAPS, query=(("watch", "1"),)) as answer:
        with contextlib.suppress(Disconnected):
            async for chunk in answer.chunks():
                data += chunk
    *whole, _ = data.split(b"\n")
    assert [orjson.loads(line)["type"] for line in whole] == ["ADDED"] * 15
