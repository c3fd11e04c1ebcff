"""kubectl's JSONPath, as far as printer columns, scale paths and field references use it.

`.a.b[0]`, `['k']`, `[*]`, `..` is not supported, `[?(@.x=="y")]` with ==, !=, <, >, <=, >=.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

Step = Callable[[list[Any]], list[Any]]

_FILTER = re.compile(r"@((?:\.[A-Za-z0-9_\-]+|\['[^']+'\])+)\s*(==|!=|<=|>=|<|>)\s*(.+)")


class JsonPathError(ValueError):
    """The expression is not of the supported subset."""


@lru_cache(maxsize=1000)
def compile_path(text: str) -> tuple[Step, ...]:
    """The steps of an expression such as `.status.conditions[?(@.type=="Ready")].status`."""
    rest = text.strip()
    if rest.startswith("{") and rest.endswith("}"):
        rest = rest[1:-1]
    rest = rest.removeprefix("$")
    steps: list[Step] = []
    while rest:
        if rest.startswith("["):
            end = _closing(rest)
            steps.append(_bracket(rest[1:end].strip()))
            rest = rest[end + 1 :]
            continue
        if rest == ".":
            break
        match = re.match(r"\.?((?:\\.|[^.\[\]\\])+)", rest)
        if match is None:
            raise JsonPathError(f"{text!r} is not a JSON path: cannot read {rest!r}")
        name = re.sub(r"\\(.)", r"\1", match.group(1))
        steps.append(_wildcard if name == "*" else _field(name))
        rest = rest[match.end() :]
    return tuple(steps)


def find(obj: Any, text: str) -> list[Any]:
    """All values the path leads to. Raises JsonPathError for a bad path."""
    values = [obj]
    for step in compile_path(text):
        values = step(values)
    return values


def first(obj: Any, text: str) -> Any:
    """The first value, or None."""
    found = find(obj, text)
    return found[0] if found else None


def set_path(obj: dict[str, Any], text: str, value: Any) -> None:
    """Write through a path of plain fields, making what is missing (scale's replicas)."""
    names = [part for part in text.strip().strip("{}").split(".") if part]
    for name in names[:-1]:
        inner = obj.get(name)
        if not isinstance(inner, dict):
            inner = obj[name] = {}
        obj = inner
    obj[names[-1]] = value


def _closing(text: str) -> int:
    depth, quote = 0, ""
    for index, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "[":
            depth += 1
        elif char == "]":
            depth -= 1
            if not depth:
                return index
    raise JsonPathError(f"{text!r} is not a JSON path: a bracket is not closed")


def _field(name: str) -> Step:
    return lambda values: [v[name] for v in values if isinstance(v, dict) and name in v]


def _wildcard(values: list[Any]) -> list[Any]:
    out: list[Any] = []
    for value in values:
        if isinstance(value, dict):
            out.extend(value.values())
        elif isinstance(value, list):
            out.extend(value)
    return out


def _bracket(text: str) -> Step:
    if text == "*":
        return _wildcard
    if text[:1] in "'\"":
        return _field(text[1:-1])
    if text.startswith("?(") and text.endswith(")"):
        return _filter(text[2:-1])
    if re.fullmatch(r"-?\d+", text):
        index = int(text)
        return lambda values: [v[index] for v in values if isinstance(v, list) and -len(v) <= index < len(v)]
    if re.fullmatch(r"-?\d*:-?\d*", text):
        start, _, end = text.partition(":")
        cut = slice(int(start) if start else None, int(end) if end else None)
        return lambda values: [item for v in values if isinstance(v, list) for item in v[cut]]
    raise JsonPathError(f"[{text}] is not supported in a JSON path")


def _filter(text: str) -> Step:
    match = _FILTER.fullmatch(text.strip())
    if match is None:
        inner = text.strip()
        if inner.startswith("@."):
            path = inner[1:]
            return lambda values: [i for v in values if isinstance(v, list) for i in v if find(i, path)]
        raise JsonPathError(f"[?({text})] is not supported in a JSON path")
    path, op, raw = match.groups()
    wanted: Any = raw.strip()
    if wanted[:1] in "'\"":
        wanted = wanted[1:-1]
    elif wanted in ("true", "false"):
        wanted = wanted == "true"
    else:
        wanted = float(wanted)

    def keep(item: Any) -> bool:
        found = find(item, path)
        if not found:
            return False
        value = found[0]
        if op == "==":
            return bool(value == wanted)
        if op == "!=":
            return bool(value != wanted)
        try:
            return bool({"<": value < wanted, ">": value > wanted, "<=": value <= wanted, ">=": value >= wanted}[op])
        except TypeError:
            return False

    return lambda values: [i for v in values if isinstance(v, list) for i in v if keep(i)]
