"""The system text of a turn: what the agent is, what it knows, what it was pointed at.

In this order, whether or not there is a system prompt: platform protocol, system prompt, context
files, memory, resource context (runtime specification, A13).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from agentops.api.memory import MemoryContext
from agentops.runtime.providers.base import SystemPrompt
from agentops.telemetry.logging import get_logger

log = get_logger("runtime.context")

MAX_FILE_CHARS = 32_000
MAX_FILES_CHARS = 96_000
MAX_RESOURCES = 20
MAX_DESCRIPTION = 500


@frozen
class SystemText:
    """The parts that stay the same between turns; `render` adds the turn's own."""

    platform_protocol: str = ""
    system_prompt: str = ""
    context_files: str = ""

    @property
    def fixed(self) -> str:
        return _join(self.platform_protocol, self.system_prompt, self.context_files)

    def render(self, memory: str = "", resources: str = "") -> SystemPrompt:
        return SystemPrompt(self.fixed, _join(memory, resources))


@frozen
class ContextFiles:
    """The text of the context files, and what could not be read of them."""

    text: str = ""
    problems: tuple[str, ...] = ()


def read_context_files(paths: Sequence[tuple[str, Path]]) -> ContextFiles:
    """Read `(name, path)` pairs, each cut at `MAX_FILE_CHARS`, together at `MAX_FILES_CHARS` characters.

    A directory (a skill) stands for its Markdown files, SKILL.md first. What is missing is reported,
    not raised: an agent with one file fewer still works.
    """
    blocks: list[str] = []
    problems: list[str] = []
    room = MAX_FILES_CHARS
    for name, path in paths:
        try:
            files = _expand(name, path)
        except OSError as error:
            problems.append(f"context file {name}: {error.strerror or error}")
            continue
        for shown, file in files:
            try:
                text = file.read_bytes()[: 4 * MAX_FILE_CHARS].decode("utf-8", "replace")
            except OSError as error:
                problems.append(f"context file {shown}: {error.strerror or error}")
                continue
            limit = min(MAX_FILE_CHARS, room)
            if len(text) > limit:
                problems.append(f"context file {shown}: cut to {limit} characters")
                text = text[:limit]
            room -= len(text)
            if text.strip():
                blocks.append(f'<file path="{shown}">\n{text.rstrip()}\n</file>')
    for problem in problems:
        log.warning("context.file", problem=problem)
    return ContextFiles("\n\n".join(blocks), tuple(problems))


def memory_block(context: MemoryContext) -> str:
    """Session summaries, then observations; empty when there are none."""
    blocks = []
    sessions = [f"- {_line(session.summary)}" for session in context.recent_sessions if session.summary]
    if sessions:
        blocks.append("\n".join(["<memory:sessions>", *sessions, "</memory:sessions>"]))
    rows = [f"- [{row.type}] {_line(row.title)}: {_line(row.content)}" for row in context.recent_observations]
    if rows:
        blocks.append("\n".join(["<memory:context>", *rows, "</memory:context>"]))
    return "\n".join(blocks)


def resource_block(items: Sequence[Mapping[str, Any]]) -> str:
    """One bullet for each thing the user attached to the prompt; empty when there is none."""
    bullets = [f"- {_resource(item)}" for item in items[:MAX_RESOURCES]]
    if len(items) > MAX_RESOURCES:
        bullets.append(f"- and {len(items) - MAX_RESOURCES} more")
    return "\n".join(["## Attached by the user", *bullets]) if bullets else ""


def _resource(item: Mapping[str, Any]) -> str:
    def get(key: str) -> str:
        value = item.get(key)
        return _line(str(value)) if value is not None else ""

    match item.get("item_type"):
        case "file":
            what = f"file {get('path')}" + (f"@{get('ref')}" if get("ref") else "")
        case "commit":
            what = f"commit {get('sha')} {get('title')}"
        case "branch":
            what = f"branch {get('ref') or get('title')}"
        case "issue":
            what = f"issue #{get('number')} {get('title')} {get('url')}"
        case "merge_request":
            what = f"merge request !{get('number')} {get('title')} {get('url')}"
        case other:
            what = f"{other or 'item'} {get('title') or get('path') or get('url')}"
    where = " in " + get("resource_name") + (f" ({get('kind')})" if get("kind") else "") if get("resource_name") else ""
    description = get("description")
    if len(description) > MAX_DESCRIPTION:
        description = description[: MAX_DESCRIPTION - 1] + "…"
    return f"{what.strip()}{where}" + (f": {description}" if description else "")


def _expand(name: str, path: Path) -> list[tuple[str, Path]]:
    if not path.is_dir():
        return [(name, path)]
    files = sorted(path.glob("*.md"), key=lambda file: (file.name.upper() != "SKILL.MD", file.name))
    if not files:
        raise FileNotFoundError(2, "the directory holds no Markdown file")
    return [(f"{name.rstrip('/')}/{file.name}", file) for file in files]


def _join(*parts: str) -> str:
    return "\n\n".join(part.strip("\n") for part in parts if part.strip())


def _line(text: str) -> str:
    return " ".join(text.split())
