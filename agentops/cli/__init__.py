"""The `agentops` command: thin, one module per subcommand, imported when called.

A subcommand's module has one click command of the subcommand's name. Nothing heavier than click is
imported to print help.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from agentops import __version__
from agentops.cli.streams import told_when_not_written, watch_stdout

_COMMANDS = {
    "operator": ("agentops.cli.operator", "Run the controller manager: reconcilers, leader election, metrics."),
    "runtime": ("agentops.cli.runtime", "Run an agent, inside an agent pod: daemon or task."),
    "memory": ("agentops.cli.memory", "Run the memory service."),
    "model": ("agentops.cli.model", "Run a small real model, or a script of one."),
    "local": ("agentops.cli.local", "Run the embedded control plane for development."),
    "run": ("agentops.cli.run", "Run an agent once, follow it live and print its answer."),
    "lint": ("agentops.cli.lint", "Check manifests and report every problem with line and field."),
    "crds": ("agentops.cli.crds", "Print the custom resource definitions."),
}


class _OneLine(click.ClickException):
    """A wrong flag or argument, as every other reason for not starting: one line, exit code 2."""

    exit_code = 2

    def __init__(self, error: click.UsageError) -> None:
        where = error.ctx.command_path if error.ctx is not None else "agentops"
        what = " ".join(error.format_message().split()).rstrip(".")
        super().__init__(f"{where}: {what}; see {where} --help")

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self.message, file=file or sys.stderr)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        raise _OneLine(error) from error


class _LazyGroup(click.Group):
    def main(self, *args: Any, **options: Any) -> Any:
        watch_stdout()
        return super().main(*args, **options)

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with _one_line(), told_when_not_written():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _one_line(), told_when_not_written():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), cmd_name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{_COMMANDS[cmd_name][0]}.{cmd_name} is not a click command")
        _name_variables(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(_COMMANDS.items())])


def _name_variables(command: click.Command) -> None:
    """Let `--help` name the environment variable beside each flag that has one."""
    for option in command.params:
        if isinstance(option, click.Option):
            option.show_envvar = True
    for one in command.commands.values() if isinstance(command, click.Group) else ():
        _name_variables(one)


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="agentops")
def main() -> None:
    """AI agents as Kubernetes workloads.

    Exit code 2: the command or its settings are wrong; 7: standard output cannot be written.
    """
