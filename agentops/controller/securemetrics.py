"""Metrics over TLS, for those who may read them."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from attrs import field, frozen

from agentops.controller.authfilter import App, AuthFilter, AuthOptions
from agentops.controller.certificates import self_signed, server_context
from agentops.controller.certwatcher import CertWatcher
from agentops.kube.client import ApiClient
from agentops.net.serve import serve
from agentops.telemetry.metrics import Registry
from agentops.values.clock import Clock


@frozen(slots=True)
class SecureMetrics:
    """`cert_dir` holds `cert_name` and `key_name` and is watched; None makes a self-signed certificate for `hosts`.

    `authorize` asks the API server who the bearer is and whether they may `get /metrics` (nonResourceURLs).
    """

    cert_dir: Path | None = None
    cert_name: str = "tls.crt"
    key_name: str = "tls.key"
    client_ca: Path | None = None
    hosts: Sequence[str] = ("localhost",)
    authorize: bool = True
    auth: AuthOptions = field(factory=AuthOptions)


class TlsFront:
    """What stands before an app: certificate and filter. Raises CertificateError when it has no certificate."""

    def __init__(self, options: SecureMetrics, client: ApiClient, registry: Registry, clock: Clock) -> None:
        self._options, self._client, self._clock = options, client, clock
        self._context: ssl.SSLContext = server_context(options.client_ca)
        self._watcher: CertWatcher | None = None
        if options.cert_dir is None:
            self_signed(options.hosts, clock.now()).load_into(self._context)
        else:
            cert, key = options.cert_dir / options.cert_name, options.cert_dir / options.key_name
            self._watcher = CertWatcher(self._context, cert, key, registry=registry, clock=clock)
            self._watcher.load()

    async def serve(self, app: App, sock: Any, *, grace_s: float, task_status: anyio.abc.TaskStatus[None]) -> None:
        """As `net.serve.serve`."""
        if self._options.authorize:
            app = AuthFilter(app, self._client, self._options.auth, clock=self._clock)
        async with anyio.create_task_group() as tasks:
            if self._watcher is not None:
                tasks.start_soon(self._watcher.run)
            await serve(app, sock, grace_s=grace_s, ssl_context=self._context, task_status=task_status)
