"""An adapter of any vendor against the scripted model."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import orjson
from support.model import scripted_model

from agentops.api.runtime_config import ProviderConfig
from agentops.net.resolve import http_client
from agentops.runtime.messages import Message, user
from agentops.runtime.providers.base import (
    Adapter,
    CallOptions,
    Delta,
    Finish,
    SystemPrompt,
    TextDelta,
    ToolInputDelta,
    ToolInputStart,
    ToolSpec,
)
from agentops.runtime.providers.factory import AdapterFactory
from agentops.values.clock import LoopClock

BASH = ToolSpec("bash", "Runs a command.", {"type": "object", "properties": {"command": {"type": "string"}}})
READ = ToolSpec("read", "Reads a file.", {"type": "object", "properties": {"path": {"type": "string"}}})
KEY = "sk-of-the-test"


class Stopped(LoopClock):
    """A clock that stands still."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._seconds)


@asynccontextmanager
async def adapter(
    tmp_path: Path, kind: str, script: Any, *, read_timeout_s: float = 60, now: float | None = None, **fields: Any
) -> AsyncIterator[tuple[Adapter, Any]]:
    """An adapter of that type and a function that gives the requests the model saw.

    `now` stops its clock, so many seconds after the beginning of 2026.
    """
    async with scripted_model(tmp_path, script) as client:
        config = ProviderConfig(name="p", type=kind, base_url=f"{client.base_url}/v1", api_key_env="KEY", **fields)
        ids = itertools.count(1)
        clock = LoopClock() if now is None else Stopped(now)

        def http(**options: Any) -> httpx2.AsyncClient:
            return http_client(**{**options, "timeout": httpx2.Timeout(60, read=read_timeout_s)})

        built = AdapterFactory({"KEY": KEY}, http, clock, lambda: f"new{next(ids)}").adapter(config)

        async def requests() -> list[dict[str, Any]]:
            return [orjson.loads(line) for line in (await client.get("/requests")).text.splitlines()]

        try:
            yield built, requests
        finally:
            await built.aclose()


async def ask(
    model: Adapter,
    messages: Sequence[Message] = (user("go"),),
    system: SystemPrompt = SystemPrompt("Be brief."),
    options: CallOptions | None = None,
) -> list[Delta]:
    stream = model.stream("m", system, messages, (BASH, READ), options or CallOptions())
    return [delta async for delta in stream]


def text_of(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


def calls_of(deltas: Sequence[Delta]) -> list[tuple[str, str]]:
    """Name and whole arguments of each tool call."""
    starts = [delta for delta in deltas if isinstance(delta, ToolInputStart)]
    return [
        (start.tool_name, "".join(d.text for d in deltas if isinstance(d, ToolInputDelta) and d.id == start.id))
        for start in starts
    ]


def finish_of(deltas: Sequence[Delta]) -> Finish:
    assert isinstance(deltas[-1], Finish)
    return deltas[-1]
