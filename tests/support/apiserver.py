"""Speaking to the API server's core without sockets: requests in, decoded answers out."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import orjson
from attrs import frozen

from agentops.local.apiserver import ADMIN, ApiServer, Request, Response, ServerOptions, Stream, User

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """Wall time that moves when the test says so."""

    def __init__(self) -> None:
        self._now = EPOCH

    def now(self) -> datetime:
        return self._now

    def boottime(self) -> float:
        return (self._now - EPOCH).total_seconds()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


@frozen
class Reply:
    """A decoded answer."""

    status: int
    body: Any
    headers: dict[str, str]

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))

    @property
    def reason(self) -> str:
        return str(self.body.get("reason", ""))

    @property
    def warnings(self) -> str:
        return self.headers.get("warning", "")


class Api:
    """One server and one user."""

    def __init__(self, server: ApiServer, user: User | None = ADMIN) -> None:
        self.server = server
        self.user = user

    async def call(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json", **headers: str
    ) -> Reply:
        """`path` may have a query. Header names are written with underscores."""
        answer = await self.server.handle(self.request(method, path, body, content_type=content_type, **headers))
        if isinstance(answer, Stream):
            iterator = answer.open()
            data = b"".join([chunk async for chunk in iterator])
            return Reply(answer.status, data, dict(answer.headers))
        assert isinstance(answer, Response), answer
        decoded: Any = answer.body
        if "json" in answer.headers.get("content-type", "") and answer.body:
            decoded = orjson.loads(answer.body)
        return Reply(answer.status, decoded, dict(answer.headers))

    def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json", **headers: str
    ) -> Request:
        from urllib.parse import parse_qsl

        bare, _, query = path.partition("?")
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        data = b""
        if body is not None:
            sent["content-type"] = content_type
            data = body if isinstance(body, bytes) else orjson.dumps(body)
        return Request(method, bare, tuple(parse_qsl(query, keep_blank_values=True)), sent, data, self.user)

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.call("GET", path, **headers)

    async def post(self, path: str, body: Any, **headers: str) -> Reply:
        return await self.call("POST", path, body, **headers)

    async def put(self, path: str, body: Any, **headers: str) -> Reply:
        return await self.call("PUT", path, body, **headers)

    async def delete(self, path: str, body: Any = None) -> Reply:
        return await self.call("DELETE", path, body)

    async def patch(self, path: str, body: Any, kind: str = "merge", **headers: str) -> Reply:
        types = {
            "merge": "application/merge-patch+json",
            "json": "application/json-patch+json",
            "strategic": "application/strategic-merge-patch+json",
            "apply": "application/apply-patch+yaml",
        }
        return await self.call("PATCH", path, body, content_type=types[kind], **headers)

    async def apply(self, path: str, body: Any, manager: str, *, force: bool = False) -> Reply:
        mark = "&" if "?" in path else "?"
        return await self.patch(f"{path}{mark}fieldManager={manager}&force={str(force).lower()}", body, "apply")

    async def watch(self, path: str, **headers: str) -> Watch:
        """Open a watch; `path` has the query without `watch=true`."""
        mark = "&" if "?" in path else "?"
        answer = await self.server.handle(self.request("GET", f"{path}{mark}watch=true", **headers))
        assert isinstance(answer, Stream), orjson.loads(answer.body)  # type: ignore[union-attr]
        return Watch(answer)


class Watch:
    """Decoded events of one watch."""

    def __init__(self, stream: Stream) -> None:
        self.status = stream.status
        self._body: AsyncIterator[bytes] = stream.open()
        self._lines: list[bytes] = []

    async def next(self, within_s: float = 5.0) -> dict[str, Any]:
        """The next event. Raises TimeoutError, StopAsyncIteration."""
        with anyio.fail_after(within_s):
            while not self._lines:
                self._lines = [line for line in (await anext(self._body)).split(b"\n") if line]
        found: dict[str, Any] = orjson.loads(self._lines.pop(0))
        return found

    async def take(self, count: int) -> list[tuple[str, str]]:
        """(type, name) of the next events."""
        events = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]

    async def rest(self, within_s: float = 5.0) -> list[dict[str, Any]]:
        """Everything until the server ends the stream."""
        found = []
        while True:
            try:
                found.append(await self.next(within_s))
            except StopAsyncIteration:
                return found

    async def close(self) -> None:
        await self._body.aclose()  # type: ignore[attr-defined]


def make_server(clock: Any = None, **options: Any) -> ApiServer:
    """A bootstrapped server in memory that asks for no ServiceAccounts and serves CRDs at once."""
    defaults: dict[str, Any] = {"require_service_account": False, "crd_established_delay_s": 0.0}
    server = ApiServer(ServerOptions(**{**defaults, **options}), clock=clock, rng=random.Random(7))
    server.open()
    server.bootstrap()
    return server


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def pod(name: str, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "main", "image": "agentops:1"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers, **spec}}


def deployment(name: str, image: str = "agentops:1") -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": image}]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def widget_crd(**spec: Any) -> dict[str, Any]:
    """A CRD with every feature the tests need: defaults, keyed list, CEL, status, scale, columns."""
    tool = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "to": {"type": "string"}},
    }
    schema = {
        "type": "object",
        "required": ["spec"],
        "properties": {
            "spec": {
                "type": "object",
                "required": ["model"],
                "x-kubernetes-validations": [
                    {"rule": "!has(self.tools) || size(self.tools) <= 3", "message": "at most 3 tools"},
                    {"rule": "self.model == oldSelf.model", "message": "model is immutable"},
                ],
                "properties": {
                    "model": {"type": "string", "minLength": 2},
                    "temp": {"type": "string", "pattern": "^[0-9.]+$"},
                    "mode": {"type": "string", "enum": ["daemon", "task"], "default": "daemon"},
                    "replicas": {"type": "integer", "minimum": 0},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                    "args": {"type": "array", "items": {"type": "string"}},
                    "port": {"x-kubernetes-int-or-string": True},
                    "tools": {
                        "type": "array",
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["name"],
                        "items": tool,
                    },
                },
            },
            "status": {
                "type": "object",
                "properties": {"phase": {"type": "string"}, "replicas": {"type": "integer"}},
            },
        },
    }
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {
            "status": {},
            "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
        },
        "additionalPrinterColumns": [
            {"name": "Model", "type": "string", "jsonPath": ".spec.model"},
            {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ],
        "selectableFields": [{"jsonPath": ".spec.mode"}],
    }
    names = {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]}
    body = {"group": "test.example.com", "scope": "Namespaced", "names": names, "versions": [version], **spec}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.test.example.com"},
        "spec": body,
    }


def widget(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "test.example.com/v1",
        "kind": "Widget",
        "metadata": {"name": name},
        "spec": {"model": "gpt", **spec},
    }


CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WIDGETS = "/apis/test.example.com/v1/namespaces/default/widgets"
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"


async def serve_widgets(api: Api) -> None:
    """Create the CRD and establish it now."""
    reply = await api.post(CRDS, widget_crd())
    assert reply.status == 201, reply
    api.server.custom.establish_now()
