"""Serving HTTP: uvicorn inside the caller's task group, probes and metrics, signals and drain."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import anyio
import anyio.abc
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agentops.net import malloc
from agentops.net.errors import RunError, UsageError
from agentops.telemetry.logging import get_logger
from agentops.telemetry.metrics import Registry, render

log = get_logger("net.serve")

Readiness = Callable[[], Mapping[str, str | None]]
"""Named checks; None is passing, a text says what is wrong."""


async def serve(
    app: Any,
    sock: socket.socket,
    *,
    grace_s: float = 10.0,
    ssl_certfile: str | None = None,
    ssl_keyfile: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    keep_alive_s: float = 5.0,
    header_timeout_s: float = 32.0,
    task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI `app` on a bound socket until cancelled; `task_status` starts when it answers.

    Cancelling drains: the socket closes at once, open requests get up to `grace_s` seconds. A live
    `ssl_context` may get new certificates while it serves; idle connections end after `keep_alive_s`. The head of a
    request must have come `header_timeout_s` after its first byte, or the connection, and hold at most 1 MiB.
    """
    import uvicorn  # three megabytes, for those who serve

    from agentops.net.uvicorn_server import BoundedProtocol, QuietServer

    config = uvicorn.Config(
        app,
        http=partial(BoundedProtocol, header_timeout_s=header_timeout_s),  # type: ignore[arg-type]
        access_log=False,
        log_config=None,
        lifespan="on",
        timeout_graceful_shutdown=max(1, round(grace_s)),
        timeout_keep_alive=round(keep_alive_s),
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        server_header=False,
    )
    if ssl_context is not None:
        config.load()
        config.ssl = ssl_context
    server = QuietServer(config)
    host, port = sock.getsockname()[:2]

    async def announce() -> None:
        await server.listening.wait()
        log.debug("http.listening", host=host, port=port)
        task_status.started()

    async def run_server() -> None:
        with anyio.CancelScope(shield=True):
            await server.serve(sockets=[sock])
        done.set()

    done = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_server)
        tasks.start_soon(announce)
        try:
            await done.wait()
        finally:
            server.should_exit = True
            with anyio.move_on_after(grace_s + 5, shield=True):
                await done.wait()
        tasks.cancel_scope.cancel()


def health_routes(registry: Registry, ready: Readiness = dict) -> list[Route]:
    """`/healthz` (alive), `/readyz` (`?verbose` names the checks) and `/metrics`."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def readyz(request: Request) -> Response:
        checks = ready()
        failed = {name: why for name, why in checks.items() if why is not None}
        if not failed and "verbose" not in request.query_params:
            return PlainTextResponse("ok")
        lines = [f"[-]{n} failed: {checks[n]}" if n in failed else f"[+]{n} ok" for n in checks]
        verdict = "readyz check failed" if failed else "readyz check passed"
        return PlainTextResponse("\n".join([*lines, verdict]) + "\n", 500 if failed else 200)

    async def metrics(_: Request) -> Response:
        body, content_type = render(registry)
        return Response(body, media_type=content_type)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


def run_until_signal(main: Callable[[], Awaitable[None]]) -> None:
    """Run a role: SIGTERM or SIGINT cancels `main`, which drains, and the process exits 0.

    A second signal exits at once with 1. A `UsageError` is one line on stderr and exit code 2, a `RunError` one log
    line and exit code 1; anything else is raised.
    """

    async def guarded() -> None:
        async with anyio.create_task_group() as tasks:

            async def watch_signals(*, task_status: anyio.abc.TaskStatus[None]) -> None:
                with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                    task_status.started()
                    async for received in signals:
                        if work.cancel_called:
                            os._exit(1)
                        log.info("signal.received", signal=signal.Signals(received).name)
                        work.cancel()

            work = anyio.CancelScope()
            await tasks.start(watch_signals)
            with work:
                await main()
            tasks.cancel_scope.cancel()

    malloc.return_large_blocks()
    try:
        anyio.run(guarded)
    except Exception as error:
        usage = find_usage_error(error)
        if usage is not None:
            exit_with(usage)
        cause: BaseException = error
        while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
            cause = cause.exceptions[0]
        if isinstance(cause, RunError):
            log.error("role.ended", error=f"{type(cause).__name__}: {cause}")
            sys.exit(1)
        raise cause from None


def find_usage_error(error: BaseException) -> UsageError | None:
    """The UsageError inside nested exception groups, if that is what went wrong."""
    if isinstance(error, UsageError):
        return error
    if isinstance(error, BaseExceptionGroup):
        for leaf in error.exceptions:
            found = find_usage_error(leaf)
            if found is not None:
                return found
    return None


def exit_with(error: UsageError) -> None:
    """One line on stderr, exit code 2."""
    sys.stderr.write(f"agentops: {error}\n")
    sys.exit(2)
