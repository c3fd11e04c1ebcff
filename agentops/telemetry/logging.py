"""Logs are events with fields.

`log.info("agent.rollout", agent="hello", hash="…")` writes one JSON object per line on stderr, or one
readable line with `--log-format text`. `bind` adds fields to everything logged inside it, across
awaits. Trace and span ids are added when a span is current.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TextIO

import orjson
from opentelemetry import trace

_bound: ContextVar[Mapping[str, Any]] = ContextVar("agentops_log_fields", default=MappingProxyType({}))
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Logger:
    """One component's logger. Fields must be JSON-able; anything else is logged as its `str`."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"agentops.{name}")

    def debug(self, event: str, **fields: Any) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """`error` with the current exception's traceback."""
        self._log(logging.ERROR, event, fields, exc_info=True)

    def enabled(self, level: str) -> bool:
        return self._logger.isEnabledFor(_LEVELS[level])

    def _log(self, level: int, event: str, fields: Mapping[str, Any], exc_info: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            extra = {"agentops_fields": {**_bound.get(), **fields}}
            self._logger.log(level, event, extra=extra, exc_info=exc_info)


def get_logger(name: str) -> Logger:
    """The logger of a component, named by a dotted path such as `runtime.turn`."""
    return Logger(name)


@contextmanager
def bind(**fields: Any) -> Iterator[None]:
    """Add `fields` to every event logged inside, in this task and those it starts."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def bound() -> Mapping[str, Any]:
    """The fields that `bind` added here."""
    return _bound.get()


def configure(format: str = "json", level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logs, other libraries' warnings included, to `stream` (stderr). Replaces earlier handlers."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(_JsonFormatter() if format == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("agentops").setLevel(_LEVELS[level])
    logging.captureWarnings(True)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = dict(getattr(record, "agentops_fields", None) or _bound.get())  # of other loggers: what is bound here
    context = trace.get_current_span().get_span_context()
    if context.is_valid and "trace_id" not in fields:
        fields["trace_id"] = format(context.trace_id, "032x")
        fields["span_id"] = format(context.span_id, "016x")
    return fields


def _stamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": _stamp(record),
            "level": record.levelname.lower(),
            "logger": record.name.removeprefix("agentops."),
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # text that is no Unicode, such as a file's name, or a number beyond 64 bits
            return json.dumps(line, default=str, skipkeys=True)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={value}" for key, value in _fields(record).items())
        name = record.name.removeprefix("agentops.")
        line = f"{_stamp(record)[11:23]} {record.levelname.lower():7} {name} {record.getMessage()} {fields}".rstrip()
        if record.exc_info:
            line += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return line
