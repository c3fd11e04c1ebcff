"""`agentops lint`: every problem of a manifest, with line and field, without a cluster."""

from __future__ import annotations

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

    Exit code 0: nothing found; 1: problems found; 2: a file cannot be read.
    """
    from agentops.api.lint import lint as find_problems

    problems = find_problems(_texts(names))
    for problem in problems:
        click.echo(str(problem))
    errors = sum(not problem.warning for problem in problems)
    warnings = len(problems) - errors
    if problems:
        click.echo(f"{errors} problem(s), {warnings} warning(s)", err=True)
    sys.exit(1 if errors or (strict and warnings) else 0)


def _texts(names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name in names:
        if name == "-":
            yield "<stdin>", sys.stdin.read()
            continue
        path = Path(name)
        for file in sorted(path.rglob("*.y*ml")) if path.is_dir() else [path]:
            if path.is_dir() and file.name == "kustomization.yaml":
                continue
            try:
                yield str(file), file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                raise click.UsageError(f"cannot read {file}: {reason}") from error
