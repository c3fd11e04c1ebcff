"""The HTTP side of daemon runs, against a scripted pod on a virtual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
import trio.testing

from agentops.api.codec import dumps
from agentops.api.runs import RunRecord
from agentops.clients.runtime import RuntimeClient
from agentops.controller import Request
from agentops.operator.follower import CONNECT_PATIENCE_S, RunFollower, State, Target
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio
KEY = Request("agents", "r")
RUNNING = httpx2.Response(200, content=dumps(RunRecord(name="r")))
DONE = httpx2.Response(200, content=dumps(RunRecord(name="r", state="succeeded", output="hi")))
ACCEPTED = httpx2.Response(202, content=b'{"run":"r"}')


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class Pod:
    """Answers by method and path; keeps what it was asked."""

    def __init__(self, **answers: object) -> None:
        self.answers = {key: list(value) if isinstance(value, list) else value for key, value in answers.items()}
        self.seen: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.seen.append(request)
        answer = self.answers[request.method.lower()]
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, httpx2.Response)
        return httpx2.Response(answer.status_code, content=answer.content)

    def count(self, method: str) -> int:
        return sum(request.method == method for request in self.seen)


class Followed:
    def __init__(self, follower: RunFollower, target: Target) -> None:
        self.follower = follower
        self.target = target
        self.woken = anyio.Event()

    async def until(self, state: State) -> None:
        with anyio.fail_after(120):
            while (seen := self.follower.observation("uid")) is None or seen.state is not state:
                await anyio.sleep(0.1)


@asynccontextmanager
async def following(pod: Any, woken: list[Request] | None = None) -> AsyncIterator[Followed]:
    wake: Callable[[Request], None] = (woken if woken is not None else []).append
    follower = RunFollower(wake, LoopClock())
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(pod)) as http:

        async def client() -> RuntimeClient:
            return RuntimeClient(http, "http://10.0.0.1:4096", "secret")

        async with anyio.create_task_group() as tasks:
            await tasks.start(follower.run)
            yield Followed(follower, Target(request=KEY, uid="uid", run="r", client=client))
            tasks.cancel_scope.cancel()


async def test_a_prompt_is_posted_once_and_followed_to_its_end() -> None:
    pod, woken = Pod(post=ACCEPTED, get=[RUNNING, RUNNING, DONE]), []
    async with following(pod, woken) as run:
        run.follower.dispatch(run.target, "Say hello.", {"Traceparent": "00-a-b-01"})
        await run.until(State.ENDED)
        seen = run.follower.observation("uid")
    assert seen is not None
    assert seen.record is not None
    assert seen.record.output == "hi"
    assert pod.count("POST") == 1
    post = pod.seen[0]
    assert post.headers["Prefer"] == "respond-async"
    assert post.headers["X-AgentOps-Run-Name"] == "r"
    assert {request.headers["X-AgentOps-Run-UID"] for request in pod.seen} == {"uid"}
    assert post.headers["Authorization"] == "Bearer secret"
    assert post.headers["Traceparent"] == "00-a-b-01"
    assert woken == [KEY, KEY]


async def test_the_end_is_known_as_soon_as_the_runtime_knows_it() -> None:
    async def answer(request: httpx2.Request) -> httpx2.Response:
        if "wait=" not in request.headers.get("Prefer", ""):
            return RUNNING
        await anyio.sleep(7)
        return DONE

    async with following(answer) as run:
        started = anyio.current_time()
        run.follower.resume(run.target)
        await run.until(State.ENDED)
        assert anyio.current_time() - started < 7.2


async def test_a_runtime_that_cannot_wait_is_polled_with_pauses() -> None:
    pod = Pod(get=[*[RUNNING] * 8, DONE])
    async with following(pod) as run:
        started = anyio.current_time()
        run.follower.resume(run.target)
        await run.until(State.ENDED)
        assert anyio.current_time() - started > 5


async def test_dispatching_twice_posts_once() -> None:
    pod = Pod(post=ACCEPTED, get=[RUNNING, DONE])
    async with following(pod) as run:
        run.follower.dispatch(run.target, "x", {})
        run.follower.dispatch(run.target, "x", {})
        await run.until(State.ENDED)
    assert pod.count("POST") == 1


async def test_resuming_never_posts() -> None:
    pod = Pod(get=[RUNNING, DONE])
    async with following(pod) as run:
        run.follower.resume(run.target)
        await run.until(State.ENDED)
    assert pod.count("POST") == 0


@pytest.mark.parametrize("status", [429, 503, 401])
async def test_a_pod_that_does_not_take_the_prompt_gives_it_back(status: int) -> None:
    pod = Pod(post=httpx2.Response(status, content=b'{"error":"agent is busy"}'))
    async with following(pod) as run:
        run.follower.dispatch(run.target, "x", {})
        await run.until(State.NOT_STARTED)
        seen = run.follower.observation("uid")
    assert seen is not None
    assert "agent is busy" in seen.message
    assert pod.count("POST") == 1


async def test_connections_that_were_never_made_are_tried_again() -> None:
    pod = Pod(post=[httpx2.ConnectError("refused"), httpx2.ConnectError("refused"), ACCEPTED], get=DONE)
    async with following(pod) as run:
        run.follower.dispatch(run.target, "x", {})
        await run.until(State.ENDED)
    assert pod.count("POST") == 3


async def test_a_pod_that_cannot_be_dialled_gives_the_run_back_after_a_while() -> None:
    pod = Pod(post=httpx2.ConnectError("refused"))
    async with following(pod) as run:
        began = anyio.current_time()
        run.follower.dispatch(run.target, "x", {})
        await run.until(State.NOT_STARTED)
        assert anyio.current_time() - began >= CONNECT_PATIENCE_S


async def test_an_answer_that_was_lost_is_never_a_second_prompt() -> None:
    pod = Pod(post=httpx2.ReadTimeout("silence"), get=[RUNNING, DONE])
    async with following(pod) as run:
        run.follower.dispatch(run.target, "x", {})
        await run.until(State.ENDED)
    assert pod.count("POST") == 1


async def test_a_record_that_is_not_there_is_lost() -> None:
    pod = Pod(post=httpx2.ReadTimeout("silence"), get=httpx2.Response(404, content=b'{"error":"no such run"}'))
    async with following(pod) as run:
        run.follower.dispatch(run.target, "x", {})
        await run.until(State.LOST)
    assert pod.count("POST") == 1


async def test_a_pod_that_restarts_is_asked_until_it_answers() -> None:
    pod = Pod(get=[RUNNING, httpx2.ConnectError("refused"), httpx2.Response(503, content=b"starting"), DONE])
    async with following(pod) as run:
        run.follower.resume(run.target)
        await run.until(State.ENDED)


async def test_a_bad_request_is_refused_for_good() -> None:
    pod = Pod(post=httpx2.Response(400, content=b'{"error":"prompt is required"}'))
    async with following(pod) as run:
        run.follower.dispatch(run.target, "", {})
        await run.until(State.REFUSED)


async def test_aborting_names_the_run_and_the_record_tells_the_end() -> None:
    aborted = httpx2.Response(200, content=dumps(RunRecord(name="r", state="failed", reason="Aborted")))
    pod = Pod(post=ACCEPTED, get=[RUNNING], delete=[httpx2.ReadTimeout("x"), httpx2.Response(200, content=b"{}")])
    async with following(pod) as run:
        run.follower.dispatch(run.target, "x", {})
        await run.until(State.FOLLOWING)
        run.follower.abort("uid")
        run.follower.abort("uid")
        with anyio.fail_after(60):
            while pod.count("DELETE") < 2:
                await anyio.sleep(0.1)
        pod.answers["get"] = aborted
        await run.until(State.ENDED)
    deletes = [request for request in pod.seen if request.method == "DELETE"]
    assert {request.headers["X-AgentOps-Run-Name"] for request in deletes} == {"r"}


async def test_a_forgotten_run_is_no_longer_asked_for() -> None:
    pod = Pod(post=ACCEPTED, get=[RUNNING])
    async with following(pod) as run:
        run.follower.dispatch(run.target, "x", {})
        await run.until(State.FOLLOWING)
        run.follower.forget("uid")
        await anyio.sleep(1)
        asked = len(pod.seen)
        await anyio.sleep(60)
        assert len(pod.seen) == asked
        assert run.follower.statistics() == {"following": 0, "aborting": 0}
