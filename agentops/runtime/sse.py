"""Server-sent events out of an event log.

Not sse-starlette: that patches uvicorn for the whole process and polls for its shutdown from a task
nobody owns. Here a stream ends when its log does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import anyio
from starlette.responses import StreamingResponse

from agentops.runtime.events import EventLog

PING_S = 15.0
AT_ONCE = 512
"""Events written together, so that a slow client holds a few of them and not a copy of the log."""

_HEADERS = {"Cache-Control": "no-cache", "Connection": "keep-alive", "X-Accel-Buffering": "no"}


def event_stream(
    log: EventLog, after: int | None, headers: Mapping[str, str] | None = None, ping_s: float = PING_S
) -> StreamingResponse:
    """`id:` and `data:` frames after event `after` (None: new ones only), a comment every `ping_s` of silence."""
    return StreamingResponse(
        _frames(log, after, ping_s), media_type="text/event-stream", headers={**_HEADERS, **(headers or {})}
    )


async def _frames(log: EventLog, after: int | None, ping_s: float) -> AsyncIterator[bytes]:
    """A client that falls behind by more than the log keeps is told so and let go: it may come back with
    Last-Event-ID, and holds nobody up meanwhile."""
    reader = log.reader(after)
    yield b": connected\n\n"  # so that headers and a first byte reach the client before the first event
    while True:
        if reader.lost:
            yield b": %d events were dropped because they were read too slowly; the stream ends here\n\n" % reader.lost
            return
        events = reader.take(AT_ONCE)
        if events:
            yield b"".join(event.frame for event in events)
        if reader.ended:
            return
        with anyio.move_on_after(ping_s) as silence:
            await reader.wait()
        if silence.cancelled_caught:
            yield b": ping\n\n"
