"""A task's result, out of its pod's log.

The line can be as long as the answer, and the log much longer than the line, so the log is read as a
stream and only a candidate is kept. `tailLines` would be no help: container runtimes split long lines
into 16 KiB records, and the tail counts those.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from agentops.api.runs import TASK_RESULT_KEY, TaskResult
from agentops.controller import Client
from agentops.kube.errors import ApiError, TransportError
from agentops.kube.kinds import POD
from agentops.operator.results import parse_task_line
from agentops.telemetry.logging import get_logger

log = get_logger("operator.joblog")

READ_TIMEOUT_S = 30.0
LINE_LIMIT_BYTES = 4 * 1024 * 1024
_MARKER = f'{{"{TASK_RESULT_KEY}"'.encode()


async def read_task_result(client: Client, namespace: str, pod: str, container: str) -> TaskResult | None:
    """The last result line of the container's log; None when there is none, or no log any more."""
    path = POD.path(namespace, pod, "log")
    try:
        async with client.live.stream("GET", path, query=[("container", container)], total_s=READ_TIMEOUT_S) as answer:
            line = await last_marked_line(answer.chunks(), _MARKER)
    except (ApiError, TransportError) as error:
        log.warning("task.log-unreadable", namespace=namespace, pod=pod, error=str(error))
        return None
    return parse_task_line(line.decode("utf-8", "replace")) if line is not None else None


async def last_marked_line(chunks: AsyncIterator[bytes], marker: bytes) -> bytes | None:
    """The last line that begins with `marker`; lines that do not are dropped as soon as that is known."""
    found: bytes | None = None
    line = bytearray()
    skipping = False
    async for chunk in chunks:
        for piece in chunk.splitlines(keepends=True):
            if not skipping:
                line += piece
                skipping = len(line) > LINE_LIMIT_BYTES or (len(line) >= len(marker) and not line.startswith(marker))
            if piece.endswith(b"\n"):
                if not skipping and line.startswith(marker):
                    found = bytes(line)
                line.clear()
                skipping = False
    return bytes(line) if not skipping and line.startswith(marker) else found
