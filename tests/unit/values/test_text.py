from __future__ import annotations

import pytest

from agentops.values.text import with_controls_shown, without_controls


def test_what_yaml_cannot_hold_is_replaced() -> None:
    bad = [*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0x85), *range(0x86, 0xA0), 0xD800, 0xFFFE, 0xFFFF]
    for code in bad:
        assert without_controls(f"a{chr(code)}b") == "a\ufffdb", hex(code)


def test_what_yaml_can_hold_stays() -> None:
    text = "tab\t line\n return\r next\x85 no-break\xa0 żółć 青い 🙂 \u2028 \u202e \ufeff \ufffd \U0001fffe"
    assert without_controls(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "^[]0;title^G"),
        ("\x1b[2J\x7f\x00", "^[[2J^?^@"),
        ("\x9b2J", r"\x9b2J"),
        ("rm \u202etxt.exe\u2066", r"rm \u202etxt.exe\u2066"),
        ("one\r\ntwo\rthree", "one\ntwo^Mthree"),
        ("tab\t żółć 🙂", "tab\t żółć 🙂"),
    ],
)
def test_on_a_terminal_no_character_acts(text: str, shown: str) -> None:
    assert with_controls_shown(text) == shown
