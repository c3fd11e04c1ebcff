"""The webhook server: admission and conversion over TLS, in the process of the controllers.

    POST /mutate-<group>-<version>-<kind>     mutators     ► JSON patch
    POST /validate-<group>-<version>-<kind>   validators   ► allowed or denied
    POST /convert                             converters   ► objects of another version

### Expected flow
Register on `manager.webhooks` before or while the manager runs. It listens before the caches start,
because listing a kind may need its conversion webhook.

### Guarantees
Every answer echoes the request's uid, whatever a handler does. At most `max_in_flight` reviews are
worked on at once, per path; waiting counts towards the request's timeout. New certificates are used
for new connections; bad ones are not.

### Assumptions
Something makes the certificate (cert-manager, or `self_signed`) and puts its authority into the
webhook configuration's caBundle. Handlers decide from the request and cached reads, and do not write.

### Errors
CertificateError when there is no certificate to start with, ListenError when the port is taken.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import orjson
from attrs import define, field, frozen
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agentops.controller import admission
from agentops.controller.admission import AdmissionRequest, BadReview, Mutator, Validator
from agentops.controller.certificates import CertificateError, Pair, self_signed, server_context
from agentops.controller.certwatcher import POLL_S, CertWatcher
from agentops.controller.conversion import Converter, Converters, Spoke
from agentops.controller.errors import BuildError
from agentops.net.listen import ListenAddress, bind
from agentops.net.serve import serve
from agentops.telemetry.logging import get_logger
from agentops.telemetry.metrics import Registry
from agentops.values.clock import Clock, SystemClock
from agentops.values.duration import parse_duration
from agentops.values.kinds import Kind

log = get_logger("controller.webhook")

Object = dict[str, Any]

CONVERT_PATH = "/convert"
KEEP_ALIVE_S = 90.0
MAX_BODY_BYTES = 7 * 1024 * 1024
MAX_CONVERSION_BYTES = 256 * 1024 * 1024
_DEFAULT_TIMEOUT_S = 10.0
_MAX_TIMEOUT_S = 30.0
_DIAL_S = 10.0


def default_cert_dir() -> Path:
    """Where controller-runtime looks too: `<tmp>/k8s-webhook-server/serving-certs`."""
    return Path(tempfile.gettempdir()) / "k8s-webhook-server" / "serving-certs"


@frozen(slots=True)
class WebhookOptions:
    """`bind` is an address such as `:9443`; empty, "0" or "-1" is off.

    `cert_dir` holds `cert_name` and `key_name`. With `self_signed` host names, and no certificate there,
    one is made in memory (development: every start makes another). `client_ca` is a file with the
    authority that callers' certificates must come from; None asks for none.
    """

    bind: str = ":9443"
    cert_dir: Path = field(factory=default_cert_dir, converter=Path)
    cert_name: str = "tls.crt"
    key_name: str = "tls.key"
    client_ca: Path | None = None
    self_signed: Sequence[str] = ()
    max_in_flight: int = 64
    max_body_bytes: int = MAX_BODY_BYTES
    max_conversion_bytes: int = MAX_CONVERSION_BYTES
    """Of a ConversionReview, which holds a whole list of objects where the API server lists a kind."""
    grace_s: float = 10.0
    poll_s: float = POLL_S

    @property
    def enabled(self) -> bool:
        return self.bind not in ("", "0", "-1")


@define(slots=True, eq=False)
class _Hook:
    """One path. `respond` answers a body; it raises BadReview for what is not a review."""

    respond: Callable[[bytes, float], Awaitable[tuple[Object, bool]]]
    max_bytes: int
    limiter: anyio.Semaphore
    metrics: _HookMetrics


class _HookMetrics:
    """One path's `controller_runtime_webhook_*`, with the codes that every path has at 0."""

    def __init__(self, registry: Registry, path: str) -> None:
        self._path = path
        self._total = registry.counter(
            "controller_runtime_webhook_requests_total", "Webhook requests by HTTP status.", ("webhook", "code")
        )
        for code in ("200", "500"):
            self._total.labels(path, code)
        self.latency = registry.histogram(
            "controller_runtime_webhook_latency_seconds", "Time to answer a webhook request.", ("webhook",)
        ).labels(path)
        self.in_flight = registry.gauge(
            "controller_runtime_webhook_requests_in_flight", "Webhook requests being answered.", ("webhook",)
        ).labels(path)
        self.panics = registry.counter(
            "controller_runtime_webhook_panics_total", "Handlers that raised what none should.", ()
        )
        if path == CONVERT_PATH:
            self.panics = registry.counter(
                "controller_runtime_conversion_webhook_panics_total", "Conversion functions that broke.", ()
            )

    def answered(self, code: int) -> None:
        self._total.labels(self._path, str(code)).inc()


class WebhookServer:
    """See the module. Inert until `run`; usually the manager's, as `manager.webhooks`."""

    def __init__(
        self, options: WebhookOptions | None = None, *, registry: Registry | None = None, clock: Clock | None = None
    ) -> None:
        self.options = options or WebhookOptions()
        self._registry = registry or Registry()
        self._clock = clock or SystemClock()
        self._hooks: dict[str, _Hook] = {}
        self._converters = Converters()
        self._sock: socket.socket | None = None
        self._port = 0
        self._context: ssl.SSLContext | None = None
        self._watcher: CertWatcher | None = None
        self._pair: Pair | None = None
        self._problem: str | None = "not started"

    # registering

    def mutating(self, kind: Kind, *mutators: Mutator, path: str = "") -> str:
        """Serve `mutators`, run in order on one copy; the path. Raises BuildError when it is taken."""
        path = path or generated_path("mutate", kind)
        self._admit(path, lambda request: admission.mutate(request, mutators))
        return path

    def validating(self, kind: Kind, *validators: Validator, path: str = "") -> str:
        """Serve `validators`, the first refusal decides; the path. Raises BuildError when it is taken."""
        path = path or generated_path("validate", kind)
        self._admit(path, lambda request: admission.validate(request, validators))
        return path

    def converting(self, hub: Kind, spokes: Mapping[str, Spoke]) -> str:
        """Convert the kind between `hub` and `spokes` by version; the path, the same for all kinds.

        Raises BuildError when the kind is served already.
        """
        self._converters.add(Converter(hub, spokes))
        if CONVERT_PATH not in self._hooks:

            async def convert(body: bytes, timeout_s: float) -> tuple[Object, bool]:
                return await self._converters.answer(body)

            self._register(CONVERT_PATH, convert, self.options.max_conversion_bytes)
        return CONVERT_PATH

    def _admit(self, path: str, respond: Callable[[AdmissionRequest], Awaitable[Object]]) -> None:
        async def review(body: bytes, timeout_s: float) -> tuple[Object, bool]:
            return await admission.answer(admission.parse_review(body), respond, timeout_s)

        self._register(path, review, self.options.max_body_bytes)

    def _register(
        self, path: str, respond: Callable[[bytes, float], Awaitable[tuple[Object, bool]]], max_bytes: int
    ) -> None:
        if not path.startswith("/"):
            raise BuildError(f"webhook path {path!r} must begin with /")
        if path in self._hooks:
            raise BuildError(f"there is a webhook at {path} already; give another path")
        self._hooks[path] = _Hook(
            respond, max_bytes, anyio.Semaphore(self.options.max_in_flight), _HookMetrics(self._registry, path)
        )

    # serving

    @property
    def port(self) -> int:
        """The port it listens on, once bound; 0 when it is off."""
        return self._port

    @property
    def ca_pem(self) -> bytes:
        """The certificate that is served, once bound: the caBundle when it is self-signed."""
        pair = self._watcher.current if self._watcher is not None else self._pair
        return pair.cert_pem if pair is not None else b""

    def problem(self) -> str | None:
        """For `/readyz`: why callers cannot reach the server, None when they can."""
        return self._problem if self.options.enabled else None

    def bind(self) -> None:
        """Load the certificate and take the port; again does nothing. Raises CertificateError, ListenError."""
        if not self.options.enabled or self._sock is not None:
            return
        options = self.options
        context = server_context(options.client_ca)
        cert, key = options.cert_dir / options.cert_name, options.cert_dir / options.key_name
        if options.self_signed and not cert.exists():
            self._pair = self_signed(options.self_signed, self._clock.now())
            self._pair.load_into(context)
            log.warning("webhook.self_signed", hosts=list(options.self_signed))
        else:
            watcher = CertWatcher(context, cert, key, registry=self._registry, clock=self._clock, poll_s=options.poll_s)
            try:
                watcher.load()
            except CertificateError as error:
                raise CertificateError(f"the webhook server has no certificate: {error}") from error
            self._watcher = watcher
        self._context = context
        self._sock = bind(ListenAddress.parse(options.bind))
        self._port = self._sock.getsockname()[1]

    def close(self) -> None:
        """Give the port back."""
        if self._sock is not None:
            self._sock.close()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, then drain; `task_status` starts when it answers. Raises as `bind`."""
        self.bind()
        sock = self._sock
        if sock is None:
            task_status.started()
            await anyio.sleep_forever()
            return
        try:
            async with anyio.create_task_group() as tasks:
                if self._watcher is not None:
                    tasks.start_soon(self._watcher.run)
                tasks.start_soon(self._keep_dialling)
                app = Starlette(routes=[Route("/{path:path}", self._serve, methods=["POST"])])
                serving = partial(
                    serve,
                    app,
                    sock,
                    grace_s=self.options.grace_s,
                    ssl_context=self._context,
                    keep_alive_s=KEEP_ALIVE_S,
                )
                await tasks.start(serving)
                self._problem = None
                task_status.started()
        finally:
            self._problem = "not running"
            self.close()

    async def _keep_dialling(self) -> None:
        """Find out what callers would: whether a TLS connection can be made."""
        while True:
            await anyio.sleep(_DIAL_S)
            self._problem = await self._dial()

    async def _dial(self) -> str | None:
        assert self._sock is not None
        host, port = self._sock.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with anyio.fail_after(_DIAL_S):
                stream = await anyio.connect_tcp(host, port, ssl_context=context, tls_standard_compatible=False)
                await stream.aclose()
        except (OSError, ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            if self.options.client_ca is not None and isinstance(error, ssl.SSLError | anyio.BrokenResourceError):
                return None  # it asks us for a certificate, so it listens
            return f"cannot connect to {host}:{port}: {type(error).__name__}: {error}"
        return None

    async def _serve(self, request: Request) -> Response:
        path = request.url.path
        hook = self._hooks.get(path)
        if hook is None:
            return PlainTextResponse(f"there is no webhook at {path}\n", 404)
        began = time.perf_counter()
        hook.metrics.in_flight.inc()
        code = 500
        try:
            response = await self._review(hook, request)
            code = response.status_code
        finally:
            hook.metrics.in_flight.dec()
            hook.metrics.latency.observe(time.perf_counter() - began)
            hook.metrics.answered(code)
        return response

    async def _review(self, hook: _Hook, request: Request) -> Response:
        timeout_s = _timeout_of(request)
        deadline = anyio.current_time() + timeout_s
        try:
            media_type = request.headers.get("content-type", "").partition(";")[0].strip()
            if media_type != "application/json":
                raise BadReview(f"content type {media_type!r}; expected application/json")
            body = await _read(request, hook.max_bytes)
            with anyio.CancelScope(deadline=deadline) as waiting:
                await hook.limiter.acquire()
            if waiting.cancelled_caught:
                raise BadReview(f"all {self.options.max_in_flight} places were taken for {timeout_s:g} s", 503)
            try:
                review, broke = await hook.respond(body, max(0.0, deadline - anyio.current_time()))
            finally:
                hook.limiter.release()
        except BadReview as bad:
            log.warning("webhook.refused", path=request.url.path, code=bad.code, error=str(bad))
            status = admission.envelope(admission.API_VERSIONS[0], "", admission.refused(bad.code, str(bad)))
            return _json(status, bad.code)
        except ClientDisconnect:
            return PlainTextResponse("", 499)
        if broke:
            hook.metrics.panics.inc()
        return _json(review, 200)


def generated_path(verb: str, kind: Kind) -> str:
    """`/mutate-apps-v1-deployment`, as controller-runtime names it; for core kinds `/mutate--v1-pod`."""
    return f"/{verb}-{kind.group.replace('.', '-')}-{kind.version}-{kind.kind.lower()}"


def _timeout_of(request: Request) -> float:
    """What the API server allows (`?timeout=5s`), else 10 s."""
    try:
        wanted = parse_duration(request.query_params.get("timeout") or "")
    except ValueError:
        return _DEFAULT_TIMEOUT_S
    return min(wanted, _MAX_TIMEOUT_S) if wanted > 0 else _DEFAULT_TIMEOUT_S


async def _read(request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise BadReview(f"the request body is larger than {limit} bytes", 413)
        parts.append(chunk)
    return b"".join(parts)


def _json(obj: Object, status: int) -> Response:
    return Response(orjson.dumps(obj), status, media_type="application/json")
