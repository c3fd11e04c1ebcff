"""Text that somebody else wrote, made fit for where it goes: a YAML document, a terminal."""

from __future__ import annotations

import re

_NOT_YAML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def without_controls(text: str) -> str:
    """`text` with U+FFFD for every character a YAML document cannot hold.

    These are the control characters but tab, line feed, carriage return and U+0085, half characters, U+FFFE and
    U+FFFF. One of them in any object makes `kubectl get -o yaml` fail for the whole list.
    """
    return _NOT_YAML.sub("\ufffd", text)


def with_controls_shown(text: str) -> str:
    """`text` for a terminal, where no character of it acts: `^[` for an escape, `\\u202e` for a change of direction.

    Line feed and tab stay, a carriage return before a line feed is left out.
    """
    return _ACTS.sub(_shown, text.replace("\r\n", "\n"))


def _shown(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20 or code == 0x7F:
        return f"^{chr(code ^ 0x40)}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
