"""Standard output that says when it cannot be written, whoever writes to it."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import click

NOT_WRITTEN = 7
"""The exit code of every command whose standard output cannot be written."""


class NotWritten(OSError):
    """Standard output took no more. `instead` says where else is what could not be written."""

    instead = ""


class _Stdout(io.FileIO):
    """Tells its own failures from those of other files."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise NotWritten(error.errno, error.strerror) from error


class _Told(click.ClickException):
    """One line, or none for a reader that went away (`| head`): it knows."""

    exit_code = NOT_WRITTEN

    def __init__(self, why: str | None, instead: str = "") -> None:
        super().__init__(f"agentops: standard output {why}{instead and '; '}{instead}" if why else "")

    def show(self, file: IO[Any] | None = None) -> None:
        if self.message:
            with suppress(OSError):
                click.echo(self.message, file=file or sys.stderr)


def watch_stdout() -> None:
    """Let writes to standard output raise NotWritten. A stream that stands in for it (in tests) is left alone."""
    out = sys.stdout
    if out is not sys.__stdout__ or not isinstance(out, io.TextIOWrapper):
        return
    raw = io.BufferedWriter(_Stdout(out.fileno(), "w", closefd=False))
    sys.stdout = io.TextIOWrapper(raw, out.encoding, out.errors, line_buffering=out.line_buffering)


@contextmanager
def told_when_not_written() -> Iterator[None]:
    """NotWritten, also out of a task group, and an output that is closed, end the command with one line and
    `NOT_WRITTEN`."""
    if sys.stdout is None:  # not even to start with: a socket would get its number, and what others write there
        raise _Told("is closed", "give it a file, or /dev/null")
    try:
        yield
        sys.stdout.flush()
    except (NotWritten, BaseExceptionGroup) as error:
        failure = _find(error)
        if failure is None:
            raise
        with suppress(OSError):  # what is left of it goes nowhere when the process ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        gone = failure.errno == errno.EPIPE
        raise _Told(None if gone else f"cannot be written: {failure.strerror}", failure.instead) from error


def _find(error: BaseException) -> NotWritten | None:
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_find, error.exceptions)), None)
    return error if isinstance(error, NotWritten) else None
