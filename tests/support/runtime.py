"""A daemon in this process and a client of it, for the runtime's integration tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
from support.fake_model import FakeModel, Reply

from agentops.runtime.daemon import Daemon
from agentops.runtime.settings import Settings
from agentops.telemetry.metrics import Registry

TOKEN = "secret-of-the-test"


def write_config(path: Path, model_url: str, **changes: Any) -> Path:
    """A config.json with one provider `local` and model `local/fake`; `changes` are top-level keys."""
    config = {
        "schemaVersion": 1,
        "providers": [{"name": "local", "type": "openaicompat", "baseURL": model_url}],
        "primaryModel": "local/fake",
        "builtinTools": ["bash", "read", "write", "edit", "ls", "grep", "glob", "fetch"],
        **changes,
    }
    path.write_text(json.dumps(config))
    return path


def settings_in(directory: Path, config: Path, **changes: Any) -> Settings:
    token = directory / "token"
    token.write_text(TOKEN + "\n")
    values: dict[str, Any] = {
        "config_path": str(config),
        "data_dir": str(directory / "state"),
        "workspace": str(directory / "work"),
        "listen": "127.0.0.1:0",
        "token_file": str(token),
        "name": "sre",
        "grace_s": 5.0,
        "environ": {"PATH": "/usr/local/bin:/usr/bin:/bin"},
    }
    return Settings(**{**values, **changes})


class Client:
    """Speaks to a daemon with its token."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self.http = http

    async def prompt(self, text: str, **headers: str) -> httpx2.Response:
        return await self.http.post("/prompt", json={"prompt": text}, headers=_headers(headers))

    async def start(self, text: str, name: str, **headers: str) -> httpx2.Response:
        headers = {"Prefer": "respond-async", "X-AgentOps-Run-Name": name, **headers}
        return await self.http.post("/prompt", json={"prompt": text}, headers=headers)

    async def events(self, path: str, after: int | None = None, until: str = "") -> list[dict[str, Any]]:
        """The events of a stream until it ends, or until one of type `until` came."""
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        found: list[dict[str, Any]] = []
        async with self.http.stream("GET", path, headers=headers) as response:
            assert response.status_code == 200, await response.aread()
            async for event in events_in(response):
                found.append(event)
                if event["type"] == until:
                    break
        return found

    async def finished(self, name: str) -> dict[str, Any]:
        """The record of a run once it has ended."""
        await self.events(f"/runs/{name}/events")
        return (await self.http.get(f"/runs/{name}")).json()


async def events_in(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    """Every event of a server-sent stream, its `id:` checked against its `seq`."""
    last_id = ""
    async for line in response.aiter_lines():
        if line.startswith("id: "):
            last_id = line[4:]
        elif line.startswith("data: "):
            event = json.loads(line[6:])
            assert last_id == str(event["seq"])
            yield event


def _headers(fields: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in fields.items()}


@asynccontextmanager
async def running(settings: Settings, registry: Registry | None = None) -> AsyncIterator[Client]:
    """The daemon from ready to drained."""
    daemon = Daemon(settings, registry=registry)
    async with anyio.create_task_group() as tasks:
        await tasks.start(daemon.run)
        headers = {} if settings.insecure else {"Authorization": f"Bearer {TOKEN}"}
        base = f"http://127.0.0.1:{daemon.port}"
        async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=20) as http:
            client = Client(http)
            client.stop = tasks.cancel_scope.cancel  # type: ignore[attr-defined]
            yield client
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def agent_with(directory: Path, *replies: Reply, **config: Any) -> AsyncIterator[tuple[Client, FakeModel]]:
    """A daemon and the model it talks to, which answers `replies`."""
    async with FakeModel(*replies).serving() as model:
        path = write_config(directory / "config.json", model.url, **config)
        async with running(settings_in(directory, path)) as client:
            yield client, model
