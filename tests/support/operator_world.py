"""The world around the operator in virtual time: pods that come and go, Jobs that end, agents that answer or do not.

`World` plays the Deployment and Job controllers, the garbage collector and the kubelet for one namespace;
`Agents` is the HTTP side of agent pods. What they do wrong is drawn from one generator, and only as long
as `faulty`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import anyio
import httpx2
from attrs import define, evolve, field

from agentops.api import labels
from agentops.api.codec import dumps
from agentops.api.kinds import AGENT, AGENT_RUN
from agentops.api.runs import RUN_NAME_HEADER, RUN_UID_HEADER, RunRecord, RunState, TaskResult
from agentops.kube.client import ApiClient
from agentops.kube.errors import AlreadyExists, Conflict, NotFound
from agentops.kube.kinds import CONFIG_MAP, DEPLOYMENT, JOB, POD, ROLE, ROLE_BINDING, SECRET, SERVICE, SERVICE_ACCOUNT
from agentops.local.apiserver import ApiServer
from agentops.operator.rollout import pod_hash, template_hash
from agentops.values.kinds import Kind

NAMESPACE = "agents"
COLLECTED = (DEPLOYMENT, JOB, CONFIG_MAP, SECRET, SERVICE, SERVICE_ACCOUNT, ROLE, ROLE_BINDING)


@define
class Turn:
    """A prompt that a pod works on, or has finished by `ends`."""

    record: RunRecord
    ends: float
    final: RunRecord

    def now(self) -> RunRecord:
        return self.final if anyio.current_time() >= self.ends else self.record

    def stop(self, reason: str) -> None:
        if self.now().state == RunState.RUNNING:
            self.ends = anyio.current_time()
            self.final = evolve(self.record, state=RunState.FAILED, reason=reason, error=reason.lower())


@define
class AgentPod:
    """One agent pod. `turns` are by uid of the run, and go with the pod."""

    name: str
    uid: str
    alive: bool = True
    turns: dict[str, Turn] = field(factory=dict)

    @property
    def busy(self) -> bool:
        return any(turn.now().state == RunState.RUNNING for turn in self.turns.values())


class Agents:
    """The HTTP API of all agent pods, by address."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.faulty = True
        self.pods: dict[str, AgentPod] = {}
        self.started: Counter[str] = Counter()
        """How often a prompt was started, by uid of the run."""
        self.forgotten: set[str] = set()
        """Runs, by uid, whose record is gone, or whose pod is."""
        self.unanswered: set[str] = set()
        """Runs, by uid, whose prompt met a fault that leaves open whether it arrived."""

    def is_alive(self, uid: str) -> bool:
        """Whether the pod of that uid is there."""
        return any(pod.alive for pod in self.pods.values() if pod.uid == uid)

    def kill(self, name: str) -> None:
        """The pod is gone, and everything it knew."""
        for pod in self.pods.values():
            if pod.name == name and pod.alive:
                pod.alive = False
                self.forgotten |= set(pod.turns)

    def restart(self, *, keep: bool) -> None:
        """The container of a pod is restarted; its state survives, or does not."""
        alive = [pod for pod in self.pods.values() if pod.alive]
        if not alive:
            return
        pod = self._rng.choice(alive)
        for turn in pod.turns.values():
            turn.stop("Interrupted")
        if not keep:
            self.forgotten |= set(pod.turns)
            pod.turns.clear()

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        pod = self.pods.get(request.url.host)
        if pod is None or not pod.alive:
            raise httpx2.ConnectError("connection refused")
        uid, posts = request.headers[RUN_UID_HEADER], request.url.path == "/prompt"
        fault = self._rng.random() if self.faulty else 1.0
        if fault < 0.1:
            raise httpx2.ConnectError("connection refused")
        if fault < 0.2:
            code = self._rng.choice((429, 503, 401, 500) if posts else (500, 503, 401))
            if posts and code == 500:
                self.unanswered.add(uid)  # a server that fails may have begun
            return httpx2.Response(code, json={"error": "injected"})
        if fault < 0.35:
            await anyio.sleep(self._rng.choice((0.0, 0.5, 5.0)))
            if posts:
                self.unanswered.add(uid)
            if fault < 0.25:
                raise httpx2.ReadTimeout("no answer, nothing done")
        else:
            await anyio.sleep(0.001)
        if not pod.alive:
            self.unanswered.add(uid)
            raise httpx2.ReadError("connection reset")
        answer = await self._act(pod, request, uid)
        if 0.25 <= fault < 0.35:
            await anyio.sleep(self._rng.choice((0.0, 0.5, 5.0)))
            raise httpx2.ReadTimeout("no answer, though it was done")
        if not pod.alive:
            raise httpx2.ReadError("connection reset")
        return answer

    async def _act(self, pod: AgentPod, request: httpx2.Request, uid: str) -> httpx2.Response:
        if request.url.path == "/prompt":
            return self._prompt(pod, request.headers[RUN_NAME_HEADER], uid)
        turn = pod.turns.get(uid)
        if request.url.path == "/abort":
            if turn is not None:
                turn.stop("Aborted")
            return httpx2.Response(200, json={"ok": True})
        if turn is None:
            return httpx2.Response(404, json={"error": "no such run"})
        prefer = request.headers.get("prefer", "")
        if prefer.startswith("wait="):
            until = anyio.current_time() + int(prefer[5:])
            while turn.now().state == RunState.RUNNING and anyio.current_time() < until and pod.alive:
                await anyio.sleep(max(0.01, min(turn.ends, until) - anyio.current_time(), 0.0) if turn.ends else 1.0)
        return httpx2.Response(200, content=dumps(turn.now()))

    def _prompt(self, pod: AgentPod, run: str, uid: str) -> httpx2.Response:
        if uid not in pod.turns:
            if pod.busy:
                return httpx2.Response(429, json={"error": "busy"})
            self.started[uid] += 1
            last = self._rng.choice((0.2, 2.0, 8.0, 40.0))
            final = RunRecord(name=run, state=RunState.SUCCEEDED, output=f"answer to {uid}")
            if self._rng.random() < 0.2:
                final = RunRecord(name=run, state=RunState.FAILED, reason="Error", error=f"failure of {uid}")
            pod.turns[uid] = Turn(RunRecord(name=run), anyio.current_time() + last, final)
        return httpx2.Response(202, json={"run": run})


class World:
    """Everything between the API and the agents. `step` brings the objects of the namespace one step on."""

    def __init__(self, server: ApiServer, client: ApiClient, agents: Agents, rng: random.Random) -> None:
        self._client = client
        self._agents = agents
        self._rng = rng
        self._address = 0
        self._ends: dict[str, float] = {}
        """When Jobs end, by uid."""
        self._logs: dict[str, str] = {}
        self.lost_jobs: set[str] = set()
        """Uids of Jobs that somebody has deleted behind the operator's back."""
        server.node = self  # type: ignore[assignment]
        self._owned: dict[tuple[Kind, str], str] = {}
        """Uid of the controller of everything that the garbage collector comes for."""
        for kind in COLLECTED:
            server.store.subscribe(kind.resource, partial(self._child_written, kind))
        self._changed = anyio.Event()
        for kind in (AGENT, AGENT_RUN, DEPLOYMENT, JOB, POD):
            server.store.subscribe(kind.resource, lambda event: self._changed.set())

    async def logs(self, namespace: str, pod: str, options: Any) -> AsyncIterator[bytes]:
        yield self._logs.get(pod, "").encode()

    async def run(self) -> None:
        """Until cancelled: a step some time after every change, and when a Job is due."""
        while True:
            due = min(self._ends.values(), default=float("inf")) - anyio.current_time()
            with anyio.move_on_after(max(0.05, min(due, 30.0))):
                await self._changed.wait()
            self._changed = anyio.Event()
            await anyio.sleep(self._rng.choice((0.0, 0.02, 0.5)))
            try:
                await self.step()
            except (NotFound, Conflict, AlreadyExists):
                self._changed.set()  # somebody was faster: look again

    async def step(self) -> None:
        await self._collect(await self._uids(AGENT) | await self._uids(AGENT_RUN))
        pods = await self._client.list(POD, NAMESPACE)
        for pod in pods:
            if pod["metadata"].get("deletionTimestamp"):
                await self._end(pod)
        pods = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        deployments = await self._client.list(DEPLOYMENT, NAMESPACE)
        for deployment in deployments:
            await self._roll(deployment, [pod for pod in pods if _owner(pod) == deployment["metadata"]["uid"]])
        jobs = await self._client.list(JOB, NAMESPACE)
        for job in jobs:
            await self._job(job, [pod for pod in pods if _owner(pod) == job["metadata"]["uid"]])
        left = {obj["metadata"]["uid"] for obj in (*deployments, *jobs)}
        for pod in pods:
            if _owner(pod) not in left:
                await self._end(pod)

    def _child_written(self, kind: Kind, event: Any) -> None:
        key = (kind, event.entry.name)
        if event.type == "DELETED":
            self._owned.pop(key, None)
        elif owner := _owner(event.entry.obj()):
            self._owned[key] = owner

    async def _collect(self, owners: set[str]) -> None:
        """Delete what belongs to an agent or run that is gone."""
        for (kind, name), owner in list(self._owned.items()):
            if owner not in owners:
                await self._client.delete(kind, name, NAMESPACE, propagation="Background")

    async def lose_pod(self) -> None:
        """An agent's pod is deleted, and with it everything it knew."""
        pods = await self._client.list(POD, NAMESPACE, labels=f"{labels.COMPONENT}={labels.COMPONENT_RUNTIME}")
        if pods:
            await self._end(self._rng.choice(pods))

    async def lose_job(self) -> None:
        """Somebody deletes a Job."""
        jobs = await self._client.list(JOB, NAMESPACE)
        if jobs:
            job = self._rng.choice(jobs)
            self.lost_jobs.add(job["metadata"]["uid"])
            await self._client.delete(JOB, job["metadata"]["name"], NAMESPACE, propagation="Background")

    async def _uids(self, kind: Kind) -> set[str]:
        return {obj["metadata"]["uid"] for obj in await self._client.list(kind, NAMESPACE)}

    async def _roll(self, deployment: dict[str, Any], pods: list[dict[str, Any]]) -> None:
        """One pod of the current template, ready; those of others go first."""
        wanted = template_hash(deployment)
        current = [pod for pod in pods if pod_hash(pod) == wanted]
        for pod in pods:
            if pod_hash(pod) != wanted:
                await self._end(pod)
        if not current:
            pod = await self._make(deployment, deployment["spec"]["template"])
            address = (pod["status"]["podIP"]) if pod.get("status") else ""
            self._agents.pods[address] = AgentPod(pod["metadata"]["name"], pod["metadata"]["uid"])
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
        status = {**counts, "observedGeneration": deployment["metadata"]["generation"]}
        if any((deployment.get("status") or {}).get(key) != value for key, value in status.items()):
            patch = {"status": status}
            await self._client.patch(DEPLOYMENT, deployment["metadata"]["name"], patch, NAMESPACE, subresource="status")

    async def _job(self, job: dict[str, Any], pods: list[dict[str, Any]]) -> None:
        meta = job["metadata"]
        if meta.get("deletionTimestamp"):
            for pod in pods:
                await self._end(pod)
            await self._client.patch(JOB, meta["name"], {"metadata": {"finalizers": None}}, NAMESPACE)
            self._ends.pop(meta["uid"], None)
        elif (job.get("status") or {}).get("conditions"):
            return
        elif not pods:
            await self._make(job, job["spec"]["template"])
            self._ends[meta["uid"]] = anyio.current_time() + self._rng.choice((0.2, 2.0, 8.0, 40.0))
        elif anyio.current_time() >= self._ends.get(meta["uid"], 0.0):
            await self._finish(job, pods[0])

    async def _finish(self, job: dict[str, Any], pod: dict[str, Any]) -> None:
        draw, uid = self._rng.random(), _owner(job)
        good = draw < 0.7
        told = TaskResult(success=good, output=f"answer to {uid}" if good else "", error=None if good else "failure")
        self._logs[pod["metadata"]["name"]] = dumps(told).decode() + "\n" if draw < 0.9 else ""
        await self._show(pod, "Succeeded" if good else "Failed")
        type_, now = "Complete" if good else "Failed", "2026-01-01T00:00:00Z"
        conditions: list[Any] = [{"type": type_, "status": "True", "reason": "Ended", "lastTransitionTime": now}]
        self._ends.pop(job["metadata"]["uid"], None)
        status = {"status": {"conditions": conditions}}
        await self._client.patch(JOB, job["metadata"]["name"], status, NAMESPACE, subresource="status")

    async def _make(self, owner: Mapping[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
        self._address += 1
        meta, name = owner["metadata"], f"{owner['metadata']['name']}-{self._address}"
        reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": meta["name"],
                     "uid": meta["uid"], "controller": True}  # fmt: skip
        metadata = {**template["metadata"], "name": name, "ownerReferences": [reference]}
        pod = await self._client.create(POD, {"metadata": metadata, "spec": template["spec"]}, namespace=NAMESPACE)
        pod["status"] = {**(pod.get("status") or {}), "podIP": f"10.0.{self._address // 250}.{self._address % 250 + 1}"}
        return await self._show(pod, "Running")

    async def _show(self, pod: dict[str, Any], phase: str) -> dict[str, Any]:
        ready = "True" if phase == "Running" else "False"
        status = {
            "phase": phase,
            "podIP": pod["status"]["podIP"],
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        }
        name = pod["metadata"]["name"]
        return await self._client.patch(POD, name, {"status": status}, NAMESPACE, subresource="status")

    async def _end(self, pod: Mapping[str, Any]) -> None:
        self._agents.kill(pod["metadata"]["name"])
        try:
            await self._client.delete(POD, pod["metadata"]["name"], NAMESPACE, grace_s=0)
        except NotFound:
            return


def _owner(obj: Mapping[str, Any]) -> str:
    """Uid of the controller; empty without one."""
    return next((ref["uid"] for ref in obj["metadata"].get("ownerReferences") or () if ref.get("controller")), "")
