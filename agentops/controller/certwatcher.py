"""Certificate rotation: new files go into the live SSLContext, connections that are open live on.

### Guarantees
A handshake never sees half a pair: certificate and key are read, tried together in a context of their
own, and only then loaded. A pair that does not work changes nothing but a counter and a log line.

### Assumptions
Files change at any time and in any way. Mounted Secrets swap a symlink, so the contents are compared,
every `poll_s` seconds; inodes and modification times say nothing there.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import anyio
import anyio.abc

from agentops.controller.certificates import CertificateError, Pair
from agentops.telemetry.logging import get_logger
from agentops.telemetry.metrics import Registry
from agentops.values.clock import Clock, SystemClock

log = get_logger("controller.certwatcher")

POLL_S = 10.0


class CertWatcher:
    """Keeps `context` at the pair in two files. `load` once, then `run`."""

    def __init__(
        self,
        context: ssl.SSLContext,
        cert: Path,
        key: Path,
        *,
        registry: Registry | None = None,
        clock: Clock | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        registry = registry or Registry()
        self.context = context
        self._cert, self._key = cert, key
        self._clock = clock or SystemClock()
        self._poll_s = poll_s
        self._current: Pair | None = None
        self._reads = registry.counter("certwatcher_read_certificate_total", "Certificate pairs read.")
        self._errors = registry.counter(
            "certwatcher_read_certificate_errors_total", "Certificate pairs that could not be used."
        )

    @property
    def current(self) -> Pair | None:
        """The pair that new handshakes get."""
        return self._current

    def load(self) -> bool:
        """Read the files; whether there was a new pair. Raises CertificateError, and keeps the old pair."""
        self._reads.inc()
        try:
            found = Pair.read(self._cert, self._key)
            if found == self._current:
                return False
            found.load_into(self.context)
        except CertificateError as error:
            self._errors.inc()
            raise CertificateError(f"{self._cert}: {error}") from error
        self._current = found
        log.info("certificate.loaded", cert=str(self._cert))
        return True

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Poll until cancelled."""
        task_status.started()
        while True:
            await self._clock.sleep(self._poll_s)
            try:
                self.load()
            except CertificateError as error:
                log.warning("certificate.refused", cert=str(self._cert), error=str(error))
