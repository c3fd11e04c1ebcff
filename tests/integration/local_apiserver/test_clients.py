"""Other clients over TLS: our own, the Python client, curl-like ones; and a crash."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import orjson
import pytest
from aiohttp import web
from support.apiserver import Api, config_map, pod
from support.usage import METRICS, metered

from agentops.kube import AiohttpTransport, ApiClient, load_config
from agentops.kube.kinds import CONFIG_MAP, POD
from agentops.local.apiserver.node import LogOptions

pytestmark = pytest.mark.anyio


class Node:
    """A kubelet that only knows where to dial, and one exec."""

    def __init__(self, port: int) -> None:
        self.port = port

    def address(self, namespace: str, pod: str, port: int) -> tuple[str, int]:
        return "127.0.0.1", self.port

    async def logs(self, namespace: str, pod: str, options: LogOptions) -> AsyncIterator[bytes]:
        for number in range(3):
            yield f"line {number}\n".encode()

    async def exec(self, namespace: str, pod: str, container: str, command: Any, *, stdin: bool, tty: bool) -> Any:
        return Echo(command)

    attach = exec


class Echo:
    """Prints its command, echoes stdin, exits with 4."""

    def __init__(self, command: Any) -> None:
        self._command = command
        self._send, self._receive = anyio.create_memory_object_stream[bytes](100)

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        yield 1, " ".join(self._command).encode() + b"\n"
        async with self._receive:
            async for data in self._receive:
                yield 1, data

    async def write_stdin(self, data: bytes) -> None:
        await self._send.send(data)

    async def close_stdin(self) -> None:
        self._send.close()

    async def resize(self, width: int, height: int) -> None: ...

    async def wait(self) -> int:
        return 4

    async def kill(self) -> None:
        self._send.close()
        self._receive.close()


@pytest.fixture
async def backend() -> AsyncIterator[tuple[int, list[Any]]]:
    """A pod's HTTP server: /echo answers what came, /events streams until told."""
    seen: list[Any] = []
    more = anyio.Event()

    async def echo(request: web.Request) -> web.Response:
        seen.append((request.method, request.path_qs, dict(request.headers), await request.read()))
        return web.json_response({"method": request.method}, status=207, headers={"x-pod": "yes"})

    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await more.wait()
        await response.write(b"data: 2\n\n")
        return response

    async def go(request: web.Request) -> web.Response:
        more.set()
        return web.Response()

    app = web.Application()
    app.router.add_route("GET", "/events", events)
    app.router.add_route("POST", "/go", go)
    app.router.add_route("*", "/{rest:.*}", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    yield port, seen
    more.set()
    await runner.cleanup()


def tls(cluster: Any) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(cluster.ca_path))


async def running_pod(cluster: Any, port: int) -> None:
    cluster.server.node = Node(port)
    async with AiohttpTransport(await load_config(str(cluster.kubeconfig))) as transport:
        body = pod("p", nodeName="n")
        body["metadata"]["namespace"] = "default"
        body["spec"]["containers"][0]["ports"] = [{"containerPort": 4096, "name": "http"}]
        await ApiClient(transport).create(POD, body)


async def test_our_client_reads_writes_and_watches_over_tls(cluster: Any) -> None:
    async with AiohttpTransport(await load_config(str(cluster.kubeconfig))) as transport:
        client = ApiClient(transport)
        body = config_map("a", k="1")
        body["metadata"]["namespace"] = "default"
        query = [("watch", "true"), ("allowWatchBookmarks", "true")]
        async with transport.stream("GET", CONFIG_MAP.path("default"), query=query) as answer:
            assert answer.status == 200
            await client.create(CONFIG_MAP, body)
            with anyio.fail_after(5):
                chunk = await anext(answer.chunks())
        assert orjson.loads(chunk)["type"] == "ADDED"
        with anyio.fail_after(5):
            while cluster.server.watches.count:
                await anyio.lowlevel.checkpoint()


async def test_the_python_client_lists_patches_and_watches(cluster: Any) -> None:
    from kubernetes import client, config, watch

    def work() -> list[Any]:
        api = client.CoreV1Api(config.new_client_from_config(str(cluster.kubeconfig)))
        api.create_namespaced_config_map("default", client.V1ConfigMap(metadata={"name": "a"}, data={"k": "1"}))
        api.patch_namespaced_config_map("a", "default", {"data": {"k": "2"}})
        found = [c.data for c in api.list_namespaced_config_map("default").items if c.metadata.name == "a"]
        events = watch.Watch().stream(api.list_namespaced_config_map, "default", timeout_seconds=1)
        seen = [event["type"] for event in events]
        api.api_client.rest_client.pool_manager.clear()
        return [*found, *seen]

    with anyio.fail_after(30):
        assert await anyio.to_thread.run_sync(work) == [{"k": "2"}, "ADDED"]


async def test_tokens_and_certificates_decide_who_asks(cluster: Any) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls(cluster))) as session:
        async with session.get(f"{cluster.url}/readyz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok")
        async with session.get(f"{cluster.url}/api/v1/pods") as answer:
            assert answer.status == 403
        for token, code in (("an-admin-token", 200), ("wrong", 401)):
            headers = {"Authorization": f"Bearer {token}"}
            async with session.get(f"{cluster.url}/api/v1/pods", headers=headers) as answer:
                assert answer.status == code
    await cluster.kubectl("create", "serviceaccount", "bot")
    token = (await cluster.kubectl("create", "token", "bot")).stdout.strip()
    config = orjson.loads(cluster.kubeconfig.read_bytes())
    config["users"][0]["user"] = {"token": token}
    cluster.kubeconfig.write_bytes(orjson.dumps(config))
    assert "system:serviceaccount:default:bot" in (await cluster.kubectl("auth", "whoami")).stdout


async def test_a_slow_watcher_does_not_hold_up_writers(cluster: Any) -> None:
    """The reader stops reading: its stream ends, everybody else goes on."""
    async with AiohttpTransport(await load_config(str(cluster.kubeconfig))) as transport:
        client = ApiClient(transport)
        async with transport.stream("GET", CONFIG_MAP.path("default"), query=[("watch", "true")]):
            for number in range(40):
                body = config_map(f"n{number}", k="x" * 200_000)
                body["metadata"]["namespace"] = "default"
                with anyio.fail_after(10):
                    await client.create(CONFIG_MAP, body)


async def test_pods_proxy_passes_methods_bodies_and_headers_but_no_credentials(
    cluster: Any, backend: tuple[int, list[Any]]
) -> None:
    port, seen = backend
    await running_pod(cluster, port)
    base = f"{cluster.url}/api/v1/namespaces/default/pods/p:http/proxy"
    headers = {"Authorization": "Bearer an-admin-token", "X-AgentOps-Token": "agent"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls(cluster)), headers=headers) as session:
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
            async with session.request(method, f"{base}/a/b?x=1&y=2", data=b"body") as answer:
                assert (answer.status, answer.headers["x-pod"]) == (207, "yes")
                assert await answer.json() == {"method": method}
        method, path, got, body = seen[1]
        assert (method, path, body) == ("POST", "/a/b?x=1&y=2", b"body")
        assert got["x-agentops-token"] == "agent"
        assert "authorization" not in {name.lower() for name in got}


async def test_pods_proxy_streams_without_waiting_for_the_end(cluster: Any, backend: tuple[int, list[Any]]) -> None:
    port, _ = backend
    await running_pod(cluster, port)
    base = f"{cluster.url}/api/v1/namespaces/default/pods/p:4096/proxy"
    headers = {"Authorization": "Bearer an-admin-token"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls(cluster)), headers=headers) as session:
        with anyio.fail_after(10):
            async with session.get(f"{base}/events") as answer:
                assert answer.content_type == "text/event-stream"
                assert await answer.content.readline() == b"data: 1\n"
                async with session.post(f"{base}/go") as told:
                    assert told.status == 200
                assert await answer.content.read() == b"\ndata: 2\n\n"


async def test_services_proxy_finds_a_ready_endpoint(cluster: Any, backend: tuple[int, list[Any]]) -> None:
    port, seen = backend
    await running_pod(cluster, port)
    await cluster.kubectl("expose", "pod", "p", "--port=80", "--name=svc", "--selector=a=b")
    path = "/api/v1/namespaces/default/services/svc:80/proxy/hello"
    none = await cluster.kubectl("get", "--raw", path, ok=False)
    assert 'no endpoints available for service "svc"' in none.stderr
    slices = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "svc-1", "labels": {"kubernetes.io/service-name": "svc"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.65.0.9"], "targetRef": {"kind": "Pod", "name": "p"}}],
        "ports": [{"port": 4096}],
    }
    await cluster.kubectl("apply", "-f", "-", stdin=orjson.dumps(slices).decode())
    await cluster.kubectl("get", "--raw", path)
    assert seen[-1][1] == "/hello"


async def test_an_unreachable_pod_is_unavailable(cluster: Any) -> None:
    await running_pod(cluster, 1)
    reply = await cluster.kubectl("get", "--raw", "/api/v1/namespaces/default/pods/p/proxy/", ok=False)
    assert "error trying to reach service" in reply.stderr


async def test_kubectl_logs_and_exec(cluster: Any) -> None:
    await running_pod(cluster, 1)
    assert (await cluster.kubectl("logs", "p")).stdout == "line 0\nline 1\nline 2\n"
    done = await cluster.kubectl("exec", "-i", "p", "--", "echo", "hi", stdin="from stdin", ok=False)
    assert done.returncode == 4
    assert done.stdout == "echo hi\nfrom stdin"


_SERVE = """
import sys, anyio
from pathlib import Path
from agentops.local.apiserver import ADMIN, ApiServer, Request, ServerOptions
async def main():
    with ApiServer(ServerOptions(db_path=Path(sys.argv[1]))) as server:
        server.bootstrap()
        for number in range(100000):
            body = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"n%d"}}' % number
            path = "/api/v1/namespaces/default/configmaps"
            answer = await server.handle(Request("POST", path, (), {"content-type": "application/json"}, body, ADMIN))
            assert answer.status == 201
            sys.stdout.write(f"{number} {server.store.revision}\\n")
            sys.stdout.flush()
anyio.run(main)
"""


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    from support.apiserver import Api, make_server

    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(tmp_path / "db")], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(300)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    acknowledged = [line.split() for line in lines if line.endswith("\n")]
    last, revision = int(acknowledged[-1][0]), int(acknowledged[-1][1])
    server = make_server(db_path=tmp_path / "db")
    assert server.store.revision >= revision
    api = Api(server)
    for number in range(last + 1):
        assert (await api.get(f"/api/v1/namespaces/default/configmaps/n{number}")).status == 200
    made = await api.post("/api/v1/namespaces/default/configmaps", config_map("after"))
    assert int(made.body["metadata"]["resourceVersion"]) > revision
    server.close()


async def test_a_body_that_is_not_what_its_encoding_says_is_a_bad_request(cluster: Any) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls(cluster))) as session:
        request = session.post(f"{cluster.url}/api/v1/namespaces", data=b"no gzip", headers=headers)
        async with request as answer:
            assert answer.status == 400
            assert "the request body cannot be read" in await answer.text()


async def test_anybody_who_may_reads_what_pods_use_over_http(cluster: Any) -> None:
    await metered(Api(cluster.server))
    context = ssl.create_default_context(cadata=cluster.ca_path.read_text())
    async with aiohttp.ClientSession(cluster.url, connector=aiohttp.TCPConnector(ssl=context)) as session:

        async def ask(method: str, path: str, **headers: str) -> tuple[int, Any]:
            async with session.request(method, path, headers=headers) as answer:
                return answer.status, await answer.json()

        admin = {"Authorization": "Bearer an-admin-token"}
        assert (await ask("GET", f"{METRICS}/pods"))[0] == 403
        status, pods = await ask("GET", f"{METRICS}/pods?labelSelector=app=web", **admin)
        assert (status, [p["metadata"]["name"] for p in pods["items"]]) == (200, ["web"])
        protobuf_first = {"Accept": "application/vnd.kubernetes.protobuf,application/json", **admin}
        status, one = await ask("GET", f"{METRICS}/namespaces/default/pods/web", **protobuf_first)
        assert (status, one["containers"][0]["usage"]) == (200, {"cpu": "1250m", "memory": "64Mi"})
        status, refused = await ask("DELETE", f"{METRICS}/namespaces/default/pods/web", **admin)
        assert (status, refused["reason"]) == (405, "MethodNotAllowed")
        status, group = await ask("GET", "/apis/metrics.k8s.io", **admin)
        assert (status, group["preferredVersion"]["groupVersion"]) == (200, "metrics.k8s.io/v1beta1")
