from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agentops.model.errors import ScriptError
from agentops.model.script import load_script, parse_script


def test_a_list_is_a_script_of_turns_in_order() -> None:
    script = parse_script([{"text": "one"}, {"text": ["t", "wo"]}])
    assert [turn.text for turn in script.turns] == [("one",), ("t", "wo")]
    assert script.model == "scripted"


def test_one_text_is_cut_into_chunks() -> None:
    assert parse_script([{"text": "abcdef", "chunk_chars": 4}]).turns[0].text == ("abcd", "ef")


def test_every_field_of_a_turn_is_read() -> None:
    turn = parse_script(
        [
            {
                "when": {
                    "user": "u",
                    "tool_result": "r",
                    "system": "s",
                    "model": "m",
                    "request": "q",
                    "turn": 0,
                    "step": 1,
                },
                "times": 2,
                "reasoning": "hm",
                "text": "t",
                "echo": "user",
                "tool_calls": [
                    {"name": "bash", "arguments": {"command": "ls"}},
                    {"name": "x", "raw": '{"bro', "id": "c"},
                ],
                "repeat": 3,
                "finish": "length",
                "usage": {"input": 1, "output": 2, "cached": 1},
                "delay": "1m30s",
                "chunk_delay": 0.5,
                "error": {"status": 429, "body": {"a": 1}, "headers": {"retry-after": 1}},
                "hang": True,
                "breaks": {"with": "cut", "after": 2},
            }
        ]
    ).turns[0]
    assert turn.when is not None
    assert (turn.when.turn, turn.when.step, turn.times, turn.repeat, turn.echo) == (0, 1, 2, 3, "user")
    assert [(call.name, call.arguments, call.id) for call in turn.tool_calls] == [
        ("bash", '{"command":"ls"}', None),
        ("x", '{"bro', "c"),
    ]
    assert (turn.delay_s, turn.chunk_delay_s) == (90.0, 0.5)
    assert turn.error is not None
    assert (turn.error.status, turn.error.headers) == (429, {"retry-after": "1"})
    assert turn.breaks is not None
    assert (turn.breaks.how, turn.breaks.after) == ("cut", 2)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (None, "script must be a mapping"),
        ([], "turns must have at least one turn"),
        ([{"say": "x"}], "turns[0].say is not known"),
        ([{"text": 5}], "turns[0].text must be a string; quote it"),
        ([{"text": ["a", 5]}], "turns[0].text must be a string or a list of strings"),
        ([{}, {"when": {"usr": "x"}}], "turns[1].when.usr is not known"),
        ([{"when": {"step": -1}}], "turns[0].when.step must be a whole number of at least 0"),
        ([{"tool_calls": [{"arguments": {}}]}], "turns[0].tool_calls[0].name is required"),
        ([{"tool_calls": [{"name": "x", "arguments": "{}"}]}], "for broken JSON use raw"),
        ([{"tool_calls": [{"name": "x", "arguments": {}, "raw": ""}]}], "not both"),
        ([{"error": {"status": 200}}], "turns[0].error.status must be"),
        ([{"breaks": {"with": "style"}}], "turns[0].breaks.with must be one of error, hang, end, cut"),
        ([{"delay": "soon"}], "turns[0].delay: 'soon' is not a duration"),
        ([{"finish": "end"}], "turns[0].finish must be one of"),
        ({"turns": "x"}, "script.turns must be a list"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(script: object, says: str) -> None:
    with pytest.raises(ScriptError) as caught:
        parse_script(script)
    assert says in str(caught.value)


def test_a_file_may_be_yaml_or_json(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("turns:\n- text: hi\n")
    (tmp_path / "a.json").write_text('{"turns": [{"text": "hi"}]}')
    assert load_script(tmp_path / "a.yaml") == load_script(tmp_path / "a.json")


@pytest.mark.parametrize(("content", "says"), [("a: [", "not YAML or JSON"), ("turns: 5", "turns must be a list")])
def test_a_bad_file_is_one_line_with_its_name(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ScriptError) as caught:
        load_script(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"nope\.yaml: No such file"):
        load_script(tmp_path / "nope.yaml")


def test_the_example_of_the_documentation_is_a_script() -> None:
    docs = Path(__file__).parents[3] / "docs" / "model-script.md"
    blocks = docs.read_text().split("```yaml\n")[1:]
    assert blocks
    for block in blocks:
        assert parse_script(yaml.safe_load(block.partition("```")[0])).turns


def test_a_json_script_may_escape_a_character_in_two_halves(tmp_path: Path) -> None:
    file = tmp_path / "script.json"
    file.write_text('[{"text": "\\ud83d\\ude42"}]')
    assert load_script(file).turns[0].text == ("🙂",)


@pytest.mark.parametrize(("text", "says"), [('- text: "\\ud83d"', "half of a character"), ("&a [*a]", "holds itself")])
def test_what_cannot_be_sent_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "script.yaml"
    file.write_text(text)
    with pytest.raises(ScriptError, match=says):
        load_script(file)
