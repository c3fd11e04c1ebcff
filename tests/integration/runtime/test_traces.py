"""Spans of real processes, as an OTLP collector gets them."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import anyio
import httpx2
import pytest
from support.collector import Span, collecting
from support.fake_model import FakeModel, call, fail, say
from support.roles import Role
from support.runtime import TOKEN, Client, write_config

pytestmark = pytest.mark.anyio

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
SAVE = {"title": "Deploy strategy", "content": "The shop deploys blue-green."}


def environment(directory: Path, config: Path, **changes: str) -> dict[str, str]:
    (directory / "token").write_text(TOKEN)
    return {
        "PATH": os.environ["PATH"],
        "AGENT_CONFIG_PATH": str(config),
        "AGENT_DATA_DIR": str(directory / "state"),
        "WORKSPACE": str(directory / "work"),
        "AGENT_LISTEN": "127.0.0.1:0",
        "AGENT_TOKEN_FILE": str(directory / "token"),
        "AGENT_NAME": "sre",
        "AGENT_NAMESPACE": "agents",
        "AGENTOPS_TERMINATION_LOG": str(directory / "termination-log"),
        **changes,
    }


def named(spans: list[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


async def task(directory: Path, model: FakeModel, endpoint: str, **changes: str) -> int:
    config = write_config(directory / "c.json", model.url)
    env = environment(
        directory, config, AGENT_PROMPT="the question", AGENT_RUN_NAME="run-1", TRACEPARENT=TRACEPARENT,
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **changes,
    )  # fmt: skip
    with Role("runtime", "task", env=env) as role:
        return await anyio.to_thread.run_sync(role.wait)


async def test_what_was_said_is_in_spans_when_asked_for(tmp_path: Path) -> None:
    """That it is not in them otherwise, the end-to-end tests see."""
    script = [call(("c1", "bash", {"command": "echo from-the-tool"})), say("the answer")]
    with collecting() as collector:
        async with FakeModel(*script).serving() as model:
            assert await task(tmp_path, model, collector.url, OTEL_GENAI_CAPTURE_CONTENT="true") == 0
        spans = collector.spans(TRACE)
    assert named(spans, "agent.prompt").parent == CALLER, "a task exports all it has before it exits"
    everything = repr(spans)
    for said in ("the question", "the answer", "echo from-the-tool"):
        assert said in everything, said


async def test_a_failed_turn_is_a_failed_span_with_the_tokens_it_took(tmp_path: Path) -> None:
    with collecting() as collector:
        async with FakeModel(fail(401), fail(401), fail(401)).serving() as model:
            assert await task(tmp_path, model, collector.url, OTEL_SERVICE_NAME="my-agent") == 1
        spans = collector.spans(TRACE)
    prompt = named(spans, "agent.prompt")
    assert prompt.failed
    assert prompt.attributes["error.type"] == "Error"
    assert prompt.attributes["gen_ai.usage.input_tokens"] == 0
    assert (prompt.service, prompt.resource["agent.name"], prompt.resource["agent.namespace"]) == (
        "my-agent", "sre", "agents",
    )  # fmt: skip


async def test_a_collector_that_is_away_delays_no_exit(tmp_path: Path) -> None:
    async with FakeModel(say("the answer")).serving() as model:
        config = write_config(tmp_path / "c.json", model.url)
        env = environment(
            tmp_path,
            config,
            AGENT_PROMPT="q",
            TRACEPARENT=TRACEPARENT,
            OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        )
        with Role("runtime", "task", env=env) as role:
            await anyio.to_thread.run_sync(role.ready, "turn.end")
            began = time.monotonic()
            assert await anyio.to_thread.run_sync(role.wait) == 0
    assert time.monotonic() - began < 10


async def test_what_memory_gets_late_and_after_a_restart_stands_in_the_trace_of_its_run(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    script = [call(("c1", "mem_save", SAVE)), say("Noted.")]
    with collecting() as collector:
        otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        async with FakeModel(*script).serving() as model:
            memory = {"serverURL": f"http://127.0.0.1:{port}", "project": "shop"}
            env = environment(tmp_path, write_config(tmp_path / "c.json", model.url, memory=memory), **otel)
            with Role("runtime", "daemon", env=env) as first:
                ready = await anyio.to_thread.run_sync(first.ready, "daemon.ready")
                async with httpx2.AsyncClient(
                    base_url=f"http://127.0.0.1:{ready['port']}", headers={"Authorization": f"Bearer {TOKEN}"}
                ) as http:
                    client = Client(http)
                    await client.start("Remember how we deploy.", "run-1", traceparent=TRACEPARENT)
                    await client.finished("run-1")
                assert await anyio.to_thread.run_sync(first.stop) == 0
            serve = ("memory", "--listen", f"127.0.0.1:{port}", "--db", str(tmp_path / "m.db"), "--insecure")
            with (
                Role(*serve, env={"PATH": os.environ["PATH"], **otel}) as service,
                Role("runtime", "daemon", env=env) as second,
            ):
                saved = await anyio.to_thread.run_sync(service.ready, "observation.saved")
                assert await anyio.to_thread.run_sync(second.stop) == 0
                assert await anyio.to_thread.run_sync(service.stop) == 0
        spans = collector.spans(TRACE)
    assert (saved["run"], saved["trace_id"]) == ("run-1", TRACE)
    tool = named(spans, "tool.execute: mem_save")
    added = named(spans, "memory.add_observation")
    (sent,) = [span for span in spans if span.id == added.parent]
    assert (sent.name, sent.parent, sent.failed) == ("memory.save_observation", tool.id, False)
    tried = [span for span in spans if span.name == "memory.save_observation" and span.id != sent.id]
    assert all(span.failed for span in tried)
