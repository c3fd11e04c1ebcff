"""The runtime's unit tests run on trio with a clock that jumps to the next deadline."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from agentops.runtime.messages import Message
from agentops.runtime.providers.base import CallOptions, Delta, SystemPrompt, ToolSpec
from agentops.runtime.tools.workspace import Workspace
from agentops.values.clock import LoopClock


@pytest.fixture
def anyio_backend() -> object:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
def clock() -> LoopClock:
    return LoopClock()


@pytest.fixture
def new_id() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"id{next(numbers)}"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    root = tmp_path / "work"
    root.mkdir()
    return Workspace(root, "/data")


class ScriptedAdapter:
    """Each call gives the next script: deltas are yielded, exceptions raised, coroutine functions awaited."""

    kind = "openaicompat"

    def __init__(self, provider: str, *scripts: Sequence[Any]) -> None:
        self.provider = provider
        self.scripts = list(scripts)
        self.calls: list[tuple[str, SystemPrompt, list[Message], list[ToolSpec]]] = []

    async def stream(
        self,
        model: str,
        system: SystemPrompt,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        options: CallOptions,
    ) -> AsyncGenerator[Delta, None]:
        self.calls.append((model, system, list(messages), list(tools)))
        for item in self.scripts.pop(0):
            if isinstance(item, Exception):
                raise item
            if callable(item):
                await item()
            else:
                yield item

    async def aclose(self) -> None:
        return None


@pytest.fixture
def scripted() -> type[ScriptedAdapter]:
    return ScriptedAdapter
