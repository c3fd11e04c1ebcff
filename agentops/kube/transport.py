"""The one seam between Kubernetes code and the network.

`Transport` is what the client and the reflector speak through. The aiohttp transport talks to any
API server; the local plane plugs its API server in directly, so its own controllers pay for no
socket; tests wrap either to inject faults.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from attrs import field, frozen

Query = Sequence[tuple[str, str]]


@frozen(slots=True)
class Response:
    """A whole answer. Header names are lower case."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(factory=dict)


class StreamResponse(Protocol):
    """An answer whose body arrives in arbitrary slices. Header names are lower case."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Body slices until the server ends the stream.

        Raises `TransportError` when the connection breaks or stays silent past its bound.
        """
        ...

    async def read(self) -> bytes:
        """The rest of the body, for error answers."""
        ...


class Transport(Protocol):
    """Sends requests. Raises `TransportError` when no complete answer came back."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float | None = 30.0,
    ) -> Response: ...

    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        idle_s: float | None = None,
        total_s: float | None = None,
    ) -> AbstractAsyncContextManager[StreamResponse]:
        """Open a streaming answer; leaving the context closes it on every path.

        `idle_s` bounds the silence between two slices, `total_s` the whole stream.
        """
        ...

    async def aclose(self) -> None: ...
