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
@click.option(
    "--retention",
    envvar="MEMORY_RETENTION",
    multiple=True,
    metavar="TYPE=AGE",
    help="Observations of TYPE not written or repeated for AGE (90d, 720h) go to the trash; * is every other type.",
)
@click.option(
    "--max-observations",
    envvar="MEMORY_MAX_OBSERVATIONS",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Observations a project may have, the longest unused go to the trash; 0 is any number.",
)
@click.option(
    "--trash-retention",
    envvar="MEMORY_TRASH_RETENTION",
    metavar="AGE",
    help="How long the trash keeps a row; without it, for ever.",
)
@click.option(
    "--snapshot-dir",
    envvar="MEMORY_SNAPSHOT_DIR",
    type=click.Path(path_type=Path),
    help="Directory for a copy of the database every day.",
)
@click.option(
    "--snapshot-keep",
    envvar="MEMORY_SNAPSHOT_KEEP",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="How many of those copies stay.",
)
@click.option("--insecure", is_flag=True, help="No authentication. Development only.")
@click.option(
    "--database-url",
    envvar="DATABASE_URL",
    metavar="URL",
    help="A PostgreSQL server in place of the file; as DATABASE_URL, or everybody on the host sees its password.",
)
@role_options("agentops-memory")
def memory(
    listen: str,
    db: Path,
    dedupe_window: str,
    token_file: Path | None,
    retention: tuple[str, ...],
    max_observations: int,
    trash_retention: str | None,
    snapshot_dir: Path | None,
    snapshot_keep: int,
    insecure: bool,
    database_url: str | None,
) -> None:
    """Run the memory service: sessions, observations, search and context over HTTP."""
    from agentops.memory.retention import Retention, parse_age, parse_ages
    from agentops.memory.service import MemoryOptions, MemoryService
    from agentops.net.errors import UsageError
    from agentops.net.paths import pod_path
    from agentops.net.serve import exit_with, run_until_signal
    from agentops.values.duration import parse_duration

    try:
        try:
            window_s = parse_duration(dedupe_window)
        except ValueError as error:
            raise UsageError(f"--dedupe-window: {error}") from error
        try:
            policy = Retention(
                age_s=parse_ages(retention),
                most=max_observations,
                trash_s=parse_age(trash_retention) if trash_retention else None,
            )
        except ValueError as error:
            raise UsageError(f"--retention, --trash-retention: {error}") from error
        if window_s < 0:
            raise UsageError(f"--dedupe-window: {dedupe_window!r} is negative; write a duration such as 15m, or 0")
    except UsageError as error:
        exit_with(error)
    service = MemoryService(
        MemoryOptions(
            listen=listen,
            db=pod_path(db),
            database_url=database_url or None,
            dedupe_window_s=window_s,
            token_file=None if token_file is None else pod_path(token_file),
            insecure=insecure,
            retention=policy,
            snapshot_dir=None if snapshot_dir is None else pod_path(snapshot_dir),
            snapshot_keep=snapshot_keep,
        )
    )
    run_until_signal(service.run)
