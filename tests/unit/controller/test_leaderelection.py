import itertools
import random
import threading
from datetime import timedelta

import anyio
import pytest
from support.lease import Lease
from support.scripted_transport import ok, status

from agentops.controller import BuildError, LeaderElectionLost, LeaderElectionOptions, LeaderElector
from agentops.kube.client import ApiClient
from agentops.telemetry.metrics import Registry

pytestmark = pytest.mark.anyio

LEASES = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"
LEASE = LEASES + "/op"


class Skewed:
    """A clock whose wall time is off; boot time is the loop's."""

    def __init__(self, clock, hours):
        self._clock, self._hours = clock, hours

    def now(self):
        return self._clock.now() + timedelta(hours=self._hours)

    def boottime(self):
        return self._clock.boottime()

    async def sleep(self, seconds):
        await self._clock.sleep(seconds)


@pytest.fixture
def lease():
    return Lease()


@pytest.fixture
def candidate(lease, clock):
    def make(name, hours=0, seed=0, **options):
        return LeaderElector(
            ApiClient(lease.transport(name)),
            LeaderElectionOptions("op", "ns", identity=name, fence=False, **options),
            clock=Skewed(clock, hours),
            rng=random.Random(f"{name}{seed}"),
        )

    return make


async def lead(elector, log, crash=None):
    """Campaign until lost or cancelled, noting when it led. Who crashes does not give the lease back."""
    await elector.acquire()
    start = anyio.current_time()
    try:
        await elector.hold()
    except LeaderElectionLost:
        pass
    finally:
        log.append((elector.identity, start, anyio.current_time()))
        if crash is None or not crash.cancel_called:
            await elector.release()


@pytest.mark.guarantee("LE3", "LE6", "LE8")
async def test_first_candidate_creates_the_lease_and_renews_it(candidate, lease):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lead, candidate("a"), [])
        await anyio.sleep(60)
        spec = dict(lease.obj["spec"])
        tasks.cancel_scope.cancel()
    assert spec["holderIdentity"] == "a"
    assert spec["leaseDurationSeconds"] == 15
    assert spec["leaseTransitions"] == 0
    assert spec["renewTime"] > spec["acquireTime"]
    assert spec["renewTime"].endswith("Z")
    assert 28 <= len(lease.history) <= 32


@pytest.mark.guarantee("LE12", "LE5")
async def test_released_lease_is_taken_at_once(candidate, lease):
    log = []
    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()

        async def first():
            with scope:
                await lead(candidate("a"), log)

        tasks.start_soon(first)
        await anyio.sleep(1)
        tasks.start_soon(lead, candidate("b", hours=1), log)
        await anyio.sleep(20)
        scope.cancel()
        released = anyio.current_time()
        await anyio.sleep(6)
        tasks.cancel_scope.cancel()
    assert [name for name, _, _ in log] == ["a", "b"]
    assert log[1][1] - released < 4.5
    assert lease.obj["spec"]["leaseTransitions"] == 1


@pytest.mark.parametrize("hours", [-1, 0, 1])
@pytest.mark.guarantee("LE4", "LE5", "LE9")
async def test_partitioned_leader_stops_before_the_other_begins_whatever_the_clocks(candidate, lease, hours):
    log = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lead, candidate("a"), log)
        await anyio.sleep(1)
        tasks.start_soon(lead, candidate("b", hours=hours), log)
        await anyio.sleep(30)
        last_renewal = [at for at, holder in lease.history if holder == "a"][-1]
        lease.down.add("a")
        await anyio.sleep(40)
        tasks.cancel_scope.cancel()
    (_, _, a_ended), (_, b_began, _) = log
    assert a_ended - last_renewal <= 12.1
    assert 13 <= b_began - last_renewal <= 24
    assert a_ended < b_began


@pytest.mark.guarantee("LE18")
async def test_leaders_never_overlap_in_500_schedules_of_partitions_losses_delays_and_crashes(candidate, lease):
    changes = 0
    for seed in range(500):
        rng = random.Random(seed)
        lease.__init__()
        log = []
        running = {}

        async def forever(name, hours, log=log, seed=seed, running=running):
            while True:
                with anyio.CancelScope() as running[name]:
                    await lead(candidate(name, hours=hours, seed=seed), log, crash=running[name])

        async with anyio.create_task_group() as tasks:
            for number, name in enumerate("abc"):
                tasks.start_soon(forever, name, number - 1)
            for _ in range(8):
                await anyio.sleep(rng.uniform(1, 25))
                lease.random_weather(rng, "abc")
                if rng.random() < 0.3:
                    running[rng.choice("abc")].cancel()
            tasks.cancel_scope.cancel()
        log.sort(key=lambda entry: entry[1])
        changes += len(log) - 1
        for (a, _, ended), (b, began, _) in itertools.pairwise(log):
            assert ended <= began, f"seed {seed}: {a} led until {ended}, {b} from {began}"
    assert changes > 500


@pytest.mark.guarantee("LE7")
async def test_renewal_needs_one_request_and_falls_back_to_reading(candidate, lease):
    elector = candidate("a")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lead, elector, [])
        await anyio.sleep(5)
        lease.store({**lease.obj, "metadata": {**lease.obj["metadata"], "annotations": {"touched": "yes"}}})
        await anyio.sleep(5)
        assert elector.statistics().slow_paths == 1
        assert elector.leading
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("LE9")
async def test_somebody_else_in_the_lease_ends_leadership_at_once(candidate, lease):
    log = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lead, candidate("a"), log)
        await anyio.sleep(5)
        lease.store({**lease.obj, "spec": {**lease.obj["spec"], "holderIdentity": "z"}})
        taken = anyio.current_time()
        await anyio.sleep(12)
        tasks.cancel_scope.cancel()
    assert log[0][2] - taken < 3


@pytest.mark.guarantee("LE9")
async def test_master_status_gauge_follows(lease, clock):
    registry = Registry()
    elector = LeaderElector(
        ApiClient(lease.transport("a")), LeaderElectionOptions("op", "ns", fence=False), clock=clock, registry=registry
    )
    assert registry.collectors.get_sample_value("leader_election_master_status", {"name": "op"}) == 0
    await elector.acquire()
    assert registry.collectors.get_sample_value("leader_election_master_status", {"name": "op"}) == 1
    await elector.release()
    assert registry.collectors.get_sample_value("leader_election_master_status", {"name": "op"}) == 0
    assert lease.obj["spec"]["holderIdentity"] == ""
    assert lease.obj["spec"]["leaseDurationSeconds"] == 1


@pytest.mark.guarantee("LE12")
@pytest.mark.parametrize("weather", ["down", "lossy"])
async def test_release_is_tried_again_when_it_is_not_answered(candidate, lease, weather):
    elector = candidate("a")
    await elector.acquire()
    getattr(lease, weather).add("a")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(elector.release)
        await anyio.sleep(2.5)
        lease.down, lease.lossy = set(), set()
    assert lease.obj["spec"]["holderIdentity"] == ""
    assert lease.obj["spec"]["leaseTransitions"] == 0
    writes = len(lease.history)
    await elector.release()
    assert len(lease.history) == writes


@pytest.mark.guarantee("LE14")
async def test_new_leaders_are_announced_once(lease, clock):
    seen = []
    lease.store(
        {"kind": "Lease", "metadata": {"name": "op"}, "spec": {"holderIdentity": "z", "leaseDurationSeconds": 15}}
    )
    elector = LeaderElector(
        ApiClient(lease.transport("a")),
        LeaderElectionOptions("op", "ns", identity="a", fence=False),
        clock=clock,
        on_new_leader=seen.append,
    )
    start = anyio.current_time()
    await elector.acquire()
    assert seen == ["z", "a"]
    assert anyio.current_time() - start >= 15


@pytest.mark.guarantee("LE3")
async def test_foreign_fields_of_the_lease_are_kept(candidate, lease):
    spec = {
        "holderIdentity": "",
        "leaseDurationSeconds": 1,
        "strategy": "OldestEmulationVersion",
        "leaseTransitions": 4,
    }
    lease.store({"kind": "Lease", "metadata": {"name": "op", "labels": {"x": "y"}}, "spec": spec})
    await candidate("a", labels={"mine": "1"}).acquire()
    assert lease.obj["spec"]["strategy"] == "OldestEmulationVersion"
    assert lease.obj["spec"]["leaseTransitions"] == 5
    assert lease.obj["metadata"]["labels"] == {"x": "y", "mine": "1"}


@pytest.mark.parametrize(
    "options",
    [{"lease_duration_s": 10}, {"renew_deadline_s": 2.3}, {"retry_period_s": 0}, {"lease_name": ""}],
    ids=lambda o: next(iter(o)),
)
@pytest.mark.guarantee("LE1")
def test_impossible_timings_are_refused(options):
    with pytest.raises(BuildError, match="leader election"):
        LeaderElectionOptions(**{"lease_name": "op", "namespace": "ns", **options})


@pytest.mark.guarantee("LE1")
def test_namespace_is_the_pods_own_unless_given(tmp_path, monkeypatch):
    directory = tmp_path / "var/run/secrets/kubernetes.io/serviceaccount"
    directory.mkdir(parents=True)
    (directory / "namespace").write_text("operators\n")
    monkeypatch.setenv("AGENTOPS_ROOT", str(tmp_path))
    assert LeaderElectionOptions("op").namespace == "operators"
    assert LeaderElectionOptions("op", "elsewhere").namespace == "elsewhere"
    monkeypatch.setenv("AGENTOPS_ROOT", str(tmp_path / "nothing"))
    with pytest.raises(BuildError, match="outside of a cluster, a namespace"):
        LeaderElectionOptions("op")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.guarantee("LE17")
async def test_stuck_event_loop_is_ended_when_the_lease_has_run_out(lease, anyio_backend):
    ended = threading.Event()
    elector = LeaderElector(
        ApiClient(lease.transport("a")),
        LeaderElectionOptions("op", "ns", lease_duration_s=1, renew_deadline_s=0.6, retry_period_s=0.1),
        end_process=ended.set,
    )
    await elector.acquire()
    assert ended.wait(5), "this blocks the loop, as a reconcile with time.sleep would"
    await elector.release()


@pytest.mark.guarantee("LE13")
async def test_candidate_that_may_not_read_the_lease_says_so_once(transport, clock, rng, caplog):
    transport.on("GET", LEASE, status(403, "Forbidden"))
    elector = LeaderElector(ApiClient(transport), LeaderElectionOptions("op", "ns", fence=False), clock=clock, rng=rng)
    with anyio.move_on_after(100):
        await elector.acquire()
    assert elector.statistics().failures > 20
    assert caplog.text.count("leader.try_failed") == 1


@pytest.mark.guarantee("LE8")
async def test_candidates_ask_at_their_own_irregular_times(transport, clock, rng):
    asked = []

    def held(request):
        asked.append(anyio.current_time())
        spec = {"holderIdentity": "z", "leaseDurationSeconds": 15, "renewTime": str(len(asked))}
        return ok({"kind": "Lease", "metadata": {"name": "op", "resourceVersion": str(len(asked))}, "spec": spec})

    transport.on("GET", LEASE, held)
    elector = LeaderElector(ApiClient(transport), LeaderElectionOptions("op", "ns", fence=False), clock=clock, rng=rng)
    with anyio.move_on_after(100):
        await elector.acquire()
    waits = [after - before for before, after in itertools.pairwise(asked)]
    assert 2 <= min(waits) < 2.5
    assert 3.9 < max(waits) <= 4.4


@pytest.mark.guarantee("LE10")
async def test_request_that_is_not_answered_is_given_up_before_the_deadline(clock, rng, caplog):
    class Silent:
        host = "silent"

        async def request(self, *args, **kwargs):
            await anyio.sleep_forever()

    elector = LeaderElector(ApiClient(Silent()), LeaderElectionOptions("op", "ns", fence=False), clock=clock, rng=rng)
    with anyio.move_on_after(30):
        await elector.acquire()
    assert elector.statistics().failures >= 3  # each 5 s, and up to 4.4 s between them
    assert "no answer within 5 s" in caplog.records[0].agentops_fields["error"]


@pytest.mark.guarantee("LE12")
async def test_lease_that_somebody_edited_since_the_last_renewal_is_given_back_all_the_same(candidate, lease):
    elector = candidate("a")
    await elector.acquire()
    lease.store({**lease.obj, "metadata": {**lease.obj["metadata"], "annotations": {"note": "who is this?"}}})
    await elector.release()
    assert lease.obj["spec"]["holderIdentity"] == ""
    assert lease.obj["metadata"]["annotations"] == {"note": "who is this?"}
