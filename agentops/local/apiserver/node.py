"""What the API server asks of a kubelet: logs, exec, where a pod listens and what it uses.

The API server never imports the kubelet; the plane hands it an object with this shape.
The streams raise `NodeStreamError` with a sentence a kubectl user can act on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
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


@frozen(slots=True)
class Usage:
    """CPU as the average of a window in billionths of a core, memory in bytes as it was at the window's end."""

    cpu_nanocores: int
    memory_bytes: int


@frozen(slots=True)
class PodUsage:
    """What the running containers of a pod use, by name. The window of `window_s` seconds ended at `until`."""

    until: datetime
    window_s: float
    containers: Mapping[str, Usage]


@frozen(slots=True)
class NodeUsage:
    """What all programs of the node's machine use together."""

    until: datetime
    window_s: float
    usage: Usage


class NodeStreams(Protocol):
    """The kubelet, seen from the API server."""

    def logs(self, namespace: str, pod: str, options: LogOptions) -> AsyncIterator[bytes]:
        """Log bytes as `kubectl logs` prints them; with `follow`, until the container ends."""
        ...

    async def exec(
        self, namespace: str, pod: str, container: str, command: Sequence[str], *, stdin: bool, tty: bool
    ) -> ExecProcess: ...

    async def attach(self, namespace: str, pod: str, container: str, *, stdin: bool, tty: bool) -> ExecProcess:
        """The container's own program: it is never killed from here."""
        ...

    def address(self, namespace: str, pod: str, port: int) -> tuple[str, int]:
        """Host and port to dial for a port of the pod (pods/proxy)."""
        ...

    def pod_usage(self, uid: str) -> PodUsage | None:
        """None for a pod that does not run here, or not long enough."""
        ...

    def node_usage(self, name: str) -> NodeUsage | None:
        """None for another node, and until the first window has passed."""
        ...
