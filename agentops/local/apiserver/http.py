"""The server's own view of HTTP: values in, values out, no sockets.

The shell (aiohttp) and the in-process transport both translate to these.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol

import orjson
from attrs import field, frozen

from agentops.kube.transport import Response

__all__ = ["ADMIN", "ANONYMOUS", "Answer", "Handler", "Request", "Response", "Stream", "User", "WebSocket",
           "WebSocketUpgrade", "json_response", "text_response"]  # fmt: skip


@frozen(slots=True)
class User:
    """Who asks. `extra` carries e.g. the pod a token is bound to."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(factory=dict)

    @property
    def anonymous(self) -> bool:
        return self.name == "system:anonymous"


ADMIN = User("system:admin", ("system:masters", "system:authenticated"))
ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))


@frozen(slots=True)
class Request:
    """One request. Header names are lower case; `path` is percent-decoded except for encoded slashes' sake:
    it is the raw path, segments are decoded after splitting. `user` is set when the caller is already
    known (client certificate, in-process)."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes = b""
    user: User | None = None
    remote: str = ""

    def arg(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        for key, value in self.query:
            if key == name:
                return value
        return default

    def args(self, name: str) -> list[str]:
        return [value for key, value in self.query if key == name]

    def flag(self, name: str) -> bool:
        return self.arg(name).lower() in ("true", "1", "t")

    def header(self, name: str) -> str:
        return self.headers.get(name, "")


@frozen(slots=True)
class Stream:
    """An answer whose body is produced while it is sent.

    `open` is called once and must be closed (`aclose`) by whoever iterates; a slow reader makes the
    producer wait.
    """

    open: Callable[[], AsyncIterator[bytes]]
    status: int = 200
    headers: Mapping[str, str] = field(factory=dict)


class WebSocket(Protocol):
    """An accepted WebSocket carrying binary messages."""

    @property
    def protocol(self) -> str: ...

    async def receive(self) -> bytes | None:
        """The next message; None when the peer has closed."""
        ...

    async def send(self, data: bytes) -> None:
        """Dropped when the peer has gone."""
        ...

    async def close(self) -> None: ...


@frozen(slots=True)
class WebSocketUpgrade:
    """Accept the WebSocket with the first of `protocols` the client offers, then run `serve`."""

    protocols: tuple[str, ...]
    serve: Callable[[WebSocket], Awaitable[None]]


Answer = Response | Stream | WebSocketUpgrade
Handler = Callable[[Request], Awaitable[Answer]]


def json_response(obj: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An object as JSON; bytes are taken as already encoded."""
    body = obj if isinstance(obj, bytes) else orjson.dumps(obj)
    return Response(status, body, {"content-type": "application/json", "cache-control": "no-cache, private",
                                   **(headers or {})})  # fmt: skip


def text_response(text: str, status: int = 200) -> Response:
    return Response(status, text.encode(), {"content-type": "text/plain; charset=utf-8"})
