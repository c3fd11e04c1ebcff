"""`agentops local`: the embedded control plane for development, up and down."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from agentops.local.daemon import Report
    from agentops.local.kubelet.isolation import Isolation
    from agentops.local.plane import PlaneInfo, PlaneOptions
    from agentops.local.state import StateDir

NOT_RUNNING = 3

_state_dir = click.option(
    "--state-dir",
    envvar="AGENTOPS_LOCAL_STATE_DIR",
    type=click.Path(path_type=Path),
    help="Where the plane keeps everything.  [default: $XDG_STATE_HOME/agentops or ~/.local/state/agentops]",
)


@click.group()
def local() -> None:
    """Run a Kubernetes control plane and node on this machine, for development.

    It serves the Kubernetes API to kubectl and the operator and runs pods as processes. It is not a cluster for
    production.
    """


@local.command()
@_state_dir
@click.option("--detach", is_flag=True, help="Run in the background; return when the plane is ready.")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port of the API server.  [default: a free one, remembered]"
)
@click.option("--audit-log", type=click.Path(path_type=Path), help="Write every API request to this file.")
@click.option("--pod-env", "pod_env", multiple=True, metavar="NAME", help="Pass this variable on to every container.")
@click.option(
    "--isolation",
    envvar="AGENTOPS_LOCAL_ISOLATION",
    type=click.Choice(["auto", "ns-user", "prefix"]),
    default="auto",
    show_default=True,
    help="Of pods: ns-user gives each container its own file system and processes (bubblewrap), prefix gives none; "
    "auto takes the best that works here.",
)
@click.option(
    "--max-pods",
    type=click.IntRange(min=1),
    default=110,
    show_default=True,
    help="How many pods run at a time; more stay Pending, as on a node of a cluster.",
)
@click.option(
    "--backoff-scale",
    type=click.FloatRange(min=0.001),
    default=1.0,
    show_default=True,
    help="Shorten the pauses before restarts and retries, for tests.",
)
@click.option(
    "--chaos",
    metavar="SPEC",
    help="Inject faults into the API server, for example 'throttle verb=list p=0.1; reset-after verb=watch'. "
    "docs/chaos.md lists them.",
)
@click.option(
    "--log-format",
    envvar="AGENTOPS_LOG_FORMAT",
    type=click.Choice(["json", "text"]),
    help="JSON lines, or text for people.  [default: text on a terminal]",
)
@click.option(
    "--log-level",
    envvar="AGENTOPS_LOG_LEVEL",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The least important events logged.",
)
def up(
    state_dir: Path | None,
    detach: bool,
    port: int | None,
    audit_log: Path | None,
    pod_env: tuple[str, ...],
    isolation: Isolation,
    max_pods: int,
    backoff_scale: float,
    chaos: str | None,
    log_format: str | None,
    log_level: str,
) -> None:
    """Start the plane. In the foreground it runs until Ctrl-C; everything it holds is there again next time."""
    from agentops.net.errors import UsageError

    state = _state(state_dir)
    try:
        state.prepare()
        if running := state.running():
            raise UsageError(
                f"a plane is already running on state dir {state.path}: pid {running.pid}, {running.url}; "
                f"stop it with `agentops local down{_flag(state)}` or use another --state-dir"
            )
        environment = _pod_environment(pod_env)
    except UsageError as error:
        _die(str(error))

    def options() -> PlaneOptions:
        try:
            from agentops.local.plane import PlaneOptions
        except ModuleNotFoundError as error:
            raise UsageError(
                f"the local plane needs the module {error.name!r}; run pip install 'agentops-platform[local]'"
            ) from error
        if chaos:
            _check_chaos(chaos)
        return PlaneOptions(
            state_dir=state.path,
            port=port,
            audit_log=audit_log.absolute() if audit_log else None,
            pod_env=environment,
            isolation=isolation,
            max_pods=max_pods,
            backoff_scale=backoff_scale,
            chaos=chaos or "",
        )

    # Relative paths have become absolute above: the daemon's working directory is /.
    if detach:
        _detach(state, options, log_format or "json", log_level)
    else:
        _foreground(state, options, log_format or ("text" if sys.stderr.isatty() else "json"), log_level)


def _foreground(state: StateDir, options: Callable[[], PlaneOptions], log_format: str, log_level: str) -> None:
    from agentops.net.serve import run_until_signal
    from agentops.telemetry import logging

    logging.configure(log_format, log_level)

    async def main() -> None:
        await _run(options(), lambda info: _say_ready(state, info.url, info.isolation, info.shortfall))

    run_until_signal(main)


def _detach(state: StateDir, options: Callable[[], PlaneOptions], log_format: str, log_level: str) -> None:
    from agentops.local.daemon import start_daemon

    def daemon(report: Report) -> int:
        from agentops.net.serve import find_usage_error, run_until_signal
        from agentops.telemetry import logging

        logging.configure(log_format, log_level)

        async def main() -> None:
            try:
                await _run(
                    options(),
                    lambda info: report.ready(url=info.url, isolation=info.isolation, shortfall=info.shortfall),
                )
            except Exception as error:
                usage = find_usage_error(error)
                if usage is not None:
                    report.failed(str(usage), exit_code=2)
                else:
                    report.failed(f"{_first_of(error)} (log: {state.log_file})")
                raise

        run_until_signal(main)
        return 0

    outcome = start_daemon(daemon, state.log_file)
    if outcome.ready is None:
        _die(
            f"the plane did not start: {outcome.error}" if outcome.exit_code != 2 else outcome.error, outcome.exit_code
        )
    else:
        _say_ready(state, **{name: str(outcome.ready[name]) for name in ("url", "isolation", "shortfall")})


def _first_of(error: BaseException) -> str:
    """The first real error inside nested groups, in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(f"{type(error).__name__}: {error}".split())


async def _run(options: PlaneOptions, ready: Callable[[PlaneInfo], None]) -> None:
    import anyio

    from agentops.local.plane import Plane

    async with anyio.create_task_group() as tasks:
        info: PlaneInfo = await tasks.start(Plane(options).run)
        ready(info)


def _say_ready(state: StateDir, url: str, isolation: str, shortfall: str) -> None:
    if shortfall:
        click.echo(f"agentops: pods are not isolated from this machine: {shortfall}", err=True)
    command = f"agentops local kubeconfig{_flag(state)} > kubeconfig.yaml"
    click.echo(
        f"development plane ready at {url} (pod isolation: {isolation}); "
        f"use it with: {command} && export KUBECONFIG=$PWD/kubeconfig.yaml"
    )


@local.command()
@_state_dir
@click.option("--timeout", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds to wait.")
def down(state_dir: Path | None, timeout: float) -> None:
    """Stop the plane and wait until every process of its pods is gone. Nothing stored is lost."""
    from agentops.local.overview import stop_plane
    from agentops.net.errors import UsageError

    state = _state(state_dir)
    try:
        pid = stop_plane(state, timeout_s=timeout)
    except TimeoutError as error:
        _die(str(error), 1)
    except UsageError as error:
        _die(str(error))
    except PermissionError:
        _die(f"the plane on state dir {state.path} belongs to another user, who has to stop it", 1)
    else:
        click.echo(f"stopped the plane on {state.path} (pid {pid})" if pid else f"no plane is running on {state.path}")


@local.command()
@_state_dir
def status(state_dir: Path | None) -> None:
    """Show whether the plane runs, where, and what it holds. Exit code 3 when it does not."""
    from agentops.local.overview import look
    from agentops.net.errors import UsageError
    from agentops.values.duration import format_duration

    state = _state(state_dir)
    try:
        overview = look(state)
    except UsageError as error:
        _die(str(error))
        return
    if overview is None:
        click.echo(f"not running (state dir {state.path})")
        sys.exit(NOT_RUNNING)
    rows = [
        ("state", overview.problem or "running (development plane)"),
        ("url", overview.plane.url),
        ("pid", str(overview.plane.pid)),
        ("isolation", overview.plane.isolation),
        ("uptime", format_duration(max(0, round(overview.uptime_s)))),
        ("version", overview.plane.version),
        ("state dir", str(state.path)),
        *((name, str(number)) for name, number in overview.counts.items()),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:{width}}  {value}")
    if overview.problem:
        sys.exit(NOT_RUNNING)


@local.command()
@_state_dir
def kubeconfig(state_dir: Path | None) -> None:
    """Print a kubeconfig for the plane. Your own kubeconfig is never touched."""
    from agentops.local.kubeconfig import kubeconfig_of
    from agentops.net.errors import UsageError

    try:
        click.echo(kubeconfig_of(_state(state_dir)), nl=False)
    except UsageError as error:
        _die(str(error))


@local.command()
@_state_dir
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option(
    "--tail", type=click.IntRange(min=0), default=200, show_default=True, help="How many lines to begin with."
)
def logs(state_dir: Path | None, follow: bool, tail: int) -> None:
    """Print what a plane started with --detach logged."""
    state = _state(state_dir)
    try:
        file = open(state.log_file, errors="replace")  # noqa: SIM115  closed below
    except FileNotFoundError:
        _die(f"{state.log_file} does not exist: no plane was started with --detach on this state dir")
        return
    with file:
        lines = file.readlines()
        click.echo("".join(lines[len(lines) - tail :] if tail < len(lines) else lines), nl=False)
        try:
            while follow:
                line = file.readline()
                if line:
                    click.echo(line, nl=False)
                else:
                    time.sleep(0.2)
        except KeyboardInterrupt:
            return


def _state(path: Path | None) -> StateDir:
    from agentops.local.state import StateDir, default_state_dir

    return StateDir(path or default_state_dir())


def _flag(state: StateDir) -> str:
    """How to name the state dir again; nothing for the default one."""
    from agentops.local.state import default_state_dir

    return "" if state.path == default_state_dir().absolute() else f" --state-dir {shlex.quote(str(state.path))}"


def _pod_environment(names: tuple[str, ...]) -> dict[str, str]:
    from agentops.net.errors import UsageError

    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UsageError(
            f"--pod-env {missing[0]}: there is no such variable in this environment; set it or leave it out"
        )
    return {name: os.environ[name] for name in names}


def _check_chaos(text: str) -> None:
    """Refuse a text that is not understood before anything is started."""
    from agentops.local.apiserver.chaos import ChaosSpecError, parse, parse_seed
    from agentops.net.errors import UsageError

    try:
        parse(text)
        parse_seed(text)
    except ChaosSpecError as error:
        raise UsageError(f"--chaos: {error}") from error


def _die(message: str, code: int = 2) -> None:
    click.echo(f"agentops: {message}", err=True)
    sys.exit(code)
