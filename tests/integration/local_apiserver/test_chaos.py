"""Faults as a client behind a real socket meets them."""

import random

import anyio
import pytest

from agentops.kube.aiohttp_transport import AiohttpTransport
from agentops.kube.client import ApiClient
from agentops.kube.config import load_config
from agentops.kube.errors import TooManyRequests, TransportError
from agentops.kube.kinds import CONFIG_MAP
from agentops.local.apiserver.chaos import Chaos, Fault, Rule

pytestmark = pytest.mark.anyio
WATCH = (("watch", "1"), ("resourceVersion", "0"))


@pytest.fixture
async def transport(cluster):
    async with AiohttpTransport(await load_config(str(cluster.kubeconfig))) as transport:
        yield transport


@pytest.fixture
async def chaos(cluster, transport):
    with Chaos(cluster.server, rng=random.Random(5)) as chaos:
        body = {"metadata": {"name": "a", "namespace": "default"}, "data": {"text": "grün 青い" * 50}}
        await ApiClient(transport).create(CONFIG_MAP, body)
        yield chaos


async def watched(transport, events=1):
    data = b""
    async with transport.stream("GET", CONFIG_MAP.path("default"), query=WATCH, idle_s=0.3) as answer:
        async for chunk in answer.chunks():
            data += chunk
            if data.count(b"\n") >= events:
                break
    return data


@pytest.mark.parametrize("fault", [Fault.RESET_BEFORE, Fault.RESET_AFTER])
async def test_reset_connection_is_a_transport_error(chaos, transport, fault):
    chaos.rules = [Rule(fault, verb="list")]
    with pytest.raises(TransportError):
        await ApiClient(transport).list(CONFIG_MAP, "default")
    chaos.rules = []
    assert len(await ApiClient(transport).list(CONFIG_MAP, "default")) == 1, "the next request has a new connection"


@pytest.mark.parametrize("fault", [Fault.RESET_BEFORE, Fault.RESET_AFTER])
async def test_reset_watch_is_not_a_clean_end(chaos, cluster, transport, fault):
    chaos.rules = [Rule(fault, verb="watch", after=0)]
    with pytest.raises(TransportError):
        await watched(transport)
    with anyio.fail_after(5):
        while cluster.server.watches.count:
            await anyio.sleep(0.01)


async def test_truncated_watch_ends_cleanly_within_an_event(chaos, transport):
    chaos.rules = [Rule(Fault.TRUNCATE, verb="watch", after=0)]
    assert not (await watched(transport)).endswith(b"\n")


async def test_truncated_list_is_not_taken_for_a_whole_one(chaos, transport):
    chaos.rules = [Rule(Fault.TRUNCATE, verb="list")]
    with pytest.raises(TransportError, match="not a JSON object"):
        await ApiClient(transport).list(CONFIG_MAP, "default")


async def test_half_open_watch_keeps_the_connection_and_says_nothing(chaos, transport):
    chaos.rules = [Rule(Fault.HALF_OPEN, verb="watch", after=0)]
    with pytest.raises(TransportError, match=r"time allowed|broke"):
        await watched(transport)


async def test_half_open_list_runs_into_the_callers_bound(chaos, transport):
    chaos.rules = [Rule(Fault.HALF_OPEN, verb="list")]
    with pytest.raises(TransportError, match="time allowed"):
        await transport.request("GET", CONFIG_MAP.path("default"), timeout_s=0.3)


async def test_split_answers_are_whole_in_the_end(chaos, transport):
    whole = await watched(transport)
    chaos.rules = [Rule(Fault.SPLIT)]
    assert await watched(transport) == whole
    (listed,) = await ApiClient(transport).list(CONFIG_MAP, "default")
    assert listed["data"]["text"] == "grün 青い" * 50


async def test_throttled_request_is_repeated_after_the_time_the_server_names(chaos, transport):
    chaos.rules = [Rule(Fault.THROTTLE, verb="get", times=1)]
    started = anyio.current_time()
    assert await ApiClient(transport).get(CONFIG_MAP, "a", "default")
    assert anyio.current_time() - started >= 1.0
    chaos.rules = [Rule(Fault.THROTTLE, verb="get", seconds=40)]
    with pytest.raises(TooManyRequests):
        await ApiClient(transport).get(CONFIG_MAP, "a", "default")


async def test_users_of_client_certificates_can_be_named(chaos, transport):
    chaos.rules = [Rule(Fault.RESET_BEFORE, user="nobody")]
    assert len(await ApiClient(transport).list(CONFIG_MAP, "default")) == 1
