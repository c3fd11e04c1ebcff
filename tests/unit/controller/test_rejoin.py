"""A lost lease without a new process: the leader's work stops, the caches go on, and the work starts again.

`REJOIN_SCHEDULES=500 pytest tests/unit/controller/test_rejoin.py` runs the long variant.
"""

import itertools
import os
import random
import threading

import anyio
import pytest
from support.lease import Lease
from support.scripted_transport import Feed, ScriptedTransport, listing, pod

from agentops.controller import (
    Builder,
    BuildError,
    LeaderElectionLost,
    LeaderElectionOptions,
    LeaderElector,
    Manager,
    ManagerOptions,
)
from agentops.kube.client import ApiClient
from agentops.kube.kinds import POD

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"
SCHEDULES = int(os.environ.get("REJOIN_SCHEDULES", "25"))


class Line(ScriptedTransport):
    """Leases by a shared `Lease`, everything else as the script says."""

    def __init__(self, lease, name):
        super().__init__()
        self._lease = lease.transport(name)

    async def request(self, method, path, **options):
        if "/leases" in path:
            return await self._lease.request(method, path, **options)
        return await super().request(method, path, **options)


@pytest.fixture
def lease():
    return Lease()


@pytest.fixture
def candidate(lease, clock):
    def make(name, seed=0, **options):
        line = Line(lease, name)
        line.on("GET", PODS, listing(10, pod("a", 5)))
        election = LeaderElectionOptions("op", "ns", identity=name, fence=False, on_lost="rejoin", **options)
        rng = random.Random(f"{name}{seed}")
        return line, Manager(line, ManagerOptions(clock=clock, rng=rng, leader_election=election))

    return make


@pytest.mark.guarantee("LE20")
@pytest.mark.parametrize("warmup", [False, True])
async def test_lost_lease_stops_the_leaders_work_and_a_won_one_starts_it_again(candidate, lease, warmup):
    line, manager = candidate("a")
    feed = Feed()
    line.on_watch(PODS, feed)
    seen, everywhere, life = [], [], []

    async def reconcile(request):
        assert manager.leading
        seen.append(request.name)

    async def everybody(*, task_status):
        everywhere.append("starts")
        await anyio.sleep_forever()

    async def work(*, task_status):
        life.append("starts")
        try:
            await anyio.sleep_forever()
        finally:
            life.append("ends")

    async def once(*, task_status):
        life.append("once")

    Builder(manager).named("pods").for_(POD).with_options(warmup=warmup).build(reconcile)
    manager.add(everybody, leader_only=False)
    manager.add(work)
    manager.add(once)
    async with anyio.create_task_group() as tasks:
        await tasks.start(manager.run)
        await anyio.sleep(5)
        assert (seen, sorted(life)) == (["a"], ["once", "starts"])

        lease.down = {"a"}
        await anyio.sleep(20)
        assert not manager.leading
        assert manager.registry.value("leader_election_master_status", name="op") == 0
        assert life[-1] == "ends"
        feed.event("ADDED", pod("b", 11)).event("DELETED", pod("a", 12))
        await anyio.sleep(5)
        assert seen == ["a"], "who does not lead does not reconcile"
        assert [pod["metadata"]["name"] for pod in await manager.client.list(POD)] == ["b"], "but goes on watching"

        lease.down = set()
        await anyio.sleep(25)
        assert manager.leading
        assert set(seen[1:]) == {"b"} | ({"a"} if warmup else set())
        assert life[2:] == ["ends", "starts"], "what had ended by itself is not begun again"
        assert everywhere == ["starts"]
        feed.event("ADDED", pod("c", 13))
        await anyio.sleep(1)
        assert seen[-1] == "c"
        assert len(line.sent("GET", PODS)) == 1, "nothing was listed again"
        tasks.cancel_scope.cancel()
    assert lease.obj["spec"]["holderIdentity"] == "", "given back at the end"


@pytest.mark.guarantee("LE18", "LE20")
async def test_work_of_managers_that_rejoin_never_overlaps(candidate, lease):
    rejoined = 0
    for seed in range(SCHEDULES):
        rng = random.Random(seed)
        lease.__init__()
        log = []

        def leader(name, log=log):
            async def work(*, task_status):
                start = anyio.current_time()
                try:
                    await anyio.sleep_forever()
                finally:
                    log.append((name, start, anyio.current_time()))

            return work

        async with anyio.create_task_group() as tasks:
            for name in "abc":
                _, manager = candidate(name, seed)
                manager.add(leader(name))
                await tasks.start(manager.run)
            for _ in range(8):
                await anyio.sleep(rng.uniform(1, 25))
                lease.random_weather(rng, "abc")
            tasks.cancel_scope.cancel()
        log.sort(key=lambda entry: entry[1])
        rejoined += len(log) - len({name for name, _, _ in log})
        for (a, _, ended), (b, began, _) in itertools.pairwise(log):
            assert ended <= began, f"seed {seed}: {a} worked until {ended}, {b} from {began}"
    assert rejoined > SCHEDULES / 3


@pytest.mark.guarantee("LE17", "LE20")
async def test_fence_stands_until_the_work_has_stopped(lease, clock):
    """The fence is a thread and has the machine's clock: what does not stop is ended with its process."""
    ended = threading.Event()
    timings = {"lease_duration_s": 1.0, "renew_deadline_s": 0.3, "retry_period_s": 0.1}
    options = LeaderElectionOptions("op", "ns", identity="a", **timings)
    elector = LeaderElector(ApiClient(lease.transport("a")), options, clock=clock, end_process=ended.set)

    async def lose():
        lease.down = set()
        await elector.acquire()
        lease.down = {"a"}
        with pytest.raises(LeaderElectionLost):
            await elector.hold()

    await lose()
    await elector.release()
    assert not ended.wait(1.2)
    await lose()
    assert ended.wait(10), "nobody said that the work has stopped"


@pytest.mark.guarantee("LE20")
def test_other_words_for_what_to_do_are_refused():
    with pytest.raises(BuildError, match="it is exit or rejoin"):
        LeaderElectionOptions("op", "ns", on_lost="retry")
