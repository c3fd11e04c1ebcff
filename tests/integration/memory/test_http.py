"""The service over a real socket, in this process."""

from __future__ import annotations

from pathlib import Path

import anyio
import httpx2
import orjson
import pytest
from support.memory import HandClock

from agentops.memory.service import MemoryOptions, MemoryService

pytestmark = pytest.mark.anyio

TOKEN = "the-token"
NOTE = {"session_id": "s1", "type": "decision", "title": "Deploys", "content": "Deploy blue-green.", "project": "Shop"}


@pytest.fixture
async def service(tmp_path: Path):
    (tmp_path / "token").write_text(TOKEN + "\n")
    options = MemoryOptions(listen="127.0.0.1:0", db=tmp_path / "memory.db", token_file=tmp_path / "token", grace_s=2.0)
    running = MemoryService(options, clock=HandClock())
    async with anyio.create_task_group() as tasks:
        running.port = await tasks.start(running.run)
        yield running
        tasks.cancel_scope.cancel()


@pytest.fixture
async def client(service):
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{service.port}", headers=headers) as opened:
        yield opened


async def save(client, **changes) -> dict:
    answer = await client.post("/observations", json=NOTE | changes)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_sessions_are_created_ended_and_listed(client) -> None:
    created = await client.post("/sessions", json={"id": "s1", "project": "Shop"})
    assert created.status_code == 201
    assert created.json() == {
        "id": "s1",
        "project": "shop",
        "started_at": "2026-11-21T12:00:00.000Z",
        "message_count": 0,
    }
    ended = await client.post("/sessions/s1/end", json={"messages": [{"role": "user", "content": "hello"}]})
    assert ended.status_code == 200
    assert ended.json()["message_count"] == 1
    listed = (await client.get("/sessions/recent", params={"project": "SHOP"})).json()
    assert [session["summary"] for session in listed] == [ended.json()["summary"]]


async def test_a_session_whose_id_has_slashes_is_ended(client, service) -> None:
    await client.post("/sessions", json={"id": "console/shop/a", "project": "shop"})
    for path in ("/sessions/console%2Fshop%2Fa/end", "/sessions/console/shop/a/end"):
        assert (await client.post(path, json={})).json()["session_id"] == "console/shop/a"
    assert service.registry.value("agentops_memory_requests_total", route="/sessions/{id}/end", code="200") == 2


async def test_an_observation_is_saved_read_changed_and_deleted(client) -> None:
    saved = await save(client, tags=["a"])
    assert saved == {"id": 1, "action": "created", "revision_count": 1, "duplicate_count": 1}
    row = (await client.get("/observations/1")).json()
    assert (row["project"], row["scope"], row["tags"]) == ("shop", "project", ["a"])
    changed = await client.patch("/observations/1", json={"title": "Rollouts"})
    assert (changed.status_code, changed.json()["title"], changed.json()["revision_count"]) == (200, "Rollouts", 2)
    for _ in range(2):
        assert (await client.delete("/observations/1", params={"hard": "true"})).status_code == 204
    gone = await client.get("/observations/1")
    assert (gone.status_code, gone.json()) == (404, {"error": "observation 1 does not exist"})


async def test_a_patch_is_validated_and_of_a_missing_row_not_found(client) -> None:
    await save(client)
    bad = await client.patch("/observations/1", json={"title": ""})
    assert (bad.status_code, bad.json()["error"]) == (400, "validation failed: title is required")
    assert (await client.patch("/observations/7", json={"title": "x"})).status_code == 404
    assert (await client.patch("/observations/x", json={"title": "x"})).status_code == 400


async def test_search_and_context_find_what_was_saved_whatever_the_case_of_the_project(client) -> None:
    await save(client, topic_key="deploy/style")
    hits = (await client.get("/search", params={"q": "how do we deploy?", "project": "SHOP"})).json()
    assert [(hit["id"], hit["topic_key"]) for hit in hits] == [(1, "deploy/style")]
    context = (await client.get("/context", params={"project": "shop", "query": "deploy"})).json()
    assert context == {
        "recent_sessions": [],
        "recent_observations": [
            {"id": 1, "type": "decision", "title": "Deploys", "content": "Deploy blue-green.", "method": "fts5_bm25"}
        ],
    }
    nothing = (await client.get("/context", params={"project": "shop", "max_tokens": "1"})).json()
    assert nothing == {"recent_sessions": [], "recent_observations": []}


@pytest.mark.parametrize("text", ['"', "*", "(", ")", ":", "-", '" * ( ) : -', "a OR", "NEAR(", "x\x00y", "%", "/"])
async def test_no_search_text_is_an_error(client, text: str) -> None:
    await save(client)
    assert (await client.get("/search", params={"q": text})).status_code == 200
    assert (await client.get("/context", params={"q": text, "query": text, "project": "shop"})).status_code == 200


async def test_what_is_required_in_a_query_string_is_named(client) -> None:
    for path, field in (("/search", "q"), ("/context", "project"), ("/timeline", "observation_id")):
        answer = await client.get(path)
        assert answer.status_code == 400, path
        assert field in answer.json()["error"], path


async def test_timeline_stats_and_recent(client) -> None:
    for n in range(3):
        await save(client, content=f"row {n}")
    entries = (await client.get("/timeline", params={"observation_id": 2, "before": 1, "after": 0})).json()
    assert [entry["id"] for entry in entries] == [1, 2]
    assert (await client.get("/timeline", params={"observation_id": 9})).status_code == 404
    assert (await client.get("/stats")).json() == {
        "total_sessions": 1,
        "total_observations": 3,
        "projects": ["shop"],
    }
    recent = (await client.get("/observations/recent", params={"project": "shop", "limit": 2})).json()
    assert [row["id"] for row in recent] == [3, 2]


@pytest.mark.parametrize("form", ["json", "ndjson"])
async def test_export_and_import_again_adds_nothing(client, form: str) -> None:
    await save(client, content="ümlaut ☃")
    exported = await client.get("/export", params={"format": form})
    headers = {"content-type": exported.headers["content-type"]}
    imported = await client.post("/import", content=exported.content, headers=headers)
    assert (imported.status_code, imported.json()) == (
        200,
        {"imported_sessions": 0, "imported_observations": 0, "skipped": 2},
    )
    assert (await client.get("/export", params={"format": form})).content == exported.content


async def test_an_export_document_has_sessions_and_observations_even_when_empty(client) -> None:
    document = (await client.get("/export")).json()
    assert document == {"exported_at": "2026-11-21T12:00:00.000Z", "sessions": [], "observations": []}


async def test_an_import_is_not_bound_by_the_limit_of_a_body(client) -> None:
    row = {"kind": "observation", "id": 1, "session_id": "s", "type": "t", "title": "t", "project": "p"}
    lines = [orjson.dumps(row | {"id": n + 1, "uuid": f"u{n}", "content": f"{n} " + "x" * 40_000}) for n in range(60)]
    answer = await client.post("/import", content=b"\n".join(lines), headers={"content-type": "application/x-ndjson"})
    assert answer.json()["imported_observations"] == 60


async def test_a_bad_import_line_is_named(client) -> None:
    answer = await client.post("/import", content=b'{"kind": "x"\n', headers={"content-type": "application/x-ndjson"})
    assert answer.status_code == 400
    assert "line 1 is not JSON" in answer.json()["error"]


async def test_errors_are_json_and_tell_everything(client) -> None:
    answer = await client.post("/observations", json={"type": "t"})
    assert answer.status_code == 400
    assert answer.json()["error"] == (
        "validation failed: session_id is required; title is required; content is required; project is required"
    )
    assert (await client.post("/observations", content=b'{"a":')).status_code == 400
    assert (await client.get("/nowhere")).json() == {"error": "no such route: /nowhere"}
    assert (await client.put("/search")).status_code == 405


async def test_a_body_over_one_mebibyte_is_refused(client) -> None:
    answer = await client.post("/observations", json=NOTE | {"content": "x" * (1 << 20)})
    assert answer.status_code == 413
    assert "1048576" in answer.json()["error"]

    async def chunks():
        for _ in range(20):
            yield b"x" * 65536

    assert (await client.post("/observations", content=chunks())).status_code == 413


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"x-agentops-token": "wrong"}])
async def test_without_the_token_only_probes_and_metrics_answer(service, headers: dict[str, str]) -> None:
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{service.port}", headers=headers) as stranger:
        for path in ("/health", "/healthz", "/readyz", "/metrics"):
            assert (await stranger.get(path)).status_code == 200, path
        for path in ("/search?q=x", "/export", "/stats"):
            answer = await stranger.get(path)
            assert answer.status_code == 401, path
            assert "error" in answer.json()


async def test_the_token_may_come_in_the_header_that_proxies_pass(service) -> None:
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{service.port}") as proxied:
        assert (await proxied.get("/stats", headers={"x-agentops-token": TOKEN})).status_code == 200


async def test_requests_are_counted_by_route_template_and_code(client, service) -> None:
    await save(client)
    await client.get("/observations/1")
    await client.get("/observations/2")
    await client.get("/nowhere")
    await client.get("/search", headers={"authorization": "Bearer wrong"})

    def count(route: str, code: int) -> float | None:
        return service.registry.value("agentops_memory_requests_total", route=route, code=str(code))

    assert count("/observations", 201) == 1
    assert count("/observations/{id}", 200) == 1
    assert count("/observations/{id}", 404) == 1
    assert count("/search", 401) == 1
    assert count("other", 404) == 1
    assert "agentops_memory_requests_total{" in (await client.get("/metrics")).text
