"""A scripted model on a real socket, inside the test's process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import yaml

from agentops.model.backend import ChatMessage, ChatRequest
from agentops.model.service import ModelOptions, ModelService


def asked(*said: str, number: int = 1, **more: Any) -> ChatRequest:
    """A request whose messages are `role: text` lines, such as `user: hello` or `tool: result`."""
    messages = []
    for line in said:
        role, _, text = line.partition(": ")
        messages.append(ChatMessage(role=role, text=text))
    return ChatRequest(number=number, model=more.pop("model", "m"), messages=tuple(messages), **more)


@asynccontextmanager
async def scripted_model(tmp_path: Path, script: Any, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a model that plays `script` (as parsed YAML)."""
    file = tmp_path / "script.yaml"
    file.write_text(yaml.safe_dump(script))
    service = ModelService(ModelOptions(listen="127.0.0.1:0", script=file, grace_s=1.0, **options))
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(service.run)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10.0) as client:
            client.service = service  # type: ignore[attr-defined]
            yield client
        tasks.cancel_scope.cancel()
