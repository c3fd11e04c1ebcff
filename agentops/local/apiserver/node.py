"""What the API server asks of a kubelet: logs, exec and where a pod listens.

The API server never imports the kubelet; the plane hands it an object with this shape.
Every method raises `NodeStreamError` with a sentence a kubectl user can act on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from attrs import frozen


class NodeStreamError(Exception):
    """The kubelet cannot serve the request. `code` is the HTTP status kubectl should see."""

    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.code = code


@frozen(slots=True)
class LogOptions:
    """The query of `pods/log`; `None` means not asked for."""

    container: str = ""
    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    since_seconds: float | None = None
    since_time: str | None = None
    limit_bytes: int | None = None


class ExecProcess(Protocol):
    """A running exec. Output arrives as (channel, bytes): 1 is stdout, 2 is stderr (never with a terminal)."""

    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Ends when the process has exited and its output is drained."""
        ...

    async def write_stdin(self, data: bytes) -> None: ...

    async def close_stdin(self) -> None: ...

    async def resize(self, width: int, height: int) -> None: ...

    async def wait(self) -> int:
        """The exit code; 128+n for a signal."""
        ...

    async def kill(self) -> None:
        """End the whole process group; safe to call twice."""
        ...


class NodeStreams(Protocol):
    """The kubelet, seen from the API server."""

    def logs(self, namespace: str, pod: str, options: LogOptions) -> AsyncIterator[bytes]:
        """Log bytes as `kubectl logs` prints them; with `follow`, until the container ends."""
        ...

    async def exec(
        self, namespace: str, pod: str, container: str, command: Sequence[str], *, stdin: bool, tty: bool
    ) -> ExecProcess: ...

    async def attach(self, namespace: str, pod: str, container: str, *, stdin: bool, tty: bool) -> ExecProcess: ...

    def address(self, namespace: str, pod: str, port: int) -> tuple[str, int]:
        """Host and port to dial for a port of the pod (pods/proxy)."""
        ...
