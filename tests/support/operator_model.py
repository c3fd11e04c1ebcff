"""Random schedules against the operator, and what must hold while they last and when they are over.

A `Schedule` is one run in virtual time: a daemon and a task, runs that are created, cancelled and deleted, agents
that are edited, deleted and made anew, pods and Jobs that vanish, operators that are stopped or killed, and
faults of the API server and of the agents' HTTP. Every write is judged when it happens; at the end
the faults stop, and every run has to end.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.abc
import httpx2
import trio.testing
from attrs import field, frozen
from hypothesis import strategies as st
from support.operator import agent_object, provider_object, run_object
from support.operator_world import NAMESPACE, Agents, World

from agentops.api.crds import crds
from agentops.api.kinds import AGENT, AGENT_RUN, PROVIDER
from agentops.api.labels import RUN_FINALIZER
from agentops.kube.client import ApiClient
from agentops.kube.errors import AlreadyExists, Invalid, NotFound, TransportError
from agentops.kube.kinds import CRD, JOB
from agentops.kube.kinds import NAMESPACE as NAMESPACE_KIND
from agentops.local.apiserver import ApiServer, InProcessTransport, ServerOptions, User
from agentops.local.apiserver.chaos import Chaos, Fault, Rule
from agentops.operator.app import Operator
from agentops.operator.options import OperatorOptions
from agentops.values.clock import LoopClock, rfc3339

GROUPS = ("system:masters", "system:authenticated")
OPERATOR = User("operator", GROUPS)
SOMEBODY = User("somebody", GROUPS)
DAEMON, TASK = "daemon", "task"
SETTLE_S = 2400.0
"""Virtual seconds until every run must have ended: a timeout is 60 s, a silent watch 615 s, stopping a Job 180 s."""
FAULT_S = 3.0
"""How long a delayed request takes."""
REQUESTS_AT_ONCE = 3000
TERMINAL = ("Succeeded", "Failed")
REASONS = {
    "Succeeded": {"Succeeded"},
    "Failed": {"Failed", "Cancelled", "Rejected", "Timeout", "Lost", "JobLost", "Interrupted", "AgentNotFound",
               "Refused", "JobRefused"},
}  # fmt: skip

ACTIONS = (
    *("create", "cancel", "delete", "renew", "renew", "edit-label"),
    *("stop-operator", "kill-operator", "cut-watches"),
    *("lose-pod", "lose-job", "restart-agent", "forget-agent"),
    *("edit-prompt", "edit-runs", "drop-agent", "swap-modes", "drop-provider"),
)
"""`renew` deletes a run and at once makes another of its name; `drop-agent` waits for the end or a `swap-modes`."""


@frozen
class Action:
    """After `wait_s`, `what`; `which` picks the agent or run that it happens to."""

    what: str
    which: int
    wait_s: float


@frozen
class Schedule:
    """Everything that a run of the model depends on; `seed` draws what no action says."""

    seed: int
    policy: str
    max_runs: int
    actions: tuple[Action, ...]
    faults: tuple[tuple[Fault, str, str, float], ...] = ()
    """(fault, verb, resource, chance) of the operator's requests."""
    agents_fail: bool = True


_ACTION = st.builds(
    Action,
    what=st.sampled_from(("create",) * 10 + ACTIONS),
    which=st.integers(0, 99),
    wait_s=st.sampled_from((0.0, 0.0, 0.05, 0.5, 3.0, 20.0)),
)
_FAULT = st.tuples(
    st.sampled_from(Fault),
    st.sampled_from(("*", "get", "list", "watch", "create", "patch")),
    st.sampled_from(("*", "agentruns", "agents", "pods", "jobs")),
    st.sampled_from((0.05, 0.3, 1.0)),
)
SCHEDULES = st.builds(
    Schedule,
    seed=st.integers(0, 2**32),
    policy=st.sampled_from(("queue", "reject", "replace")),
    max_runs=st.integers(1, 3),
    actions=st.lists(_ACTION, min_size=3, max_size=40).map(tuple),
    faults=st.lists(_FAULT, max_size=3).map(tuple),
    agents_fail=st.booleans(),
)


class Broken(AssertionError):
    """What did not hold, and when."""


@frozen
class Outcome:
    """One schedule that held."""

    virtual_s: float
    runs: int
    operators: int
    """How many operators there were, one after the other."""
    reasons: dict[str, int] = field(factory=dict)
    faults: dict[str, int] = field(factory=dict)


def run_schedule(schedule: Schedule) -> Outcome:
    """Run it to its end. Raises Broken."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    try:
        return anyio.run(_Model(schedule).run, backend="trio", backend_options={"clock": clock})
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        broken = [item for item in error.exceptions if isinstance(item, BaseExceptionGroup | Broken)]
        error = (broken or error.exceptions)[0]
    return error


class Mortal:
    """A transport that dies with its process: what is still under way afterwards reaches nobody.

    Too many requests at one moment of virtual time are broken: nothing waits for anything then.
    """

    def __init__(self, inner: InProcessTransport, judge: Judge) -> None:
        self._inner = inner
        self._judge = judge
        self._moment, self._requests = 0.0, 0
        self.alive = True

    async def request(self, method: str, path: str, **options: Any) -> Any:
        if not self.alive:
            raise TransportError("this process was killed")
        if anyio.current_time() != self._moment:
            self._moment, self._requests = anyio.current_time(), 0
        self._requests += 1
        if self._requests > REQUESTS_AT_ONCE:
            self._judge.condemn(f"the operator goes round in circles, last with {method} {path}")
            await anyio.sleep(1.0)  # or virtual time stands still
        return await self._inner.request(method, path, **options)

    def stream(self, method: str, path: str, **options: Any) -> Any:
        if not self.alive:
            raise TransportError("this process was killed")
        return self._inner.stream(method, path, **options)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Model:
    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.rng = random.Random(schedule.seed)
        self.server = ApiServer(
            ServerOptions(require_service_account=False, crd_established_delay_s=0.0),
            clock=LoopClock(),
            rng=random.Random(schedule.seed),
        )
        self.chaos = Chaos(self.server, rng=random.Random(schedule.seed + 1), clock=LoopClock())
        self.client = ApiClient(InProcessTransport(self.server, SOMEBODY), clock=LoopClock())
        self.agents = Agents(random.Random(schedule.seed + 2))
        self.agents.faulty = schedule.agents_fail
        self.world = World(self.server, self.client, self.agents, random.Random(schedule.seed + 3))
        self.judge = Judge(schedule)
        self.operators = 0
        self.made = 0
        self.modes = ["daemon", "task"]

    async def run(self) -> Outcome:
        with self.server, self.chaos:
            self.server.bootstrap()
            async with anyio.create_task_group() as background:
                await background.start(self.server.run)
                for crd in crds():
                    await self.client.create(CRD, crd)
                await self.client.create(NAMESPACE_KIND, {"metadata": {"name": NAMESPACE}})
                self.judge.listen(self.server)
                background.start_soon(self.world.run)
                await self._restore()
                async with anyio.create_task_group() as tasks:
                    await self._with_operators(tasks)
                    tasks.cancel_scope.cancel()
                background.cancel_scope.cancel()
        return Outcome(
            anyio.current_time(), self.made, self.operators, dict(self.judge.reasons), dict(self.chaos.fired)
        )

    async def _with_operators(self, tasks: anyio.abc.TaskGroup) -> None:
        self.chaos.rules = [
            Rule(fault, verb=verb, resource=resource, user=OPERATOR.name, p=chance, times=6, seconds=FAULT_S,
                 code=500 if fault is not Fault.ERROR else self.rng.choice((409, 500, 503)))
            for fault, verb, resource, chance in self.schedule.faults
        ]  # fmt: skip
        self._start(tasks)
        for action in self.schedule.actions:
            await anyio.sleep(action.wait_s)
            self._check()
            self._alive(tasks)
            try:
                await self._do(action, tasks)
            except (NotFound, AlreadyExists, Invalid):
                continue  # it is there no more, or again, or must not change
        self.chaos.active = self.agents.faulty = False
        await anyio.sleep(FAULT_S)  # what is delayed arrives yet, and may hold up an end that comes before it
        await self._restore()
        await self._settled(tasks)

    # what happens

    async def _do(self, action: Action, tasks: anyio.abc.TaskGroup) -> None:
        name = (DAEMON, TASK)[action.which % 2]
        match action.what:
            case "create":
                await self._create(action.which)
            case "cancel":
                if run := await self._some_run(action.which):
                    self.judge.cancelled.add(run["metadata"]["uid"])
                    await self.client.patch(AGENT_RUN, run["metadata"]["name"], {"spec": {"cancel": True}}, NAMESPACE)
            case "delete":
                if run := await self._some_run(action.which):
                    await self.client.delete(AGENT_RUN, run["metadata"]["name"], NAMESPACE)
            case "renew":
                if run := await self._some_run(action.which):
                    name, agent = run["metadata"]["name"], run["spec"]["agentRef"]
                    await self.client.delete(AGENT_RUN, name, NAMESPACE)
                    await anyio.sleep(self.rng.choice((0, 0.1)))
                    self.made += 1
                    await self.client.create(AGENT_RUN, run_object(name, agent=agent))
            case "edit-label":
                if run := await self._some_run(action.which):
                    patch = {"metadata": {"labels": {"seen": str(action.which)}}}
                    await self.client.patch(AGENT_RUN, run["metadata"]["name"], patch, NAMESPACE)
            case "stop-operator" | "kill-operator":
                if action.what == "kill-operator":
                    self.transport.alive = False
                self.scope.cancel()
                await self.ended.wait()
                self._start(tasks)
            case "lose-pod":
                await self.world.lose_pod()
            case "lose-job":
                await self.world.lose_job()
            case "restart-agent" | "forget-agent":
                self.agents.restart(keep=action.what == "restart-agent")
            case "edit-prompt":
                await self.client.patch(AGENT, name, {"spec": {"systemPrompt": f"Be {action.which}."}}, NAMESPACE)
            case "edit-runs":
                runs = 1 + action.which % 3
                self.judge.max_runs = max(self.judge.max_runs, runs)
                await self.client.patch(AGENT, name, {"spec": {"concurrency": {"maxRuns": runs}}}, NAMESPACE)
            case "drop-agent":
                await self.client.delete(AGENT, name, NAMESPACE)
            case "swap-modes":
                for agent in (DAEMON, TASK):
                    await self.client.delete(AGENT, agent, NAMESPACE)
                self.modes.reverse()
                await anyio.sleep(self.rng.choice((0, 5)))
                await self._restore()
            case "drop-provider":
                await self.client.delete(PROVIDER, "local", NAMESPACE)
                if action.which % 2:
                    await self._restore()
            case "cut-watches":
                self.server.watches.end_all()

    async def _create(self, which: int) -> None:
        """A run of the daemon or the task; names come again, and do not sort by time."""
        name = f"{self.rng.choice('abcdefgh')}{which % 5}"
        self.made += 1
        await self.client.create(AGENT_RUN, run_object(name, agent=(DAEMON, TASK)[which % 2]))

    async def _some_run(self, which: int) -> dict[str, Any] | None:
        runs = await self.client.list(AGENT_RUN, NAMESPACE)
        return runs[which % len(runs)] if runs else None

    async def _restore(self) -> None:
        """Provider and agents, if they are not there."""
        concurrency = {"maxRuns": self.schedule.max_runs, "policy": self.schedule.policy}
        for kind, obj in (
            (PROVIDER, provider_object()),
            (AGENT, agent_object(DAEMON, mode=self.modes[0], concurrency=concurrency, timeout="60s")),
            (AGENT, agent_object(TASK, mode=self.modes[1], concurrency=concurrency, timeout="60s")),
        ):
            try:
                await self.client.create(kind, obj)
            except AlreadyExists:
                continue

    # the operator

    def _start(self, tasks: anyio.abc.TaskGroup) -> None:
        self.operators += 1
        self.transport = Mortal(InProcessTransport(self.server, OPERATOR), self.judge)
        self.scope, self.ended = anyio.CancelScope(), anyio.Event()
        tasks.start_soon(self._operate, self.transport, self.scope, self.ended, self.operators)

    async def _operate(self, transport: Mortal, scope: anyio.CancelScope, ended: anyio.Event, number: int) -> None:
        """One process of the operator, from its start to its end."""

        def http() -> httpx2.AsyncClient:
            return httpx2.AsyncClient(transport=httpx2.MockTransport(answer))

        async def answer(request: httpx2.Request) -> httpx2.Response:
            if not transport.alive:
                raise httpx2.ConnectError("this process was killed")
            if request.url.path.endswith("/models"):
                return httpx2.Response(200)
            return await self.agents.answer(request)

        rng = random.Random(self.schedule.seed * 1000 + number)
        operator = Operator(
            transport,
            OperatorOptions(metrics_bind=None, probes_bind=None, grace_s=2.0),
            runtime_image="agentops:test",
            clock=LoopClock(),
            rng=rng,
            http=http,
            random_text=lambda: f"{rng.getrandbits(128):032x}",
        )
        try:
            with scope:
                await operator.run()
        except Exception as error:
            # As a cluster would, the model starts another one; a process that ends is no way to hide a bug.
            if not self.chaos.active:
                raise Broken(f"the operator ended: {error!r}") from error
        finally:
            self.judge.operator_ends.append(rfc3339(LoopClock().now()))
            ended.set()

    def _check(self) -> None:
        if self.judge.broken:
            raise Broken(self.judge.broken)

    def _alive(self, tasks: anyio.abc.TaskGroup) -> None:
        if self.ended.is_set():
            self._start(tasks)

    # the end

    async def _settled(self, tasks: anyio.abc.TaskGroup) -> None:
        why = ""
        with anyio.move_on_after(SETTLE_S):
            while True:
                self._check()
                self._alive(tasks)
                why = await self._unfinished()
                if not why:
                    return
                await anyio.sleep(5)
        raise Broken(f"{why}, {SETTLE_S:g} s after the last fault")

    async def _unfinished(self) -> str:
        """What has not ended yet, or is left over; empty when nothing is."""
        for name in (DAEMON, TASK):
            agent = await self.client.get(AGENT, name, NAMESPACE)
            status = agent.get("status") or {}
            if status.get("phase") not in ("Running", "Ready"):
                return f"Agent {name} is {status}"
        for run in await self.client.list(AGENT_RUN, NAMESPACE):
            name, status = run["metadata"]["name"], run.get("status") or {}
            if run["metadata"].get("deletionTimestamp"):
                return f"AgentRun {name} is still being deleted: {status}"
            if status.get("phase") not in TERMINAL:
                return f"AgentRun {name} has not ended: {status}"
            if RUN_FINALIZER in run["metadata"].get("finalizers", ()):
                return f"AgentRun {name} has ended and keeps its finalizer"
            self.judge.ended(run, self.agents, self.world)
        return ""


class Judge:
    """Hears of every write before its writer does; `broken` is the first that must never be."""

    def __init__(self, schedule: Schedule) -> None:
        self._fifo = schedule.policy == "queue"
        self._one_at_a_time = all(action.what != "swap-modes" for action in schedule.actions)
        """Whether the daemon stays one."""
        self.max_runs = schedule.max_runs
        """The most that the agents were ever allowed."""
        self.broken = ""
        self.cancelled: set[str] = set()
        self.reasons: dict[str, int] = {}
        self.operator_ends: list[str] = []
        """When operators were stopped or died."""
        self._runs: dict[str, dict[str, Any]] = {}
        self._order: dict[str, int] = {}
        self._jobs: dict[str, str] = {}
        self._judged: set[str] = set()

    def condemn(self, why: str) -> None:
        """Noted, not raised: the writer is the API server, which would make an answer of it."""
        self.broken = self.broken or f"{why}, at {anyio.current_time():.3f} s"

    def listen(self, server: ApiServer) -> None:
        server.store.subscribe(AGENT_RUN.resource, self._run_written)
        server.store.subscribe(JOB.resource, self._job_written)

    def _job_written(self, event: Any) -> None:
        job = event.entry.obj()
        run, uid = job["metadata"]["ownerReferences"][0]["uid"], job["metadata"]["uid"]
        if self._jobs.setdefault(run, uid) != uid:
            self.condemn(f"a second Job was made for run {job['metadata']['name']}")

    def _run_written(self, event: Any) -> None:
        run = event.entry.obj()
        uid, name = run["metadata"]["uid"], run["metadata"]["name"]
        if event.type == "DELETED":
            self._runs.pop(uid, None)
            return
        before = self._runs.get(uid)
        self._runs[uid] = run
        self._order.setdefault(uid, len(self._order))
        if before is None:
            return
        was, now = before.get("status") or {}, run.get("status") or {}
        if _without_cancel(before) != _without_cancel(run) or (run["spec"].get("cancel") and uid not in self.cancelled):
            self.condemn(f"the spec of {name} was written: {before['spec']} -> {run['spec']}")
        if was.get("phase") in TERMINAL and was != now:
            self.condemn(f"{name} had ended, and changed: {was} -> {now}")
        if was.get("phase") == "Running" and now.get("phase") not in ("Running", *TERMINAL):
            self.condemn(f"{name} was Running and is {now.get('phase')}")
        holds = RUN_FINALIZER in run["metadata"].get("finalizers", ())
        if now.get("podUID") and now.get("phase") not in TERMINAL and not holds:
            self.condemn(f"{name} is dispatched without its finalizer: {now}")
        if now.get("phase") == "Running" and not now.get("admittedAt"):
            self.condemn(f"{name} is Running and was never admitted")
        if was.get("admittedAt") and not now.get("admittedAt"):
            self.condemn(f"{name} lost its slot: {now}")
        if now.get("admittedAt") and not was.get("admittedAt"):
            self._admitted(run)

    def _admitted(self, run: dict[str, Any]) -> None:
        agent, name = run["spec"]["agentRef"], run["metadata"]["name"]
        others = [other for other in self._runs.values() if other["spec"]["agentRef"] == agent]
        active = sorted(o["metadata"]["name"] for o in others if _active(o))
        limit = 1 if agent == DAEMON and self._one_at_a_time else self.max_runs
        if len(active) > limit:
            self.condemn(f"{name} is the {len(active)}th run of {agent} at a time: {active}, at most {limit}")
        for other in others:
            # One that came later may have been out of sight: nothing is fairer than the order of writes.
            earlier = self._order[other["metadata"]["uid"]] < self._order[run["metadata"]["uid"]]
            if self._fifo and earlier and _waits(other) and _place(other) < _place(run):
                self.condemn(f"{name} was admitted before {other['metadata']['name']}, which came first")

    def ended(self, run: Mapping[str, Any], agents: Agents, world: World) -> None:
        """Judge the end of a run, once."""
        meta, status = run["metadata"], run["status"]
        uid, name = meta["uid"], meta["name"]
        if uid in self._judged:
            return
        self._judged.add(uid)
        complete = next((c for c in status["conditions"] if c["type"] == "Complete"), {})
        reason = complete.get("reason", "")
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        if complete.get("status") != "True" or reason not in REASONS[status["phase"]]:
            raise Broken(f"{name} ended without a reason: {status}")
        if not status.get("completionTime") or not complete.get("message"):
            raise Broken(f"{name} ended without saying when and why: {status}")
        if reason == "Succeeded" and status["output"] not in (f"answer to {uid}", "(no output captured)"):
            raise Broken(f"{name} has the answer of another: {status['output']}")
        if reason == "Lost" and not self._may_be_lost(status, uid, agents):
            raise Broken(f"{name} is Lost, though its pod had it: {complete}")
        if reason == "JobLost" and self._jobs.get(uid) not in world.lost_jobs | {None}:
            raise Broken(f"{name} is JobLost, though its Job was there: {complete}")
        if agents.started[uid] > 1:
            raise Broken(f"the prompt of {name} was started {agents.started[uid]} times")
        if reason == "Cancelled" and "replaced" not in status["output"] and uid not in self.cancelled:
            known = ("was deleted", "concurrency.policy", "replaced by")
            if not any(text in complete["message"] for text in known):
                raise Broken(f"{name} was cancelled by nobody: {complete}")

    def _may_be_lost(self, status: Mapping[str, Any], uid: str, agents: Agents) -> bool:
        """Whether the record or the pod went, the prompt went astray, or its sender died."""
        if uid in agents.forgotten | agents.unanswered or not agents.is_alive(status.get("podUID", "")):
            return True
        return any(status["startTime"] <= end <= status["completionTime"] for end in self.operator_ends)


def _without_cancel(run: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run["spec"].items() if key != "cancel"}


def _active(run: Mapping[str, Any]) -> bool:
    status = run.get("status") or {}
    return bool(status.get("admittedAt")) and status.get("phase") not in TERMINAL


def _waits(run: Mapping[str, Any]) -> bool:
    status = run.get("status") or {}
    wanted = not run["metadata"].get("deletionTimestamp") and not run["spec"].get("cancel")
    return wanted and not status.get("admittedAt") and status.get("phase") not in TERMINAL


def _place(run: Mapping[str, Any]) -> tuple[str, str]:
    return run["metadata"]["creationTimestamp"], run["metadata"]["name"]
