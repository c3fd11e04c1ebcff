"""The runtime as real processes: exit codes, the task's lines and termination log, crashes, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from support.fake_model import FakeModel, call, fail, say
from support.roles import Role
from support.runtime import TOKEN, Client, write_config

pytestmark = pytest.mark.anyio


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
        "AGENTOPS_TERMINATION_LOG": str(directory / "termination-log"),
        **changes,
    }


async def run_role(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    return await anyio.run_process([sys.executable, "-m", "agentops", "runtime", *arguments], env=env, check=False)


def lines(completed: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in completed.stdout.splitlines()]


async def test_a_task_prints_events_and_one_result_and_exits_0(tmp_path: Path) -> None:
    script = [call(("c1", "bash", {"command": "echo hi"})), say("The answer.")]
    async with FakeModel(*script).serving() as model:
        config = write_config(tmp_path / "c.json", model.url)
        env = environment(tmp_path, config, AGENT_PROMPT="question", AGENT_RUN_NAME="run-1")
        completed = await run_role("task", env=env)
    printed = lines(completed)
    assert completed.returncode == 0, completed.stderr
    assert all(list(line) == ["agentops.event"] for line in printed[:-1])
    events = [line["agentops.event"] for line in printed[:-1]]
    assert (events[0]["type"], events[-1]["type"]) == ("agent_start", "session_idle")
    assert {event["run"] for event in events} == {"run-1"}
    result = printed[-1]
    assert (result["agentops.result"], result["success"], result["output"]) == (1, True, "The answer.")
    assert (result["steps"], result["toolCalls"], result["usage"]["total_tokens"]) == (2, 1, 36)
    assert json.loads((tmp_path / "termination-log").read_bytes()) == result


async def test_a_long_answer_leaves_a_valid_termination_log(tmp_path: Path) -> None:
    answer = 'quoted "é" \\ line\n' * 2000
    async with FakeModel(say(answer)).serving() as model:
        (tmp_path / "prompt").write_text("question")
        env = environment(
            tmp_path, write_config(tmp_path / "c.json", model.url), AGENT_PROMPT_FILE=str(tmp_path / "prompt")
        )
        completed = await run_role("task", env=env)
    assert model.requests[0]["messages"] == [{"role": "user", "content": "question"}]
    assert lines(completed)[-1]["output"] == answer
    log = (tmp_path / "termination-log").read_bytes()
    assert 4000 < len(log) <= 4096
    short = json.loads(log)
    assert short["truncated"] is True
    assert answer.startswith(short["output"])


async def test_a_failed_task_says_why_and_exits_1(tmp_path: Path) -> None:
    async with FakeModel(fail(401)).serving() as model:
        env = environment(tmp_path, write_config(tmp_path / "c.json", model.url), AGENT_PROMPT="question")
        completed = await run_role("task", env=env)
    assert completed.returncode == 1
    result = lines(completed)[-1]
    assert (result["success"], result["reason"]) == (False, "Error")
    assert "provider local" in result["error"]
    assert json.loads((tmp_path / "termination-log").read_bytes())["error"] == result["error"]


async def test_a_task_that_is_told_to_stop_reports_interrupted(tmp_path: Path) -> None:
    gate = anyio.Event()
    async with FakeModel(say("half", "rest", gate=gate, gate_at=1)).serving() as model:
        env = environment(tmp_path, write_config(tmp_path / "c.json", model.url), AGENT_PROMPT="question")
        command = [sys.executable, "-m", "agentops", "runtime", "task"]
        async with await anyio.open_process(command, env=env) as process:
            assert process.stdout is not None
            text = b""
            with anyio.fail_after(30):
                while b"text_delta" not in text:
                    text += await process.stdout.receive()
                process.send_signal(signal.SIGTERM)
                async for chunk in process.stdout:
                    text += chunk
                code = await process.wait()
    assert code == 1
    result = json.loads(text.splitlines()[-1])
    assert (result["agentops.result"], result["reason"]) == (1, "Interrupted")
    assert json.loads((tmp_path / "termination-log").read_bytes())["reason"] == "Interrupted"


async def test_a_task_that_is_told_to_stop_before_it_began_says_so_too(tmp_path: Path) -> None:
    async with FakeModel(say("never asked")).serving() as model:
        text = write_config(tmp_path / "c.json", model.url).read_text()
        os.mkfifo(tmp_path / "pipe.json")  # holds the task at its configuration
        env = environment(tmp_path, tmp_path / "pipe.json", AGENT_PROMPT="question")
        command = [sys.executable, "-m", "agentops", "runtime", "task"]
        async with await anyio.open_process(command, env=env) as process:
            assert process.stdout is not None
            with anyio.fail_after(60):
                async with await anyio.open_file(tmp_path / "pipe.json", "w") as config:
                    process.send_signal(signal.SIGTERM)
                    await config.write(text)
                said = b"".join([chunk async for chunk in process.stdout])
                code = await process.wait()
    assert (code, json.loads(said.splitlines()[-1])["reason"]) == (1, "Interrupted")
    assert json.loads((tmp_path / "termination-log").read_bytes())["reason"] == "Interrupted"
    assert model.requests == []


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{", "config.json: not JSON"),
        ('{"schemaVersion": 2}', "schemaVersion 2 is newer"),
        ('{"providers": [], "primaryModel": "a/b"}', "no provider"),
        (
            '{"providers": [{"name": "local"}], "primaryModel": "local/x"}',
            "provider local: type openaicompat needs baseURL",
        ),
        (
            '{"providers": [{"name": "local", "baseURL": "http://x/v1"}], "primaryModel": "lokal/x"}',
            "primaryModel: 'lokal/x': 'lokal' is not one of the bound providers (local)",
        ),
        (
            '{"providers": [{"name": "big-ai", "type": "openai"}], "primaryModel": "big-ai/x"}',
            "provider big-ai: environment variable BIG_AI_API_KEY is empty or not set",
        ),
        ('{"providers": [{"name": "a", "type": "carrier-pigeon"}], "primaryModel": "a/x"}', "carrier-pigeon"),
        ('{"maxSteps": "many"}', "maxSteps"),
    ],
)
@pytest.mark.parametrize("role", ["daemon", "task"])
async def test_a_bad_config_ends_at_once_with_one_line(tmp_path: Path, role: str, config: str, says: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(config)
    completed = await run_role(role, env=environment(tmp_path, path, AGENT_PROMPT="x"))
    stderr = completed.stderr.decode()
    assert completed.returncode == 2, stderr
    said = [line for line in stderr.splitlines() if not line.startswith("{")]
    assert len(said) == 1, stderr
    assert says in said[0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"AGENT_CONFIG_PATH": "/nowhere/config.json"}, "/nowhere/config.json: no such file"),
        ({"AGENT_DATA_DIR": "/dev/null/state"}, "AGENT_DATA_DIR /dev/null/state"),
        ({"WORKSPACE": "/dev/null/work"}, "WORKSPACE /dev/null/work"),
        ({"AGENT_TOKEN_FILE": ""}, "AGENT_TOKEN_FILE is not set"),
        ({"AGENT_TOKEN_FILE": "/nowhere/token"}, "/nowhere/token"),
        ({"AGENT_LISTEN": "4096"}, "listen address"),
        ({"AGENT_GRACE_SECONDS": "soon"}, "AGENT_GRACE_SECONDS"),
    ],
)
async def test_a_bad_setting_ends_the_daemon_with_one_line(tmp_path: Path, changes: dict[str, str], says: str) -> None:
    env = environment(tmp_path, write_config(tmp_path / "config.json", "http://127.0.0.1:1/v1"), **changes)
    completed = await run_role("daemon", env=env)
    said = [line for line in completed.stderr.decode().splitlines() if not line.startswith("{")]
    assert completed.returncode == 2, said
    assert len(said) == 1, said
    assert says in said[0]


async def test_a_run_that_was_going_at_a_crash_is_failed_and_never_repeated(tmp_path: Path) -> None:
    gate = anyio.Event()
    async with FakeModel(say("first"), say("half", "rest", gate=gate, gate_at=1)).serving() as model:
        env = environment(tmp_path, write_config(tmp_path / "config.json", model.url))
        with Role("runtime", "daemon", env=env) as role:
            port = await anyio.to_thread.run_sync(lambda: role.ready("daemon.ready")["port"])
            async with client_of(port) as client:
                await client.prompt("one")
                await client.start("two", "run-2")
                seen = await client.events("/runs/run-2/events", until="text_delta")
            role.process.kill()
            await anyio.to_thread.run_sync(role.wait)
        with Role("runtime", "daemon", env=env) as role:
            port = await anyio.to_thread.run_sync(lambda: role.ready("daemon.ready")["port"])
            async with client_of(port) as client:
                again = await client.prompt("two", **{"X-AgentOps-Run-Name": "run-2"})
                events = await client.events("/runs/run-2/events", after=seen[-1]["seq"])
                memory = (await client.http.get("/working-memory")).json()
            code = await anyio.to_thread.run_sync(role.stop)
        requests = len(model.requests)
    assert (again.status_code, again.json()["reason"]) == (500, "Interrupted")
    assert [event["type"] for event in events] == ["agent_error", "session_idle"]
    assert [message["role"] for message in memory] == ["user", "assistant"]
    assert requests == 2
    assert code == 0


async def told_to_bash(directory: Path, command: str) -> str:
    """What `bash` prints for `command` in a runtime whose environment holds a model key."""
    async with FakeModel(call(("c1", "bash", {"command": command})), say("ok")).serving() as model:
        config = write_config(
            directory / "config.json",
            model.url,
            providers=[{"name": "local", "type": "openaicompat", "baseURL": model.url, "apiKeyEnv": "LOCAL_API_KEY"}],
        )
        env = environment(directory, config, LOCAL_API_KEY="sk-very-secret", AGENT_PROMPT="x")
        completed = await run_role("task", env=env)
    assert b"sk-very-secret" not in completed.stderr
    return model.requests[1]["messages"][-1]["content"]


async def test_the_environment_of_tools_holds_no_secret(tmp_path: Path) -> None:
    output = await told_to_bash(tmp_path, "env")
    assert "WORKSPACE=" in output
    assert "sk-very-secret" not in output
    assert "TOKEN" not in output


@pytest.mark.skipif(os.getuid() == 0, reason="root reads every process's environment")
async def test_tools_cannot_read_the_runtimes_environment_from_proc(tmp_path: Path) -> None:
    assert "sk-very-secret" not in await told_to_bash(tmp_path, "cat /proc/$PPID/environ; true")


def client_of(port: int) -> _Session:
    return _Session(port)


class _Session:
    def __init__(self, port: int) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self._http = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=20)

    async def __aenter__(self) -> Client:
        await self._http.__aenter__()
        return Client(self._http)

    async def __aexit__(self, *error: Any) -> None:
        await self._http.__aexit__(*error)
