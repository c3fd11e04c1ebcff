"""Logs, exec and proxies through a kubelet of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import anyio
import orjson
import pytest
from support.apiserver import PODS, Api, pod

from agentops.local.apiserver import WebSocketUpgrade
from agentops.local.apiserver.node import LogOptions, NodeStreamError

pytestmark = pytest.mark.anyio


class Process:
    """Echoes stdin until it ends, then exits with a code."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.killed = False
        self.sizes: list[tuple[int, int]] = []
        self._send, self._receive = anyio.create_memory_object_stream[bytes](10)

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        yield 2, b"warning"
        async with self._receive:
            async for data in self._receive:
                yield 1, data.upper()

    async def write_stdin(self, data: bytes) -> None:
        await self._send.send(data)

    async def close_stdin(self) -> None:
        self._send.close()

    async def resize(self, width: int, height: int) -> None:
        self.sizes.append((width, height))

    async def wait(self) -> int:
        return self.code

    async def kill(self) -> None:
        self.killed = True
        self._send.close()
        self._receive.close()


class Node:
    def __init__(self, process: Process | None = None) -> None:
        self.process = process
        self.asked: LogOptions | None = None
        self.commands: list[Sequence[str]] = []

    async def logs(self, namespace: str, pod: str, options: LogOptions) -> AsyncIterator[bytes]:
        self.asked = options
        if options.previous:
            raise NodeStreamError(f'previous terminated container "{options.container}" in pod "{pod}" not found')
        yield b"one\n"
        yield b"two\n"

    async def exec(
        self, namespace: str, pod: str, container: str, command: Sequence[str], *, stdin: bool, tty: bool
    ) -> Process:
        self.commands.append(command)
        if self.process is None:
            raise NodeStreamError(f"container {container} is not running", 500)
        return self.process

    async def attach(self, namespace: str, pod: str, container: str, *, stdin: bool, tty: bool) -> Process:
        assert self.process is not None
        return self.process

    def address(self, namespace: str, pod: str, port: int) -> tuple[str, int]:
        raise NodeStreamError(f"pod {pod} has no address yet", 503)


class Socket:
    """A WebSocket whose client side is the test."""

    def __init__(self) -> None:
        self.protocol = "v5.channel.k8s.io"
        self.sent: list[bytes] = []
        self.closed = False
        self.to_server, self._incoming = anyio.create_memory_object_stream[bytes](10)

    async def receive(self) -> bytes | None:
        try:
            return await self._incoming.receive()
        except anyio.EndOfStream:
            return None

    async def send(self, data: bytes) -> None:
        self.sent.append(data)

    async def close(self) -> None:
        self.closed = True

    def drop(self) -> None:
        self.to_server.close()
        self._incoming.close()


async def running_pod(api: Api, node: Node) -> None:
    api.server.node = node
    await api.post(PODS, pod("p", nodeName="n"))


async def open_exec(api: Api, query: str, sub: str = "exec") -> WebSocketUpgrade:
    answer = await api.server.handle(api.request("GET", f"{PODS}/p/{sub}?{query}", upgrade="websocket"))
    assert isinstance(answer, WebSocketUpgrade), answer
    return answer


async def test_logs_come_as_text_with_the_options_asked_for(api: Api) -> None:
    node = Node()
    await running_pod(api, node)
    reply = await api.get(f"{PODS}/p/log?tailLines=5&timestamps=true&follow=true")
    assert reply.body == b"one\ntwo\n"
    assert reply.headers["content-type"] == "text/plain"
    assert node.asked == LogOptions(container="main", follow=True, timestamps=True, tail_lines=5)


async def test_what_the_kubelet_refuses_is_a_status(api: Api) -> None:
    await running_pod(api, Node())
    reply = await api.get(f"{PODS}/p/log?previous=true")
    assert (reply.status, reply.message) == (400, 'previous terminated container "main" in pod "p" not found')


class EagerNode(Node):
    """Refuses before the first byte, as the kubelet does for a container that has not started."""

    def logs(self, namespace: str, pod: str, options: LogOptions) -> AsyncIterator[bytes]:
        raise NodeStreamError(f'container "{options.container}" in pod "{pod}" is waiting to start: ImagePullBackOff')


@pytest.mark.parametrize("follow", ["false", "true"])
async def test_logs_of_a_container_that_has_not_started_are_a_bad_request(api: Api, follow: str) -> None:
    await running_pod(api, EagerNode())
    reply = await api.get(f"{PODS}/p/log?follow={follow}")
    assert (reply.status, reply.message) == (
        400, 'container "main" in pod "p" is waiting to start: ImagePullBackOff',
    )  # fmt: skip


async def test_a_pod_takes_no_ephemeral_containers_as_nothing_would_run_them(api: Api) -> None:
    await running_pod(api, Node())
    body = {"spec": {"ephemeralContainers": [{"name": "debug", "image": "agentops:1"}]}}
    reply = await api.patch(f"{PODS}/p/ephemeralcontainers", body, "strategic")
    assert reply.status == 501
    assert "kubectl debug --copy-to" in reply.message
    assert "ephemeralContainers" not in (await api.get(f"{PODS}/p")).body["spec"]


async def test_a_container_must_be_named_when_there_are_two(api: Api) -> None:
    api.server.node = Node()
    body = pod("p", nodeName="n")
    body["spec"]["containers"].append({"name": "side", "image": "agentops:1"})
    await api.post(PODS, body)
    reply = await api.get(f"{PODS}/p/log")
    assert reply.message == "a container name must be specified for pod p, choose one of: [main side]"
    assert "container nope is not valid for pod p" in (await api.get(f"{PODS}/p/log?container=nope")).message
    assert (await api.get(f"{PODS}/p/log?container=side")).status == 200


async def test_an_unscheduled_pod_has_no_logs_yet(api: Api) -> None:
    await api.post(PODS, pod("p"))
    assert (await api.get(f"{PODS}/p/log")).status == 204


async def test_without_a_kubelet_streams_are_unavailable(api: Api) -> None:
    await api.post(PODS, pod("p", nodeName="n"))
    assert (await api.get(f"{PODS}/p/log")).status == 503


async def test_exec_moves_bytes_both_ways_and_reports_the_exit_code(api: Api) -> None:
    process = Process(code=3)
    node = Node(process)
    await running_pod(api, node)
    upgrade = await open_exec(api, "command=sh&command=-c&stdin=true&stdout=true&stderr=true")
    assert upgrade.protocols == ("v5.channel.k8s.io", "v4.channel.k8s.io")
    socket = Socket()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(upgrade.serve, socket)
            await socket.to_server.send(b"\x00hello")
            await socket.to_server.send(b'\x04{"Width":100,"Height":40}\n')
            await socket.to_server.send(b"\xff\x00")
    assert node.commands == [["sh", "-c"]]
    assert socket.sent[:2] == [b"\x02warning", b"\x01HELLO"]
    assert process.sizes == [(100, 40)]
    status = orjson.loads(socket.sent[2][1:])
    assert socket.sent[2][0] == 3
    assert status["reason"] == "NonZeroExitCode"
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
    assert socket.closed
    socket.drop()


async def test_an_attached_stream_ends_well_whatever_the_exit_code_is(api: Api) -> None:
    process = Process(code=3)
    await running_pod(api, Node(process))
    upgrade = await open_exec(api, "stdin=true&stdout=true", "attach")
    socket = Socket()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(upgrade.serve, socket)
            await socket.to_server.send(b"\xff\x00")
    assert socket.sent[-1][0] == 3
    assert orjson.loads(socket.sent[-1][1:])["status"] == "Success"
    assert not process.killed
    socket.drop()


@pytest.mark.parametrize(("sub", "what"), [("exec", "exec into"), ("attach", "attach")])
async def test_a_completed_pod_has_no_container_to_join(api: Api, sub: str, what: str) -> None:
    await running_pod(api, Node())
    await api.patch(f"{PODS}/p/status", {"status": {"phase": "Succeeded"}})
    reply = await api.get(f"{PODS}/p/{sub}?command=sh", upgrade="websocket")
    assert reply.message == f"cannot {what} a container in a completed pod; current phase is Succeeded"


@pytest.mark.parametrize(
    "frame", [b"", b"\x04", b"\x04{", b"\x04[1]", b'\x04{"Width":"x"}', b'\x04{"Width":1000000,"Height":-1}', b"\x09x"]
)
async def test_a_frame_that_makes_no_sense_does_not_end_the_session(api: Api, frame: bytes) -> None:
    process = Process()
    await running_pod(api, Node(process))
    upgrade = await open_exec(api, "command=sh&stdin=true&tty=true")
    socket = Socket()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(upgrade.serve, socket)
            await socket.to_server.send(frame)
            await socket.to_server.send(b"\x00hello")
            await socket.to_server.send(b"\xff\x00")
    assert socket.sent[1] == b"\x01HELLO"
    assert process.sizes == []
    socket.drop()


async def test_a_client_that_goes_takes_its_process_along(api: Api) -> None:
    process = Process()
    await running_pod(api, Node(process))
    upgrade = await open_exec(api, "command=sleep&stdin=true")
    socket = Socket()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(upgrade.serve, socket)
            await anyio.wait_all_tasks_blocked()
            socket.to_server.close()
    assert process.killed
    socket.drop()


async def test_exec_that_cannot_start_says_why_on_the_error_channel(api: Api) -> None:
    await running_pod(api, Node(None))
    socket = Socket()
    await (await open_exec(api, "command=sh")).serve(socket)
    status = orjson.loads(socket.sent[0][1:])
    assert (status["status"], status["message"]) == ("Failure", "container main is not running")
    socket.drop()


async def test_exec_without_an_upgrade_is_a_bad_request(api: Api) -> None:
    await running_pod(api, Node())
    assert (await api.get(f"{PODS}/p/exec?command=sh")).message == "Upgrade request required"
    assert (await api.get(f"{PODS}/nope/exec?command=sh", upgrade="websocket")).status == 404


async def test_a_pod_that_cannot_be_dialled_is_unavailable(api: Api) -> None:
    await running_pod(api, Node())
    reply = await api.get(f"{PODS}/p:80/proxy/x")
    assert (reply.status, reply.message) == (503, "pod p has no address yet")
