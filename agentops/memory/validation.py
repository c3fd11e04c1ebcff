"""Bodies and query strings to values, with every problem of a request at once.

Projects are lower-cased and surrounding white space is cut here, so that nothing behind this module sees two
spellings of one project.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson
from attrs import evolve
from starlette.datastructures import QueryParams

from agentops.api.codec import WireError
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
    Observation,
    ObservationPatch,
    Session,
    SessionMessage,
)
from agentops.memory.errors import InvalidRequest
from agentops.memory.listing import Cursor, Filter, decode_cursor
from agentops.memory.schema import APPEND_ONLY_TYPES
from agentops.values.clock import parse_rfc3339

MAX_SESSION_ID = 200
MAX_ROLE = 50
MAX_MESSAGES = 10_000
MAX_SUMMARY = 2_000
MAX_UUID = 100
MAX_QUERY = 20_000
"""Characters of a search text; a model's whole prompt may be one."""
MAX_ID = 2**63 - 1
MAX_IMPORTED = 2**52
"""The largest number of an imported row. Later ids and counts go on from it: they must have somewhere to go, and stay
exact for readers to whom every number is a float."""


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
        if len(value) > MAX_MESSAGES:
            self._problem(name, f"has {len(value)} entries, at most {MAX_MESSAGES} are allowed")
        found = []
        for index, entry in enumerate(value[:MAX_MESSAGES]):
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
        problem = text_problem(value, most)
        if problem:
            self._problem(name, problem)
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
    if patch.type in APPEND_ONLY_TYPES:
        fields.problems.append(f"type cannot become {patch.type}, which is for records written as such")
    for name in sorted(set(data) - {"type", "title", "content", "tags"}):
        fields.problems.append(f"{name:.60} cannot be changed; only type, title, content and tags can")
    if not data:
        fields.problems.append("body must name at least one of type, title, content and tags")
    fields.done()
    return patch


def check_imported(row: Session | Observation) -> Session | Observation:
    """A row of an export, its project normalised. Raises WireError for what `POST` would have refused too."""
    problems: list[str] = []
    texts = {"project": MAX_PROJECT}
    if isinstance(row, Session):
        texts |= {"id": MAX_SESSION_ID, "summary": MAX_SUMMARY}
        numbers = {"message_count": (row.message_count, 0)}
    else:
        texts |= {"session_id": MAX_SESSION_ID, "type": MAX_TYPE, "title": MAX_TITLE, "content": MAX_CONTENT}
        texts |= {"scope": MAX_SCOPE, "topic_key": MAX_TOPIC_KEY, "promoted_to": MAX_CONTENT}
        numbers = {"id": (row.id, 1)}
        numbers |= {"revision_count": (row.revision_count, 1), "duplicate_count": (row.duplicate_count, 1)}
        if len(row.tags) > MAX_TAGS:
            problems.append(f"tags has {len(row.tags)} entries, at most {MAX_TAGS} are allowed")
        problems += [f"tags[{i}] {why}" for i, tag in enumerate(row.tags) if (why := text_problem(tag, MAX_TAG))]
    for name, most in texts.items():
        value = getattr(row, name)
        why = None if value is None else text_problem(value, most)
        if why or (name not in ("summary", "content", "topic_key", "promoted_to") and not value.strip()):
            problems.append(f"{name} {why or 'is required'}")
    problems += [
        f"{name} must be from {least} to {MAX_IMPORTED}"
        for name, (value, least) in numbers.items()
        if not least <= value <= MAX_IMPORTED
    ]
    if problems:
        raise WireError("; ".join(problems))
    return evolve(row, project=normal_project(row.project))


def text_problem(value: str, most: int) -> str | None:
    """What is wrong with a text that may have `most` characters."""
    if len(value) > most:
        return f"has {len(value)} characters, at most {most} are allowed"
    return "has a NUL character; leave it out" if "\x00" in value else None


def normal_project(text: str) -> str:
    return text.strip().lower()


def word(query: Mapping[str, str], name: str, most: int) -> str:
    """A parameter that is empty when missing. Raises InvalidRequest."""
    value = query.get(name, "").strip()
    problem = text_problem(value, most)
    if problem:
        raise InvalidRequest([f"{name} {problem}"])
    return value


def row_filter(query: QueryParams, project: str) -> Filter:
    """`type`, `scope`, `tags` (comma-separated or repeated), `since` and `until`. Raises InvalidRequest."""
    found = [tag.strip() for value in query.getlist("tags") for tag in value.split(",")]
    tags = tuple(dict.fromkeys(tag for tag in found if tag))
    if len(tags) > MAX_TAGS:
        raise InvalidRequest([f"tags has {len(tags)} entries, at most {MAX_TAGS} are allowed"])
    for tag in tags:
        problem = text_problem(tag, MAX_TAG)
        if problem:
            raise InvalidRequest([f"tags {problem}"])
    return Filter(
        project=project,
        type=word(query, "type", MAX_TYPE),
        scope=word(query, "scope", MAX_SCOPE).lower(),
        tags=tags,
        since_ms=_time(query, "since"),
        until_ms=_time(query, "until"),
    )


def cursor(query: Mapping[str, str]) -> Cursor | None:
    """Where the page begins. Raises InvalidRequest."""
    text = query.get("cursor", "")
    if len(text) > 2 * MAX_SESSION_ID * 4:
        raise InvalidRequest(["cursor is too long to be one this service gave"])
    return decode_cursor(text) if text else None


def search_text(query: Mapping[str, str], name: str, *, required: bool = False) -> str:
    """Raises InvalidRequest."""
    if required and name not in query:
        raise InvalidRequest([f"{name} is required"])
    text = query.get(name, "")
    if len(text) > MAX_QUERY:
        raise InvalidRequest([f"{name} has {len(text)} characters, at most {MAX_QUERY} are allowed"])
    return text


def session_id(text: str) -> str:
    """A session id from a path. Raises InvalidRequest."""
    problem = text_problem(text, MAX_SESSION_ID)
    if problem:
        raise InvalidRequest([f"id {problem}"])
    return text


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
    name = normal_project(word(query, "project", MAX_PROJECT))
    if required and not name:
        raise InvalidRequest(["project is required"])
    return name


def _time(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if not text:
        return None
    try:
        moment: datetime = parse_rfc3339(text.replace(" ", "+"))
    except (ValueError, OverflowError) as error:
        raise InvalidRequest([f"{name} must be a time such as 2026-01-31T12:00:00Z, not {text!r:.60}"]) from error
    return int(moment.timestamp() * 1000)


def _stripped(text: str | None) -> str | None:
    return None if text is None else text.strip()


def _count(query: Mapping[str, str], default: int, name: str, least: int) -> int:
    try:
        value = int(query.get(name, ""))
    except ValueError:
        return default
    return default if value < least else min(value, MAX_LIMIT)
