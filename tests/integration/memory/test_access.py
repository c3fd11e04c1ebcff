"""What a bearer of one project reaches over HTTP, and what it does not."""

from __future__ import annotations

from pathlib import Path

import anyio
import httpx2
import pytest
from support.memory import HandClock

from agentops.api.memory_access import project_bearer
from agentops.memory.service import MemoryOptions, MemoryService

pytestmark = pytest.mark.anyio

NOTE = {"session_id": "s1", "type": "decision", "title": "Deploys", "content": "Deploy blue-green."}


def client(port: int, bearer: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {bearer}"})


@pytest.fixture
async def port(tmp_path: Path):
    (tmp_path / "token").write_text("the-token\n")
    options = MemoryOptions(listen="127.0.0.1:0", db=tmp_path / "memory.db", token_file=tmp_path / "token", grace_s=2.0)
    async with anyio.create_task_group() as tasks:
        yield await tasks.start(MemoryService(options, clock=HandClock()).run)
        tasks.cancel_scope.cancel()


@pytest.fixture
async def all_projects(port: int):
    async with client(port, "the-token") as opened:
        yield opened


@pytest.fixture
async def shop(port: int):
    async with client(port, project_bearer("the-token", "shop")) as opened:
        yield opened


@pytest.fixture
async def rows(all_projects) -> dict[str, int]:
    """Ids of one row of the shop, one of the blog and one of the blog for all."""
    made = {}
    for name, project, scope in (("shop", "shop", "project"), ("blog", "blog", "project"), ("all", "blog", "global")):
        body = NOTE | {"session_id": f"{name}-session", "project": project, "scope": scope, "title": name}
        made[name] = (await all_projects.post("/observations", json=body)).json()["id"]
    return made


async def test_without_a_project_in_the_query_it_is_the_bearers(shop, rows) -> None:
    found = (await shop.get("/search", params={"q": "deploy"})).json()
    assert sorted(hit["title"] for hit in found) == ["all", "shop"]
    assert [row["title"] for row in (await shop.get("/observations/recent")).json()] == ["shop"]
    assert [s["id"] for s in (await shop.get("/sessions/recent")).json()] == ["shop-session"]
    assert (await shop.get("/stats")).json()["projects"] == ["shop"]
    context = (await shop.get("/context", params={"query": "deploy"})).json()
    assert sorted(row["title"] for row in context["recent_observations"]) == ["all", "shop"]
    exported = (await shop.get("/export")).json()
    assert [row["title"] for row in exported["observations"]] == ["shop"]


@pytest.mark.parametrize(
    "path",
    ["/search?q=x&project=blog", "/context?project=Blog", "/stats?project=blog", "/export?project=blog",
     "/observations/recent?project=blog", "/sessions/recent?project=blog", "/observations/trash?project=blog"],
)  # fmt: skip
async def test_another_project_in_the_query_is_forbidden_by_name(shop, rows, path: str) -> None:
    answer = await shop.get(path)
    assert answer.status_code == 403
    assert answer.json()["error"] == "this bearer is of project 'shop', not of 'blog'"


async def test_writing_for_another_project_is_forbidden(shop, rows) -> None:
    for path, body in (
        ("/sessions", {"id": "n", "project": "blog"}),
        ("/observations", NOTE | {"project": "blog"}),
        ("/import", {"sessions": [{"id": "n", "project": "blog", "started_at": "2026-01-01T00:00:00Z"}]}),
    ):
        answer = await shop.post(path, json=body)
        assert answer.status_code == 403, path
        assert "'shop'" in answer.json()["error"]


async def test_another_projects_row_is_not_found_by_its_id(shop, rows) -> None:
    theirs = rows["blog"]
    for method, path in (
        ("GET", f"/observations/{theirs}"),
        ("GET", f"/observations/{theirs}/revisions"),
        ("PATCH", f"/observations/{theirs}"),
        ("POST", f"/observations/{theirs}/restore"),
        ("GET", f"/timeline?observation_id={theirs}"),
        ("POST", "/sessions/blog-session/end"),
    ):
        answer = await shop.request(method, path, json={"title": "x"} if method == "PATCH" else None)
        assert answer.status_code == 404, path
    assert (await shop.get(f"/observations/{rows['all']}")).status_code == 200


async def test_deleting_another_projects_row_deletes_nothing(shop, all_projects, rows) -> None:
    assert (await shop.delete(f"/observations/{rows['blog']}", params={"hard": "true"})).status_code == 204
    assert (await all_projects.get(f"/observations/{rows['blog']}")).status_code == 200


async def test_a_session_id_of_another_project_is_a_conflict(shop, rows) -> None:
    answer = await shop.post("/sessions", json={"id": "blog-session", "project": "shop"})
    assert answer.status_code == 409
    assert "'blog-session'" in answer.json()["error"]


async def test_the_whole_database_is_not_one_projects_to_vacuum(shop, all_projects) -> None:
    assert (await shop.post("/vacuum")).status_code == 403
    assert set((await all_projects.post("/vacuum")).json()) == {"bytes_before", "bytes_after"}
    assert (await shop.post("/prune")).json() == {"expired": 0, "over_limit": 0, "purged": 0}


async def test_the_services_own_bearer_checks_a_row_against_a_project_it_names(all_projects, rows) -> None:
    row = rows["blog"]
    assert (await all_projects.get(f"/observations/{row}", params={"project": "shop"})).status_code == 404
    assert (await all_projects.get(f"/observations/{row}", params={"project": "blog"})).status_code == 200


async def test_a_bearer_of_an_old_service_bearer_is_nobodys(port: int) -> None:
    async with client(port, project_bearer("before-rotation", "shop")) as stranger:
        assert (await stranger.get("/stats")).status_code == 401
