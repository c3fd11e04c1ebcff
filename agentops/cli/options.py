"""Options every long-running role has: how it logs, and where its traces go."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_AGENT = {"agent.name": "AGENT_NAME", "agent.mode": "AGENT_MODE", "agent.namespace": "AGENT_NAMESPACE"}


def role_options(service_name: str) -> Callable[[_F], _F]:
    """Add `--log-format` and `--log-level`, and set up logs and traces before the command runs.

    Traces are exported only when `OTEL_EXPORTER_OTLP_ENDPOINT` is set, and flushed when the command ends.
    """

    def decorate(command: _F) -> _F:
        @click.option(
            "--log-format",
            envvar="AGENTOPS_LOG_FORMAT",
            type=click.Choice(["json", "text"]),
            default="json",
            show_default=True,
            help="JSON lines, or text for people.",
        )
        @click.option(
            "--log-level",
            envvar="AGENTOPS_LOG_LEVEL",
            type=click.Choice(["debug", "info", "warning", "error"]),
            default="info",
            show_default=True,
            help="The least important events logged.",
        )
        @functools.wraps(command)
        def wrapped(*args: Any, log_format: str, log_level: str, **kwargs: Any) -> Any:
            from agentops.telemetry import logging, tracing

            logging.configure(log_format, log_level)
            described = {name: os.environ[variable] for name, variable in _AGENT.items() if os.environ.get(variable)}
            try:
                provider = tracing.configure(service_name, os.environ.get(_ENDPOINT), None, **described)
            except ValueError as error:
                raise click.UsageError(f"{_ENDPOINT} and the other OTEL_ variables: {error}") from error
            try:
                return command(*args, **kwargs)
            except (click.ClickException, click.Abort, click.exceptions.Exit):
                raise
            except Exception:  # a defect; whoever collects the logs gets it as one line, with its traceback
                logging.get_logger("role").exception("role.crashed", role=service_name)
                sys.exit(1)
            finally:
                if provider is not None:
                    provider.shutdown()

        return wrapped  # type: ignore[return-value]

    return decorate
