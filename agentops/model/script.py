"""The script format: what a scripted model says, as YAML or JSON.

A script is a list of turns, or a mapping with `turns` and, optionally, `model` (the listed name) and `otherwise` (the
turn that answers when no other does; without it that is HTTP 500, so a test notices).

    model: scripted
    turns:
      - when: {user: list the files}            # matches, as often as needed
        tool_calls: [{name: bash, arguments: {command: ls}}]
      - when: {tool_result: README}
        text: There is a README.
      - text: First answer.                     # no `when`: the next request nobody else took, once, in order
      - {text: Second answer., delay: 500ms}
    otherwise: {text: I have nothing to say.}

For each request the first turn whose `when` holds answers; else the next turn without `when`; else `otherwise`.

`when`, all given must hold; texts are substrings, case counts:
    user          the user's last message; without `tool_result` or `step` it must be the conversation's last, so a turn
                  that calls a tool is not taken again when the result comes back
    tool_result   the tool results that end the conversation
    system, model the system prompt; the model's name
    request       the request body as JSON text
    turn          0 for the first user message of a conversation, 1 for the second, …
    step          0 for the first model call of a turn, 1 after its first tool calls, …
`times`           how often a turn answers: unlimited with `when`, else 1

What it says, in this order on the wire:
    reasoning     text, or a list of texts, each one chunk
    text          the same
    echo          user or tool_result: that text follows
    tool_calls    a list of {name, arguments: {…}} or {name, raw: '{"broken'}, optionally with id
    repeat        `text` that many times, for large answers
    chunk_chars   characters per chunk (24)
    finish        stop, length, tool_calls or content_filter, instead of what follows from the above
    usage         {input, output, cached}: tokens, instead of estimates

When, and what goes wrong (durations in seconds, or 500ms, 1m30s):
    delay         before the first byte
    chunk_delay   before every chunk
    error         {status, body, headers} instead of an answer; body is JSON or text, or by default the wire's own shape
    hang          true: never answer
    raw           {body: text, slice: N} instead of an answer: a stream of exactly this text, in pieces of N bytes
    breaks        {after: N chunks (default: all), with: error | hang | end | cut, body}
                  error: an error event; end: the stream ends early but cleanly; cut: the connection breaks
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import yaml
from attrs import field, frozen

from agentops.model.backend import ChatRequest, Usage
from agentops.model.errors import ScriptError
from agentops.values.duration import parse_duration

CHUNK_CHARS = 24
_FINISHES = ("stop", "length", "tool_calls", "content_filter")
_BREAKS = ("error", "hang", "end", "cut")


@frozen(slots=True, kw_only=True)
class When:
    """Conditions on a request; None is no condition."""

    user: str | None = None
    tool_result: str | None = None
    system: str | None = None
    model: str | None = None
    request: str | None = None
    turn: int | None = None
    step: int | None = None

    def matches(self, request: ChatRequest) -> bool:
        step = 0 if self.step is None and self.user is not None and self.tool_result is None else self.step
        pairs = (
            (self.user, request.last_user),
            (self.tool_result, request.last_tool_result),
            (self.system, request.system),
            (self.model, request.model),
        )
        return (
            all(wanted is None or wanted in text for wanted, text in pairs)
            and self.turn in (None, request.turn)
            and step in (None, request.step)
            and (self.request is None or self.request in orjson.dumps(dict(request.raw)).decode())
        )


@frozen(slots=True, kw_only=True)
class ScriptedCall:
    name: str
    arguments: str
    id: str | None = None


@frozen(slots=True, kw_only=True)
class ScriptedError:
    status: int
    body: Any = None
    headers: Mapping[str, str] = field(factory=dict)


@frozen(slots=True, kw_only=True)
class Break:
    """`after` chunks the answer breaks in the way `how` says; None is after all of them."""

    how: str
    after: int | None = None
    body: Any = None


@frozen(slots=True, kw_only=True)
class Raw:
    """`body` is sent as it is, `slice_bytes` at a time; None is all at once."""

    body: str
    slice_bytes: int | None = None


@frozen(slots=True, kw_only=True)
class Turn:
    """One entry of a script; the module's docstring says what each field does."""

    when: When | None = None
    times: int | None = None
    reasoning: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    echo: str | None = None
    tool_calls: tuple[ScriptedCall, ...] = ()
    repeat: int = 1
    chunk_chars: int = CHUNK_CHARS
    finish: str | None = None
    usage: Usage | None = None
    delay_s: float = 0.0
    chunk_delay_s: float = 0.0
    error: ScriptedError | None = None
    hang: bool = False
    raw: Raw | None = None
    breaks: Break | None = None


@frozen(slots=True, kw_only=True)
class Script:
    """Turns in file order."""

    turns: tuple[Turn, ...]
    model: str = "scripted"
    otherwise: Turn | None = None


def load_script(path: Path) -> Script:
    """The script in the file at `path`. Raises ScriptError naming the file, the place and the fix."""
    try:
        data = _parsed(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ScriptError(f"script {path}: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise ScriptError(f"script {path}: not YAML or JSON: {' '.join(str(error).split())}") from error
    try:
        return parse_script(data)
    except ScriptError as error:
        raise ScriptError(f"script {path}: {error}") from error


def _parsed(text: str) -> Any:
    """JSON as JSON, where two escapes may be one character; else YAML, where each is half of one."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return yaml.safe_load(text)


def parse_script(data: Any) -> Script:
    """The script in parsed YAML or JSON. Raises ScriptError naming the place."""
    if isinstance(data, list):
        data = {"turns": data}
    try:
        json.dumps(data, ensure_ascii=False, default=str, skipkeys=True).encode()
    except UnicodeEncodeError:
        raise ScriptError("a text holds half of a character (\\ud83d); write the character itself, or JSON") from None
    except ValueError:
        raise ScriptError("it holds itself: an alias leads back to its anchor") from None
    fields = _Fields(data, "script", ("model", "turns", "otherwise"))
    turns = fields.items("turns")
    if not turns and "otherwise" not in data:
        raise ScriptError("turns must have at least one turn")
    otherwise = _turn(data["otherwise"], "otherwise") if data.get("otherwise") is not None else None
    return Script(
        model=fields.text("model") or "scripted",
        turns=tuple(_turn(turn, f"turns[{index}]") for index, turn in enumerate(turns)),
        otherwise=otherwise,
    )


class _Fields:
    """A mapping whose keys are known; every getter names the path of what is wrong."""

    def __init__(self, data: Any, path: str, known: tuple[str, ...]) -> None:
        if not isinstance(data, dict):
            raise ScriptError(f"{path} must be a mapping")
        self._data = data
        self._path = path
        for key in data:
            if key not in known:
                raise ScriptError(f"{path}.{key} is not known; known are {', '.join(known)}")

    def get(self, name: str) -> Any:
        return self._data.get(name)

    def text(self, name: str, choices: tuple[str, ...] = ()) -> str | None:
        value = self._data.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or (choices and value not in choices):
            wanted = f"one of {', '.join(choices)}" if choices else "a string; quote it"
            raise ScriptError(f"{self._path}.{name} must be {wanted}, not {value!r:.40}")
        return value

    def texts(self, name: str) -> tuple[str, ...] | str:
        value = self._data.get(name)
        if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            return tuple(value)
        if isinstance(value, list):
            raise ScriptError(f"{self._path}.{name} must be a string or a list of strings")
        return self.text(name) or ""

    def count(self, name: str, least: int) -> int | None:
        value = self._data.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ScriptError(f"{self._path}.{name} must be a whole number of at least {least}, not {value!r:.40}")
        return value

    def flag(self, name: str) -> bool:
        value = self._data.get(name, False)
        if not isinstance(value, bool):
            raise ScriptError(f"{self._path}.{name} must be true or false, not {value!r:.40}")
        return value

    def duration_s(self, name: str) -> float:
        value = self._data.get(name, 0)
        try:
            seconds = parse_duration(value) if isinstance(value, str) else float(value)
        except (ValueError, TypeError) as error:
            raise ScriptError(f"{self._path}.{name}: {error}") from error
        if seconds < 0:
            raise ScriptError(f"{self._path}.{name} must not be negative")
        return seconds

    def items(self, name: str) -> list[Any]:
        value = self._data.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise ScriptError(f"{self._path}.{name} must be a list")
        return value


_TURN_KEYS = (
    "when", "times", "reasoning", "text", "echo", "tool_calls", "repeat", "chunk_chars", "finish", "usage", "delay",
    "chunk_delay", "error", "hang", "raw", "breaks",
)  # fmt: skip


def _turn(data: Any, path: str) -> Turn:
    fields = _Fields(data, path, _TURN_KEYS)
    chunk_chars = fields.count("chunk_chars", 1) or CHUNK_CHARS
    return Turn(
        when=None if fields.get("when") is None else _when(fields.get("when"), f"{path}.when"),
        times=fields.count("times", 1),
        reasoning=_chunks(fields.texts("reasoning"), chunk_chars),
        text=_chunks(fields.texts("text"), chunk_chars),
        echo=fields.text("echo", ("user", "tool_result")),
        tool_calls=tuple(
            _call(call, f"{path}.tool_calls[{index}]") for index, call in enumerate(fields.items("tool_calls"))
        ),
        repeat=1 if fields.get("repeat") is None else (fields.count("repeat", 0) or 0),
        chunk_chars=chunk_chars,
        finish=fields.text("finish", _FINISHES),
        usage=None if fields.get("usage") is None else _usage(fields.get("usage"), f"{path}.usage"),
        delay_s=fields.duration_s("delay"),
        chunk_delay_s=fields.duration_s("chunk_delay"),
        error=None if fields.get("error") is None else _error(fields.get("error"), f"{path}.error"),
        hang=fields.flag("hang"),
        raw=None if fields.get("raw") is None else _raw(fields.get("raw"), f"{path}.raw"),
        breaks=None if fields.get("breaks") is None else _break(fields.get("breaks"), f"{path}.breaks"),
    )


def _when(data: Any, path: str) -> When:
    fields = _Fields(data, path, ("user", "tool_result", "system", "model", "request", "turn", "step"))
    return When(
        user=fields.text("user"),
        tool_result=fields.text("tool_result"),
        system=fields.text("system"),
        model=fields.text("model"),
        request=fields.text("request"),
        turn=fields.count("turn", 0),
        step=fields.count("step", 0),
    )


def _call(data: Any, path: str) -> ScriptedCall:
    fields = _Fields(data, path, ("name", "arguments", "raw", "id"))
    name, raw, arguments = fields.text("name"), fields.text("raw"), fields.get("arguments")
    if not name:
        raise ScriptError(f"{path}.name is required")
    if raw is not None and arguments is not None:
        raise ScriptError(f"{path}: give arguments (a mapping) or raw (text), not both")
    if raw is None and not isinstance(arguments if arguments is not None else {}, dict):
        raise ScriptError(f"{path}.arguments must be a mapping; for broken JSON use raw")
    return ScriptedCall(
        name=name, arguments=raw if raw is not None else orjson.dumps(arguments or {}).decode(), id=fields.text("id")
    )


def _error(data: Any, path: str) -> ScriptedError:
    fields = _Fields(data, path, ("status", "body", "headers"))
    status = fields.count("status", 400)
    if status is None or status > 599:
        raise ScriptError(f"{path}.status must be an HTTP status from 400 to 599")
    headers = fields.get("headers") or {}
    if not isinstance(headers, dict):
        raise ScriptError(f"{path}.headers must be a mapping")
    return ScriptedError(
        status=status, body=fields.get("body"), headers={str(name): str(value) for name, value in headers.items()}
    )


def _break(data: Any, path: str) -> Break:
    fields = _Fields(data, path, ("after", "with", "body"))
    how = fields.text("with", _BREAKS)
    if how is None:
        raise ScriptError(f"{path}.with must be one of {', '.join(_BREAKS)}")
    return Break(how=how, after=fields.count("after", 0), body=fields.get("body"))


def _raw(data: Any, path: str) -> Raw:
    fields = _Fields(data, path, ("body", "slice"))
    return Raw(body=fields.text("body") or "", slice_bytes=fields.count("slice", 1))


def _usage(data: Any, path: str) -> Usage:
    fields = _Fields(data, path, ("input", "output", "cached"))
    return Usage(
        input_tokens=fields.count("input", 0) or 0,
        output_tokens=fields.count("output", 0) or 0,
        cached_tokens=fields.count("cached", 0) or 0,
    )


def _chunks(texts: tuple[str, ...] | str, size: int) -> tuple[str, ...]:
    """A list keeps its own pieces; one text is cut."""
    if isinstance(texts, tuple):
        return tuple(text for text in texts if text)
    return cut(texts, size)


def cut(text: str, size: int) -> tuple[str, ...]:
    """`text` in pieces of `size` characters."""
    return tuple(text[start : start + size] for start in range(0, len(text), size))
