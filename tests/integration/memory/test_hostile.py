"""Whatever is sent, the answer is a 4xx that names what is wrong, and the next request works."""

from __future__ import annotations

import socket
from pathlib import Path

import anyio
import anyio.to_thread
import httpx2
import orjson
import pytest
from support.memory import HandClock

from agentops.memory.service import MemoryOptions, MemoryService

pytestmark = pytest.mark.anyio

NOTE = {"session_id": "s1", "type": "decision", "title": "Deploys", "content": "Deploy blue-green.", "project": "shop"}


def talk(port: int, raw: bytes) -> bytes:
    """What comes back for bytes no HTTP client would send."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(raw)
        return b"".join(iter(lambda: connection.recv(4096), b""))


@pytest.fixture
async def service(tmp_path: Path):
    options = MemoryOptions(listen="127.0.0.1:0", db=tmp_path / "memory.db", insecure=True, grace_s=1.0)
    running = MemoryService(options, clock=HandClock())
    async with anyio.create_task_group() as tasks:
        running.port = await tasks.start(running.run)
        yield running
        tasks.cancel_scope.cancel()


@pytest.fixture
async def client(service):
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{service.port}") as opened:
        yield opened


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (NOTE | {"title": "a\x00b"}, "title has a NUL character"),
        (NOTE | {"project": "a\x00b"}, "project has a NUL character"),
        (NOTE | {"session_id": ["s"]}, "session_id must be a string"),
        (NOTE | {"content": {"a": 1}}, "content must be a string"),
        (NOTE | {"type": True}, "type must be a string"),
        (NOTE | {"tags": "ab"}, "tags must be a list"),
        (NOTE | {"tags": {"a": 1}}, "tags must be a list"),
        (NOTE | {"tags": ["a\x00"]}, "tags[0] has a NUL character"),
        (NOTE | {"topic_key": 7}, "topic_key must be a string"),
        (NOTE | {"content": "x" * 50_001}, "content has 50001 characters"),
    ],
)
async def test_a_field_of_the_wrong_kind_is_named(client, body: dict, named: str) -> None:
    answer = await client.post("/observations", content=orjson.dumps(body))
    assert answer.status_code == 400
    assert named in answer.json()["error"]


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b'{"title": "\xc3\x28"}', b'{"title": "\\ud800"}', b"null",
     b"1e999", b'{"title": NaN}', b"\x00", b"{}garbage"],
)  # fmt: skip
async def test_a_body_that_is_not_a_json_object_is_refused(client, body: bytes) -> None:
    for path in ("/observations", "/sessions", "/sessions/s/end", "/import"):
        answer = await client.post(path, content=body)
        assert answer.status_code == 400, path
        assert "body" in answer.json()["error"], path


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("/search?q=x&project=a%00b", "project"),
        ("/search?q=x&type=a%00b", "type"),
        ("/search?q=x&type=" + "t" * 51, "type"),
        ("/search?q=x&tags=" + ",".join(str(n) for n in range(21)), "tags"),
        ("/search?q=x&since=yesterday", "since"),
        ("/search?q=x&until=2026-01-01", "until"),
        ("/search?q=x&until=99999-01-01T00:00:00Z", "until"),
        ("/search?q=" + "x" * 20_001, "q has 20001 characters"),
        ("/context?project=shop&max_tokens=-1", "max_tokens"),
        ("/observations/recent?cursor=%00", "cursor"),
        ("/observations/recent?cursor=AAAA", "cursor"),
        ("/observations/recent?cursor=MS54", "cursor"),
        ("/observations/trash?cursor=%F0%9F%98%80", "cursor"),
        ("/sessions/recent?cursor=" + "A" * 5000, "cursor"),
        ("/observations/99999999999999999999", "id"),
        ("/observations/%00", "id"),
        ("/timeline?observation_id=1e3", "observation_id"),
    ],
)
async def test_a_parameter_that_makes_no_sense_is_named(client, query: str, named: str) -> None:
    answer = await client.get(query)
    assert answer.status_code == 400
    assert named in answer.json()["error"]


@pytest.mark.parametrize(
    "query", ["/search?q=%ff%fe", "/search?q=%00", "/search?q=%F0%9F%98%80", "/search?q=%22%22%22*"]
)
async def test_no_bytes_of_a_search_are_an_error(client, query: str) -> None:
    assert (await client.get(query)).json() == []


async def test_a_session_id_with_anything_in_it_is_only_not_found(client) -> None:
    assert (await client.post("/sessions/%00/end", json={})).status_code == 400
    for text in ("..%2f..", "%F0%9F%98%80", "a'b", "x" * 200):
        assert (await client.post(f"/sessions/{text}/end", json={})).status_code in (404, 405), text
    assert (await client.post("/sessions/" + "x" * 201 + "/end", json={})).status_code == 400


async def test_raw_bytes_in_the_path_leave_the_service_serving(service, client) -> None:
    for path in (b"/observations/\xff\xfe", b"/search?q=\xff", b"/\x01"):
        request = b"GET " + path + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        answer = await anyio.to_thread.run_sync(talk, service.port, request)
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200")), (path, answer)
    assert (await client.get("/stats")).status_code == 200


async def test_a_body_that_never_ends_is_given_up(service, monkeypatch) -> None:
    monkeypatch.setattr("agentops.memory.app.BODY_TIMEOUT_S", 0.1)

    for path in (b"/observations", b"/import"):
        head = b"POST " + path + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100\r\n\r\n"
        answer = await anyio.to_thread.run_sync(talk, service.port, head + b'{"title": ')
        assert answer.startswith(b"HTTP/1.1 408"), (path, answer)
        assert b"arrive" in answer


async def test_many_writers_and_readers_at_once_are_all_answered(client) -> None:
    codes: list[int] = []

    async def write(n: int) -> None:
        codes.append((await client.post("/observations", json=NOTE | {"content": f"row {n}"})).status_code)

    async def read() -> None:
        codes.append((await client.get("/search", params={"q": "row"})).status_code)

    async with anyio.create_task_group() as tasks:
        for n in range(60):
            tasks.start_soon(write, n)
            tasks.start_soon(read)
    assert sorted(codes) == [200] * 60 + [201] * 60


async def test_pages_are_followed_by_the_link_header(client) -> None:
    for n in range(5):
        await client.post("/observations", json=NOTE | {"content": f"row {n}", "tags": ["a,b"[n % 2]]})
    seen, url = [], "/observations/recent?project=shop&limit=2"
    while url:
        answer = await client.get(url)
        seen += [row["id"] for row in answer.json()]
        url = answer.links.get("next", {}).get("url", "")
    assert seen == [5, 4, 3, 2, 1]


async def test_a_row_is_changed_looked_up_thrown_away_and_brought_back(client) -> None:
    await client.post("/observations", json=NOTE | {"topic_key": "t"})
    await client.post("/observations", json=NOTE | {"topic_key": "t", "content": "Now canary."})
    (was,) = (await client.get("/observations/1/revisions")).json()
    assert (was["revision"], was["content"]) == (1, "Deploy blue-green.")
    await client.delete("/observations/1")
    (thrown,) = (await client.get("/observations/trash")).json()
    assert (thrown["id"], thrown["deleted_at"]) == (1, "2026-11-21T12:00:00.000Z")
    assert (await client.post("/observations/1/restore")).json()["content"] == "Now canary."
    assert (await client.get("/observations/trash")).json() == []


async def test_a_full_disk_is_503_and_readyz_says_so(client, service) -> None:
    assert (await client.get("/readyz")).status_code == 200
    connection = service.database._writer
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    answer = await client.post("/observations", json=NOTE | {"content": "x" * 40_000})
    assert answer.status_code == 503
    assert "disk is full" in answer.json()["error"]
    ready = await client.get("/readyz")
    assert ready.status_code == 500
    assert "database failed: nothing was changed, the disk is full" in ready.text
    assert (await client.get("/search", params={"q": "deploy"})).status_code == 200
