"""`agentops runtime`: parse flags, build the daemon or the task, run it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from agentops.cli.options import role_options

_F = TypeVar("_F", bound=Callable[..., Any])


def _common(command: _F) -> _F:
    """Where the agent's files are; each flag has an environment variable and the pod's default."""
    options = [
        click.option("--config", "config_path", help="config.json [env AGENT_CONFIG_PATH; /etc/operator/config.json]"),
        click.option("--workspace", help="Directory the tools work in [env WORKSPACE; /data]"),
        click.option("--memory-token-file", help="Bearer token of the memory service [env MEMORY_TOKEN_FILE]"),
        click.option("--name", help="Name of the agent [env AGENT_NAME; default]"),
        click.option("--namespace", help="Namespace of the agent [env AGENT_NAMESPACE; default]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def runtime() -> None:
    """Run an agent, inside an agent pod."""


@runtime.command()
@_common
@click.option("--data-dir", help="State the tools never see [env AGENT_DATA_DIR; /var/lib/agentops]")
@click.option("--listen", help="Address to serve on [env AGENT_LISTEN; :4096]")
@click.option("--token-file", help="File with the bearer token that callers must send [env AGENT_TOKEN_FILE]")
@click.option(
    "--grace", "grace_s", type=float, help="Seconds a turn may go on after SIGTERM [env AGENT_GRACE_SECONDS; 110]"
)
@click.option("--insecure", is_flag=True, default=None, help="No authentication. Development only.")
@role_options("agentops-runtime")
def daemon(**flags: Any) -> None:
    """Answer prompts over HTTP until told to stop."""
    from agentops.net.errors import UsageError
    from agentops.net.serve import exit_with, run_until_signal
    from agentops.runtime.assembly import hide_environment
    from agentops.runtime.daemon import Daemon
    from agentops.runtime.settings import settings_from

    try:
        settings = settings_from(os.environ, **flags)
    except UsageError as error:
        exit_with(error)
    hide_environment(os.environ)
    run_until_signal(lambda: Daemon(settings).run())


@runtime.command()
@_common
@role_options("agentops-runtime")
def task(**flags: Any) -> None:
    """Run the prompt of AGENT_PROMPT or AGENT_PROMPT_FILE once and exit."""
    import anyio

    from agentops.net.errors import UsageError
    from agentops.net.serve import exit_with
    from agentops.runtime.assembly import hide_environment
    from agentops.runtime.settings import settings_from
    from agentops.runtime.task import Task

    try:
        settings = settings_from(os.environ, **flags)
    except UsageError as error:
        exit_with(error)
    hide_environment(os.environ)
    sys.exit(anyio.run(Task(settings).run))
