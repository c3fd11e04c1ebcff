"""Bodies and query strings to values, with every problem of a request at once.

Projects are lower-cased and surrounding white space is cut here, so that nothing behind this module sees two
spellings of one project.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from agentops.api.memory import (
    MAX_CONTENT,
    MAX_LIMIT,
    MAX_PROJECT,
    MAX_SCOPE,
    MAX_TAG,
    MAX_TAGS,
    MAX_TITLE,
    MAX_TOPIC_KEY,
    MAX_TYPE,
    EndSession,
    NewObservation,
    NewSession,
    ObservationPatch,
    SessionMessage,
)
from agentops.memory.errors import InvalidRequest

MAX_SESSION_ID = 200
MAX_ROLE = 50
MAX_ID = 2**63 - 1


class Fields:
    """One JSON object being read; `problems` grows as fields are asked for."""

    def __init__(self, data: Mapping[str, Any], path: str = "", problems: list[str] | None = None) -> None:
        self._data = data
        self._path = path
        self.problems = [] if problems is None else problems

    def text(self, name: str, most: int, *, blank: bool = False) -> str:
        """A required string of at most `most` characters."""
        value = self._data.get(name)
        if value is None or (isinstance(value, str) and not value.strip() and not blank):
            self._problem(name, "is required")
            return ""
        return self._checked(name, value, most)

    def optional(self, name: str, most: int) -> str | None:
        """A string that may be missing, null or blank (all None)."""
        value = self._data.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        return self._checked(name, value, most)

    def change(self, name: str, most: int) -> str | None:
        """A string that may be missing, but not blank when present."""
        return self.text(name, most) if name in self._data else None

    def tags(self, name: str = "tags") -> tuple[str, ...]:
        value = self._data.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            self._problem(name, "must be a list of strings")
            return ()
        if len(value) > MAX_TAGS:
            self._problem(name, f"has {len(value)} entries, at most {MAX_TAGS} are allowed")
        found: dict[str, None] = {}
        for index, tag in enumerate(value[:MAX_TAGS]):
            text = self._checked(f"{name}[{index}]", tag, MAX_TAG).strip()
            if text:
                found.setdefault(text)
        return tuple(found)

    def objects(self, name: str) -> list[Fields]:
        """A list of objects, missing meaning empty."""
        value = self._data.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self._problem(name, "must be a list of objects")
            return []
        found = []
        for index, entry in enumerate(value):
            path = f"{self._path}{name}[{index}]"
            if isinstance(entry, dict):
                found.append(Fields(entry, path + ".", self.problems))
            else:
                self.problems.append(f"{path} must be an object")
        return found

    def done(self) -> None:
        """Raises InvalidRequest when anything was wrong."""
        if self.problems:
            raise InvalidRequest(self.problems)

    def _checked(self, name: str, value: Any, most: int) -> str:
        if not isinstance(value, str):
            self._problem(name, "must be a string")
            return ""
        if len(value) > most:
            self._problem(name, f"has {len(value)} characters, at most {most} are allowed")
        return value

    def _problem(self, name: str, what: str) -> None:
        self.problems.append(f"{self._path}{name} {what}")


def parse_object(body: bytes) -> Mapping[str, Any]:
    """The JSON object in `body`. Raises InvalidRequest."""
    try:
        data = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise InvalidRequest([f"body is not JSON: {error}"]) from error
    if not isinstance(data, dict):
        raise InvalidRequest(["body must be a JSON object"])
    return data


def new_session(data: Mapping[str, Any]) -> NewSession:
    fields = Fields(data)
    session = NewSession(
        id=fields.text("id", MAX_SESSION_ID), project=normal_project(fields.text("project", MAX_PROJECT))
    )
    fields.done()
    return session


def end_session(data: Mapping[str, Any]) -> EndSession:
    fields = Fields(data)
    messages = tuple(
        SessionMessage(role=entry.text("role", MAX_ROLE), content=entry.text("content", MAX_CONTENT, blank=True))
        for entry in fields.objects("messages")
    )
    fields.done()
    return EndSession(messages=messages)


def new_observation(data: Mapping[str, Any]) -> NewObservation:
    fields = Fields(data)
    new = NewObservation(
        session_id=fields.text("session_id", MAX_SESSION_ID),
        type=fields.text("type", MAX_TYPE).strip(),
        title=fields.text("title", MAX_TITLE).strip(),
        content=fields.text("content", MAX_CONTENT),
        project=normal_project(fields.text("project", MAX_PROJECT)),
        tags=fields.tags(),
        scope=(fields.optional("scope", MAX_SCOPE) or "project").strip().lower(),
        topic_key=_stripped(fields.optional("topic_key", MAX_TOPIC_KEY)),
    )
    fields.done()
    return new


def observation_patch(data: Mapping[str, Any]) -> ObservationPatch:
    fields = Fields(data)
    patch = ObservationPatch(
        type=_stripped(fields.change("type", MAX_TYPE)),
        title=_stripped(fields.change("title", MAX_TITLE)),
        content=fields.change("content", MAX_CONTENT),
        tags=fields.tags() if "tags" in data else None,
    )
    for name in sorted(set(data) - {"type", "title", "content", "tags"}):
        fields.problems.append(f"{name:.60} cannot be changed; only type, title, content and tags can")
    if not data:
        fields.problems.append("body must name at least one of type, title, content and tags")
    fields.done()
    return patch


def normal_project(text: str) -> str:
    return text.strip().lower()


def limit(query: Mapping[str, str], default: int, name: str = "limit") -> int:
    """A count from the query string: `default` when missing, negative, zero or not a number; at most 1000."""
    return _count(query, default, name, 1)


def neighbours(query: Mapping[str, str], name: str) -> int:
    """`before` or `after` of a timeline: 3 when missing, negative or not a number; at most 1000."""
    return _count(query, 3, name, 0)


def max_tokens(query: Mapping[str, str]) -> int | None:
    """The token budget of a context, None without one. Raises InvalidRequest."""
    text = query.get("max_tokens")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidRequest([f"max_tokens must be a whole number of tokens, not {text!r:.60}"])
    return int(text)


def observation_id(text: str | None, name: str = "id") -> int:
    """Raises InvalidRequest unless `text` is a positive whole number."""
    if not text or not text.isascii() or not text.isdigit() or len(text) > 19 or not 0 < int(text) <= MAX_ID:
        raise InvalidRequest([f"{name} must be a positive whole number, not {text or ''!r:.60}"])
    return int(text)


def flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("true", "1", "yes")


def project(query: Mapping[str, str], *, required: bool = False) -> str:
    """Raises InvalidRequest when required and missing."""
    name = normal_project(query.get("project", ""))
    if required and not name:
        raise InvalidRequest(["project is required"])
    return name


def _stripped(text: str | None) -> str | None:
    return None if text is None else text.strip()


def _count(query: Mapping[str, str], default: int, name: str, least: int) -> int:
    try:
        value = int(query.get(name, ""))
    except ValueError:
        return default
    return default if value < least else min(value, MAX_LIMIT)
