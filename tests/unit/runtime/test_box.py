from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentops.runtime.errors import ToolFault
from agentops.runtime.metrics import RuntimeMetrics
from agentops.runtime.tools.base import Arguments, ToolOutput, check_arguments, schema
from agentops.runtime.tools.box import ToolBox
from agentops.runtime.tools.files import LsTool
from agentops.runtime.tools.output import KEPT_FILES, SPILL_DIR, OutputSink, cut, spill, split
from agentops.runtime.tools.workspace import Workspace
from agentops.telemetry.metrics import Registry
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio


class Echo:
    name = "echo"
    description = "echo"
    kind = "builtin"
    parallel_safe = True
    schema = schema({"path": {"type": "string"}, "count": {"type": "integer"}}, ("path",))

    async def run(self, arguments: Arguments) -> ToolOutput:
        match arguments["path"]:
            case "fault":
                raise ToolFault("not today", {"exitCode": 3})
            case "crash":
                raise ZeroDivisionError("oops")
        return ToolOutput(arguments["path"] * arguments.get("count", 1), {"ui": "code"})


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def box(workspace: Workspace, clock: LoopClock, registry: Registry) -> ToolBox:
    return ToolBox([Echo()], workspace=workspace, max_result_chars=60, clock=clock, metrics=RuntimeMetrics(registry))


async def test_a_call_gives_text_and_metadata_as_json(box: ToolBox) -> None:
    outcome = await box.call("c1", "echo", '{"file_path": "hi"}')
    assert (outcome.text, outcome.is_error, json.loads(outcome.metadata)) == ("hi", False, {"ui": "code"})


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("echo", "{", "not valid JSON"),
        ("echo", "[]", "must be a JSON object"),
        ("echo", "{}", "missing required argument: path"),
        ("echo", '{"path": []}', "path must be of type string"),
        ("echo", '{"path": "fault"}', "not today"),
        ("echo", '{"path": "crash"}', "oops"),
        ("other", "{}", "available: echo"),
    ],
)
async def test_whatever_goes_wrong_is_an_error_result(box: ToolBox, name: str, arguments: str, says: str) -> None:
    outcome = await box.call("c1", name, arguments)
    assert outcome.is_error
    assert says in outcome.text


async def test_names_a_model_invents_share_one_label(box: ToolBox, registry: Registry) -> None:
    for name in ("x1", "x2"):
        await box.call("c1", name, "{}")
    assert registry.value("agentops_tool_calls_total", tool="unknown", outcome="error") == 2.0


async def test_long_output_is_cut_between_characters_and_kept_whole_in_the_workspace(
    box: ToolBox, workspace: Workspace
) -> None:
    outcome = await box.call("c/1", "echo", '{"path": "añ🙂", "count": 40}')
    assert outcome.text.startswith("añ🙂" * 13 + "a\n\n[output cut")
    assert outcome.text.endswith("]\n\nñ🙂" + "añ🙂" * 6)
    assert "showing 60 of 120 chars" in outcome.text
    spilled = workspace.root / ".agentops/output/c-1.txt"
    assert spilled.read_text() == "añ🙂" * 40
    assert ".agentops/output/c-1.txt" in outcome.text


async def test_a_link_in_the_place_of_the_spill_directory_is_not_followed(
    box: ToolBox, workspace: Workspace, tmp_path: Any
) -> None:
    (tmp_path / "outside").mkdir()
    (workspace.root / ".agentops").symlink_to(tmp_path / "outside")
    outcome = await box.call("c1", "echo", '{"path": "x", "count": 99}')
    assert "The whole output is in" not in outcome.text
    assert list((tmp_path / "outside").rglob("*.txt")) == []


def test_the_oldest_spilled_files_make_room(tmp_path: Path) -> None:
    for number in range(KEPT_FILES + 3):
        path = tmp_path / SPILL_DIR / f"{number}.txt"
        assert spill(tmp_path, str(number), "x") == f"{SPILL_DIR}/{number}.txt"
        os.utime(path, (number, number))
    kept = {path.stem for path in (tmp_path / SPILL_DIR).iterdir()}
    assert kept == {str(number) for number in range(3, KEPT_FILES + 3)}


@given(st.text(max_size=200), st.integers(1, 100))
def test_a_cut_text_is_head_and_tail(text: str, limit: int) -> None:
    short = cut(text, limit)
    head, tail = split(limit)
    whole = len(text) <= limit
    assert short == text if whole else short.startswith(text[:head]) and short.endswith(text[len(text) - tail :])


@given(st.lists(st.binary(max_size=40)), st.integers(1, 60))
def test_a_sink_shows_what_cutting_the_whole_would(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], limit: int
) -> None:
    sink = OutputSink(tmp_path_factory.getbasetemp(), "sink", limit)
    for chunk in chunks:
        sink.write(chunk)
    sink.close()
    assert sink.text == cut(b"".join(chunks).decode("utf-8", "replace"), limit, sink.spilled)


def test_small_models_are_understood() -> None:
    spec = schema({"n": {"type": "integer"}, "on": {"type": "boolean"}, "s": {"type": "string"}})
    assert check_arguments({"n": "5", "on": "true", "s": 7, "extra": 1}, spec) == {"n": 5, "on": True, "s": "7"}
    assert check_arguments({"n": 5.0, "s": None}, spec) == {"n": 5}


async def test_names_that_are_no_text_do_not_reach_the_events(
    workspace: Workspace, clock: LoopClock, registry: Registry
) -> None:
    (workspace.root / os.fsdecode(b"caf\xe9")).touch()
    box = ToolBox(
        [LsTool(workspace)], workspace=workspace, max_result_chars=60, clock=clock, metrics=RuntimeMetrics(registry)
    )
    outcome = await box.call("c1", "ls", "{}")
    assert (outcome.text, outcome.is_error) == ("caf?", False)
