"""pods/log, exec, attach, portforward and the two proxies: the API server as a door to what pods do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import orjson

from agentops.local.apiserver import errors, port_forward
from agentops.local.apiserver.http import Answer, Request, Response, Stream, WebSocket, WebSocketUpgrade
from agentops.local.apiserver.node import ExecProcess, LogOptions, NodeStreamError, NodeStreams
from agentops.local.apiserver.reads import integer
from agentops.local.apiserver.store import Store

Object = dict[str, Any]

CHANNELS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "trailers",
     "transfer-encoding", "upgrade", "host", "authorization", "content-length")
)  # fmt: skip
_KILL_S = 5.0


class NodeDoor:
    """The streaming subresources. `node` may come later; until then they answer 503."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.node: NodeStreams | None = None

    # logs

    async def logs(self, request: Request, namespace: str, name: str) -> Answer:
        pod = self._pod(namespace, name)
        container = self._container(pod, request.arg("container"))
        if not (pod.get("spec") or {}).get("nodeName"):
            return Response(204, b"", {"content-type": "text/plain"})
        options = LogOptions(
            container=container,
            follow=request.flag("follow"),
            previous=request.flag("previous"),
            timestamps=request.flag("timestamps"),
            tail_lines=_whole(request, "tailLines"),
            since_seconds=_whole(request, "sinceSeconds"),
            since_time=request.arg("sinceTime") or None,
            limit_bytes=_whole(request, "limitBytes"),
        )
        first = b""
        try:
            chunks = self.kubelet().logs(namespace, name, options)
            iterator = chunks.__aiter__()
            if not options.follow:
                # Without follow the first slice comes at once, so an error can still be a Status.
                first = await anext(iterator, b"")
        except NodeStreamError as error:
            raise _failure(error) from error

        async def body() -> AsyncIterator[bytes]:
            try:
                yield first
                async for chunk in iterator:
                    yield chunk
            except NodeStreamError as error:
                yield f"{error}\n".encode()
            finally:
                close = getattr(chunks, "aclose", None)
                if close is not None:
                    await close()

        return Stream(body, 200, {"content-type": "text/plain"})

    # exec and attach

    def exec(self, request: Request, namespace: str, name: str, *, attach: bool) -> Answer:
        pod = self._pod(namespace, name)
        container = self._container(pod, request.arg("container"))
        command = request.args("command")
        if not attach and not command:
            raise errors.bad_request("you must specify at least one command for the container")
        phase = (pod.get("status") or {}).get("phase")
        if phase in ("Succeeded", "Failed"):
            what = "attach" if attach else "exec into"
            raise errors.bad_request(f"cannot {what} a container in a completed pod; current phase is {phase}")
        if not (pod.get("spec") or {}).get("nodeName"):
            raise errors.bad_request(f"pod {name} does not have a host assigned")
        if request.header("upgrade").lower() != "websocket":
            raise errors.bad_request("Upgrade request required")
        node = self.kubelet()
        stdin, tty = request.flag("stdin"), request.flag("tty")

        async def serve(socket: WebSocket) -> None:
            try:
                if attach:
                    process = await node.attach(namespace, name, container, stdin=stdin, tty=tty)
                else:
                    process = await node.exec(namespace, name, container, command, stdin=stdin, tty=tty)
            except NodeStreamError as error:
                await _finish(socket, _failure(error).status())
                return
            await _pump(socket, process, stdin=stdin, tty=tty, attached=attach)

        return WebSocketUpgrade(CHANNELS, serve)

    def port_forward(self, request: Request, namespace: str, name: str) -> Answer:
        """Raises ApiFailure 400, 404; a port that nobody listens on is told inside the tunnel."""
        pod = self._pod(namespace, name)
        phase = (pod.get("status") or {}).get("phase", "Pending")
        if phase != "Running":
            raise errors.bad_request(f"unable to forward port because pod is not running. Current status={phase}")
        ports = port_forward.parse_ports(request.args("ports"))
        if ports is None:
            raise errors.bad_request(f"ports must be numbers from 1 to 65535, not {request.arg('ports')!r}")
        if request.header("upgrade").lower() != "websocket":
            raise errors.bad_request("Upgrade request required")

        def dial(port: int) -> tuple[str, int]:
            return self._dial(namespace, name, self._pod(namespace, name), port)

        async def serve(socket: WebSocket) -> None:
            await port_forward.serve(socket, dial, ports)

        return WebSocketUpgrade(port_forward.PROTOCOLS, serve)

    # proxies

    async def proxy_pod(self, request: Request, namespace: str, name: str, rest: str) -> Answer:
        scheme, pod_name, port_text = _target(name)
        pod = self._pod(namespace, pod_name)
        port = self._pod_port(pod, port_text)
        host, dial_port = self._dial(namespace, pod_name, pod, port)
        return await forward(request, f"{scheme}://{_host(host)}:{dial_port}", rest)

    async def proxy_service(self, request: Request, namespace: str, name: str, rest: str) -> Answer:
        scheme, service_name, port_text = _target(name)
        entry = self._store.get("services", namespace, service_name)
        if entry is None:
            raise errors.not_found("", "services", service_name)
        ports = (entry.obj().get("spec") or {}).get("ports") or []
        chosen = next(
            (p for p in ports if port_text in (str(p.get("port")), p.get("name") or "")),
            ports[0] if ports and not port_text else None,
        )
        if chosen is None:
            raise errors.unavailable(f'no service port "{port_text}" found for service "{service_name}"')
        for address, port, pod_name in self._endpoints(namespace, service_name, chosen):
            if pod_name:
                pod = self._store.get("pods", namespace, pod_name)
                host, dial_port = self._dial(namespace, pod_name, pod.obj() if pod else {}, port)
            else:
                host, dial_port = address, port
            return await forward(request, f"{scheme}://{_host(host)}:{dial_port}", rest)
        raise errors.unavailable(f'no endpoints available for service "{service_name}"')

    def _endpoints(self, namespace: str, service: str, port: Object) -> list[tuple[str, int, str]]:
        found: list[tuple[str, int, str]] = []
        for entry in self._store.list("endpointslices.discovery.k8s.io", namespace):
            if entry.labels.get("kubernetes.io/service-name") != service:
                continue
            slice_ = entry.obj()
            number = next(
                (p.get("port") for p in slice_.get("ports") or () if (p.get("name") or "") == (port.get("name") or "")),
                None,
            )
            if number is None:
                continue
            for endpoint in slice_.get("endpoints") or ():
                if (endpoint.get("conditions") or {}).get("ready") is False:
                    continue
                target = endpoint.get("targetRef") or {}
                pod = target.get("name", "") if target.get("kind") == "Pod" else ""
                found += [(address, number, pod) for address in endpoint.get("addresses") or ()]
        return found

    def _pod_port(self, pod: Object, text: str) -> int:
        containers = (pod.get("spec") or {}).get("containers") or []
        if not text:
            ports = [p for c in containers for p in c.get("ports") or ()]
            return int(ports[0]["containerPort"]) if ports else 80
        numbers = port_forward.parse_ports([text])
        if numbers:
            return numbers[0]
        for container in containers:
            for port in container.get("ports") or ():
                if port.get("name") == text:
                    return int(port["containerPort"])
        raise errors.bad_request(f'no port named "{text}" in pod {pod["metadata"]["name"]}')

    def _dial(self, namespace: str, name: str, pod: Object, port: int) -> tuple[str, int]:
        if self.node is not None:
            try:
                return self.node.address(namespace, name, port)
            except NodeStreamError as error:
                raise _failure(error) from error
        address = (pod.get("status") or {}).get("podIP")
        if not address:
            raise errors.bad_request(f"address not allowed: pod {name} has no IP yet")
        return str(address), port

    # lookups

    def kubelet(self) -> NodeStreams:
        """Raises ApiFailure 503 while there is none."""
        if self.node is None:
            raise errors.unavailable("no kubelet is connected to this API server")
        return self.node

    def _pod(self, namespace: str, name: str) -> Object:
        entry = self._store.get("pods", namespace, name)
        if entry is None:
            raise errors.not_found("", "pods", name)
        return entry.obj()

    def _container(self, pod: Object, wanted: str) -> str:
        spec, name = pod.get("spec") or {}, pod["metadata"]["name"]
        regular = [c["name"] for c in spec.get("containers") or ()]
        init = [c["name"] for c in spec.get("initContainers") or ()]
        ephemeral = [c["name"] for c in spec.get("ephemeralContainers") or ()]
        if wanted:
            if wanted not in (*regular, *init, *ephemeral):
                raise errors.bad_request(f"container {wanted} is not valid for pod {name}")
            return wanted
        if len(regular) == 1:
            return str(regular[0])
        default = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
        if default in regular:
            return str(default)
        tail = f" or one of the init containers: [{' '.join(init)}]" if init else ""
        raise errors.bad_request(
            f"a container name must be specified for pod {name}, choose one of: [{' '.join(regular)}]{tail}"
        )


def _failure(error: NodeStreamError) -> errors.ApiFailure:
    reasons = {400: "BadRequest", 404: "NotFound", 500: "InternalError", 503: "ServiceUnavailable"}
    return errors.ApiFailure(error.code, reasons.get(error.code, "BadRequest"), str(error))


def _whole(request: Request, name: str) -> int | None:
    if not request.arg(name):
        return None
    number = integer(request, name)
    if number < 0:
        found = [errors.invalid_value(name, number, "must be greater than or equal to 0")]
        raise errors.invalid("", "PodLogOptions", "", found)
    return number


def _target(name: str) -> tuple[str, str, str]:
    """`[https:]name[:port]`."""
    parts = name.split(":")
    if len(parts) == 3:
        return parts[0] or "http", parts[1], parts[2]
    if len(parts) == 2 and parts[0] in ("http", "https"):
        return parts[0], parts[1], ""
    return "http", parts[0], parts[1] if len(parts) > 1 else ""


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


async def forward(request: Request, base: str, rest: str) -> Answer:
    """Send the request on and stream the answer back slice by slice.

    Credentials for the API server stay here: Authorization is dropped, as a real one does.
    """
    import httpx2

    headers = [(k, v) for k, v in request.headers.items() if k not in _HOP_BY_HOP]
    url = f"{base}/{rest}"
    client = httpx2.AsyncClient(trust_env=False, timeout=httpx2.Timeout(None, connect=10.0), follow_redirects=False)
    try:
        outgoing = client.build_request(
            request.method, url, params=list(request.query) or None, headers=headers, content=request.body or None
        )
        # The caller's own list stands; a client library's defaults would invite compression nobody asked for.
        if "accept-encoding" not in request.headers:
            outgoing.headers["accept-encoding"] = "identity"
        answer = await client.send(outgoing, stream=True)
    except httpx2.HTTPError as error:
        await client.aclose()
        raise errors.unavailable(f"error trying to reach service: {error or type(error).__name__}") from error
    except BaseException:
        with anyio.CancelScope(shield=True), anyio.move_on_after(1):
            await client.aclose()
        raise

    async def body() -> AsyncIterator[bytes]:
        try:
            async for chunk in answer.aiter_raw():
                yield chunk
        except httpx2.HTTPError:
            return  # the backend broke off; the client sees a short body
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await answer.aclose()
                await client.aclose()

    kept = {k.lower(): v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
    if "content-length" in answer.headers:
        kept["content-length"] = answer.headers["content-length"]
    return Stream(body, answer.status_code, kept)


# the channel protocol


async def _finish(socket: WebSocket, status: Object) -> None:
    await socket.send(b"\x03" + orjson.dumps(status))
    await socket.close()


async def _pump(socket: WebSocket, process: ExecProcess, *, stdin: bool, tty: bool, attached: bool) -> None:
    """Move bytes both ways until the process ends or the client goes.

    An attached stream ends well whatever the program's exit code is: that code is the pod's, and kubectl takes a
    failure for one of the stream. Leaving it leaves the program alone.
    """
    finished = False
    try:
        async with anyio.create_task_group() as tasks:

            async def incoming() -> None:
                while True:
                    message = await socket.receive()
                    if message is None:
                        tasks.cancel_scope.cancel()
                        return
                    if not message:
                        continue
                    channel, data = message[0], message[1:]
                    if channel == 0 and stdin and data:
                        await process.write_stdin(data)
                    elif channel == 255 and data[:1] == b"\x00":
                        await process.close_stdin()
                    elif channel == 4:
                        for line in data.splitlines():
                            size = _terminal_size(line)
                            if size is not None:
                                await process.resize(*size)

            tasks.start_soon(incoming)
            async for channel, data in process.output():
                await socket.send(bytes([1 if tty else channel]) + data)
            code = await process.wait()
            finished = True
            await _finish(socket, _exit_status(0 if attached else code))
            tasks.cancel_scope.cancel()
    finally:
        if not attached and not finished:
            with anyio.CancelScope(shield=True), anyio.move_on_after(_KILL_S):
                await process.kill()


def _terminal_size(line: bytes) -> tuple[int, int] | None:
    """Width and height of one resize message; None for one that makes no sense, which changes nothing."""
    try:
        size = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(size, dict):
        return None
    found = size.get("Width"), size.get("Height")
    width, height = (v if isinstance(v, int) and 0 <= v <= 0xFFFF else -1 for v in found)
    return None if width < 0 or height < 0 else (width, height)


def _exit_status(code: int) -> Object:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }
