"""What an HTTP header can carry, as every client and server takes it."""

from __future__ import annotations

import re

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FRAMING = frozenset({
    "connection", "content-encoding", "content-length", "expect", "keep-alive", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
})  # fmt: skip
"""Headers that say how the message itself is sent: whoever sends it sets them."""


def name_problem(name: str) -> str:
    """Why `name` is no header that a user may set, to follow it in a sentence; empty when it is one."""
    if not _NAME.fullmatch(name):
        return "is not the name of an HTTP header"
    if name.lower() in _FRAMING:
        return "says how a message is sent and is set by the client that sends it; leave it out"
    return ""


def value_problem(value: str) -> str:
    """Why no header can have `value`, to follow its name in a sentence; empty when one can. Never quotes it."""
    if "\n" in value or "\r" in value:
        return "holds a line break"
    if any((ord(character) < 32 and character != "\t") or ord(character) == 127 for character in value):
        return "holds a control character"
    if not value.isascii():
        return "holds a character outside ASCII"
    return "begins or ends with a blank" if value != value.strip() else ""
