from __future__ import annotations

from pathlib import Path

from agentops.api.memory import ContextObservation, ContextSession, MemoryContext
from agentops.runtime.context import (
    MAX_FILE_CHARS,
    MAX_FILES_CHARS,
    SystemText,
    memory_block,
    read_context_files,
    resource_block,
)


def test_the_parts_come_in_order_with_and_without_a_system_prompt() -> None:
    assert SystemText("P", "S", "F").render("M", "R").text == "P\n\nS\n\nF\n\nM\n\nR"
    assert SystemText("P", "", "").render("M", "").text == "P\n\nM"
    assert SystemText().render().text == ""


def test_the_memory_block_lists_sessions_then_observations() -> None:
    context = MemoryContext(
        recent_sessions=(ContextSession(id="s", summary="Talked\nabout tea."),),
        recent_observations=(ContextObservation(id=1, type="decision", title="Tea", content="Green."),),
    )
    assert memory_block(context) == (
        "<memory:sessions>\n- Talked about tea.\n</memory:sessions>\n"
        "<memory:context>\n- [decision] Tea: Green.\n</memory:context>"
    )
    assert memory_block(MemoryContext()) == ""


def test_resources_have_a_shape_each_and_are_bounded() -> None:
    items = [
        {"resource_name": "repo", "kind": "github-repo", "item_type": "file", "path": "a.py", "ref": "main"},
        {"resource_name": "repo", "kind": "github-repo", "item_type": "issue", "number": 7, "title": "Bug", "url": "u"},
        {"resource_name": "repo", "kind": "x", "item_type": "merge_request", "number": 8, "description": "d" * 600},
        *({"item_type": "branch", "ref": f"b{number}"} for number in range(30)),
    ]
    lines = resource_block(items).splitlines()
    assert lines[1] == "- file a.py@main in repo (github-repo)"
    assert lines[2] == "- issue #7 Bug u in repo (github-repo)"
    assert len(lines[3]) < 560
    assert len(lines) == 22


def test_context_files_are_cut_and_what_is_missing_is_reported(tmp_path: Path) -> None:
    big = tmp_path / "big.md"
    big.write_text("é" * (MAX_FILE_CHARS + 10))
    found = read_context_files([("/etc/context/big", big)] * 5 + [("/etc/context/none", tmp_path / "none")])
    assert len(found.text) < MAX_FILES_CHARS + 1000
    assert found.text.startswith('<file path="/etc/context/big">\né')
    assert any("none: No such file" in problem for problem in found.problems)
    assert any("cut to" in problem for problem in found.problems)


def test_a_skill_directory_stands_for_its_markdown(tmp_path: Path) -> None:
    for name, text in (("a.md", "second"), ("SKILL.md", "first"), ("tool.py", "not text for a model")):
        (tmp_path / name).write_text(text)
    text = read_context_files([("/tools/skill", tmp_path)]).text
    assert text.index("first") < text.index("second")
    assert "tool.py" not in text
