"""The engine's child process: how its ends become sentences."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest

from agentops.model.engine import Engine
from agentops.model.errors import EngineFailed

pytestmark = pytest.mark.anyio


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.gguf"
    path.write_bytes(b"GGUF")
    return path


def child(program: str) -> list[str]:
    return [sys.executable, "-c", program]


async def epitaph(weights: Path, program: str) -> str:
    with anyio.fail_after(30), pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
        async with anyio.create_task_group() as tasks:
            await tasks.start(Engine(weights, command=child(program)).run)
            await anyio.sleep_forever()
    found = caught.value
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, EngineFailed), found
    assert "\n" not in str(found)
    return str(found)


DIE = "import os, signal, sys; sys.stdin.readline(); os.kill(os.getpid(), signal.{})"


async def test_a_cpu_without_the_instructions_is_one_line(weights: Path) -> None:
    assert "CPU instructions that this machine does not have" in await epitaph(weights, DIE.format("SIGILL"))


async def test_a_killed_engine_speaks_of_memory(weights: Path) -> None:
    assert "300 MiB" in await epitaph(weights, DIE.format("SIGKILL"))


async def test_a_failing_engine_is_quoted(weights: Path) -> None:
    line = await epitaph(weights, "import sys; sys.exit('cannot read the weights')")
    assert "exit code 1" in line
    assert "cannot read the weights" in line
    assert str(weights) in line


async def test_an_engine_that_is_not_installed_names_the_fix(weights: Path) -> None:
    line = await epitaph(weights, "raise ModuleNotFoundError(\"No module named 'xllamacpp'\")")
    assert "agentops-platform[local]" in line


async def test_an_engine_that_dies_later_ends_the_run(weights: Path) -> None:
    program = 'import sys; sys.stdin.readline(); print(\'{"address": "http://127.0.0.1:1"}\', flush=True); sys.exit(3)'
    assert "exit code 3" in await epitaph(weights, program)


async def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=r"nope\.gguf"):
        await Engine(tmp_path / "nope.gguf").run()


async def test_cancelling_ends_a_child_that_does_not_listen(weights: Path, tmp_path: Path) -> None:
    program = (
        "import os, sys, time; sys.stdin.readline(); "
        'print(\'{"address": "http://127.0.0.1:1", "pid": %d}\' % os.getpid(), flush=True); time.sleep(600)'
    )
    engine = Engine(weights, command=child(program))
    async with anyio.create_task_group() as tasks:
        endpoint = await tasks.start(engine.run)
        assert endpoint.url == "http://127.0.0.1:1"
        tasks.cancel_scope.cancel()
