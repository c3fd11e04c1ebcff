from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from agentops.net.auth import BearerAuth, TokenFile
from agentops.net.errors import UsageError
from agentops.net.listen import ListenAddress, bind
from agentops.net.resolve import http_client
from agentops.net.retry import retrying
from agentops.net.serve import health_routes, serve
from agentops.telemetry.metrics import Registry

pytestmark = pytest.mark.anyio


async def _secret(_: Request) -> PlainTextResponse:
    return PlainTextResponse("secret")


def _client(token: Callable[[], str] | None) -> httpx2.AsyncClient:
    app = Starlette(routes=[Route("/secret", _secret), *health_routes(Registry())])
    transport = httpx2.ASGITransport(app=BearerAuth(app, token))
    return httpx2.AsyncClient(transport=transport, base_url="http://agent")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer right"}, 200),
        ({"Authorization": "bearer right"}, 200),
        ({"X-AgentOps-Token": "right"}, 200),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic right"}, 401),
        ({"Authorization": "Bearer r\u00efght".encode("latin-1").decode("latin-1")}, 401),
    ],
)
async def test_only_the_bearer_opens_the_door(headers: dict[str, str], status: int) -> None:
    async with _client(lambda: "right") as client:
        encoded = {key: value.encode("latin-1") for key, value in headers.items()}
        assert (await client.get("/secret", headers=encoded)).status_code == status


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_probes_and_metrics_are_open(path: str) -> None:
    async with _client(lambda: "right") as client:
        assert (await client.get(path)).status_code == 200


async def test_a_rotated_token_is_used_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one\n")
    token = TokenFile(path)
    assert token() == "one"
    (tmp_path / "next").write_text("two")
    (tmp_path / "next").rename(path)
    assert token() == "two"
    path.unlink()
    assert token() == "two"


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_missing_or_empty_token_file_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=str(path)):
        TokenFile(path)


@pytest.mark.parametrize("written", [b"s3cret\n# rotated", b"s3cret\xe2\x80\x93", b"s3cret\xff", b"s3\0cret"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_quoted(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(written)
    with pytest.raises(UsageError, match="write the bare bearer token into it") as raised:
        TokenFile(path)
    assert "s3" not in str(raised.value)


def test_a_token_that_no_header_can_carry_does_not_replace_a_good_one(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("good\n")
    token = TokenFile(path)
    path.write_bytes(b"bad\nworse")
    assert token() == "good"


async def test_readyz_names_what_fails() -> None:
    app = Starlette(routes=health_routes(Registry(), lambda: {"store": None, "config": "file missing"}))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://x") as client:
        answer = await client.get("/readyz")
    assert answer.status_code == 500
    assert "[+]store ok" in answer.text and "[-]config failed: file missing" in answer.text


async def test_cancelling_a_server_lets_the_open_request_finish() -> None:
    entered, leave = anyio.Event(), anyio.Event()

    async def slow(_: Request) -> PlainTextResponse:
        entered.set()
        await leave.wait()
        return PlainTextResponse("done")

    sock = bind(ListenAddress("127.0.0.1", 0))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}/"
    answers: list[str] = []

    async def ask() -> None:
        async with http_client() as client:
            answers.append((await client.get(url)).text)

    async with anyio.create_task_group() as callers, anyio.create_task_group() as servers:
        await servers.start(partial(serve, Starlette(routes=[Route("/", slow)]), sock))
        callers.start_soon(ask)
        await entered.wait()
        servers.cancel_scope.cancel()
        leave.set()
    assert answers == ["done"]


async def test_only_what_is_worth_retrying_is_retried() -> None:
    calls: list[int] = []
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def flaky() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError
        return "ok"

    assert await retrying(flaky, when=lambda e: isinstance(e, ConnectionError), retry_after_s=lambda _: 7, sleep=sleep)
    assert len(calls) == 3 and all(wait >= 7 for wait in waits)

    async def broken() -> str:
        calls.append(1)
        raise ValueError("once")

    with pytest.raises(ValueError, match="once"):
        await retrying(broken, when=lambda e: isinstance(e, ConnectionError), sleep=sleep)
    assert len(calls) == 4
