"""The agent's memory against a service made of a function, in virtual time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import httpx2
import pytest

from agentops.api.runtime_config import MemoryConfig
from agentops.clients.memory import MemoryClient, MemoryUnavailable
from agentops.runtime.memory import IDLE_S, SUMMARISE_TURNS, AgentMemory
from agentops.runtime.messages import assistant, user
from agentops.runtime.tools.memory import MemSaveTool, memory_tools
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio


class Service:
    """Answers like the memory service; `down` makes it refuse."""

    def __init__(self) -> None:
        self.down = False
        self.calls: list[tuple[str, str, Any]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if self.down:
            raise httpx2.ConnectError("refused")
        body = json.loads(request.content) if request.content else dict(request.url.params)
        self.calls.append((request.method, request.url.path, body))
        if request.url.path == "/sessions":
            return httpx2.Response(201, json={**body, "started_at": "2026-01-01T00:00:00.000Z"})
        if request.url.path.endswith("/end"):
            return httpx2.Response(200, json={"session_id": "s", "summary": "", "message_count": 0})
        if request.url.path == "/observations":
            return httpx2.Response(201, json={"id": 7, "action": "created"})
        if request.url.path == "/search":
            return httpx2.Response(200, json=[{"id": 1, "type": "t", "title": "T", "content": "C", "rank": -1.5}])
        return httpx2.Response(200, json={"recent_sessions": [], "recent_observations": []})

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.calls]


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def make(service: Service, clock: LoopClock, new_id: Callable[[], str]) -> Any:
    def build(client: MemoryClient, **changes: Any) -> AgentMemory:
        fields: dict[str, Any] = {"server_url": "http://memory:7437", "project": "sre", **changes}
        return AgentMemory(client, MemoryConfig(**fields), clock=clock, new_id=new_id)

    return build


def client(service: Service, token: Callable[[], str] | None = None) -> MemoryClient:
    return MemoryClient("http://memory:7437/", transport=httpx2.MockTransport(service), token=token)


async def test_the_session_is_opened_once_the_service_is_there(service: Service, make: Any) -> None:
    service.down = True
    async with client(service) as http, anyio.create_task_group() as tasks:
        memory = make(http)
        await tasks.start(memory.run)
        await anyio.sleep(100)
        assert "refused" in memory.error
        service.down = False
        await anyio.sleep(61)
        assert memory.error is None
        assert service.calls == [("POST", "/sessions", {"id": "id8", "project": "sre"})]
        tasks.cancel_scope.cancel()


async def test_without_the_service_there_is_no_context_and_saving_says_why(service: Service, make: Any) -> None:
    service.down = True
    async with client(service) as http:
        memory = make(http)
        assert (await memory.context("x")).recent_observations == ()
        with pytest.raises(MemoryUnavailable, match="refused"):
            await memory.search("x", 3)


async def test_a_save_opens_the_session_it_needs(service: Service, make: Any) -> None:
    async with client(service) as http:
        output = await MemSaveTool(make(http)).run({"title": " Tea ", "content": "Green.", "tags": ["tea"]})
    assert output.text == "Saved [discovery] Tea"
    assert service.paths() == ["/sessions", "/observations"]
    assert service.calls[1][2] == {
        "session_id": "id1",
        "type": "discovery",
        "title": "Tea",
        "content": "Green.",
        "project": "sre",
        "tags": ["tea"],
    }


async def test_the_context_query_is_the_head_of_the_prompt(service: Service, make: Any) -> None:
    async with client(service, token=lambda: "t") as http:
        await make(http, context_limit=3).context("x" * 900)
        assert (await make(http, context_limit=0).context("x")).recent_sessions == ()
    assert service.calls == [("GET", "/context", {"project": "sre", "query": "x" * 500, "limit": "3"})]


async def test_a_session_is_summarised_when_idle_and_after_many_turns(service: Service, make: Any) -> None:
    turn = (user("q"), assistant("a"))
    async with client(service) as http, anyio.create_task_group() as tasks:
        memory = make(http)
        await tasks.start(memory.run)
        await anyio.sleep(1)
        await memory.turn_ended(turn)
        await anyio.sleep(IDLE_S - 1)
        assert service.paths() == ["/sessions"]
        await anyio.sleep(5)
        assert service.paths() == ["/sessions", "/sessions/id1/end", "/sessions"]
        assert service.calls[1][2] == {
            "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
        }
        for _ in range(SUMMARISE_TURNS):
            await memory.turn_ended(turn)
        assert service.paths()[3:] == ["/sessions/id2/end", "/sessions"]
        tasks.cancel_scope.cancel()


async def test_closing_ends_the_session_and_never_raises(service: Service, make: Any) -> None:
    async with client(service) as http:
        memory = make(http)
        await MemSaveTool(memory).run({"title": "t", "content": "c"})
        service.down = True
        await memory.close()


async def test_switches_decide_which_tools_there_are(service: Service, make: Any) -> None:
    async with client(service) as http:
        names = [tool.name for tool in memory_tools(make(http))]
        quiet = [tool.name for tool in memory_tools(make(http, auto_save=False, auto_search=False))]
    assert names == ["mem_save", "mem_search", "mem_context"]
    assert quiet == []


async def test_a_refused_token_names_its_file(service: Service) -> None:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(401, json={"error": "unauthorized"}))
    async with MemoryClient("http://memory", transport=transport) as http:
        with pytest.raises(MemoryUnavailable, match="MEMORY_TOKEN_FILE"):
            await http.search("x", "p")


async def test_an_answer_of_another_shape_is_unavailable(service: Service) -> None:
    for content in (b"<html>", b'{"id": "x"}', b"[" * 100):
        transport = httpx2.MockTransport(lambda _, content=content: httpx2.Response(200, content=content))
        async with MemoryClient("http://memory", transport=transport) as http:
            with pytest.raises(MemoryUnavailable, match="unexpected answer"):
                await http.search("x", "p")
