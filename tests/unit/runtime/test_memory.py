"""The agent's memory against a service made of a function, in virtual time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from opentelemetry import context

from agentops.api.runtime_config import MemoryConfig
from agentops.clients.memory import MemoryClient, MemoryUnavailable
from agentops.runtime.errors import StoreFault, ToolFault
from agentops.runtime.memory import IDLE_S, SUMMARISE_TURNS, AgentMemory
from agentops.runtime.messages import assistant, user
from agentops.runtime.outbox import CAPACITY, Outbox
from agentops.runtime.tools.base import ToolOutput
from agentops.runtime.tools.memory import MemSaveTool, memory_tools
from agentops.telemetry import tracing

pytestmark = pytest.mark.anyio


class Service:
    """Answers like the memory service; `down` makes it refuse connections, `status` answer with that."""

    def __init__(self) -> None:
        self.down = False
        self.status = 0
        self.traces: list[str] = []
        self.calls: list[tuple[str, str, Any]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if self.down:
            raise httpx2.ConnectError("refused")
        if self.status:
            return httpx2.Response(self.status, json={"error": "no"})
        body = json.loads(request.content) if request.content else dict(request.url.params)
        self.traces.append(request.headers.get("traceparent", ""))
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


class InMemory:
    """Keeps writes without a thread, which virtual time would not wait for."""

    def __init__(self) -> None:
        self.kept: dict[int, bytes] = {}
        self.last = 0
        self.full = self.full_to_remove = False

    async def outbox(self) -> list[tuple[int, bytes]]:
        return list(self.kept.items())

    async def outbox_add(self, body: bytes) -> int:
        await anyio.sleep(0)
        if self.full:
            raise StoreFault("full")
        self.last += 1
        self.kept[self.last] = body
        return self.last

    async def outbox_remove(self, number: int) -> None:
        await anyio.sleep(0)
        if self.full_to_remove:
            raise StoreFault("full")
        del self.kept[number]


@pytest.fixture
def store() -> InMemory:
    return InMemory()


@pytest.fixture
def make(store: InMemory, new_id: Callable[[], str]) -> Any:
    def build(client: MemoryClient, **changes: Any) -> AgentMemory:
        fields: dict[str, Any] = {"server_url": "http://memory:7437", "project": "sre", **changes}
        return AgentMemory(client, MemoryConfig(**fields), outbox=Outbox(client, store), new_id=new_id)

    return build


@asynccontextmanager
async def started(memory: AgentMemory) -> AsyncIterator[AgentMemory]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(memory.run)
        yield memory
        tasks.cancel_scope.cancel()


async def save(memory: AgentMemory, title: str) -> ToolOutput:
    return await MemSaveTool(memory).run({"title": title, "content": "c"})


async def settled(service: Service, count: int) -> None:
    """Until the service was called so often."""
    with anyio.fail_after(10_000):
        while len(service.calls) < count:
            await anyio.sleep(1)


def client(service: Service, token: Callable[[], str] | None = None) -> MemoryClient:
    return MemoryClient("http://memory:7437/", transport=httpx2.MockTransport(service), token=token)


async def test_the_session_is_opened_once_the_service_is_there(service: Service, make: Any) -> None:
    service.down = True
    async with client(service) as http, started(make(http)) as memory:
        await anyio.sleep(100)
        assert "refused" in memory.error
        assert memory.waiting == 1
        service.down = False
        await settled(service, 1)
        await anyio.sleep(1)
        assert (memory.error, memory.waiting) == (None, 0)
    assert service.calls == [("POST", "/sessions", {"id": "id1", "project": "sre"})]


async def test_without_the_service_there_is_no_context_and_searching_says_why(service: Service, make: Any) -> None:
    service.down = True
    async with client(service) as http:
        memory = make(http)
        assert (await memory.context("x")).recent_observations == ()
        with pytest.raises(MemoryUnavailable, match="refused"):
            await memory.search("x", 3)


async def test_a_save_opens_the_session_it_needs(service: Service, make: Any) -> None:
    async with client(service) as http, started(make(http)) as memory:
        output = await MemSaveTool(memory).run({"title": " Tea ", "content": "Green.", "tags": ["tea"]})
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


@pytest.mark.parametrize("status", [0, 408, 429, 500, 503])
async def test_what_is_saved_while_the_service_is_away_arrives_later_in_order(
    service: Service, make: Any, status: int
) -> None:
    """0 is a connection that is refused."""
    async with client(service) as http, started(make(http)) as memory:
        assert (await save(memory, "0")).text == "Saved [discovery] 0"
        service.down, service.status = not status, status
        for number in range(1, 6):
            assert "sent when the service is back" in (await save(memory, str(number))).text
        await anyio.sleep(50)
        service.down, service.status = False, 0
        await settled(service, 7)
        assert "Saved" in (await save(memory, "6")).text
    assert [body["title"] for _, path, body in service.calls if path == "/observations"] == list("0123456")


async def test_what_the_service_refuses_is_told_and_holds_nothing_up(service: Service, make: Any) -> None:
    async with client(service) as http, started(make(http)) as memory:
        service.status = 400
        with pytest.raises(ToolFault, match="HTTP 400"):
            await save(memory, "bad")
        service.status = 0
        assert (await save(memory, "good")).text == "Saved [discovery] good"


async def test_what_waits_when_the_process_ends_is_sent_by_the_next(service: Service, make: Any) -> None:
    async with client(service) as http:
        async with started(make(http)) as memory:
            await anyio.sleep(1)
            service.down = True
            await save(memory, "late")
            await memory.turn_ended((user("q"), assistant("a")))
            await memory.close()
            assert memory.waiting == 2
        service.down = False
        async with started(make(http)) as memory:
            await settled(service, 4)
    assert service.paths() == ["/sessions", "/observations", "/sessions/id1/end", "/sessions"]


async def test_closing_sends_what_waits_if_it_can(service: Service, make: Any) -> None:
    async with client(service) as http, started(make(http)) as memory:
        await anyio.sleep(1)
        service.down = True
        await save(memory, "late")
        await anyio.sleep(30)
        service.down = False
        await memory.close()
        assert service.paths() == ["/sessions", "/observations", "/sessions/id1/end"]


async def test_a_write_stands_in_the_trace_of_who_wrote_it(service: Service, make: Any) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    async with client(service) as http, started(make(http)) as memory:
        await anyio.sleep(1)
        token = context.attach(tracing.extract(f"00-{trace_id}-b7ad6b7169203331-01"))
        await save(memory, "traced")
        context.detach(token)
        await memory.close()
    assert [trace_id in traceparent for traceparent in service.traces] == [False, True, False]


async def test_the_queue_is_bounded(service: Service, make: Any) -> None:
    service.down = True
    async with client(service) as http, started(make(http)) as memory:
        for number in range(CAPACITY - 1):  # the session is one
            await save(memory, str(number))
        with pytest.raises(ToolFault, match=f"{CAPACITY} writes wait"):
            await save(memory, "one too many")


async def test_the_context_query_is_the_head_of_the_prompt(service: Service, make: Any) -> None:
    async with client(service, token=lambda: "t") as http:
        await make(http, context_limit=3).context("x" * 900)
        assert (await make(http, context_limit=0).context("x")).recent_sessions == ()
    assert service.calls == [("GET", "/context", {"project": "sre", "query": "x" * 500, "limit": "3"})]


async def test_a_session_is_summarised_when_idle_and_after_many_turns(service: Service, make: Any) -> None:
    turn = (user("q"), assistant("a"))
    async with client(service) as http, started(make(http)) as memory:
        await anyio.sleep(1)
        await memory.turn_ended(turn)
        await anyio.sleep(IDLE_S - 1)
        assert service.paths() == ["/sessions"]
        await settled(service, 3)
        assert service.paths() == ["/sessions", "/sessions/id1/end", "/sessions"]
        assert service.calls[1][2] == {
            "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
        }
        for _ in range(SUMMARISE_TURNS):
            await memory.turn_ended(turn)
        assert service.paths()[3:] == ["/sessions/id2/end", "/sessions"]


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


async def test_a_disk_that_refuses_loses_no_turn_and_sends_nothing_twice(
    service: Service, make: Any, store: InMemory
) -> None:
    async with client(service) as http, started(make(http)) as memory:
        await save(memory, "0")
        store.full = True
        with pytest.raises(ToolFault, match="cannot be kept: full"):
            await save(memory, "1")
        for _ in range(SUMMARISE_TURNS):
            await memory.turn_ended([user("x")])
        store.full = False
        assert (await save(memory, "2")).text == "Saved [discovery] 2"
        store.full_to_remove = True
        for title in "34":
            assert (await save(memory, title)).text == f"Saved [discovery] {title}"
        assert len(store.kept) == 2
        store.full_to_remove = False
        await save(memory, "5")
        await anyio.sleep(1)
        assert store.kept == {}
    assert [body["title"] for _, path, body in service.calls if path == "/observations"] == list("02345")
