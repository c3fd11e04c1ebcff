"""The manager's metrics and probe servers. Sockets are bound before anything else starts."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import anyio
import anyio.abc
from attrs import frozen
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agentops.controller.health import Checks, render
from agentops.controller.securemetrics import TlsFront
from agentops.net.errors import UsageError
from agentops.net.listen import ListenAddress, bind
from agentops.net.serve import serve
from agentops.telemetry.metrics import Registry
from agentops.telemetry.metrics import render as render_metrics

_GRACE_S = 5.0
_KEEP_ALIVE_S = 90.0


@frozen(slots=True)
class BoundServer:
    """A listening socket and what answers on it."""

    name: str
    sock: socket.socket
    routes: tuple[Route, ...]
    front: TlsFront | None = None

    @property
    def address(self) -> str:
        host, port = self.sock.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, then drain."""
        app = Starlette(routes=list(self.routes))
        if self.front is not None:
            await self.front.serve(app, self.sock, grace_s=_GRACE_S, task_status=task_status)
        else:
            await serve(app, self.sock, grace_s=_GRACE_S, keep_alive_s=_KEEP_ALIVE_S, task_status=task_status)


def bind_servers(
    *,
    metrics: str | None,
    probes: str | None,
    registry: Registry,
    alive: Checks,
    ready: Checks,
    extra: Sequence[Route] = (),
    front: TlsFront | None = None,
) -> list[BoundServer]:
    """Bind what is wanted; None or "0" is off, equal addresses share a socket. Raises ListenError, UsageError.

    `extra` routes are served beside `/metrics`, all of it behind `front` if there is one.
    """
    if any(route.path == "/metrics" for route in extra):
        raise UsageError("/metrics is the manager's own; give the extra route another path")
    if front is not None and metrics and metrics == probes:
        raise UsageError(f"metrics over TLS and probes cannot share {metrics}; give them two addresses")
    wanted: dict[str, tuple[list[str], list[Route]]] = {}
    parts = (("metrics", metrics, [metrics_route(registry), *extra]), ("probes", probes, probe_routes(alive, ready)))
    for name, address, routes in parts:
        if address and address != "0":
            names, routes_there = wanted.setdefault(address, ([], []))
            names.append(name)
            routes_there += routes
    servers: list[BoundServer] = []
    try:
        for address, (names, routes) in wanted.items():
            sock = bind(ListenAddress.parse(address))
            secure = front if "metrics" in names else None
            servers.append(BoundServer("+".join(names), sock, tuple(routes), secure))
    except BaseException:
        close_all(servers)
        raise
    return servers


def close_all(servers: Sequence[BoundServer]) -> None:
    """Close the sockets."""
    for server in servers:
        server.sock.close()


def metrics_route(registry: Registry) -> Route:
    """`/metrics`."""

    async def metrics(_: Request) -> Response:
        body, content_type = render_metrics(registry)
        return Response(body, media_type=content_type)

    return Route("/metrics", metrics)


def probe_routes(alive: Checks, ready: Checks) -> list[Route]:
    """`/healthz`, `/readyz`, and below them single checks; `?verbose`, `?exclude=name`."""

    def route(path: str, checks: Checks) -> list[Route]:
        async def answer(request: Request) -> Response:
            found = checks.run()
            only = request.path_params.get("check")
            if only is not None:
                if only not in found:
                    return PlainTextResponse(f"there is no check {only!r}\n", 404)
                found = {only: found[only]}
            exclude = tuple(request.query_params.getlist("exclude"))
            verbose = "verbose" in request.query_params
            status, text = render(found, verbose=verbose, exclude=exclude, probe=path[1:])
            return PlainTextResponse(text, status, {"x-content-type-options": "nosniff"})

        return [Route(path, answer), Route(path + "/{check}", answer)]

    return [*route("/healthz", alive), *route("/readyz", ready)]
