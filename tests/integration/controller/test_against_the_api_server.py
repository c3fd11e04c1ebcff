"""The framework on the local plane's API server, in process."""

import random

import anyio
import pytest
from support.faulty_transport import FaultyTransport
from support.plane import api_plane, eventually

from agentops.controller import (
    Builder,
    EnqueueForObject,
    ForeignObject,
    LeaderElectionOptions,
    Manager,
    ManagerOptions,
    Request,
    Result,
    Scope,
    ensure,
)
from agentops.controller.finalizers import with_finalizer
from agentops.controller.predicates import label_selector
from agentops.kube.errors import Conflict, NotFound
from agentops.kube.kinds import CONFIG_MAP, CRD, EVENT, LEASE, NAMESPACE, SECRET, SERVICE_ACCOUNT
from agentops.values.kinds import Kind

pytestmark = pytest.mark.anyio


@pytest.fixture
async def plane(tmp_path):
    async with api_plane(tmp_path, controllers=False) as plane:
        await plane.client.create(NAMESPACE, {"metadata": {"name": "ns"}})
        yield plane


@pytest.fixture
def transport(plane):
    return FaultyTransport(plane.transport)


@pytest.fixture
def manager(transport):
    return Manager(transport, ManagerOptions(name="test", field_manager="test"))


class Running:
    """A manager that runs inside `async with`."""

    def __init__(self, manager):
        self.manager = manager

    async def __aenter__(self):
        self.tasks = anyio.create_task_group()
        await self.tasks.__aenter__()
        with anyio.fail_after(10):
            await self.tasks.start(self.manager.run)
        return self.manager

    async def __aexit__(self, *error):
        self.tasks.cancel_scope.cancel()
        return await self.tasks.__aexit__(*error)


def parent(name, **annotations):
    return {"metadata": {"name": name, "namespace": "ns", "annotations": annotations}}


def config_map(name, data=None, **metadata):
    return {"metadata": {"name": name, "namespace": "ns", **metadata}, "data": data or {}}


class Children:
    """One ConfigMap per ServiceAccount, with the account's annotations as its data."""

    def __init__(self, manager):
        self.client = manager.client
        self.recorder = manager.recorder("children")
        self.outcomes = []
        self.errors = []

    async def reconcile(self, request):
        owner = await self.client.try_get(SERVICE_ACCOUNT, request.name, request.namespace)
        if owner is None or owner["metadata"].get("deletionTimestamp"):
            return
        wanted = config_map(f"{request.name}-child", owner["metadata"].get("annotations"))
        try:
            outcome = await ensure(self.client, CONFIG_MAP, wanted, owner)
        except ForeignObject as error:
            self.errors.append(str(error))
            return
        self.outcomes.append(outcome.action)
        if outcome.changed:
            self.recorder.event(owner, "Normal", "ChildWritten", f"child {outcome.action}")


@pytest.fixture
def children(manager):
    children = Children(manager)
    builder = Builder(manager).named("children").for_(SERVICE_ACCOUNT).owns(CONFIG_MAP)
    children.controller = builder.build(children.reconcile)
    return children


@pytest.mark.guarantee("CL8")
async def test_status_is_written_below_the_object_and_nothing_with_it(plane):
    def definition(**version):
        schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
        served = {"name": "v1", "served": True, "storage": True, "schema": schema, **version}
        names = {"plural": f"{plural}s", "kind": plural.capitalize()}
        spec = {"group": "test.example.org", "scope": "Namespaced", "names": names, "versions": [served]}
        return {"metadata": {"name": f"{plural}s.test.example.org"}, "spec": spec}

    for plural, version in (("with", {"subresources": {"status": {}}}), ("without", {})):
        kind = Kind("test.example.org", "v1", plural.capitalize(), f"{plural}s")
        await plane.client.create(CRD, definition(**version))
        plane.server.custom.establish_now()
        identity = {"apiVersion": "test.example.org/v1", "kind": kind.kind}
        obj = {**identity, "metadata": {"name": "a", "namespace": "ns"}, "spec": {"x": 1}}
        made = await plane.client.create(kind, obj)
        changed = {**made, "spec": {"x": 2}, "status": {"phase": "Ready"}}
        if plural == "with":
            written = await plane.client.update(kind, changed, subresource="status")
            assert (written["spec"], written["status"]) == ({"x": 1}, {"phase": "Ready"})
            assert written["metadata"]["generation"] == made["metadata"]["generation"]
            patch = {"spec": {"x": 3}, "status": {"phase": "Done"}}
            patched = await plane.client.patch(kind, "a", patch, "ns", subresource="status")
            assert (patched["spec"], patched["status"]) == ({"x": 1}, {"phase": "Done"})
        else:
            with pytest.raises(NotFound) as refused:
                await plane.client.update(kind, changed, subresource="status")
            assert refused.value.__notes__ == ["the kind may have no status subresource: its CRD has to declare it"]
            with pytest.raises(NotFound) as absent:
                await plane.client.get(kind, "b", "ns")
            assert not hasattr(absent.value, "__notes__")


@pytest.mark.guarantee("RY13", "CL4")
async def test_who_writes_from_an_old_read_is_refused_however_it_was_read(plane, manager):
    informer = manager.cache.informer(CONFIG_MAP)
    await plane.client.create(CONFIG_MAP, config_map("shared", {"n": "0"}))
    async with Running(manager):
        reads = [
            await manager.client.get(CONFIG_MAP, "shared", "ns"),
            await manager.client.get(CONFIG_MAP, "shared", "ns", consistency="none"),
            await manager.client.live.get(CONFIG_MAP, "shared", "ns"),
        ]
        await plane.client.patch(CONFIG_MAP, "shared", {"data": {"n": "1"}}, "ns")
        for read in reads:
            with pytest.raises(Conflict):
                await manager.client.update(CONFIG_MAP, {**read, "data": {"n": "lost"}})
        assert (await plane.client.get(CONFIG_MAP, "shared", "ns"))["data"] == {"n": "1"}
        assert informer.has_synced


@pytest.mark.guarantee("AP2", "AP3")
async def test_children_are_made_repaired_and_then_left_alone(plane, transport, manager, children):
    await plane.client.create(SERVICE_ACCOUNT, parent("a", x="1", y="2"))
    async with Running(manager):
        child = await eventually(lambda: plane.client.get(CONFIG_MAP, "a-child", "ns"))
        assert child["data"] == {"x": "1", "y": "2"}
        assert child["metadata"]["ownerReferences"][0]["controller"] is True

        await plane.client.patch(CONFIG_MAP, "a-child", {"data": {"x": "drift", "foreign": "kept"}}, "ns")
        repaired = await eventually(lambda: has_data(plane, {"x": "1", "y": "2", "foreign": "kept"}))
        assert repaired

        await plane.client.patch(SERVICE_ACCOUNT, "a", {"metadata": {"annotations": {"y": None}}}, "ns")
        assert await eventually(lambda: has_data(plane, {"x": "1", "foreign": "kept"})), (
            "what is not wanted any more goes"
        )

        await plane.client.delete(CONFIG_MAP, "a-child", "ns")
        assert await eventually(lambda: has_data(plane, {"x": "1"}))

        await settled(children)
        before, rounds = len(transport.writes), len(children.outcomes)
        for _ in range(3):
            children.controller.enqueue(Request("ns", "a"))
            await eventually(lambda: children.controller.statistics().queue.ready == 0)
        await eventually(lambda: len(children.outcomes) > rounds)
        await settled(children)
        assert transport.writes[before:] == []
        assert children.outcomes[-1] == "unchanged"


async def has_data(plane, data):
    return (await plane.client.get(CONFIG_MAP, "a-child", "ns"))["data"] == data


async def settled(children):
    """Until nothing has happened for a while."""
    quiet = 0
    seen = -1
    with anyio.fail_after(10):
        while quiet < 10:
            now = children.controller.statistics().reconciles
            quiet = quiet + 1 if now == seen else 0
            seen = now
            await anyio.sleep(0.02)


@pytest.mark.guarantee("AP4")
async def test_object_of_somebody_else_is_named_and_not_touched(plane, transport, manager, children):
    await plane.client.create(CONFIG_MAP, config_map("a-child", {"mine": "yes"}))
    await plane.client.create(SERVICE_ACCOUNT, parent("a", x="1"))
    async with Running(manager):
        (error,) = await eventually(lambda: children.errors)
        assert error.startswith("ConfigMap ns/a-child exists and is controlled by nobody")
        assert transport.writes == []


@pytest.mark.guarantee("EV1")
async def test_events_can_be_read_by_both_names(plane, manager, children):
    await plane.client.create(SERVICE_ACCOUNT, parent("a"))
    async with Running(manager):

        async def written():
            return [e for e in await plane.client.list(EVENT, "ns") if e["reason"] == "ChildWritten"]

        (event,) = await eventually(written)
        assert event["involvedObject"]["name"] == "a"
        assert event["message"] == "child created"


@pytest.mark.guarantee("RY1")
async def test_counter_in_an_annotation_is_never_repeated_or_lost(plane, manager):
    """Each reconcile adds one to what it reads; reading an old state would count twice or conflict."""
    rounds = 50
    conflicts = []

    async def reconcile(request):
        obj = await manager.client.get(CONFIG_MAP, request.name, request.namespace)
        count = int(obj["data"]["count"])
        if count >= rounds:
            return None
        obj["data"]["count"] = str(count + 1)
        try:
            await manager.client.update(CONFIG_MAP, obj)
        except Exception as error:
            conflicts.append(error)
            raise
        return Result(requeue_after=0.0001)

    Builder(manager).for_(CONFIG_MAP, predicates=(label_selector("count"),)).build(reconcile)
    await plane.client.create(CONFIG_MAP, config_map("c", {"count": "0"}, labels={"count": "yes"}))
    async with Running(manager):

        async def done():
            return (await plane.client.get(CONFIG_MAP, "c", "ns"))["data"]["count"] == str(rounds)

        await eventually(done)
    assert conflicts == []


@pytest.mark.guarantee("FU4")
async def test_cleanup_runs_before_the_object_goes(plane, manager):
    cleaned = []

    async def reconcile(request):
        obj = await manager.client.try_get(CONFIG_MAP, request.name, request.namespace)
        if obj is None:
            return None

        async def apply(obj):
            return None

        async def cleanup(obj):
            cleaned.append(obj["metadata"]["name"])

        return await with_finalizer(manager.client, CONFIG_MAP, "test/key", obj, apply, cleanup)

    Builder(manager).for_(CONFIG_MAP).build(reconcile)
    await plane.client.create(CONFIG_MAP, config_map("c"))
    async with Running(manager):

        async def protected():
            return (await plane.client.get(CONFIG_MAP, "c", "ns"))["metadata"].get("finalizers") == ["test/key"]

        await eventually(protected)
        await plane.client.delete(CONFIG_MAP, "c", "ns")

        async def gone():
            try:
                await plane.client.get(CONFIG_MAP, "c", "ns")
            except NotFound:
                return True
            return False

        await eventually(gone)
    assert cleaned == ["c"]


@pytest.mark.guarantee("IN6", "WA12")
async def test_cache_equals_the_server_after_a_storm(plane, transport, manager):
    """Random writes while streams are cut and reads fail; afterwards nothing is missing and nothing is left over."""
    rng = random.Random(11)
    last_seen = {}

    async def reconcile(request):
        obj = await manager.client.try_get(CONFIG_MAP, request.name, request.namespace)
        last_seen[request.name] = None if obj is None else obj["metadata"]["resourceVersion"]

    Builder(manager).for_(CONFIG_MAP).with_options(max_concurrent=3).build(reconcile)
    manager.cache.add_index(CONFIG_MAP, "value", lambda obj: [obj["data"].get("v", "")])
    async with Running(manager):
        transport.cut, transport.fail = 0.05, 0.2
        for _ in range(400):
            name = f"c{rng.randrange(12)}"
            try:
                if rng.random() < 0.3:
                    await plane.client.delete(CONFIG_MAP, name, "ns")
                else:
                    await plane.client.apply(
                        CONFIG_MAP, {**config_map(name, {"v": str(rng.randrange(4))}), "apiVersion": "v1"}
                    )
            except NotFound:
                pass
            if rng.random() < 0.2:
                await anyio.sleep(0.005)
        transport.cut = transport.fail = 0.0

        async def equal():
            live = {
                o["metadata"]["name"]: o["metadata"]["resourceVersion"]
                for o in await plane.client.list(CONFIG_MAP, "ns")
            }
            cached = await manager.client.list(CONFIG_MAP, "ns")
            assert {o["metadata"]["name"]: o["metadata"]["resourceVersion"] for o in cached} == live
            for name, seen in last_seen.items():
                assert seen == live.get(name), f"{name} was not reconciled after its last change"
            for value in "0123":
                indexed = await manager.client.list(CONFIG_MAP, "ns", index=("value", value))
                assert {o["metadata"]["name"] for o in indexed} == {
                    o["metadata"]["name"] for o in cached if o["data"].get("v") == value
                }
            return True

        await eventually(equal, timeout_s=60)


@pytest.mark.guarantee("CA9")
async def test_selector_of_a_scope_keeps_the_rest_out_of_memory(plane, transport):
    manager = Manager(
        transport, ManagerOptions(scopes={CONFIG_MAP: Scope(labels="app=x"), SECRET: Scope(metadata_only=True)})
    )

    async def reconcile(request):
        pass

    Builder(manager).for_(CONFIG_MAP).watches(SECRET, EnqueueForObject()).build(reconcile)
    await plane.client.create(CONFIG_MAP, config_map("in", labels={"app": "x"}))
    await plane.client.create(CONFIG_MAP, config_map("out"))
    secret = {"metadata": {"name": "s", "namespace": "ns"}, "stringData": {"k": "secret"}}
    await plane.client.create(SECRET, secret)
    async with Running(manager):
        assert [o["metadata"]["name"] for o in await manager.client.list(CONFIG_MAP)] == ["in"]
        held = await manager.client.get(SECRET, "s", "ns", metadata_only=True)
        assert "data" not in held
        assert all(b"c2VjcmV0" not in e.raw for i in manager.cache.informers for e in i.list())
        assert (await manager.client.live.get(SECRET, "s", "ns"))["data"] == {"k": "c2VjcmV0"}
        await plane.client.patch(CONFIG_MAP, "in", {"metadata": {"labels": {"app": "y"}}}, "ns")

        async def left():
            return await manager.client.list(CONFIG_MAP) == []

        await eventually(left)


@pytest.mark.guarantee("LE12")
async def test_second_manager_takes_over_when_the_first_stops(plane):
    def candidate(name):
        options = LeaderElectionOptions("op", "ns", identity=name, retry_period_s=0.05, renew_deadline_s=2)
        return Manager(plane.transport, ManagerOptions(leader_election=options))

    one, two = candidate("one"), candidate("two")
    async with anyio.create_task_group() as tasks:
        async with Running(one):
            with anyio.fail_after(5):
                await one.elected.wait()
            await tasks.start(two.run)
            await anyio.sleep(0.2)
            assert not two.leading
        with anyio.fail_after(5):
            await two.elected.wait()
        lease = await plane.client.get(LEASE, "op", "ns")
        assert lease["spec"]["holderIdentity"] == "two"
        assert lease["spec"]["leaseTransitions"] == 1
        tasks.cancel_scope.cancel()
