"""What becomes of a long conversation: what is extracted from it, and what is left of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.fake_model import FakeModel, fail, say
from support.runtime import agent_with, running, settings_in, write_config

pytestmark = pytest.mark.anyio


async def test_what_is_worth_keeping_is_extracted_by_the_title_model(tmp_path: Path) -> None:
    found = {"type": "", "title": "Tea", "content": "Green.", "tags": ["tea"]}
    script = [say("Green tea."), say(f"```json\n{json.dumps(found)}\n```"), say("just words"), fail(401)]
    async with agent_with(tmp_path, *script, titleModel="local/small") as (client, model):
        await client.prompt("Which tea?")
        first = await client.http.post("/memory/extract", json={"focus": "drinks", "type": "decision"})
        second = await client.http.post("/memory/extract")
        third = await client.http.post("/memory/extract")
        assert len((await client.http.get("/working-memory")).json()) == 2
    assert first.json() == {**found, "type": "decision"}
    assert second.json()["content"] == "just words"
    assert second.json()["tags"] == ["auto-extracted"]
    assert (third.status_code, "refused the credentials" in third.json()["error"]) == (500, True)
    asked = model.requests[1]
    assert asked["model"] == "small"
    assert "tools" not in asked
    assert asked["messages"][1]["content"] == (
        "Look for: drinks\n\nThe type should be decision.\n\n[user] Which tea?\n[assistant] Green tea."
    )


async def test_what_no_longer_fits_is_summarised_and_the_summary_stays(tmp_path: Path) -> None:
    """The window leaves the conversation some 250 tokens; a turn has 134."""
    script = [say("a" * 500), say("b" * 500), say("They counted."), say("c" * 500), say("again")]
    limits = {"builtinTools": [], "titleModel": "local/small", "contextWindows": {"fake": 340}}
    async with FakeModel(*script).serving() as model:
        settings = settings_in(tmp_path, write_config(tmp_path / "c.json", model.url, **limits))
        async with running(settings) as client:
            for prompt in ("one", "two", "three"):
                await client.prompt(prompt)
            kept = (await client.http.get("/working-memory")).json()
        async with running(settings) as client:
            assert (await client.http.get("/working-memory")).json() == kept
    assert [message["role"] for message in kept] == ["system", "user", "assistant", "user", "assistant"]
    assert kept[0]["content"][0]["text"] == "Summary of the earlier conversation:\nThey counted."
    assert model.requests[2]["model"] == "small"
    assert model.requests[2]["messages"][1]["content"].startswith("[user] one\n[assistant] aaa")
    asked = model.requests[3]["messages"]
    assert asked[0] == {"role": "system", "content": "Summary of the earlier conversation:\nThey counted."}
    assert [message["content"] for message in asked[1:]] == ["two", "b" * 500, "three"]


async def test_a_conversation_the_model_refuses_is_shortened_for_good(tmp_path: Path) -> None:
    too_long = fail(400, "This model's maximum context length is 8192 tokens")
    async with agent_with(tmp_path, say("one"), say("two"), too_long, say("three")) as (client, model):
        for prompt in ("a", "b"):
            await client.prompt(prompt)
        answer = await client.prompt("c")
        kept = (await client.http.get("/working-memory")).json()
    assert answer.json()["output"] == "three"
    assert [message["content"] for message in model.requests[3]["messages"]] == ["b", "two", "c"]
    assert [message["content"][0]["text"] for message in kept] == ["b", "two", "c", "three"]
