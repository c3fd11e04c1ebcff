"""`agentops memory`: parse flags, build the service, run it."""

from __future__ import annotations

from pathlib import Path

import click

from agentops.cli.options import role_options


@click.command()
@click.option("--listen", envvar="MEMORY_LISTEN", default=":7437", show_default=True, help="Address to serve on.")
@click.option(
    "--db",
    envvar="MEMORY_DB_PATH",
    default="/data/memory.db",
    show_default=True,
    type=click.Path(path_type=Path),
    help="SQLite file.",
)
@click.option(
    "--dedupe-window",
    envvar="MEMORY_DEDUPE_WINDOW",
    default="15m",
    show_default=True,
    help="How long the same content counts as said twice; 0 switches it off.",
)
@click.option(
    "--token-file",
    envvar="MEMORY_TOKEN_FILE",
    type=click.Path(path_type=Path),
    help="File with the bearer token that callers must send.",
)
@click.option("--insecure", is_flag=True, help="No authentication. Development only.")
@click.option("--database-url", envvar="DATABASE_URL", hidden=True)
@role_options("agentops-memory")
def memory(
    listen: str, db: Path, dedupe_window: str, token_file: Path | None, insecure: bool, database_url: str | None
) -> None:
    """Run the memory service: sessions, observations, search and context over HTTP."""
    from agentops.memory.service import MemoryOptions, MemoryService
    from agentops.net.errors import UsageError
    from agentops.net.paths import pod_path
    from agentops.net.serve import exit_with, run_until_signal
    from agentops.values.duration import parse_duration

    try:
        if database_url:
            raise UsageError("DATABASE_URL is set, but PostgreSQL is not supported yet; unset it and use --db FILE")
        try:
            window_s = parse_duration(dedupe_window)
        except ValueError as error:
            raise UsageError(f"--dedupe-window: {error}") from error
        if window_s < 0:
            raise UsageError(f"--dedupe-window: {dedupe_window!r} is negative; write a duration such as 15m, or 0")
    except UsageError as error:
        exit_with(error)
    service = MemoryService(
        MemoryOptions(
            listen=listen,
            db=pod_path(db),
            dedupe_window_s=window_s,
            token_file=None if token_file is None else pod_path(token_file),
            insecure=insecure,
        )
    )
    run_until_signal(service.run)
