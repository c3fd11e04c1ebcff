"""Bearer authentication of our own services.

The token is a file mounted from a Secret and read again when it changes, so rotation needs no restart.
Only probes and metrics are open.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from agentops.net.errors import UsageError
from agentops.values.headers import value_problem

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
TOKEN_HEADER = "x-agentops-token"
"""For callers behind the API server's proxy, which keeps `Authorization` for itself."""


class TokenFile:
    """A token in a file, white space around it ignored. Raises UsageError unless it is one that a header can carry."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._stamp: tuple[int, int] | None = None
        self._token = ""
        self()

    def __call__(self) -> str:
        """The current token; the last good one while the file is being replaced."""
        try:
            stat = self._path.stat()
            if (stat.st_mtime_ns, stat.st_ino) != self._stamp:
                token = self._path.read_bytes().decode("ascii", "replace").strip()
                problem = value_problem(token)
                if problem and not self._token:
                    raise UsageError(f"token file {self._path} {problem}; write the bare bearer token into it")
                if token and not problem:
                    self._token, self._stamp = token, (stat.st_mtime_ns, stat.st_ino)
        except OSError as error:
            if not self._token:
                raise UsageError(f"token file {self._path}: {error.strerror}; mount the token Secret there") from error
        if not self._token:
            raise UsageError(f"token file {self._path} is empty; write the bearer token into it")
        return self._token


class BearerAuth:
    """ASGI middleware: 401 with a JSON error unless the request carries the token.

    `token` gives the expected token; None turns authentication off (development only). `holder_of` knows narrower
    bearers made from it: given the presented and the expected token it names what the presented one is for, or None.
    That name is in `request.state.holder`, empty for the service's own token.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: Callable[[], str] | None,
        open_paths: frozenset[str] = OPEN_PATHS,
        *,
        holder_of: Callable[[str, str], str | None] | None = None,
    ) -> None:
        self._app = app
        self._token = token
        self._open = open_paths
        self._holder_of = holder_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._token is None or scope["path"] in self._open:
            await self._app(scope, receive, send)
            return
        presented, expected = _presented(Headers(scope=scope)), self._token()
        holder = "" if _matches(presented, expected) else None
        if holder is None and self._holder_of is not None:
            holder = self._holder_of(presented, expected)
        if holder is not None:
            scope.setdefault("state", {})["holder"] = holder
            await self._app(scope, receive, send)
            return
        refusal = JSONResponse(
            {"error": "unauthorized: send the bearer token of this service"}, 401, {"WWW-Authenticate": "Bearer"}
        )
        await refusal(scope, receive, send)


def _presented(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get(TOKEN_HEADER, "")


def _matches(presented: str, expected: str) -> bool:
    return hmac.compare_digest(presented.encode(), expected.encode())
