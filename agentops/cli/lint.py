"""`agentops lint`: every problem of a manifest, with line and field, without a cluster."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import click


@click.command()
@click.option(
    "-f",
    "--filename",
    "names",
    multiple=True,
    required=True,
    metavar="FILE",
    help="A YAML file, a directory of them, or - for standard input. May be given more than once.",
)
@click.option("--strict", is_flag=True, help="Let warnings fail too.")
def lint(names: tuple[str, ...], strict: bool) -> None:
    """Check manifests of the six kinds and report every problem.

    Exit code 0: nothing found; 1: problems found; 2: a file cannot be read (the others are checked).
    """
    from agentops.api.lint import lint as find_problems

    unread: list[str] = []
    problems = find_problems(_texts(names, unread))
    for problem in problems:
        click.echo(str(problem))
    errors = sum(not problem.warning for problem in problems)
    warnings = len(problems) - errors
    if problems:
        click.echo(f"{errors} problem(s), {warnings} warning(s)", err=True)
    for sentence in unread:
        click.echo(f"agentops lint: {sentence}", err=True)
    sys.exit(2 if unread else 1 if errors or (strict and warnings) else 0)


def _texts(names: tuple[str, ...], unread: list[str]) -> Iterator[tuple[str, str]]:
    """Name and text of every file; what cannot be read is told in `unread`."""
    for name in names:
        path = Path(name)
        for file in sorted(path.rglob("*.y*ml")) if path.is_dir() else [path]:
            if path.is_dir() and file.name == "kustomization.yaml":
                continue
            shown = "<stdin>" if name == "-" else str(file)
            try:
                yield shown, (_stdin() if name == "-" else file.read_bytes()).decode()
            except OSError as error:
                unread.append(f"cannot read {shown}: {error.strerror}")
            except UnicodeDecodeError as error:
                unread.append(f"cannot read {shown}: not UTF-8 text (byte {error.start + 1})")


def _stdin() -> bytes:
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    return sys.stdin.buffer.read()
