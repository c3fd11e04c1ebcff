"""Startup, readiness and liveness: when to ask, how to ask, and what the answers mean.

`Tracker` is the pure part (thresholds); `probe_forever` is the schedule on an injected clock; `Prober`
asks over HTTP, TCP or by a command. Requests go straight to the pod's address, never through a proxy.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import anyio
from anyio.abc import ByteStream
from attrs import frozen

from agentops.local.kubelet.errors import KubeletError
from agentops.values.clock import Clock

Object = Mapping[str, Any]
ProbeKind = Literal["Startup", "Readiness", "Liveness"]
RunCommand = Callable[[Sequence[str]], Awaitable[tuple[int, str]]]
"""Runs a command in the container, to (exit code, output)."""

_MAX_BODY = 10 * 1024


@frozen(slots=True)
class Outcome:
    """One answer. `message` is what the Unhealthy event shows."""

    ok: bool
    message: str = ""


@frozen(slots=True)
class Schedule:
    """A probe's figures, with Kubernetes' defaults. Seconds, and counts of consecutive answers."""

    initial_delay_s: float = 0.0
    period_s: float = 10.0
    timeout_s: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3

    @classmethod
    def of(cls, probe: Object) -> Schedule:
        return cls(
            float(probe.get("initialDelaySeconds") or 0),
            float(probe.get("periodSeconds") or 10),
            float(probe.get("timeoutSeconds") or 1),
            int(probe.get("successThreshold") or 1),
            int(probe.get("failureThreshold") or 3),
        )


class Tracker:
    """Turns single answers into a verdict: it changes after enough equal answers in a row."""

    def __init__(self, schedule: Schedule, verdict: bool) -> None:
        self.verdict = verdict
        self._schedule = schedule
        self._last: bool | None = None
        self._run = 0

    def observe(self, ok: bool) -> bool:
        """Take an answer. True when a threshold was reached by it (again and again while it persists)."""
        self._run = self._run + 1 if ok is self._last else 1
        self._last = ok
        threshold = self._schedule.success_threshold if ok else self._schedule.failure_threshold
        if self._run < threshold:
            return False
        self.verdict = ok
        return True


async def probe_forever(
    kind: ProbeKind,
    schedule: Schedule,
    ask: Callable[[], Awaitable[Outcome]],
    on_verdict: Callable[[bool], Awaitable[None]],
    on_failure: Callable[[str], None],
    clock: Clock,
    *,
    started_at: float,
) -> None:
    """Ask on schedule until cancelled; a startup probe ends with its first verdict.

    `on_verdict(ok)` is called when the verdict changes, and for every failed liveness threshold;
    `on_failure(message)` for every failed answer. `started_at` is the container's start on `clock.boottime()`.
    """
    tracker = Tracker(schedule, verdict=kind == "Liveness")
    await clock.sleep(started_at + schedule.initial_delay_s - clock.boottime())
    while True:
        outcome = await _ask(ask, schedule.timeout_s)
        if not outcome.ok:
            on_failure(f"{kind} probe failed: {outcome.message}")
        before = tracker.verdict
        reached = tracker.observe(outcome.ok)
        if reached and (tracker.verdict != before or not outcome.ok or kind == "Startup"):
            await on_verdict(tracker.verdict)
            if kind == "Startup":
                return
        await clock.sleep(schedule.period_s)


async def _ask(ask: Callable[[], Awaitable[Outcome]], timeout_s: float) -> Outcome:
    with anyio.move_on_after(timeout_s):
        return await ask()
    return Outcome(False, f"no answer within {timeout_s:g}s")


class Prober:
    """Asks one container. `ports` maps its named ports; `run` executes a command inside it."""

    def __init__(self, pod_ip: str, ports: Mapping[str, int], run: RunCommand) -> None:
        self._ip = pod_ip
        self._ports = ports
        self._run = run

    async def ask(self, handler: Object) -> Outcome:
        """`handler` is a probe or a lifecycle hook: httpGet, tcpSocket or exec."""
        try:
            if "httpGet" in handler:
                return await self._http(handler["httpGet"])
            if "tcpSocket" in handler:
                return await self._tcp(handler["tcpSocket"])
            if "exec" in handler:
                return await self._exec(handler["exec"])
        except (OSError, EOFError, ValueError, KubeletError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            return Outcome(False, str(error) or type(error).__name__)
        kinds = ", ".join(sorted(key for key in ("grpc",) if key in handler)) or "no handler"
        return Outcome(False, f"the process kubelet does not support {kinds}; use httpGet, tcpSocket or exec")

    async def _http(self, spec: Object) -> Outcome:
        host, port = spec.get("host") or self._ip, self._port(spec.get("port"))
        scheme = str(spec.get("scheme") or "HTTP").upper()
        path = spec.get("path") or "/"
        path = path if path.startswith("/") else f"/{path}"
        headers = {"Host": f"{host}:{port}", "User-Agent": "kube-probe/1.37", "Accept": "*/*", "Connection": "close"}
        headers |= {item["name"]: item["value"] for item in spec.get("httpHeaders") or ()}
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        async with await _connect(host, port, scheme == "HTTPS") as stream:
            await stream.send("\r\n".join(lines).encode("latin-1"))
            status, body = await _read_answer(stream)
        if 200 <= status < 400:
            return Outcome(True, body)
        return Outcome(False, f"HTTP probe failed with statuscode: {status}")

    async def _tcp(self, spec: Object) -> Outcome:
        async with await _connect(spec.get("host") or self._ip, self._port(spec.get("port")), False):
            return Outcome(True)

    async def _exec(self, spec: Object) -> Outcome:
        code, output = await self._run(list(spec.get("command") or ()))
        return Outcome(code == 0, output)

    def _port(self, value: Any) -> int:
        if isinstance(value, int) or str(value).isdigit():
            if not 0 < int(value) < 65536:
                raise ValueError(f"port {value} is not between 1 and 65535")
            return int(value)
        if value not in self._ports:
            raise ValueError(f"port {value!r} is not a named port of the container")
        return self._ports[value]


async def _connect(host: str, port: int, tls: bool) -> ByteStream:
    """Raises OSError with the address and the system's own reason."""
    try:
        if not tls:
            return await anyio.connect_tcp(host, port)
        # As the Kubernetes kubelet: a probe checks that something answers, not who.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return await anyio.connect_tcp(host, port, ssl_context=context, tls_standard_compatible=False)
    except OSError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        reason = os.strerror(cause.errno).lower() if cause.errno else str(cause)
        raise OSError(f"dial tcp {host}:{port}: {reason}") from error


async def _read_answer(stream: ByteStream) -> tuple[int, str]:
    """Status code and the beginning of the body."""
    data = b""
    while len(data) < _MAX_BODY:
        try:
            data += await stream.receive()
        except anyio.EndOfStream:
            break
        if b"\r\n\r\n" in data and not _expects_body(data):
            break
    head, _, body = data.partition(b"\r\n\r\n")
    parts = head.split(None, 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
        raise ValueError("malformed HTTP response")
    return int(parts[1]), body.decode("utf-8", "replace")


def _expects_body(data: bytes) -> bool:
    """Whether the answer announces more than has arrived; a probe never waits for a stream to end."""
    head, _, body = data.partition(b"\r\n\r\n")
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return len(body) < int(value)
    return False
