"""The framework itself: a cache and a controller on a server over the network."""

import anyio
import pytest
from support.plane import eventually

from agentops.controller import Builder, LeaderElectionOptions, Manager, ManagerOptions, ensure
from agentops.controller.cache import CacheOptions
from agentops.controller.finalizers import with_finalizer
from agentops.kube.errors import NotFound
from agentops.kube.kinds import CONFIG_MAP, LEASE, SECRET

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["always", "never"], ids=["streamed lists", "plain lists"])
def manager(request, transport, namespace):
    options = ManagerOptions(namespaces=(namespace,), cache=CacheOptions(streaming_lists=request.param, page_size=2))
    return Manager(transport, options)


async def run(manager, check, timeout_s=60):
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(timeout_s):
            await tasks.start(manager.run)
        await eventually(check, timeout_s=timeout_s)
        tasks.cancel_scope.cancel()


def config_map(namespace, name, value):
    return {"metadata": {"name": name, "namespace": namespace}, "data": {"v": value}}


async def test_cache_shows_what_was_there_and_follows(client, manager, namespace):
    for name in "abcde":
        await client.create(CONFIG_MAP, config_map(namespace, name, name))
    manager.cache.informer(CONFIG_MAP)
    manager.cache.add_field_index(CONFIG_MAP, "data.v")
    writes = []

    async def equal():
        held = {o["metadata"]["name"]: o["data"].get("v") for o in await manager.client.list(CONFIG_MAP, namespace)}
        held.pop("kube-root-ca.crt", None)
        if not writes:
            assert set(held) == set("abcde")
            writes.append(await client.patch(CONFIG_MAP, "a", {"data": {"v": "new"}}, namespace))
            await client.delete(CONFIG_MAP, "b", namespace)
            await client.create(CONFIG_MAP, config_map(namespace, "f", "f"))
        assert held == {"a": "new", "c": "c", "d": "d", "e": "e", "f": "f"}
        (found,) = await manager.client.list(CONFIG_MAP, namespace, fields="data.v=new")
        return found["metadata"]["resourceVersion"] == writes[0]["metadata"]["resourceVersion"]

    await run(manager, equal)


async def test_own_writes_are_read_at_once(manager, namespace):
    seen = []

    async def reconcile(request):
        for number in range(10):
            obj = await manager.client.get(CONFIG_MAP, "c", namespace)
            obj["data"]["v"] = str(number)
            await manager.client.update(CONFIG_MAP, obj)
            seen.append((await manager.client.get(CONFIG_MAP, "c", namespace))["data"]["v"])
        await manager.client.delete(CONFIG_MAP, "c", namespace)
        seen.append(await manager.client.try_get(CONFIG_MAP, "c", namespace))

    from agentops.controller.predicates import from_func

    predicate = from_func(lambda obj: obj["metadata"]["name"] == "c" and obj["data"]["v"] == "start")
    Builder(manager).for_(CONFIG_MAP, predicates=(predicate,)).build(reconcile)

    async def begin(*, task_status=anyio.TASK_STATUS_IGNORED):
        await manager.client.create(CONFIG_MAP, config_map(namespace, "c", "start"))

    manager.add(begin)
    await run(manager, lambda: len(seen) >= 11)
    assert seen[:11] == [*map(str, range(10)), None]


async def test_child_is_made_repaired_and_left_alone(client, manager, namespace):
    outcomes = []

    async def reconcile(request):
        owner = await manager.client.try_get(CONFIG_MAP, request.name, request.namespace)
        if owner is None or request.name != "owner":
            return
        wanted = {"metadata": {"name": "child", "namespace": namespace}, "data": {"v": "dg=="}}
        outcomes.append((await ensure(manager.client, SECRET, wanted, owner)).action)

    Builder(manager).for_(CONFIG_MAP).owns(SECRET).build(reconcile)
    await client.create(CONFIG_MAP, config_map(namespace, "owner", "1"))
    deleted = []

    async def repaired():
        if not deleted:
            await client.get(SECRET, "child", namespace)
            deleted.append(await client.delete(SECRET, "child", namespace))
        return outcomes.count("created") == 2 and outcomes[-1] == "unchanged"

    await run(manager, repaired)


async def test_finalizer_is_worked_off_before_the_object_goes(client, manager, namespace):
    cleaned = []

    async def reconcile(request):
        obj = await manager.client.try_get(CONFIG_MAP, request.name, request.namespace)
        if obj is None or request.name != "c":
            return None

        async def apply(obj):
            return None

        async def cleanup(obj):
            cleaned.append(obj["metadata"]["name"])

        return await with_finalizer(manager.client, CONFIG_MAP, "conformance.example/key", obj, apply, cleanup)

    Builder(manager).for_(CONFIG_MAP).build(reconcile)
    await client.create(CONFIG_MAP, config_map(namespace, "c", "1"))
    deleted = []

    async def gone():
        try:
            obj = await client.get(CONFIG_MAP, "c", namespace)
        except NotFound:
            return True
        if not deleted and obj["metadata"].get("finalizers"):
            deleted.append(await client.delete(CONFIG_MAP, "c", namespace))
        return False

    await run(manager, gone)
    assert cleaned == ["c"]


async def test_lease_is_taken_and_given_back(client, transport, namespace):
    election = LeaderElectionOptions("conformance", namespace, identity="me")
    manager = Manager(transport, ManagerOptions(leader_election=election))
    await run(manager, manager.elected.is_set)
    lease = await client.get(LEASE, "conformance", namespace)
    assert not lease["spec"].get("holderIdentity")
