"""An agent and the real memory service, both over real sockets."""

from __future__ import annotations

from pathlib import Path

import anyio
import httpx2
import pytest
from support.fake_model import FakeModel, call, say
from support.roles import Role
from support.runtime import running, settings_in, write_config

pytestmark = pytest.mark.anyio

SAVE = {"title": "Deploy strategy", "content": "The shop deploys blue-green because rollbacks are instant."}


async def test_what_the_model_saves_comes_back_in_a_later_turn(tmp_path: Path) -> None:
    (tmp_path / "memory-token").write_text("memory-secret")
    role = Role("memory", "--listen", "127.0.0.1:0", "--db", str(tmp_path / "m.db"),
                env={"MEMORY_TOKEN_FILE": str(tmp_path / "memory-token")})  # fmt: skip
    script = [call(("c1", "mem_save", SAVE)), say("Saved."), say("Blue-green.")]
    with role:
        port = await anyio.to_thread.run_sync(lambda: role.ready("memory.ready")["port"])
        url = f"http://127.0.0.1:{port}"
        async with FakeModel(*script).serving() as model:
            config = write_config(
                tmp_path / "config.json", model.url, memory={"serverURL": url, "project": "shop", "contextLimit": 5}
            )
            settings = settings_in(tmp_path, config, memory_token_file=str(tmp_path / "memory-token"))
            async with running(settings) as client:
                await client.start("How do we deploy the shop?", "run-1")
                events = await client.events("/runs/run-1/events")
                second = await client.prompt("Tell me about deploy of the shop again")
                assert (await client.http.get("/status")).json()["memory_enabled"] is True
        headers = {"Authorization": "Bearer memory-secret"}
        async with httpx2.AsyncClient(base_url=url, headers=headers) as http:
            rows = (await http.get("/observations/recent", params={"project": "shop"})).json()
            sessions = (await http.get("/sessions/recent", params={"project": "shop"})).json()
    result = next(event for event in events if event["type"] == "tool_result")
    assert (result["output"], result["is_error"]) == ("Saved [discovery] Deploy strategy", False)
    assert [row["title"] for row in rows] == ["Deploy strategy"]
    assert second.json()["output"] == "Blue-green."
    system = model.requests[2]["messages"][0]["content"]
    assert "<memory:context>\n- [discovery] Deploy strategy: The shop deploys blue-green" in system
    assert model.requests[2]["messages"][1] == {"role": "user", "content": "How do we deploy the shop?"}
    assert sessions[0]["message_count"] >= 4


async def test_a_memory_service_that_is_away_costs_nothing_but_memory(tmp_path: Path) -> None:
    async with FakeModel(call(("c1", "mem_save", SAVE)), say("Could not save.")).serving() as model:
        config = write_config(
            tmp_path / "config.json", model.url, memory={"serverURL": "http://127.0.0.1:1", "project": "shop"}
        )
        async with running(settings_in(tmp_path, config)) as client:
            await client.start("x", "run-1")
            events = await client.events("/runs/run-1/events")
            status = (await client.http.get("/status")).json()
    result = next(event for event in events if event["type"] == "tool_result")
    assert result["is_error"] is False
    assert "sent when the service is back" in result["output"]
    assert status["memory_writes_waiting"] == 2
    assert events[-2]["type"] == "agent_finish"
    assert "127.0.0.1:1" in status["memory_error"]


async def test_what_memory_did_not_get_is_sent_by_the_next_daemon(tmp_path: Path) -> None:
    async with FakeModel(call(("c1", "mem_save", SAVE)), say("Noted.")).serving() as model:
        away = {"serverURL": "http://127.0.0.1:1", "project": "shop"}
        async with running(settings_in(tmp_path, write_config(tmp_path / "c.json", model.url, memory=away))) as client:
            await client.start("x", "run-1")
            await client.finished("run-1")
        with Role("memory", "--listen", "127.0.0.1:0", "--db", str(tmp_path / "m.db"), "--insecure") as role:
            port = await anyio.to_thread.run_sync(lambda: role.ready("memory.ready")["port"])
            there = {"serverURL": f"http://127.0.0.1:{port}", "project": "shop"}
            config = write_config(tmp_path / "c.json", model.url, memory=there)
            async with running(settings_in(tmp_path, config)) as client:
                with anyio.fail_after(30):
                    while "memory_writes_waiting" in (status := (await client.http.get("/status")).json()):
                        await anyio.sleep(0.05)
            async with httpx2.AsyncClient(base_url=there["serverURL"]) as http:
                rows = (await http.get("/observations/recent", params={"project": "shop"})).json()
                sessions = (await http.get("/sessions/recent", params={"project": "shop"})).json()
    assert "memory_error" not in status
    assert [row["title"] for row in rows] == ["Deploy strategy"]
    assert [session["message_count"] > 0 for session in sessions].count(True) == 1
