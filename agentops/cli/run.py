"""`agentops run`: one prompt, followed live, answered on standard output."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import click

from agentops.cli.streams import NotWritten
from agentops.cli.view import View, say
from agentops.values.text import with_controls_shown, without_controls

if TYPE_CHECKING:
    from agentops.kube.aiohttp_transport import AiohttpTransport
    from agentops.kube.config import ClusterConfig

EXIT_CODES = {"Succeeded": 0, "Failed": 1}
REASON_EXIT_CODES = {"Cancelled": 3, "Timeout": 4, "Lost": 5, "JobLost": 5}
NO_SERVER = 6


@click.command()
@click.argument("agent")
@click.argument("prompt", required=False)
@click.option("-n", "--namespace", help="Namespace of the agent; default: the context's.")
@click.option("--kubeconfig", type=click.Path(), help="Default: $KUBECONFIG, the pod's account, ~/.kube/config.")
@click.option("--context", help="Context of the kubeconfig.")
@click.option("--timeout", default="0", show_default=True, help="Stop following after this long (10m); 0: never.")
@click.option("-q", "--quiet", is_flag=True, help="Print the answer only.")
@click.option("--no-wait", is_flag=True, help="Print the run's name and return.")
def run(
    agent: str,
    prompt: str | None,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
    timeout: str,
    quiet: bool,
    no_wait: bool,
) -> None:
    """Run AGENT with PROMPT, follow it live and print the whole answer.

    PROMPT may be -, or be left out when something is piped in: then it is read from standard input.
    The answer goes to standard output, what happens meanwhile to standard error. On a terminal control
    characters are shown, not obeyed. Exit code: 0 succeeded, 1 failed, 2 the command was wrong, 3
    cancelled, 4 timed out, 5 lost or deleted, 6 the API server could not be reached or refused, 7 the
    answer could not be written. Ctrl-C and SIGTERM cancel the run.
    """
    from agentops.clients.runs import RunDeleted
    from agentops.kube.errors import ConfigError, KubeError
    from agentops.values.duration import parse_duration

    try:
        timeout_s = parse_duration(timeout)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--timeout") from error
    prompt = _prompt(prompt, quiet)
    try:
        code = anyio.run(_run_until_signal, agent, prompt, namespace, kubeconfig, context, timeout_s, quiet, no_wait)
    except KubeError as error:
        say(with_controls_shown(f"agentops: {error}"))
        code = 2 if isinstance(error, ConfigError) else 5 if isinstance(error, RunDeleted) else NO_SERVER
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _prompt(argument: str | None, quiet: bool) -> str:
    """The argument, else standard input; raises UsageError when there is nothing to ask.

    An object cannot hold every character: what YAML cannot is replaced.
    """
    if sys.stdin is None and argument in ("-", None):
        raise click.UsageError("standard input is closed: write the prompt after the agent's name, or pipe it in")
    if argument == "-" or (argument is None and not sys.stdin.isatty()):
        try:
            argument = sys.stdin.buffer.read().decode("utf-8", "replace")
        except OSError as error:
            raise click.UsageError(f"cannot read standard input: {error.strerror}") from error
    elif argument is None:
        raise click.UsageError("Missing argument 'PROMPT': write it after the agent's name, or pipe it in.")
    if not argument.strip():
        raise click.UsageError("the prompt is empty: write what the agent is to do, or pipe it in")
    clean = without_controls(argument)
    if clean != argument and not quiet:
        say("agentops: the prompt's control characters are replaced by U+FFFD")
    return clean


async def _run_until_signal(
    agent: str,
    prompt: str,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
    timeout_s: float,
    quiet: bool,
    no_wait: bool,
) -> int:
    """`_run`; SIGTERM ends it as Ctrl-C does, with the exit code of that signal."""
    from agentops.kube.errors import KubeError

    code = 128 + signal.SIGTERM
    failure: KubeError | None = None
    view = View(quiet, live=sys.stdout.isatty())
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM) as signals:
                async for _ in signals:
                    tasks.cancel_scope.cancel()
                    return

        tasks.start_soon(watch)
        tasks.start_soon(view.remind)
        try:
            code = await _run(agent, prompt, namespace, kubeconfig, context, timeout_s, view, no_wait)
        except KubeError as error:
            failure = error  # raised here, it would arrive in an exception group
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return code


async def _run(
    agent: str,
    prompt: str,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
    timeout_s: float,
    view: View,
    no_wait: bool,
) -> int:
    from agentops.api.kinds import AGENT
    from agentops.clients.runs import RunClient
    from agentops.kube.client import ApiClient
    from agentops.kube.config import load_config
    from agentops.kube.errors import NotFound

    config = await load_config(kubeconfig, context)
    namespace = namespace or config.namespace
    async with _connected(config) as transport:
        client = ApiClient(transport, user_agent="agentops-run", field_manager="agentops-run")
        try:
            await client.get(AGENT, agent, namespace)
        except NotFound:
            say(
                f"agentops: there is no agent {agent!r} in namespace {namespace!r}; "
                f"`kubectl get agents -A` lists them, -n names another namespace"
            )
            return 2
        runs = RunClient(client, namespace)
        name = await runs.create(agent, prompt)
        if no_wait:
            click.echo(name)
            return 0
        view.created(name)
        try:
            with anyio.fail_after(timeout_s or None):
                finished = await runs.follow(name, on_phase=view.phase, on_event=view.event)
        except TimeoutError:
            view.note(
                f"agentrun/{name} is still running; follow it with: kubectl get agentrun {name} -n {namespace} -w"
            )
            return 4
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(5, shield=True):
                await runs.cancel(name)
                say(f"\nagentrun/{name} cancelled")
            raise
    try:
        view.finish(finished.output)
    except NotWritten as error:
        error.instead = f"the answer is kept in agentrun/{name} of namespace {namespace}"
        raise
    if finished.phase != "Succeeded":
        said = f"agentops: agentrun/{name} {finished.phase}: {finished.reason}: {finished.message}"
        say(with_controls_shown(said))
    return REASON_EXIT_CODES.get(finished.reason, EXIT_CODES.get(finished.phase, 1))


@asynccontextmanager
async def _connected(config: ClusterConfig) -> AsyncIterator[AiohttpTransport]:
    """A transport that is closed in order also when the command is cancelled."""
    from agentops.kube.aiohttp_transport import AiohttpTransport

    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(AiohttpTransport(config))
        try:
            yield transport
        finally:
            with anyio.move_on_after(2, shield=True):
                await stack.aclose()
