"""What a session was about, told without a model: same messages, same line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

QUOTE_RUNES = 200

CALLBACK_TAG = "[DELEGATION RESULT"
"""Prompts an agent sends itself when a delegated run ends start with this; nobody asked them."""


def is_callback(role: str, content: str) -> bool:
    """Whether a message is an agent's own delegation callback rather than something a user said."""
    return role == "user" and content.lstrip().startswith(CALLBACK_TAG)


def cut(text: str, runes: int) -> str:
    """`text` on one line and at most `runes` characters long, an ellipsis standing for what is gone."""
    line = " ".join(text.split())
    return line if len(line) <= runes else line[:runes].rstrip() + "…"


def summarize(messages: Iterable[tuple[str, str]]) -> str:
    """One line about a conversation given as (role, content) pairs; empty when nothing was said.

    Names how many messages there were and quotes the first user message, and the last when there are several.
    """
    spoken: Sequence[tuple[str, str]] = [
        (role, content) for role, content in messages if not is_callback(role, content)
    ]
    if not spoken:
        return ""
    asked = [content for role, content in spoken if role == "user"]
    answered = sum(1 for role, _ in spoken if role == "assistant")
    noun = "message" if len(spoken) == 1 else "messages"
    parts = [f"{len(spoken)} {noun} ({len(asked)} user, {answered} assistant)."]
    if asked:
        parts.append(f"First request: {cut(asked[0], QUOTE_RUNES)}")
    if len(asked) > 1:
        parts.append(f"| Last request: {cut(asked[-1], QUOTE_RUNES)}")
    return " ".join(parts)
