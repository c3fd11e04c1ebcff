from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentops.runtime.errors import ToolFault
from agentops.runtime.metrics import RuntimeMetrics
from agentops.runtime.tools.base import Arguments, ToolOutput, check_arguments, schema
from agentops.runtime.tools.box import ToolBox
from agentops.runtime.tools.output import cut
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
    return ToolBox([Echo()], workspace=workspace, max_result_chars=50, clock=clock, metrics=RuntimeMetrics(registry))


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
    assert outcome.text.startswith("añ🙂" * 16 + "añ")
    assert "showing 50 of 120 chars" in outcome.text
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


@given(st.text(max_size=200), st.integers(1, 100))
def test_a_cut_text_is_a_prefix(text: str, limit: int) -> None:
    short = cut(text, limit)
    assert short == text if len(text) <= limit else short.startswith(text[:limit])


def test_small_models_are_understood() -> None:
    spec = schema({"n": {"type": "integer"}, "on": {"type": "boolean"}, "s": {"type": "string"}})
    assert check_arguments({"n": "5", "on": "true", "s": 7, "extra": 1}, spec) == {"n": 5, "on": True, "s": "7"}
    assert check_arguments({"n": 5.0, "s": None}, spec) == {"n": 5}
