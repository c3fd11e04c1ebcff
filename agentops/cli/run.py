"""`agentops run`: one prompt, followed live, answered on standard output."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import click

if TYPE_CHECKING:
    from agentops.kube.aiohttp_transport import AiohttpTransport
    from agentops.kube.config import ClusterConfig

EXIT_CODES = {"Succeeded": 0, "Failed": 1}
REASON_EXIT_CODES = {"Cancelled": 3, "Timeout": 4, "Lost": 5, "JobLost": 5}


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
    The answer goes to standard output, what happens meanwhile to standard error. Exit code: 0
    succeeded, 1 failed, 2 the command was wrong, 3 cancelled, 4 timed out, 5 lost. Ctrl-C and SIGTERM
    cancel the run.
    """
    from agentops.kube.errors import ConfigError, KubeError
    from agentops.values.duration import parse_duration

    try:
        timeout_s = parse_duration(timeout)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--timeout") from error
    prompt = _prompt(prompt)
    try:
        code = anyio.run(_run_until_signal, agent, prompt, namespace, kubeconfig, context, timeout_s, quiet, no_wait)
    except ConfigError as error:
        click.echo(f"agentops: {error}", err=True)
        code = 2
    except KubeError as error:
        click.echo(f"agentops: {error}", err=True)
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _prompt(argument: str | None) -> str:
    """The argument, else standard input; raises UsageError when there is nothing to ask."""
    if argument == "-" or (argument is None and not sys.stdin.isatty()):
        argument = sys.stdin.buffer.read().decode("utf-8", "replace")
    elif argument is None:
        raise click.UsageError("Missing argument 'PROMPT': write it after the agent's name, or pipe it in.")
    if not argument.strip():
        raise click.UsageError("the prompt is empty: write what the agent is to do, or pipe it in")
    return argument


async def _run_until_signal(*arguments: Any) -> int:
    """`_run`; SIGTERM ends it as Ctrl-C does, with the exit code of that signal."""
    from agentops.kube.errors import KubeError

    code = 128 + signal.SIGTERM
    failure: KubeError | None = None
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM) as signals:
                async for _ in signals:
                    tasks.cancel_scope.cancel()
                    return

        tasks.start_soon(watch)
        try:
            code = await _run(*arguments)
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
    quiet: bool,
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
            click.echo(
                f"agentops: there is no agent {agent!r} in namespace {namespace!r}; "
                f"`kubectl get agents -A` lists them, -n names another namespace",
                err=True,
            )
            return 2
        runs = RunClient(client, namespace)
        name = await runs.create(agent, prompt)
        if no_wait:
            click.echo(name)
            return 0
        view = _View(quiet, live=sys.stdout.isatty())
        view.note(f"agentrun/{name} created")
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
                click.echo(f"\nagentrun/{name} cancelled", err=True)
            raise
    view.finish(finished.output)
    if finished.phase != "Succeeded":
        click.echo(f"agentops: agentrun/{name} {finished.phase}: {finished.reason}: {finished.message}", err=True)
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


class _View:
    """What a person sees: the answer as it is written on a terminal, progress beside it."""

    def __init__(self, quiet: bool, live: bool) -> None:
        self._quiet = quiet
        self._live = live
        self._text = ""
        self._open = False

    def note(self, line: str) -> None:
        if not self._quiet:
            self._close()
            click.echo(click.style(line, dim=True), err=True)

    def phase(self, run: dict[str, Any]) -> None:
        status = run.get("status") or {}
        phase = status.get("phase") or "Pending"
        waiting = [c for c in status.get("conditions") or () if c.get("status") == "False" and c["type"] != "Complete"]
        why = f": {waiting[0].get('message')}" if waiting and phase in ("Pending", "Queued") else ""
        where = f" on {status['podName']}" if phase == "Running" and status.get("podName") else ""
        self.note(f"{phase}{where}{why}")

    def event(self, event: Any) -> None:
        data = event.data
        if event.type == "text_start":
            self._text = ""
        elif event.type == "text_reset":
            self._text = ""
            self.note("the answer starts again, from another model")
        elif event.type == "text_delta":
            self._text += data.get("delta", "")
            if self._live:
                self._open = True
                click.echo(data.get("delta", ""), nl=False)
        elif event.type == "tool_call":
            self.note(f"→ {data.get('tool_name')} {_short(data.get('input', ''))}")
        elif event.type == "tool_result":
            self.note(f"← {'error: ' if data.get('is_error') else ''}{_short(data.get('output', ''))}")
        elif event.type == "agent_error":
            self.note(f"error: {data.get('error')}")

    def finish(self, output: str) -> None:
        """Print the answer unless it already stands on the terminal whole."""
        self._close()
        if not (self._live and self._text.strip() == output.strip()):
            click.echo(output)

    def _close(self) -> None:
        if self._open:
            click.echo()
            self._open = False


def _short(text: str, length: int = 100) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= length else line[: length - 1] + "…"
