"""The API server: one request in, one answer out, no sockets.

    with server:                       open the store
        server.bootstrap()             what every cluster has
        await tasks.start(server.run)  CRDs, compaction, expiry
        answer = await server.handle(request)

`middleware` wraps everything (faults for tests); then come authentication, authorization, dispatch
and audit. Verbs live in `writes`, `reads` and `watch`, subresources in `subresources`, what is measured in `usage`.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any

import anyio
from anyio.abc import TaskStatus
from attrs import evolve, field, frozen

from agentops.kube.kinds import METRICS
from agentops.kube.patches import APPLY_PATCH
from agentops.local.apiserver import errors, pod_security
from agentops.local.apiserver.admission_webhooks import RequestAdmission, Webhooks
from agentops.local.apiserver.apply.managed import manager_name
from agentops.local.apiserver.audit import AuditLog
from agentops.local.apiserver.auth import Attributes, Authenticator, Authorizer, Tokens, forbidden_message
from agentops.local.apiserver.bootstrap import bootstrap
from agentops.local.apiserver.builtin import builtin_registry
from agentops.local.apiserver.crd import CustomResources
from agentops.local.apiserver.decode import Strictness, decode_object
from agentops.local.apiserver.deleteoptions import delete_options, deleted_status, dry_run
from agentops.local.apiserver.discovery import Discovery
from agentops.local.apiserver.health import health
from agentops.local.apiserver.housekeeping import Housekeeping
from agentops.local.apiserver.http import (
    Answer,
    Handler,
    Request,
    Response,
    Stream,
    User,
    json_response,
    text_response,
)
from agentops.local.apiserver.metrics import ServerMetrics
from agentops.local.apiserver.node import NodeStreams
from agentops.local.apiserver.node_streams import NodeDoor
from agentops.local.apiserver.openapi import OpenApi
from agentops.local.apiserver.patching import applied_object, patch_function, patch_type
from agentops.local.apiserver.rbac import RbacAuthorizer
from agentops.local.apiserver.rbac_defaults import ensure_roles, gather_aggregated, keep_aggregated
from agentops.local.apiserver.reads import Reader, Selection, check_not_future, parse_revision
from agentops.local.apiserver.render import Renderer, check_acceptable, in_yaml, negotiate, wants_yaml
from agentops.local.apiserver.resources import Registry, Resource
from agentops.local.apiserver.reviews import Reviews
from agentops.local.apiserver.routing import Route, attributes, parse
from agentops.local.apiserver.store import Store
from agentops.local.apiserver.subresources import Subresources
from agentops.local.apiserver.undecided import Undecided
from agentops.local.apiserver.usage import UsageMetrics
from agentops.local.apiserver.watch import WatchHub
from agentops.local.apiserver.writes import WriteOptions, Writer
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock, SystemClock, rfc3339

Object = dict[str, Any]
Middleware = Callable[[Request, Handler], Awaitable[Answer]]

log = get_logger("apiserver")

VERSION = {
    "major": "1",
    "minor": "37",
    "gitVersion": "v1.37.0+agentops-local",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "python",
    "compiler": "cpython",
    "platform": "linux/amd64",
    "emulationMajor": "1",
    "emulationMinor": "37",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "36",
}
BODY_LIMIT = 3 * 1024 * 1024
"""Bytes of a request body; what is proxied to pods may be longer."""
_MAX_ROUNDS = 1000
_MANAGER_BYTES = 128
_RAW = ("attach", "exec", "log", "portforward", "proxy")
_NO_YAML_STREAM = "only the following media types are accepted: application/json;stream=watch"
_STREAMS = ("attach", "exec", "portforward")
_admission: ContextVar[RequestAdmission | None] = ContextVar("admission", default=None)
_BOOTSTRAP_PERIOD_S = 10.0
"""How soon default/kubernetes is back after somebody deleted it; as kube-apiserver."""


@frozen(slots=True)
class ServerOptions:
    """How one API server runs.

    `db_path` None keeps everything in memory. `host` and `port` are what default/kubernetes and the
    token issuer advertise. `crd_established_delay_s` is how long a new CRD is not served yet.
    `watch_timeout_s` caps every watch, to shake out clients that cannot reconnect.
    """

    db_path: Path | None = None
    host: str = "127.0.0.1"
    port: int = 6443
    service_cidr: str = "127.96.0.0/16"
    sa_key_pem: bytes | None = field(default=None, repr=False)
    admin_token: str | None = field(default=None, repr=False)
    crd_established_delay_s: float = 0.2
    audit_log: Path | None = None
    watch_timeout_s: float | None = None
    watch_queue_size: int = 1000
    require_service_account: bool = True
    event_ttl_s: float = 3600.0
    history_s: float = 300.0
    history_revisions: int = 10_000


class ApiServer:
    """See the module. Constructor does no I/O; `open` does."""

    def __init__(
        self,
        options: ServerOptions | None = None,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        node: NodeStreams | None = None,
        authorizer: Authorizer | None = None,
    ) -> None:
        self.options = options or ServerOptions()
        self.clock: Clock = clock or SystemClock()
        self.rng = rng or random.Random()
        self.middleware: list[Middleware] = []
        self.store = Store(self.options.db_path)
        self.registry: Registry = builtin_registry()
        self._metrics = ServerMetrics(self.registry, self.store)
        self.writer = Writer(
            self.store, self.clock, self.rng, self.options.service_cidr, self.options.require_service_account
        )
        self.webhooks = Webhooks(self.store, self.registry, lambda user, about: self._authorizer.refuse(user, about))
        self.reader = Reader(self.store, self.writer)
        self.watches = WatchHub(
            self.store,
            self.reader,
            self.writer,
            self.clock,
            self.rng,
            queue_size=self.options.watch_queue_size,
            timeout_cap_s=self.options.watch_timeout_s,
        )
        issuer = f"https://{self.options.host}:{self.options.port}"
        self.tokens = Tokens(self.options.sa_key_pem, issuer, self.store, self.clock)
        self.authenticator = Authenticator(self.tokens, self.options.admin_token)
        self.rbac = RbacAuthorizer(self.store)
        self._authorizer: Authorizer = self.rbac
        self._reviews = Reviews(self.authenticator, self._authorizer)
        self.authorizer = authorizer or self.rbac
        self._door = NodeDoor(self.store)
        self._door.node = node
        self._subresources = Subresources(self)
        self._usage = UsageMetrics(self.store, self.clock, self._door)
        self._discovery = Discovery(self.registry, f"{self.options.host}:{self.options.port}")
        self._openapi = OpenApi(self.registry)
        self.custom = CustomResources(
            self.store,
            self.registry,
            self.writer,
            self.clock,
            delay_s=self.options.crd_established_delay_s,
            gone=self.watches.end_all,
            caller=lambda: self.webhooks.caller,
        )
        self._housekeeping = Housekeeping(self.store, self.registry, self.writer, self.clock, self.options)
        self._audit = AuditLog(self.options.audit_log, self.clock) if self.options.audit_log else None
        self._leave: Callable[[], None] | None = None
        self._bootstrapped = False

    # life

    def open(self) -> None:
        """Open the store and serve the CRDs in it. Raises sqlite3.Error, OSError."""
        self.store.open()
        if self._audit is not None:
            self._audit.open()
        self._leave = self.custom.load()

    def close(self) -> None:
        """End all watches and close the store; safe to call twice."""
        self.watches.end_all()
        if self._leave is not None:
            self._leave()
            self._leave = None
        if self._audit is not None:
            self._audit.close()
        self.store.close()

    def __enter__(self) -> ApiServer:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def bootstrap(self) -> None:
        """Make the namespaces, the Service and the roles that every cluster has; does nothing the second time.

        From then on `run` makes a namespace or the Service again that somebody deletes.
        """
        bootstrap(self)
        ensure_roles(self)
        gather_aggregated(self, self.rbac.index)
        self._bootstrapped = True

    async def _keep_bootstrapped(self) -> None:
        while True:
            await anyio.sleep(_BOOTSTRAP_PERIOD_S)
            if not self._bootstrapped:
                continue
            try:
                bootstrap(self)
            except errors.ApiFailure as failure:
                log.warning("apiserver.bootstrap.failed", error=failure.message)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Background work until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.custom.run)
            tasks.start_soon(self._housekeeping.run)
            tasks.start_soon(self._keep_bootstrapped)
            tasks.start_soon(keep_aggregated, self, self.rbac.index)
            task_status.started()

    @property
    def node(self) -> NodeStreams | None:
        """The kubelet behind logs, exec and proxies."""
        return self._door.node

    @node.setter
    def node(self, node: NodeStreams | None) -> None:
        self._door.node = node

    @property
    def authorizer(self) -> Authorizer:
        return self._authorizer

    @authorizer.setter
    def authorizer(self, authorizer: Authorizer) -> None:
        self._authorizer = self._reviews.authorizer = authorizer
        rbac = authorizer if isinstance(authorizer, RbacAuthorizer) else None
        self.authenticator.impersonation = rbac.impersonation_refused if rbac else None
        self.writer.may_grant = rbac.check_escalation if rbac else None

    # requests

    async def handle(self, request: Request) -> Answer:
        """Answer one request. Never raises for what a client can do wrong."""
        handler: Handler = self._handle
        for wrap in reversed(self.middleware):
            handler = _bind(wrap, handler)
        return await handler(request)

    async def _handle(self, request: Request) -> Answer:
        received = rfc3339(self.clock.now(), micro=True) if self._audit is not None else ""
        user: User | None = None
        about: Attributes | None = None
        try:
            route = parse(request.path)
            about = attributes(request, route)
            user = self.authenticator.authenticate(request)
            self._authorize(user, about)
            answer = await self._decided(request, route, about, user)
        except errors.PathNotFound:
            answer = text_response("404 page not found\n", 404)
        except errors.ApiFailure as failure:
            answer = failure_response(failure)
            answer = in_yaml(answer) if wants_yaml(request) else answer
        except RecursionError:
            answer = failure_response(errors.too_deep())
        except Exception:
            log.exception("request.failed", method=request.method, path=request.path)
            answer = failure_response(errors.internal("the API server failed; its log has the traceback"))
        self._metrics.answered(about, answer)
        if self._audit is not None:
            answer = self._audit.answered(answer, request, user, about, received)
        return answer

    def admits(self, request: Request) -> bool:
        """Whether who asks is known and may do it, so that its body is worth reading. Logs nothing."""
        try:
            about = attributes(request, parse(request.path))
            self._authorize(self.authenticator.authenticate(request), about)
        except errors.ApiFailure:
            return False
        return True

    def _authorize(self, user: User, about: Attributes) -> None:
        asked = [about]
        if about.verb == "get" and about.resource == "pods" and about.subresource in _STREAMS:
            asked.append(evolve(about, verb="create"))  # as since Kubernetes 1.35: a WebSocket is opened by GET
        for wanted in asked:
            why = self._authorizer.refuse(user, wanted)
            if why is not None:
                raise forbidden_message(user, wanted, why)

    async def _decided(self, request: Request, route: Route | None, about: Attributes, user: User) -> Answer:
        """Dispatch, as often as webhooks have to be asked first."""
        token = _admission.set(self.webhooks.admission(user) if self.webhooks.any else None)
        try:
            for _ in range(_MAX_ROUNDS):
                try:
                    return await self._dispatch(request, route, about, user)
                except Undecided as undecided:
                    await undecided.decide()
        finally:
            _admission.reset(token)
        raise errors.unavailable("the object changes faster than its webhooks answer; try again")

    async def _dispatch(self, request: Request, route: Route | None, about: Attributes, user: User) -> Answer:
        if route is not None and route.subresource in _RAW:  # what these answer is the pod's own
            return await self._found(request, route, about, user)
        if route is None and request.path.rstrip("/") not in ("/api", "/apis") and request.path[:6] != "/apis/":
            return self._non_resource(request, route)
        check_acceptable(request)
        if route is None or not route.is_resource:
            answer = self._non_resource(request, route)
        else:
            answer = await self._found(request, route, about, user)
        return in_yaml(answer) if isinstance(answer, Response) and wants_yaml(request) else answer

    async def _found(self, request: Request, route: Route, about: Attributes, user: User) -> Answer:
        resource = self.registry.find(route.group, route.version, route.plural)
        if resource is None:
            raise errors.PathNotFound
        if not resource.deprecation:
            return await self._serve(request, resource, route, about, user)
        try:
            answer = await self._serve(request, resource, route, about, user)
        except errors.ApiFailure as failure:
            failure.headers = with_warnings(failure.headers, resource.deprecation)
            raise
        if isinstance(answer, Response | Stream):
            return evolve(answer, headers=with_warnings(answer.headers, resource.deprecation))
        return answer

    async def _serve(self, request: Request, resource: Resource, route: Route, about: Attributes, user: User) -> Answer:
        if route.namespace and not resource.kind.namespaced:
            raise errors.PathNotFound
        if route.watching and (about.verb != "watch" or route.subresource):
            raise errors.method_not_allowed()
        if len(request.body) > BODY_LIMIT and route.subresource != "proxy":
            raise errors.too_large()
        if route.subresource not in _RAW:
            negotiate(request)  # before anything is written
        if resource.kind in METRICS:
            return self._usage.answer(request, resource, route, about.verb)
        if not resource.storage:
            return self._review(request, resource, route, about, user)
        if route.subresource:
            return await self._subresources.serve(request, resource, route, about, user)
        if about.verb not in resource.verbs:
            raise errors.method_not_allowed()
        namespaced_without = resource.kind.namespaced and not route.namespace
        if namespaced_without and (route.name or about.verb in ("create", "deletecollection")):
            if route.name:
                raise errors.PathNotFound
            raise errors.method_not_allowed()
        match about.verb:
            case "get":
                return self._get(request, resource, route)
            case "list":
                form = negotiate(request)
                body = self.reader.list(request, resource, route.namespace, "", Renderer(resource, form, self.clock))
                return json_response(body)
            case "watch":
                if wants_yaml(request):
                    raise errors.ApiFailure(406, "NotAcceptable", _NO_YAML_STREAM)
                return self.watches.open(request, resource, route.namespace, route.name, negotiate(request))
            case "create":
                return self._create(request, resource, route, user)
            case "update":
                return self._update(request, resource, route, user)
            case "patch":
                return self._patch(request, resource, route, user)
            case "delete":
                return self._delete(request, resource, route, user)
            case "deletecollection":
                return self._delete_collection(request, resource, route, user)
        raise errors.method_not_allowed()

    def _non_resource(self, request: Request, route: Route | None) -> Answer:
        path = request.path.rstrip("/") or "/"
        parts = [p for p in path.split("/") if p]
        if request.method not in ("GET", "HEAD"):
            raise errors.PathNotFound
        head = parts[0] if parts else ""
        if head in ("healthz", "livez", "readyz"):
            return health(request, head, ready=self.store.is_open)
        match path:
            case "/version":
                return json_response(VERSION)
            case "/metrics":
                return self._metrics.answer()
            case "/api" | "/apis":
                return self._discovery.root(request, core=path == "/api")
            case "/.well-known/openid-configuration":
                return json_response(self.tokens.discovery())
            case "/openid/v1/jwks":
                body = json_response(self.tokens.jwks())
                return Response(200, body.body, {"content-type": "application/jwk-set+json"})
            case "/openapi/v3":
                return self._openapi.index(request)
            case "/openapi/v2":
                return self._openapi.v2(request)
            case "/":
                return json_response({"paths": self._discovery.paths()})
        answer: Response | None = None
        if head == "openapi" and parts[1:2] == ["v3"]:
            if parts[2:3] == ["api"] and len(parts) == 4:
                answer = self._openapi.document(request, "", parts[3])
            elif parts[2:3] == ["apis"] and len(parts) == 5:
                answer = self._openapi.document(request, parts[3], parts[4])
        elif route is not None:
            answer = self._discovery.group_version(request, route.group, route.version)
        elif head == "apis" and len(parts) == 2:
            answer = self._discovery.group(request, parts[1])
        if answer is None:
            raise errors.PathNotFound
        return answer

    # verbs

    def write_options(self, request: Request, user: User, subresource: str = "") -> WriteOptions:
        manager = request.arg("fieldManager")
        if len(manager.encode()) > _MANAGER_BYTES:
            found = [errors.FieldError(errors.TOO_LONG, "fieldManager", f"may not be more than {_MANAGER_BYTES} bytes")]
            raise errors.invalid("meta.k8s.io", "CreateOptions", "", found)
        name = manager_name(manager, request.header("user-agent"))
        return WriteOptions(user, name, dry_run(request), subresource, _admission.get())

    def _get(self, request: Request, resource: Resource, route: Route) -> Answer:
        try:
            check_not_future(self.store, parse_revision(request.arg("resourceVersion")))
        except ValueError as error:
            raise errors.bad_request(f"invalid resource version: {error}") from error
        form = negotiate(request)
        entry = self.reader.get(resource, route.namespace, route.name)
        if form.plain:
            return json_response(self.reader.served_bytes(resource, entry))
        return json_response(Renderer(resource, form, self.clock).single(self.writer.served(resource, entry)))

    def rendered(
        self,
        request: Request,
        resource: Resource,
        obj: Object,
        status: int,
        options: WriteOptions,
        strictness: Strictness | None = None,
    ) -> Response:
        """A written object in the form the client asked for, with its warnings."""
        texts = [*(strictness.warnings() if strictness else ()), *options.warnings, *resource.strategy.warnings(obj)]
        admission = _admission.get()
        texts += admission.warnings if admission is not None else ()
        texts += self._pod_security_warning(resource, obj)
        body = Renderer(resource, negotiate(request), self.clock).single(obj)
        return json_response(body, status, with_warnings({}, *texts))

    def _pod_security_warning(self, resource: Resource, obj: Object) -> list[str]:
        spec = pod_security.pod_spec(resource.kind, obj)
        namespace = self.store.get("namespaces", "", obj["metadata"].get("namespace") or "") if spec else None
        said = pod_security.warning(namespace.obj(), spec) if namespace is not None and spec else ""
        return [said] if said else []

    def _create(self, request: Request, resource: Resource, route: Route, user: User) -> Answer:
        if route.name:
            raise errors.method_not_allowed()
        if resource.terminating:
            raise errors.method_not_allowed("create not allowed while custom resource definition is terminating")
        strictness = Strictness.of(request)
        obj = decode_object(request, resource, strictness)
        options = self.write_options(request, user)
        created = self.writer.create(resource, route.namespace, obj, options)
        return self.rendered(request, resource, created, 201, options, strictness)

    def _update(self, request: Request, resource: Resource, route: Route, user: User, sub: str = "") -> Answer:
        if not route.name:
            raise errors.method_not_allowed()
        strictness = Strictness.of(request)
        obj = decode_object(request, resource, strictness)
        obj["metadata"].setdefault("name", route.name)

        def change(_live: Object) -> Object:
            return obj

        options = self.write_options(request, user, sub)
        updated = self.writer.update(resource, route.namespace, route.name, change, options, must_have_revision=True)
        return self.rendered(request, resource, updated, 200, options, strictness)

    def _patch(self, request: Request, resource: Resource, route: Route, user: User, sub: str = "") -> Answer:
        if not route.name:
            raise errors.method_not_allowed()
        kind = patch_type(request, resource)
        options = self.write_options(request, user, sub)
        if kind == APPLY_PATCH:
            if self.store.get(resource.storage, route.namespace, route.name) is None:
                # An apply that makes the object is a create as well.
                sort = resource.kind
                self._authorize(
                    user, Attributes("create", sort.group, sort.version, sort.plural, sub, route.namespace, route.name)
                )
            applied = applied_object(request, resource, route.namespace, route.name)
            obj, created = self.writer.apply(
                resource, route.namespace, route.name, applied, options, force=request.flag("force")
            )
            return self.rendered(request, resource, obj, 201 if created else 200, options)
        if request.arg("force"):
            found = [errors.forbidden_field("force", "may not be specified for non-apply patch")]
            raise errors.invalid("meta.k8s.io", "PatchOptions", "", found)
        strictness = Strictness.of(request)
        change = patch_function(request, resource, kind, strictness)
        obj = self.writer.update(resource, route.namespace, route.name, change, options)
        return self.rendered(request, resource, obj, 200, options, strictness)

    def update_sub(self, request: Request, resource: Resource, route: Route, user: User, sub: str) -> Answer:
        """PUT of a subresource with the object's own kind."""
        return self._update(request, resource, route, user, sub)

    def patch_sub(self, request: Request, resource: Resource, route: Route, user: User, sub: str) -> Answer:
        """PATCH of a subresource with the object's own kind."""
        return self._patch(request, resource, route, user, sub)

    def get_object(self, request: Request, resource: Resource, route: Route) -> Answer:
        return self._get(request, resource, route)

    def _delete(self, request: Request, resource: Resource, route: Route, user: User) -> Answer:
        options = delete_options(request)
        write = self.write_options(request, user)
        if options.dry_run:
            write = WriteOptions(user, write.manager, True, admission=write.admission)
        obj, gone = self.writer.delete(resource, route.namespace, route.name, options, write)
        if gone and not resource.strategy.delete_returns_object:
            return json_response(deleted_status(resource, obj))
        return self.rendered(request, resource, obj, 200, write)

    def _delete_collection(self, request: Request, resource: Resource, route: Route, user: User) -> Answer:
        options = delete_options(request)
        write = self.write_options(request, user)
        selection = Selection.of(request, resource)
        entries = [e for e in self.store.list(resource.storage, route.namespace) if selection.matches(e)]
        if write.admission is not None:
            for entry in entries:  # before any of them goes
                write.admission.validate(resource, write, None, self.writer.served(resource, entry))
        deleted = [self.writer.delete(resource, e.namespace, e.name, options, write)[0] for e in entries]
        body = Renderer(resource, negotiate(request), self.clock).list(
            deleted, {"resourceVersion": str(self.store.revision)}
        )
        return json_response(body)

    def _review(self, request: Request, resource: Resource, route: Route, about: Attributes, user: User) -> Answer:
        if about.verb != "create":
            raise errors.method_not_allowed()
        obj = decode_object(request, resource, Strictness("Ignore"))
        return json_response(self._reviews.answer(resource.kind.kind, obj, user, route.namespace), 201)

    @property
    def door(self) -> NodeDoor:
        return self._door


def _bind(wrap: Middleware, inner: Handler) -> Handler:
    async def bound(request: Request) -> Answer:
        return await wrap(request, inner)

    return bound


def failure_response(failure: errors.ApiFailure) -> Response:
    """A Status answer; fault-injecting middleware uses it too."""
    headers = dict(failure.headers)
    retry = failure.details.get("retryAfterSeconds")
    if retry and "retry-after" not in headers:
        headers["retry-after"] = str(retry)
    return json_response(failure.status(), failure.code, headers)


def with_warnings(headers: Mapping[str, str], *texts: str) -> dict[str, str]:
    """`headers` that warn of `texts` first, each once."""
    said = [f"299 - {quoted(text)}" for text in dict.fromkeys(texts)]
    if "warning" in headers:
        said.append(headers["warning"])
    return {**headers, "warning": ", ".join(said)} if said else dict(headers)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
