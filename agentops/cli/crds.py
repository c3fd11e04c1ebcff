"""`agentops crds`: the custom resource definitions, generated from the types."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.option(
    "--write",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write one file per CRD and kustomization.yaml into this directory instead of printing.",
)
@click.option(
    "--check",
    "checked",
    type=click.Path(file_okay=False, path_type=Path),
    help="Compare this directory with the types; exit 1 naming the files that differ.",
)
def crds(directory: Path | None, checked: Path | None) -> None:
    """Print the custom resource definitions as YAML."""
    from agentops.api import crds as generator

    if directory is not None and checked is not None:
        raise click.UsageError("--write and --check exclude each other")
    if checked is not None:
        problems = generator.drift(checked)
        for problem in problems:
            click.echo(problem, err=True)
        if problems:
            click.echo(f"run `agentops crds --write {checked}` and commit the result", err=True)
            sys.exit(1)
    elif directory is not None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for name, content in generator.files().items():
                (directory / name).write_text(content, encoding="utf-8")
        except OSError as error:
            raise click.ClickException(f"cannot write {error.filename}: {error.strerror}") from error
    else:
        click.echo("---\n".join(generator.to_yaml(crd) for crd in generator.crds()), nl=False)
