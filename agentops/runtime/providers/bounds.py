"""What is taken from a model server at most.

The SDKs collect an event, and the body of an error, until it ends. A server that never ends it would fill the pod's
memory; this stands between the socket and the SDK.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

MAX_EVENT_BYTES = 16 << 20
"""Of one server-sent event, and of a body that is none: the largest pieces real servers send are a few MiB."""
MAX_ANSWER_CHARS = 4 << 20
"""Of one answer, thoughts and tool inputs included: several times what any model writes in one go."""


class TooLarge(httpx2.RemoteProtocolError):
    """The server sent more than is taken."""


def bounded(client: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """`client`, whose responses raise TooLarge instead of a piece of more than `MAX_EVENT_BYTES`."""

    async def bound(response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Events(response.stream)

    client.event_hooks["response"].append(bound)
    return client


class _Events(httpx2.AsyncByteStream):
    """Counts the bytes since the last empty line."""

    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        since, end = 0, b""
        async for chunk in self._inner:
            seen = end + chunk
            after = max(seen.rfind(b"\n\n"), seen.rfind(b"\n\r\n"), seen.rfind(b"\r\r"))
            since = since + len(chunk) if after < 0 else len(seen) - after
            if since > MAX_EVENT_BYTES:
                raise TooLarge(f"one piece of its answer has more than {MAX_EVENT_BYTES >> 20} MiB")
            end = seen[-2:]
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()
