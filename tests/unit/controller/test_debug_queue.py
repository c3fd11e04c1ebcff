"""`/debug/queue`: why a key was reconciled, for people who ask."""

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from support.scripted_transport import Feed, listing, pod

from agentops.controller import Builder, EnqueueMapped, FuncSource, Manager, ManagerOptions, Request, Result, triggers
from agentops.controller.debugqueue import queue_route
from agentops.controller.errors import RetryAfter
from agentops.kube.kinds import CONFIG_MAP, POD

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"


def settings(name, version):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": str(version)},
        "data": {"pod": "a"},
    }


class World:
    """A controller on Pods that ConfigMaps and a function wake too; `answer` is what its reconcile does."""

    def __init__(self, transport, clock, rng, answer=lambda request: None, **options):
        self.pods, self.settings = Feed(), Feed()
        transport.on("GET", PODS, listing(10, pod("a", 5)))
        transport.on_watch(PODS, self.pods)
        transport.on("GET", "/api/v1/configmaps", listing(10, kind="ConfigMapList"))
        transport.on_watch("/api/v1/configmaps", self.settings)
        self.manager = Manager(transport, ManagerOptions(clock=clock, rng=rng, **{"explain": True, **options}))
        self.calls = 0
        self.gate = anyio.Event()
        self.gate.set()

        async def reconcile(request):
            self.calls += 1
            await self.gate.wait()
            return answer(request)

        def by_settings(obj):
            return [Request("default", obj["data"]["pod"])]

        async def timer(enqueue):
            await anyio.sleep(10)
            enqueue(Request("default", "a"), 7)
            await anyio.sleep_forever()

        builder = Builder(self.manager).named("w").for_(POD).watches(CONFIG_MAP, EnqueueMapped(by_settings))
        self.controller = builder.source(FuncSource(timer, "timer")).build(reconcile)
        self.app = Starlette(routes=[queue_route({"w": self.controller})])

    async def run(self, during):
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.manager.run)
            await anyio.sleep(0.5)
            await during()
            self.gate.set()
            tasks.cancel_scope.cancel()

    async def page(self, query=""):
        transport = httpx2.ASGITransport(app=self.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://manager") as client:
            return await client.get(f"/debug/queue{query}")

    async def key(self, query="?controller=w&namespace=default&name=a"):
        (controller,) = (await self.page(query)).json()["controllers"]
        (key,) = controller["keys"]
        return key


@pytest.mark.guarantee("US9")
async def test_key_shows_every_event_that_woke_it_and_by_which_watch(transport, clock, rng):
    world = World(transport, clock, rng)

    async def during():
        world.pods.event("MODIFIED", pod("a", 11))
        await anyio.sleep(1)
        world.settings.event("ADDED", settings("s", 12))
        await anyio.sleep(10)
        key = await world.key()
        parts = ("by", "event", "name", "resourceVersion", "priority")
        said = [tuple(trigger.get(part) for part in parts) for trigger in key["triggers"]]
        assert said == [
            ("pods", "initial create", "a", "5", -100),
            ("pods", "update", "a", "11", 0),
            ("configmaps", "create", "s", "12", 0),
            ("timer", None, None, None, 7),
        ]
        times = [t["at"] for t in key["triggers"]]
        assert times == sorted(times)
        assert key["triggered"] == 4
        assert key["state"] == "done"

    await world.run(during)


@pytest.mark.guarantee("US9")
async def test_key_shows_what_the_controller_did_itself(transport, clock, rng):
    def answer(request):
        if world.calls == 1:
            raise ValueError("no")
        return Result(requeue_after=600) if world.calls == 2 else None

    world = World(transport, clock, rng, answer)

    async def during():
        await anyio.sleep(2)
        key = await world.key()
        assert [t["by"] for t in key["triggers"]] == ["pods", "retry", "requeue_after"]
        assert key["triggers"][-1]["afterSeconds"] == 600
        assert key["state"] == "waiting"
        world.controller.enqueue(Request("default", "a"))
        await anyio.sleep(1)
        assert (await world.key())["triggers"][-1]["by"] == "enqueue"

    await world.run(during)


async def test_retry_that_is_asked_for_shows_when_and_at_which_priority(transport, clock, rng):
    def answer(request):
        raise RetryAfter(30, priority=5)

    world = World(transport, clock, rng, answer)

    async def during():
        last = (await world.key())["triggers"][-1]
        assert (last["by"], last["afterSeconds"], last["priority"]) == ("retry after", 30, 5)

    await world.run(during)


@pytest.mark.guarantee("US9")
async def test_state_and_failures_of_a_key_that_is_worked_on(transport, clock, rng):
    def fail(request):
        raise ValueError("no")

    world = World(transport, clock, rng, fail)

    async def during():
        await anyio.sleep(60)
        key = await world.key()
        assert key["failures"] == world.calls > 5
        assert key["state"] == "waiting"
        world.gate = anyio.Event()
        world.controller.enqueue(Request("default", "a"))
        await anyio.sleep(1)
        assert (await world.key())["state"] == "processing"
        world.controller.enqueue(Request("default", "a"))
        assert (await world.key())["state"] == "processing, ready"
        (controller,) = (await world.page()).json()["controllers"]
        assert (controller["processing"], controller["workers"]) == (1, 1)
        assert controller["longestRunningSeconds"] == pytest.approx(1, abs=0.1)

    await world.run(during)


@pytest.mark.guarantee("US9")
async def test_only_the_last_triggers_and_keys_are_kept(transport, clock, rng, monkeypatch):
    monkeypatch.setattr(triggers, "_KEYS", 3)
    world = World(transport, clock, rng)

    async def during():
        for version in range(11, 61):
            world.pods.event("MODIFIED", pod("a", version))
        await anyio.sleep(1)
        key = await world.key()
        assert [t["resourceVersion"] for t in key["triggers"]] == [str(version) for version in range(29, 61)]
        assert key["triggered"] == 51
        for name in "bcd":
            world.controller.enqueue(Request("default", name))
        (controller,) = (await world.page()).json()["controllers"]
        assert [key["name"] for key in controller["keys"]] == ["d", "c", "b"]
        (controller,) = (await world.page("?limit=1")).json()["controllers"]
        assert [key["name"] for key in controller["keys"]] == ["d"]

    await world.run(during)


async def test_list_of_keys_has_the_last_trigger_of_each(transport, clock, rng):
    world = World(transport, clock, rng)

    async def during():
        world.pods.event("MODIFIED", pod("a", 11))
        await anyio.sleep(1)
        key = await world.key("")
        assert [t["event"] for t in key["triggers"]] == ["update"]
        assert key["triggered"] == 2

    await world.run(during)


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("?controller=x", 404, "there is no controller 'x'; there are w"),
        ("?key=a", 400, "there is no parameter 'key'; take controller, namespace, name or limit"),
        ("?limit=many", 400, "limit is 'many'; it is a number of keys"),
        ("?limit=-1", 400, "limit is '-1'; it is a number of keys"),
    ],
)
async def test_question_that_makes_no_sense_is_answered_with_what_does(transport, clock, rng, query, status, said):
    answer = await World(transport, clock, rng).page(query)
    assert (answer.status_code, answer.text) == (status, said + "\n")


async def test_nothing_is_remembered_without_being_asked_to(transport, clock, rng):
    world = World(transport, clock, rng, explain=False)

    async def during():
        assert world.controller.triggers is None
        (controller,) = (await world.page()).json()["controllers"]
        assert controller["keys"] == []

    await world.run(during)
