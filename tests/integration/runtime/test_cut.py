"""The agent's paths to its model and its memory cut for ten seconds in the middle of a turn."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from attrs import frozen
from support.cuttable import CuttablePath
from support.roles import Role
from support.runtime import Client, running, settings_in, write_config

pytestmark = pytest.mark.anyio

CUT_S = 10.0
NOTE = {"title": "The port", "content": "The gateway listens on port 9443."}
SCRIPT = {
    "turns": [
        {"when": {"user": "count"}, "text": ["one ", "two ", "three ", "four"], "chunk_delay": 0.3},
        {"when": {"user": "note"}, "delay": 1, "tool_calls": [{"name": "mem_save", "arguments": NOTE}]},
        {"when": {"user": "note", "step": 1}, "text": "Noted, or not."},
    ],
    "otherwise": {"text": "An ordinary answer."},
}


@frozen
class Chain:
    """An agent, its model and its memory, and the paths between them."""

    client: Client
    to_model: CuttablePath
    to_memory: CuttablePath
    model_url: str
    memory_url: str

    async def get(self, url: str) -> httpx2.Response:
        async with httpx2.AsyncClient() as http:
            return await http.get(url)

    async def asked(self) -> int:
        """Requests the model got."""
        return len((await self.get(f"{self.model_url}/requests")).text.splitlines())

    async def conversation(self) -> list[str]:
        return [message["role"] for message in (await self.client.http.get("/working-memory")).json()]

    async def saved(self) -> list[str]:
        rows: list[dict[str, Any]] = (await self.get(f"{self.memory_url}/observations/recent?project=shop")).json()
        return [row["title"] for row in rows]


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    async with _chain(tmp_path) as chain:
        yield chain


@asynccontextmanager
async def _chain(directory: Path) -> AsyncIterator[Chain]:
    (directory / "script.json").write_text(json.dumps(SCRIPT))
    model = Role("model", "--script", str(directory / "script.json"), "--listen", "127.0.0.1:0")
    memory = Role("memory", "--insecure", "--listen", "127.0.0.1:0", "--db", str(directory / "m.db"))
    with model, memory:
        at_model = await anyio.to_thread.run_sync(lambda: model.ready("model.listening")["port"])
        at_memory = await anyio.to_thread.run_sync(lambda: memory.ready("memory.ready")["port"])
        with CuttablePath("127.0.0.1", at_model) as to_model, CuttablePath("127.0.0.1", at_memory) as to_memory:
            config = write_config(
                directory / "config.json",
                f"http://127.0.0.1:{to_model.port}/v1",
                memory={"serverURL": f"http://127.0.0.1:{to_memory.port}", "project": "shop", "contextLimit": 5},
            )
            async with running(settings_in(directory, config)) as client:
                urls = (f"http://127.0.0.1:{at_model}", f"http://127.0.0.1:{at_memory}")
                yield Chain(client, to_model, to_memory, *urls)


async def test_an_answer_cut_off_for_ten_seconds_goes_on_where_it_was(chain: Chain) -> None:
    await chain.client.start("Please count.", "counted")
    await chain.client.events("/runs/counted/events", until="text_delta")
    chain.to_model.cut()
    await anyio.sleep(CUT_S)
    assert (await chain.client.http.get("/status")).json()["busy"] is True, "the turn waits"
    chain.to_model.heal()
    counted = await chain.client.finished("counted")
    assert (counted["state"], counted["output"]) == ("succeeded", "one two three four")
    assert await chain.conversation() == ["user", "assistant"]
    assert await chain.asked() == 1


async def test_a_note_on_a_path_that_is_cut_off_is_saved_once_and_the_turn_goes_on(chain: Chain) -> None:
    """The service gets it late, after the agent has stopped waiting for the answer and may have sent it again."""
    await chain.client.start("Please note the port.", "noted")
    with anyio.fail_after(30):
        while not await chain.asked():
            await anyio.sleep(0.05)
    chain.to_memory.cut()
    await chain.client.events("/runs/noted/events", until="tool_call")
    await anyio.sleep(CUT_S)
    chain.to_memory.heal()
    noted = await chain.client.finished("noted")
    assert (noted["state"], noted["output"]) == ("succeeded", "Noted, or not.")
    assert await chain.conversation() == ["user", "assistant", "tool", "assistant"]
    with anyio.fail_after(30):
        while not await chain.saved():
            await anyio.sleep(0.05)
    again = await chain.client.prompt("Anything else?")
    assert again.status_code == 200
    assert await chain.saved() == ["The port"]
    assert await chain.asked() == 3
