"""Creating an AgentRun and following it live, with nothing but access to the API server.

A daemon's run is followed through pods/proxy, a task's through pods/log; when neither can be reached
the run is still waited for. The AgentRun's status is the truth, what is streamed is a view.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import orjson
from attrs import field, frozen

from agentops.api.fep import Event, EventType
from agentops.api.kinds import AGENT_RUN, API_VERSION
from agentops.api.labels import AGENT as AGENT_LABEL
from agentops.api.runs import TASK_EVENT_KEY, TOKEN_HEADER
from agentops.api.types.agentrun import TERMINAL_PHASES
from agentops.kube.client import ApiClient
from agentops.kube.errors import ApiError, KubeError, NotFound, TransportError
from agentops.kube.kinds import CONFIG_MAP, POD, SECRET
from agentops.kube.watch import LineSplitter, MalformedObject, decode_event
from agentops.telemetry.logging import get_logger

log = get_logger("clients.runs")

AGENT_PORT = 4096
Object = dict[str, Any]


@frozen(slots=True)
class FinishedRun:
    """How a run ended. `reason` is the reason of its condition Complete."""

    name: str
    phase: str
    reason: str
    message: str
    output: str
    status: Object = field(factory=dict)


class RunClient:
    """Runs in one namespace."""

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    async def create(self, agent: str, prompt: str, *, traceparent: str | None = None) -> str:
        """Create a run and return its name. Raises ApiError as the server answered."""
        metadata: Object = {
            "generateName": f"{agent[:50]}-",
            "namespace": self._namespace,
            "labels": {AGENT_LABEL: agent},
        }
        if traceparent:
            metadata["annotations"] = {"agents.agentops.io/traceparent": traceparent}
        created = await self._client.create(
            AGENT_RUN,
            {
                "apiVersion": API_VERSION,
                "kind": AGENT_RUN.kind,
                "metadata": metadata,
                "spec": {"agentRef": agent, "prompt": prompt, "source": "user"},
            },
        )
        return str(created["metadata"]["name"])

    async def cancel(self, name: str) -> None:
        """Ask for the run to be stopped."""
        await self._client.patch(AGENT_RUN, name, {"spec": {"cancel": True}}, self._namespace)

    async def follow(
        self,
        name: str,
        *,
        on_phase: Callable[[Object], None] = lambda _: None,
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> FinishedRun:
        """Wait for the end of the run, handing out phases and the agent's events as they happen.

        Raises RunDeleted, or ApiError when the server refuses.
        """
        streaming = anyio.CancelScope()
        final: Object = {}
        failure: KubeError | None = None
        async with anyio.create_task_group() as tasks:
            try:
                started = False
                seen: tuple[str, str] = ("", "")
                async for run in self._states(name):
                    status = run.get("status") or {}
                    now = (str(status.get("phase") or "Pending"), _why(status))
                    if now != seen:
                        seen = now
                        on_phase(run)
                    if not started and status.get("startTime"):
                        started = True
                        tasks.start_soon(self._stream, run, on_event, streaming)
                    if status.get("phase") in TERMINAL_PHASES:
                        final = run
                        break
            except KubeError as error:
                failure = error  # raised here, it would arrive in an exception group
            # what the agent said last may still be on its way
            streaming.deadline = anyio.current_time() + (2 if final else 0)
        if failure is not None:
            raise failure
        return await self._finished(final)

    async def _states(self, name: str) -> AsyncIterator[Object]:
        """The run now, then every change; a broken watch, or a server in trouble, starts again from a read."""
        deleted = RunDeleted(f"AgentRun {self._namespace}/{name} was deleted while it was followed")
        known = False
        query = [("watch", "true"), ("fieldSelector", f"metadata.name={name}"), ("timeoutSeconds", "300")]
        while True:
            try:
                run = await self._client.get(AGENT_RUN, name, self._namespace)
                known = True
                yield run
                since = [*query, ("resourceVersion", run["metadata"]["resourceVersion"])]
                splitter = LineSplitter()
                async with self._client.stream("GET", AGENT_RUN.path(self._namespace), query=since) as answer:
                    async for chunk in answer.chunks():
                        for line in splitter.feed(chunk):
                            event = decode_event(line)
                            if event.type == "DELETED":
                                raise deleted
                            if event.type in ("ADDED", "MODIFIED"):
                                yield event.decode()
            except NotFound:
                if known:
                    raise deleted from None
                raise
            except (TransportError, ApiError, MalformedObject) as error:
                if isinstance(error, ApiError) and error.code < 500 and error.code not in (410, 429):
                    raise
                log.debug("run.watch_broken", run=name, error=str(error))
                await anyio.sleep(0.5)

    async def _stream(self, run: Object, on_event: Callable[[Event], None], scope: anyio.CancelScope) -> None:
        """Events until the turn is over; a view that cannot be had is not an error of the run."""
        with scope:
            status = run["status"]
            source = self._task_events(run) if status.get("mode") == "task" else self._daemon_events(run)
            try:
                async for event in source:
                    on_event(event)
                    if event.type == EventType.SESSION_IDLE:
                        return
            except (KubeError, ValueError, KeyError, TypeError) as error:  # the last three: not what a runtime writes
                log.debug("run.not_streamed", run=run["metadata"]["name"], error=str(error))

    async def _daemon_events(self, run: Object) -> AsyncIterator[Event]:
        name, agent, pod = run["metadata"]["name"], run["spec"]["agentRef"], run["status"].get("podName")
        secret = await self._client.get(SECRET, f"{agent}-token", self._namespace)
        token = base64.b64decode(secret["data"]["token"]).decode().strip()
        path = POD.path(self._namespace, f"{pod}:{AGENT_PORT}", f"proxy/runs/{name}/events")
        headers = {TOKEN_HEADER: token, "accept": "text/event-stream"}
        while True:
            splitter = LineSplitter()
            try:
                async with self._client.stream("GET", path, headers=headers) as answer:
                    async for chunk in answer.chunks():
                        for line in splitter.feed(chunk):
                            if line.startswith(b"data:"):
                                yield Event.from_wire(orjson.loads(line[5:]))
                return
            except ApiError as error:
                # the operator writes podName before it posts the run: the record may be a moment away
                if error.code != 404:
                    raise
                await anyio.sleep(0.2)

    async def _task_events(self, run: Object) -> AsyncIterator[Event]:
        pod = await self._task_pod(run)
        query = [("container", "agent-runtime"), ("follow", "true")]
        splitter = LineSplitter()
        marker = f'{{"{TASK_EVENT_KEY}"'.encode()
        path = POD.path(self._namespace, pod, "log")
        async with self._client.stream("GET", path, query=query) as answer:
            async for chunk in answer.chunks():
                for line in splitter.feed(chunk):
                    if line.startswith(marker):
                        yield Event.from_wire(orjson.loads(line)[TASK_EVENT_KEY])

    async def _task_pod(self, run: Object) -> str:
        """The Job's pod, once its container has started."""
        job = run["status"].get("jobName") or run["metadata"]["name"]
        while True:
            for pod in await self._client.list(POD, self._namespace, labels=f"batch.kubernetes.io/job-name={job}"):
                if (pod.get("status") or {}).get("phase") in ("Running", "Succeeded", "Failed"):
                    return str(pod["metadata"]["name"])
            await anyio.sleep(0.2)

    async def _finished(self, run: Object) -> FinishedRun:
        status = run["status"]
        complete: Object = next((c for c in status.get("conditions") or () if c.get("type") == "Complete"), {})
        output = str(status.get("output") or "")
        reference = status.get("outputRef")
        if status.get("outputTruncated") and reference:
            whole = await self._client.get(CONFIG_MAP, reference["name"], self._namespace)
            output = (whole.get("data") or {}).get(reference["key"], output)
        return FinishedRun(
            run["metadata"]["name"],
            status["phase"],
            str(complete.get("reason") or ""),
            str(complete.get("message") or ""),
            output,
            status,
        )


class RunDeleted(KubeError):
    """Somebody deleted the AgentRun while it was followed."""


def _why(status: Object) -> str:
    """What a waiting run says it waits for."""
    waiting = [c for c in status.get("conditions") or () if c.get("status") == "False" and c.get("type") != "Complete"]
    return "; ".join(str(c.get("message") or c.get("reason")) for c in waiting)
