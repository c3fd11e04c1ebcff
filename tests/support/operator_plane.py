"""The operator on the plane's API server and controllers, in this process; the test is kubelet and agent pod."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import yaml
from support.operator import NAMESPACE
from support.plane import ApiPlane, api_plane, eventually

from agentops.api.codec import dumps
from agentops.api.crds import crds
from agentops.api.kinds import AGENT, AGENT_RUN, PROVIDER
from agentops.api.runs import RunRecord, RunState
from agentops.kube.client import ApiClient
from agentops.kube.errors import NotFound, TransportError
from agentops.kube.kinds import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, CRD, EVENTS_V1, POD, ROLE, ROLE_BINDING
from agentops.kube.kinds import NAMESPACE as NAMESPACE_KIND
from agentops.kube.transport import Query, Response, Transport
from agentops.operator.app import Operator
from agentops.operator.options import OperatorOptions
from agentops.values.kinds import Kind

IMAGE = "agentops:test"
RBAC_MANIFEST = Path(__file__).resolve().parents[2] / "manifests" / "base" / "rbac.yaml"


class WriteLog:
    """A transport that notes every request that writes."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.writes: list[str] = []
        self.lose: Callable[[str, bytes], str] = lambda path, body: ""
        """Called with path and body of every write: which part of it gets lost, the `request`, the `answer` or none."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float | None = 30.0,
    ) -> Response:
        lost = ""
        if method != "GET" and "/events" not in path:
            self.writes.append(f"{method} {path}")
            lost = self.lose(path, body or b"")
        if lost == "request":
            raise TransportError(f"{method} {path}: connection reset")
        answer = await self._inner.request(method, path, query=query, headers=headers, body=body, timeout_s=timeout_s)
        if lost == "answer":
            raise TransportError(f"{method} {path}: no answer")
        return answer

    def stream(self, method: str, path: str, **options: Any) -> Any:
        return self._inner.stream(method, path, **options)

    async def aclose(self) -> None:
        await self._inner.aclose()


class FakeRuntime:
    """The HTTP side of agent pods and model endpoints, by `httpx2.MockTransport`.

    Runs stay running until `finish`; `busy` answers prompts by 429; `endpoint` answers GET …/models.
    """

    def __init__(self) -> None:
        self.records: dict[str, RunRecord] = {}
        self.prompts: list[str] = []
        self.headers: list[httpx2.Headers] = []
        self.aborted: list[str] = []
        self.busy = False
        self.endpoint = 200
        self.deaf_to_abort = False
        self.bearer: str | None = None
        """When set, every other one is answered by 401."""

    def finish(self, run: str, output: str = "hi", **fields: Any) -> None:
        self.records[run] = RunRecord(name=run, state=RunState.SUCCEEDED, output=output, **fields)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if path.endswith("/models"):
            return httpx2.Response(self.endpoint)
        if self.bearer is not None and request.headers.get("authorization") != f"Bearer {self.bearer}":
            return httpx2.Response(401, json={"error": "wrong bearer"})
        if path == "/prompt":
            return self._prompt(request)
        if path == "/abort":
            return self._abort(request)
        found = re.fullmatch(r"/runs/([^/]+)", path)
        record = self.records.get(found.group(1)) if found else None
        return httpx2.Response(200, content=dumps(record)) if record else httpx2.Response(404, json={"error": "no run"})

    def _prompt(self, request: httpx2.Request) -> httpx2.Response:
        if self.busy:
            return httpx2.Response(429, json={"error": "agent is busy"})
        run = request.headers["X-AgentOps-Run-Name"]
        self.prompts.append(run)
        self.headers.append(request.headers)
        self.records.setdefault(run, RunRecord(name=run))
        return httpx2.Response(202, json={"run": run})

    def _abort(self, request: httpx2.Request) -> httpx2.Response:
        run = request.headers["X-AgentOps-Run-Name"]
        self.aborted.append(run)
        if not self.deaf_to_abort and run in self.records:
            self.records[run] = RunRecord(name=run, state=RunState.FAILED, reason="Aborted", error="aborted")
        return httpx2.Response(200, json={"ok": True})

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.MockTransport(self))


class FakeNode:
    """`NodeStreams` for pods/log: text by pod name."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    async def logs(self, namespace: str, pod: str, options: Any) -> AsyncIterator[bytes]:
        yield self.texts.get(pod, "").encode()


class OperatorPlane:
    """What a test of the operator works with."""

    def __init__(self, plane: ApiPlane) -> None:
        self.plane = plane
        self.client: ApiClient = plane.client
        self.runtime = FakeRuntime()
        self.node = FakeNode()
        self.log = WriteLog(plane.transport_as("system:serviceaccount:agent-system:agentops-operator"))
        plane.server.node = self.node  # type: ignore[assignment]

    @asynccontextmanager
    async def operator(self, **options: Any) -> AsyncIterator[Operator]:
        """A running operator; leaving stops it as SIGTERM would."""
        settings = OperatorOptions(**{"metrics_bind": None, "probes_bind": None, "grace_s": 2.0, **options})
        operator = Operator(self.log, settings, runtime_image=IMAGE, http=self.runtime.client)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(operator.run)
            await operator.manager.elected.wait()
            yield operator
            tasks.cancel_scope.cancel()

    async def create(self, *objects: Mapping[str, Any]) -> None:
        for obj in objects:
            kind = next(kind for kind in (AGENT, AGENT_RUN, PROVIDER, *_OTHERS) if kind.matches(obj))
            await self.client.create(kind, obj)

    async def get(self, kind: Kind, name: str) -> dict[str, Any]:
        return await self.client.get(kind, name, NAMESPACE)

    async def absent(self, kind: Kind, name: str) -> bool:
        try:
            await self.get(kind, name)
        except NotFound:
            return True
        return False

    async def until(
        self, kind: Kind, name: str, check: Callable[[dict[str, Any]], Any], timeout_s: float = 30.0
    ) -> dict[str, Any]:
        """The object, once `check` holds for it."""
        last: dict[str, Any] = {}

        async def look() -> dict[str, Any] | None:
            nonlocal last
            last = await self.get(kind, name)
            return last if check(last) else None

        try:
            found: dict[str, Any] = await eventually(look, timeout_s=timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{kind.kind} {name}: {error}; status: {last.get('status')}") from error
        return found

    async def patch(self, kind: Kind, name: str, patch: dict[str, Any], **options: Any) -> None:
        await self.client.patch(kind, name, patch, NAMESPACE, **options)

    async def loosen(self, kind: Kind, change: Callable[[dict[str, Any]], Any]) -> None:
        """Let the API server take what the CRD of `kind` refuses: `change` edits the schema of its spec in place."""
        crd = await self.client.get(CRD, kind.resource)
        change(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"])
        await self.client.update(CRD, crd)

    async def gone(self, kind: Kind, name: str, timeout_s: float = 30.0) -> None:
        async def look() -> bool:
            return await self.absent(kind, name)

        await eventually(look, timeout_s=timeout_s)

    async def pods(self, component: str, agent: str = "hello") -> list[dict[str, Any]]:
        selector = f"agents.agentops.io/agent={agent},agents.agentops.io/component={component}"
        pods = await self.client.list(POD, NAMESPACE, labels=selector)
        return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]

    async def start_daemon(self, agent: str = "hello") -> str:
        """Play kubelet until the agent is Running; the name of its pod."""
        name = ""

        async def ready() -> bool:
            nonlocal name
            for old in await self.client.list(POD, NAMESPACE, labels=f"agents.agentops.io/agent={agent}"):
                if old["metadata"].get("deletionTimestamp"):
                    await self.plane.finish_deletion(NAMESPACE, old["metadata"]["name"])
            for pod in await self.pods("runtime", agent):
                name = pod["metadata"]["name"]
                if (pod.get("status") or {}).get("phase") != "Running":
                    await self.plane.set_pod(NAMESPACE, name)
            found = await self.get(AGENT, agent)
            return (
                phase(found) == "Running" and found["status"]["observedGeneration"] == found["metadata"]["generation"]
            )

        await eventually(ready, timeout_s=30.0)
        return name

    async def end_task(self, run: str, log: str, phase: str = "Succeeded", agent: str = "scribe") -> None:
        """Play kubelet for a run's Job: its pod prints `log` and ends."""

        async def pod_of_run() -> dict[str, Any] | None:
            pods = await self.pods("task-run", agent)
            return next((pod for pod in pods if pod["metadata"]["labels"]["agents.agentops.io/run"] == run), None)

        pod = await eventually(pod_of_run)
        self.node.texts[pod["metadata"]["name"]] = log
        await self.plane.set_pod(NAMESPACE, pod["metadata"]["name"])
        await self.plane.set_pod(NAMESPACE, pod["metadata"]["name"], phase=phase)

    async def event_reasons(self, name: str) -> list[str]:
        events = await self.client.list(EVENTS_V1, NAMESPACE)
        return [event["reason"] for event in events if event["regarding"]["name"] == name]

    async def quiet(self, seconds: float = 1.0) -> Sequence[str]:
        """Writes of the operator over a while in which nothing changes."""
        await eventually(self._settled)
        before = len(self.log.writes)
        await anyio.sleep(seconds)
        return self.log.writes[before:]

    async def _settled(self) -> bool:
        before = len(self.log.writes)
        await anyio.sleep(0.3)
        return len(self.log.writes) == before


async def grant_operator(client: ApiClient) -> None:
    """The operator's rights, as its manifests give them."""
    await client.create(NAMESPACE_KIND, {"metadata": {"name": "agent-system"}})
    kinds = {kind.kind: kind for kind in (CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING)}
    for manifest in yaml.safe_load_all(RBAC_MANIFEST.read_text()):
        kind = kinds.get(manifest["kind"])
        if kind is not None:
            await client.create(kind, manifest, namespace=manifest["metadata"].get("namespace", ""))


@asynccontextmanager
async def operator_plane(tmp_path: Path) -> AsyncIterator[OperatorPlane]:
    """An API server with the CRDs and the namespace; start the operator with `.operator()`."""
    async with api_plane(tmp_path) as plane:
        for crd in crds():
            await plane.client.create(CRD, crd)
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        await plane.client.create(NAMESPACE_KIND, namespace)
        await grant_operator(plane.client)

        async def served() -> bool:
            return isinstance(await plane.client.list(AGENT_RUN, NAMESPACE), list)

        await eventually(served)
        yield OperatorPlane(plane)


def phase(obj: Mapping[str, Any]) -> str:
    return str((obj.get("status") or {}).get("phase", ""))


def condition(obj: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    """The condition, or an empty mapping."""
    found = (obj.get("status") or {}).get("conditions") or ()
    return next((item for item in found if item["type"] == type_), {})


def has(type_: str, status: str, reason: str | None = None) -> Callable[[dict[str, Any]], bool]:
    """A check for `until`."""

    def check(obj: dict[str, Any]) -> bool:
        found = condition(obj, type_)
        return found.get("status") == status and (reason is None or found.get("reason") == reason)

    return check


def _others() -> tuple[Kind, ...]:
    from agentops.api.kinds import AGENT_RESOURCE, AGENT_TOOL, CHANNEL
    from agentops.kube.kinds import CONFIG_MAP, DEPLOYMENT, SECRET, SERVICE

    return AGENT_RESOURCE, AGENT_TOOL, CHANNEL, CONFIG_MAP, DEPLOYMENT, SECRET, SERVICE


_OTHERS = _others()
Step = Callable[[], Awaitable[Any]]
