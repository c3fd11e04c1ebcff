"""The daemon over real sockets: HTTP shapes, the event grammar, one turn at a time, records that last."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.fake_model import FakeModel, call, fail, say
from support.runtime import agent_with, running, settings_in, write_config

from agentops.runtime.errors import StoreFault
from agentops.runtime.store import Store
from agentops.runtime.tools import landlock
from agentops.telemetry.metrics import Registry

pytestmark = pytest.mark.anyio


def grammar(events: list[dict]) -> str:
    """The events as one word, checked against the grammar of the protocol."""
    names = " ".join(event["type"] for event in events) + " "
    block = (
        r"(?:reasoning_start (?:reasoning_delta )*reasoning_end |text_start (?:text_delta )*text_end "
        r"|tool_input_start (?:tool_input_delta )*tool_input_end (?:tool_call )?|tool_result |warnings "
        r"|model_fallback |text_reset |tool_progress )*"
    )
    results = "(?:tool_progress |tool_result )*"
    step = rf"(?:steer_applied )*step_start {block}stream_finish {results}step_finish (?:warnings )?"
    assert re.fullmatch(rf"agent_start (?:{step})*(?:agent_finish|agent_error) session_idle ", names), names
    return names


async def test_a_prompt_is_answered_with_output_and_model(tmp_path: Path) -> None:
    async with agent_with(tmp_path, say("Hel", "lo")) as (client, _):
        answer = await client.prompt("hi")
        status = (await client.http.get("/status")).json()
    assert answer.status_code == 200
    body = answer.json()
    assert body["output"] == "Hello"
    assert body["model"] == "local/fake"
    assert body["state"] == "succeeded"
    assert body["usage"]["input_tokens"] == 11
    assert status["busy"] is False
    assert (status["turns"], status["messages"], status["steps"], status["total_steps"]) == (1, 2, 1, 1)


async def test_a_tool_call_runs_and_its_result_goes_to_the_model(tmp_path: Path) -> None:
    script = [call(("c1", "bash", {"command": "echo proof-$((40+2))"}), text="Let me look"), say("It says 42.")]
    async with FakeModel(*script).serving() as model:
        settings = settings_in(tmp_path, write_config(tmp_path / "c.json", model.url))
        async with running(settings) as client:
            assert (await client.start("look", "run-1")).json() == {"run": "run-1"}
            events = await client.events("/runs/run-1/events")
            record = (await client.http.get("/runs/run-1")).json()
    grammar(events)
    assert [event["seq"] for event in events] == list(range(events[0]["seq"], events[0]["seq"] + len(events)))
    assert all(event["session_id"] == "sre" and re.search(r"\.\d{3}Z$", event["timestamp"]) for event in events)
    result = next(event for event in events if event["type"] == "tool_result")
    assert (result["id"], result["output"], result["is_error"]) == ("c1", "proof-42\n", False)
    assert isinstance(result["metadata"], str)
    tool_call = next(event for event in events if event["type"] == "tool_call")
    assert tool_call["input"] == '{"command": "echo proof-$((40+2))"}'
    assert record["output"] == "It says 42."
    assert (record["steps"], record["toolCalls"]) == (2, 1)
    second = model.requests[1]["messages"]
    assert second[-2]["tool_calls"][0]["id"] == "c1"
    assert second[-1] == {"role": "tool", "tool_call_id": "c1", "content": "proof-42\n"}
    for tool in model.requests[0]["tools"]:
        parameters = tool["function"]["parameters"]
        assert parameters["type"] == "object"
        assert isinstance(parameters["required"], list)
        assert isinstance(parameters["properties"], dict)


async def test_the_next_turn_carries_the_first(tmp_path: Path) -> None:
    async with FakeModel(say("one"), say("two")).serving() as model:
        config = write_config(tmp_path / "c.json", model.url, systemPrompt="Be brief.", platformProtocol="You are sre.")
        async with running(settings_in(tmp_path, config)) as client:
            await client.prompt("first")
            await client.prompt("second")
            memory = (await client.http.get("/working-memory")).json()
    messages = model.requests[1]["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"] == "You are sre.\n\nBe brief."
    assert [message["content"] for message in messages[1:]] == ["first", "one", "second"]
    assert memory[0] == {"role": "user", "content": [{"type": "text", "text": "first"}]}


async def test_protocol_and_context_files_reach_the_model_without_a_system_prompt(tmp_path: Path) -> None:
    (tmp_path / "rules.md").write_text("Never deploy on Friday.")
    async with FakeModel(say("ok")).serving() as model:
        config = write_config(
            tmp_path / "c.json",
            model.url,
            platformProtocol="You are sre.",
            contextFiles=[{"path": str(tmp_path / "rules.md")}, {"path": "/nowhere.md"}],
        )
        async with running(settings_in(tmp_path, config)) as client:
            body = {"prompt": "x", "context": [{"resource_name": "repo", "kind": "github-repo", "item_type": "file",
                                                "path": "a.py", "ref": "main"}]}  # fmt: skip
            await client.http.post("/prompt", json=body)
    system = model.requests[0]["messages"][0]["content"]
    assert system.startswith("You are sre.\n\n")
    assert system.index("Never deploy") < system.index("file a.py@main")


async def test_a_second_prompt_is_refused_while_one_is_going(tmp_path: Path) -> None:
    gate = anyio.Event()
    async with agent_with(tmp_path, say("slow", gate=gate), say("next")) as (client, model):
        await client.start("a", "run-a")
        refused = await client.prompt("b")
        again = await client.start("a", "run-a")
        other = await client.start("different", "run-a")
        gate.set()
        assert (await client.finished("run-a"))["output"] == "slow"
        assert (await client.prompt("b")).status_code == 200
    assert (refused.status_code, refused.json()) == (429, {"error": "agent is busy"})
    assert (again.status_code, again.json()) == (202, {"run": "run-a"})
    assert other.status_code == 409
    assert len(model.requests) == 2


async def test_a_run_name_is_executed_once_also_after_a_restart(tmp_path: Path) -> None:
    async with FakeModel(say("only once"), say("never")).serving() as model:
        settings = settings_in(tmp_path, write_config(tmp_path / "c.json", model.url))
        async with running(settings) as client:
            await client.start("go", "run-1", **{"X-AgentOps-Run-UID": "u1"})
            await client.finished("run-1")
        async with running(settings) as client:
            again = await client.prompt("go", **{"X-AgentOps-Run-Name": "run-1", "X-AgentOps-Run-UID": "u1"})
            events = await client.events("/runs/run-1/events")
            memory = (await client.http.get("/working-memory")).json()
            assert len(model.requests) == 1
            reborn = await client.prompt("go", **{"X-AgentOps-Run-Name": "run-1", "X-AgentOps-Run-UID": "u2"})
    assert again.json()["output"] == "only once"
    assert reborn.json()["output"] == "never"
    assert len(memory) == 2
    grammar(events)


async def test_a_client_that_goes_away_does_not_end_the_turn(tmp_path: Path) -> None:
    gate = anyio.Event()
    async with agent_with(tmp_path, say("a", "b", gate=gate, gate_at=1)) as (client, _):
        headers = {"X-AgentOps-Run-Name": "run-1"}
        async with client.http.stream("POST", "/prompt/stream", json={"prompt": "x"}, headers=headers) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            async for line in response.aiter_lines():
                if "text_delta" in line:
                    break
        assert (await client.http.get("/runs/run-1")).json()["state"] == "running"
        gate.set()
        assert (await client.finished("run-1"))["output"] == "ab"


async def test_following_resumes_after_the_last_event_seen(tmp_path: Path) -> None:
    pieces = [f"{number} " for number in range(1500)]
    async with agent_with(tmp_path, say(*pieces)) as (client, _):
        await client.start("count", "run-1")
        whole = await client.events("/runs/run-1/events")
        seen = whole[700]["seq"]
        rest = await client.events("/runs/run-1/events", after=seen)
        everything = await client.events("/events", after=0, until="session_idle")
    assert rest == whole[701:]
    assert len(whole) > 1500
    assert [event for event in everything if event["type"] != "session_status"] == whole


async def test_a_user_can_steer_the_turn_that_is_going(tmp_path: Path) -> None:
    gate = anyio.Event()
    async with agent_with(tmp_path, say("one", gate=gate), say("two")) as (client, model):
        await client.start("a", "run-1")
        assert (await client.http.post("/steer", json={"message": "rather b"})).json() == {"ok": True}
        gate.set()
        record = await client.finished("run-1")
        events = await client.events("/runs/run-1/events")
    assert (record["output"], record["steps"]) == ("two", 2)
    assert model.requests[1]["messages"][-1] == {"role": "user", "content": "rather b"}
    assert [event["message"] for event in events if event["type"] == "steer_applied"] == ["rather b"]


@pytest.mark.skipif(not landlock.version(), reason="the kernel has no Landlock")
async def test_a_command_of_the_agent_reads_neither_its_token_nor_its_state(tmp_path: Path) -> None:
    commands = [f"cat {tmp_path}/token", f"cat {tmp_path}/state/runtime.db", "echo fine"]
    calls = call(*((f"c{index}", "bash", {"command": text}) for index, text in enumerate(commands)))
    async with agent_with(tmp_path, calls, say("done")) as (client, model):
        await client.start("x", "run-1")
        await client.finished("run-1")
        status = (await client.http.get("/status")).json()
        metrics = (await client.http.get("/metrics")).text
    results = [message["content"] for message in model.requests[1]["messages"] if message["role"] == "tool"]
    assert ["Permission denied" in result for result in results] == [True, True, False]
    assert status["sandbox"] == {"kind": "landlock"}
    assert 'agentops_tool_sandbox{kind="landlock"} 1.0' in metrics


async def test_abort_ends_the_turn_and_keeps_what_was_done(tmp_path: Path) -> None:
    script = [call(("c1", "bash", {"command": "echo started; sleep 60"}), text="Working"), say("after")]
    async with agent_with(tmp_path, *script) as (client, model):
        assert (await client.http.delete("/abort")).json() == {"ok": True, "aborted": False}
        await client.start("x", "run-1")
        await client.events("/runs/run-1/events", until="stream_finish")
        other = await client.http.delete("/abort", headers={"X-AgentOps-Run-Name": "run-0"})
        assert other.json() == {"ok": True, "aborted": False}
        assert (await client.http.delete("/abort")).json() == {"ok": True, "aborted": True}
        record = await client.finished("run-1")
        events = await client.events("/runs/run-1/events")
        assert (await client.prompt("go on")).status_code == 200
    grammar(events)
    assert (record["state"], record["reason"]) == ("failed", "Aborted")
    assert events[-2]["type"] == "agent_error"
    messages = model.requests[1]["messages"]
    roles = [message["role"] for message in messages]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]
    assert "aborted" in messages[3]["content"]


async def test_a_wrong_key_names_the_provider_and_the_fix(tmp_path: Path) -> None:
    async with FakeModel(fail(401, "invalid key")).serving() as model:
        config = write_config(
            tmp_path / "c.json",
            model.url,
            providers=[{"name": "local", "type": "openaicompat", "baseURL": model.url, "apiKeyEnv": "LOCAL_API_KEY"}],
        )
        settings = settings_in(tmp_path, config, environ={"PATH": "/usr/bin:/bin", "LOCAL_API_KEY": "wrong-key"})
        async with running(settings) as client:
            answer = await client.start("x", "run-1")
            assert answer.status_code == 202
            record = await client.finished("run-1")
            events = await client.events("/runs/run-1/events")
    grammar(events)
    assert record["reason"] == "Error"
    assert "provider local" in record["error"]
    assert "LOCAL_API_KEY" in record["error"]
    assert "wrong-key" not in str(events)
    error = next(event for event in events if event["type"] == "agent_error")
    assert error["retryable"] is False
    assert model.headers[0]["authorization"] == "Bearer wrong-key"
    assert len(model.requests) == 1


async def test_a_failed_prompt_is_a_500_with_its_record(tmp_path: Path) -> None:
    async with agent_with(tmp_path, fail(400, "context too long")) as (client, _):
        answer = await client.prompt("x")
    assert answer.status_code == 500
    assert "context too long" in answer.json()["error"]


async def test_a_passing_failure_is_retried_before_anything_was_shown(tmp_path: Path) -> None:
    script = [fail(503, "overloaded", headers={"retry-after": "0"}), say("fine")]
    async with agent_with(tmp_path, *script) as (client, model):
        assert (await client.prompt("x")).json()["output"] == "fine"
    assert len(model.requests) == 2


async def test_a_stream_that_breaks_falls_back_with_the_same_tools(tmp_path: Path) -> None:
    async with FakeModel(say("half of", breaks=True)).serving() as first, FakeModel(say("whole")).serving() as second:
        config = write_config(
            tmp_path / "c.json",
            first.url,
            providers=[
                {"name": "local", "type": "openaicompat", "baseURL": first.url},
                {"name": "spare", "type": "openaicompat", "baseURL": second.url},
            ],
            fallbackModels=["spare/other"],
        )
        async with running(settings_in(tmp_path, config)) as client:
            await client.start("x", "run-1")
            events = await client.events("/runs/run-1/events")
            record = await client.finished("run-1")
    grammar(events)
    fallback = next(event for event in events if event["type"] == "model_fallback")
    assert (fallback["from"], fallback["to"], fallback["restarted"]) == ("local/fake", "spare/other", True)
    assert any(event["type"] == "text_reset" for event in events)
    assert (record["output"], record["model"]) == ("whole", "spare/other")
    assert first.requests[0]["tools"] == second.requests[0]["tools"]


@pytest.mark.parametrize("broken", [{"breaks": True}, {"ends_early": True}])
async def test_half_an_answer_is_a_failure_that_keeps_the_half(tmp_path: Path, broken: dict[str, bool]) -> None:
    async with agent_with(tmp_path, say("half of", **broken)) as (client, _):
        await client.start("x", "run-1")
        record = await client.finished("run-1")
    assert (record["state"], record["output"]) == ("failed", "half of")
    assert "broke off" in record["error"]


@pytest.mark.parametrize("raw", [b"<html>hello</html>", b"data: {not json\n\n", b""])
async def test_something_that_is_no_model_is_named(tmp_path: Path, raw: bytes) -> None:
    reply = say(raw=raw)
    async with agent_with(tmp_path, reply, reply, reply) as (client, _):
        await client.start("x", "run-1")
        record = await client.finished("run-1")
    assert record["state"] == "failed"
    assert "provider local" in record["error"]


async def test_bad_tool_arguments_and_unknown_tools_become_error_results(tmp_path: Path) -> None:
    script = [
        call(("c1", "bash", '{"command": '), ("c2", "teleport", {}), ("c3", "read", {}), ("c4", "ls", "")),
        say("sorry"),
    ]
    async with agent_with(tmp_path, *script) as (client, _):
        await client.start("x", "run-1")
        events = await client.events("/runs/run-1/events")
    grammar(events)
    results = {event["id"]: event for event in events if event["type"] == "tool_result"}
    assert [results[key]["is_error"] for key in ("c1", "c2", "c3", "c4")] == [True, True, True, False]
    assert "not valid JSON" in results["c1"]["output"]
    assert "no tool named 'teleport'" in results["c2"]["output"]
    assert "path" in results["c3"]["output"]


async def test_ids_a_server_repeats_are_made_unique(tmp_path: Path) -> None:
    script = [call(("call_0", "ls", {})), call(("call_0", "ls", {})), say("done")]
    async with agent_with(tmp_path, *script) as (client, model):
        await client.prompt("x")
    ids = [call["id"] for message in model.requests[2]["messages"] for call in message.get("tool_calls", ())]
    assert len(ids) == len(set(ids)) == 2


async def test_the_turn_stops_at_max_steps_with_a_warning(tmp_path: Path) -> None:
    async with FakeModel(*[call((f"c{number}", "ls", {})) for number in range(5)]).serving() as model:
        config = write_config(tmp_path / "c.json", model.url, maxSteps=2)
        async with running(settings_in(tmp_path, config)) as client:
            await client.start("x", "run-1")
            events = await client.events("/runs/run-1/events")
    grammar(events)
    assert events[-2]["type"] == "agent_finish"
    assert events[-2]["step_count"] == 2
    assert any(event["type"] == "warnings" and "maxSteps" in event["warnings"][0] for event in events)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", "/prompt", b'{"prompt": "  "}', 400, "prompt is required"),
        ("POST", "/prompt", b"not json", 400, "prompt is required"),
        ("POST", "/prompt/stream", b"{}", 400, "prompt is required"),
        (
            "POST",
            "/prompt",
            b'{"prompt": "x", "context": [{}]}',
            400,
            "bad request: context[0].resource_name is required",
        ),
        (
            "POST",
            "/prompt/stream",
            b'{"prompt": "x", "context": [{"resource_name": "r", "kind": "k", "item_type": "file"}, '
            b'{"resource_name": "r", "kind": " ", "item_type": "file"}]}',
            400,
            "bad request: context[1].kind is required",
        ),
        (
            "POST",
            "/prompt",
            b'{"prompt": "x", "context": [{"resource_name": "r", "kind": "k", "item_type": 5}]}',
            400,
            "bad request: context[0].item_type must be a string",
        ),
        ("POST", "/steer", b'{"message": " "}', 400, "message is required"),
        ("POST", "/steer", b"[]", 400, "message is required"),
        ("POST", "/steer", b'{"message": "b"}', 409, "no turn is going; send a prompt"),
        ("POST", "/memory/extract", b"", 400, "no messages: there is no conversation to extract from"),
        ("GET", "/runs/unknown", b"", 404, "run unknown is not known here"),
        ("GET", "/runs/unknown/events", b"", 404, "run unknown is not known here"),
        ("GET", "/elsewhere", b"", 404, "there is nothing at /elsewhere"),
        ("PUT", "/prompt", b"", 405, "PUT is not allowed at /prompt"),
    ],
)
async def test_errors_are_json(tmp_path: Path, method: str, path: str, body: bytes, status: int, error: str) -> None:
    settings = settings_in(tmp_path, write_config(tmp_path / "c.json", "http://127.0.0.1:1/v1"))
    async with running(settings) as client:
        answer = await client.http.request(method, path, content=body)
    assert (answer.status_code, answer.json()) == (status, {"error": error})


async def test_only_probes_and_metrics_are_open(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, write_config(tmp_path / "c.json", "http://127.0.0.1:1/v1"))
    async with running(settings) as client:
        bare = {"Authorization": ""}
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await client.http.get(path, headers=bare)).status_code == 200, path
        for path in ("/status", "/working-memory", "/events", "/runs/x"):
            assert (await client.http.get(path, headers=bare)).status_code == 401, path
        assert (await client.http.get("/status", headers={"Authorization": "Bearer wrong"})).status_code == 401
        proxied = {"Authorization": "", "X-AgentOps-Token": "secret-of-the-test"}
        assert (await client.http.get("/status", headers=proxied)).status_code == 200


async def test_new_chat_forgets_the_conversation(tmp_path: Path) -> None:
    async with FakeModel(say("one"), say("two")).serving() as model:
        settings = settings_in(tmp_path, write_config(tmp_path / "c.json", model.url))
        async with running(settings) as client:
            await client.prompt("first")
            assert (await client.http.delete("/working-memory")).json() == {"ok": True}
            await client.prompt("second")
        async with running(settings) as client:
            assert len((await client.http.get("/working-memory")).json()) == 2
    assert len(model.requests[1]["messages"]) == 1


async def test_metrics_count_turns_tokens_tools_and_first_tokens(tmp_path: Path) -> None:
    registry = Registry()
    async with FakeModel(call(("c1", "ls", {})), say("x")).serving() as model:
        settings = settings_in(tmp_path, write_config(tmp_path / "c.json", model.url))
        async with running(settings, registry) as client:
            await client.prompt("x")
            text = (await client.http.get("/metrics")).text
    assert 'agentops_turns_total{outcome="succeeded"} 1.0' in text
    assert 'agentops_tokens_total{kind="input"} 22.0' in text
    assert 'agentops_tool_calls_total{outcome="ok",tool="ls"} 1.0' in text
    assert "agentops_time_to_first_token_seconds_count 2.0" in text


async def test_a_record_is_that_of_its_own_object(tmp_path: Path) -> None:
    uid = "X-AgentOps-Run-UID"
    async with agent_with(tmp_path, say("first"), say("second")) as (client, model):
        await client.start("x", "run-1", **{uid: "one"})
        assert (await client.finished("run-1"))["output"] == "first"
        assert (await client.http.get("/runs/run-1", headers={uid: "two"})).status_code == 404
        assert (await client.start("another prompt", "run-1", **{uid: "one"})).status_code == 409
        await client.start("x", "run-1", **{uid: "two"})
        assert (await client.finished("run-1"))["output"] == "second"
        assert (await client.http.get("/runs/run-1", headers={uid: "one"})).status_code == 404
        assert len(model.requests) == 2


async def test_an_abort_meant_for_an_earlier_object_of_the_name_does_nothing(tmp_path: Path) -> None:
    gate = anyio.Event()
    async with agent_with(tmp_path, say("x", gate=gate)) as (client, _):
        await client.start("x", "run-1", **{"X-AgentOps-Run-UID": "new"})
        headers = {"X-AgentOps-Run-Name": "run-1", "X-AgentOps-Run-UID": "old"}
        assert (await client.http.delete("/abort", headers=headers)).json()["aborted"] is False
        gate.set()
        assert (await client.finished("run-1"))["state"] == "succeeded"


async def test_asking_for_a_record_can_wait_for_its_end(tmp_path: Path) -> None:
    gate = anyio.Event()
    async with agent_with(tmp_path, say("x", gate=gate)) as (client, _):
        await client.start("x", "run-1")
        early = await client.http.get("/runs/run-1", headers={"Prefer": "wait=1"})
        assert early.json()["state"] == "running"
        async with anyio.create_task_group() as tasks:
            answers: list[dict] = []

            async def ask() -> None:
                answers.append((await client.http.get("/runs/run-1", headers={"Prefer": "wait=15"})).json())

            tasks.start_soon(ask)
            gate.set()
    assert answers[0]["state"] == "succeeded"


async def test_who_waits_for_a_run_hears_its_end_also_from_a_daemon_that_stops(tmp_path: Path) -> None:
    gate = anyio.Event()
    answers: list[dict] = []
    async with FakeModel(say("done", gate=gate)).serving() as model:
        settings = settings_in(tmp_path, write_config(tmp_path / "c.json", model.url))
        async with running(settings) as client:
            await client.start("x", "run-1")
            with anyio.CancelScope(shield=True), anyio.fail_after(10):
                async with anyio.create_task_group() as tasks:

                    async def ask() -> None:
                        answers.append((await client.http.get("/runs/run-1", headers={"Prefer": "wait=15"})).json())

                    tasks.start_soon(ask)
                    await client.http.get("/status")
                    client.stop()
                    while (await client.http.get("/readyz")).status_code == 200:
                        await anyio.sleep(0.01)
                    gate.set()
    assert answers[0]["output"] == "done"


async def test_the_next_daemon_waits_until_the_last_has_let_go_of_the_state(tmp_path: Path) -> None:
    gate = anyio.Event()
    async with FakeModel(say("first"), say("second", gate=gate), say("third")).serving() as model:
        settings = settings_in(tmp_path, write_config(tmp_path / "c.json", model.url))
        async with anyio.create_task_group() as tasks:
            ready = anyio.Event()

            async def next_one() -> None:
                async with running(settings) as client:
                    ready.set()
                    assert (await client.http.get("/runs/run-2")).json()["state"] == "succeeded"
                    remembered = (await client.http.get("/working-memory")).json()
                    assert [message["role"] for message in remembered] == ["user", "assistant"] * 2

            async with running(settings) as client:
                await client.start("x", "run-1")
                await client.finished("run-1")
                await client.start("x", "run-2")
                tasks.start_soon(next_one)
                with anyio.move_on_after(1):
                    await ready.wait()
                assert not ready.is_set(), "two processes had one state dir"
                gate.set()
                await client.finished("run-2")
            with anyio.fail_after(10):
                await ready.wait()


async def test_a_daemon_that_waits_for_the_state_can_be_stopped(tmp_path: Path) -> None:
    async with FakeModel(say("x")).serving() as model:
        settings = settings_in(tmp_path, write_config(tmp_path / "c.json", model.url))
        async with running(settings):
            with anyio.move_on_after(0.5) as waited:
                async with running(settings):
                    raise AssertionError("two processes had one state dir")
            assert waited.cancelled_caught


async def test_stopping_lets_the_turn_finish_and_takes_no_new_one(tmp_path: Path) -> None:
    gate = anyio.Event()
    async with FakeModel(say("done", gate=gate)).serving() as model:
        settings = settings_in(tmp_path, write_config(tmp_path / "c.json", model.url))
        async with running(settings) as client:
            await client.start("x", "run-1")
            async with client.http.stream("GET", "/events") as watched:
                assert watched.status_code == 200
                with anyio.CancelScope(shield=True), anyio.fail_after(10):
                    client.stop()
                    while (await client.http.get("/readyz")).status_code == 200:
                        await anyio.sleep(0.01)
                    assert (await client.prompt("late")).status_code == 429
                    gate.set()
                    events = await client.events("/runs/run-1/events")
        assert events[-2]["type"] == "agent_finish"
        async with running(settings) as client:
            assert (await client.http.get("/runs/run-1")).json()["output"] == "done"


async def test_a_turn_that_outlasts_the_grace_is_recorded_interrupted(tmp_path: Path) -> None:
    gate = anyio.Event()
    async with FakeModel(say("half", " done", gate=gate, gate_at=1)).serving() as model:
        settings = settings_in(tmp_path, write_config(tmp_path / "c.json", model.url), grace_s=0.2)
        async with running(settings) as client:
            await client.start("x", "run-1")
            await client.events("/runs/run-1/events", until="text_delta")
        gate.set()
        async with running(settings) as client:
            record = (await client.http.get("/runs/run-1")).json()
            memory = (await client.http.get("/working-memory")).json()
    assert (record["state"], record["reason"], record["output"]) == ("failed", "Interrupted", "half")
    assert "half" in str(memory[1])
    assert "interrupted" in str(memory[1])


async def test_one_trace_goes_from_the_caller_to_the_model(tmp_path: Path) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    async with agent_with(tmp_path, say("x")) as (client, model):
        answer = await client.prompt("x", traceparent=f"00-{trace_id}-b7ad6b7169203331-01")
    assert answer.json()["traceID"] == trace_id
    assert model.headers[0]["traceparent"].split("-")[1] == trace_id


async def test_without_a_token_the_daemon_is_open_only_when_told_so(tmp_path: Path) -> None:
    async with FakeModel(say("x")).serving() as model:
        config = write_config(tmp_path / "c.json", model.url)
        async with running(settings_in(tmp_path, config, token_file=None, insecure=True)) as client:
            assert (await client.prompt("x")).status_code == 200


async def test_a_body_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async with agent_with(tmp_path) as (client, _):
        answer = await client.prompt("x" * (5 << 20))
    assert answer.status_code == 413


async def test_the_state_file_is_the_agents_alone(tmp_path: Path) -> None:
    async with agent_with(tmp_path, say("x")) as (client, _):
        await client.prompt("x")
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}
    assert set(modes.values()) == {0o600}, modes


async def test_a_token_endpoint_that_refuses_is_named(tmp_path: Path) -> None:
    async with FakeModel().serving() as model:
        oauth2 = {"tokenURL": f"{model.url}/nothing", "clientIDEnv": "ID", "clientSecretEnv": "SECRET"}
        provider = {"name": "local", "type": "openaicompat", "baseURL": model.url, "oauth2": oauth2}
        config = write_config(tmp_path / "c.json", model.url, providers=[provider])
        settings = settings_in(tmp_path, config, environ={"PATH": "/bin", "ID": "me", "SECRET": "hush"})
        async with running(settings) as client:
            answer = await client.prompt("x")
    assert f"token endpoint {model.url}/nothing" in answer.json()["error"]
    assert "hush" not in answer.text


async def test_halves_of_characters_end_no_daemon(tmp_path: Path) -> None:
    script = [
        say("\ud83d", "\ude42 and \ud83d"),
        call(("c\ud83d", "ls\ude42", '{"path": "\\ud83d"}')),
        say("still here"),
    ]
    async with agent_with(tmp_path, *script) as (client, _):
        first = await client.prompt("one")
        second = await client.prompt("two")
        events = await client.events(f"/runs/{second.json()['run']}/events")
    assert (first.status_code, first.json()["output"]) == (200, "🙂 and \ufffd")
    assert second.json()["output"] == "still here"
    grammar(events)


async def test_a_turn_that_cannot_be_closed_is_a_failed_run_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, defects = Store.finish, [ZeroDivisionError("a defect")]

    async def finish_badly(self: Store, *args: Any, **kwargs: Any) -> None:
        if defects:
            raise defects.pop()
        await finish(self, *args, **kwargs)

    monkeypatch.setattr(Store, "finish", finish_badly)
    async with agent_with(tmp_path, say("lost"), say("kept")) as (client, _):
        await client.start("one", "run-1")
        events = await client.events("/runs/run-1/events")
        record = (await client.http.get("/runs/run-1")).json()
        following = await client.prompt("two")
        said = (await client.http.get("/working-memory")).json()
    assert events[-1]["type"] == "session_idle"
    assert (record["state"], record["reason"]) == ("failed", "Error")
    assert "ZeroDivisionError: a defect" in record["error"]
    assert following.json()["output"] == "kept"
    assert [part["text"] for message in said for part in message["content"]] == ["two", "kept"]


async def test_what_a_full_disk_refused_is_written_before_the_next_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, full = Store.finish, True

    async def finish_on_disk(self: Store, *args: Any, **kwargs: Any) -> None:
        if full:
            raise StoreFault("database or disk is full")
        await finish(self, *args, **kwargs)

    monkeypatch.setattr(Store, "finish", finish_on_disk)
    async with FakeModel(say("one"), say("two"), say("three")).serving() as model:
        settings = settings_in(tmp_path, write_config(tmp_path / "c.json", model.url))
        async with running(settings) as client:
            first = await client.prompt("1", X_AgentOps_Run_Name="run-1")
            assert first.json()["output"] == "one", "the answer is there all the same"
            assert (await client.http.get("/runs/run-1")).json()["state"] == "succeeded"
            assert len(await client.events("/runs/run-1/events")) > 5
            refused = await client.prompt("2", X_AgentOps_Run_Name="run-2")
            assert (refused.status_code, "disk is full" in refused.json()["error"]) == (500, True)
            full = False
            assert (await client.prompt("2", X_AgentOps_Run_Name="run-2")).json()["output"] == "two"
            full = True
            assert (await client.prompt("3", X_AgentOps_Run_Name="run-3")).json()["output"] == "three"
            full = False
        async with running(settings) as client:
            states = [(await client.http.get(f"/runs/run-{number}")).json()["state"] for number in (1, 2, 3)]
            said = (await client.http.get("/working-memory")).json()
    assert states == ["succeeded"] * 3
    assert [part["text"] for message in said for part in message["content"]] == ["1", "one", "2", "two", "3", "three"]


@pytest.mark.parametrize("number", ["²", "٣", "-1", "1e3", "9" * 5000])
async def test_a_place_in_the_stream_that_is_no_number_is_refused(tmp_path: Path, number: str) -> None:
    async with agent_with(tmp_path) as (client, _):
        answer = await client.http.get("/events", params={"after": number})
    assert answer.status_code == 400
    assert "is not the number of an event" in answer.json()["error"]
