"""Usage: from what /proc counts to what a container took in a window."""

from __future__ import annotations

from collections.abc import Mapping

import anyio
import pytest
from attrs import define, evolve, field, frozen
from hypothesis import given
from hypothesis import strategies as st
from support.apiserver import ManualClock

from agentops.local.apiserver.node import Usage
from agentops.local.kubelet.strays import Stat
from agentops.local.kubelet.usage import PERIOD_S, Load, UsageMeter, Watched, parse_load
from agentops.values.clock import LoopClock

CORE = 1_000_000_000
LEADER = 100


@frozen
class Program:
    leader: int
    pid: int


@define
class Machine:
    """Processes as a test makes, runs and ends them; a hundred ticks a second."""

    ticks_per_s: int = 100
    table: dict[int, Stat] = field(factory=dict)
    memory: dict[int, int] = field(factory=dict)
    now: Load | None = None
    looks: int = 0

    def processes(self) -> Mapping[int, Stat]:
        return dict(self.table)

    def memory_bytes(self, pid: int) -> int:
        return self.memory.get(pid, 0)

    def load(self) -> Load | None:
        self.looks += 1
        return self.now

    def start(self, pid: int, parent: int = 1, start: int = 0) -> None:
        self.table[pid] = Stat(pid, parent, pid, pid, False, start, 0, 0)

    def use(self, pid: int, ticks: int) -> None:
        self.table[pid] = evolve_stat(self.table[pid], cpu=self.table[pid].cpu + ticks)

    def end(self, pid: int, *, collected: bool = True) -> None:
        """Gone; whoever is its parent takes over its times and its children, unless nobody waits for it."""
        stat = self.table.pop(pid)
        for child in [s.pid for s in self.table.values() if s.ppid == pid]:
            self.table[child] = evolve_stat(self.table[child], ppid=stat.ppid)
        if collected and stat.ppid in self.table:
            parent = self.table[stat.ppid]
            self.table[stat.ppid] = evolve_stat(parent, collected=parent.collected + stat.cpu + stat.collected)


def evolve_stat(stat: Stat, **changes: int) -> Stat:
    return stat._replace(**changes)


class Bench:
    """One container, which runs for long when a test begins, and a meter that looks when it is told to."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.machine = Machine()
        self.watched = [Watched("uid", "c", 0.0, [Program(LEADER, LEADER)])]
        self.meter = UsageMeter(self.clock, lambda: self.watched, machine=self.machine)
        self.machine.start(LEADER)
        self.clock.advance(3600)
        self.meter.sample()

    def look(self, after_s: float = PERIOD_S) -> dict[str, Usage]:
        self.clock.advance(after_s)
        self.meter.sample()
        found = self.meter.pod("uid")
        return dict(found.containers) if found else {}

    def cpu(self, after_s: float = PERIOD_S) -> float:
        """Cores."""
        return self.look(after_s)["c"].cpu_nanocores / CORE


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_cpu_is_the_average_over_the_window_and_memory_what_is_there_at_its_end(bench: Bench) -> None:
    bench.machine.use(LEADER, 300)
    bench.machine.memory[LEADER] = 7 << 20
    assert bench.look(12.0) == {"c": Usage(CORE // 4, 7 << 20)}
    found = bench.meter.pod("uid")
    assert found is not None
    assert (found.window_s, found.until) == (12.0, bench.clock.now())
    assert bench.cpu() == 0


def test_all_processes_of_a_container_count_and_no_others(bench: Bench) -> None:
    for pid, parent in ((101, LEADER), (102, 101), (200, 1)):
        bench.machine.start(pid, parent)
        bench.machine.use(pid, 150)
        bench.machine.memory[pid] = 1 << 20
    assert bench.look() == {"c": Usage(CORE // 5, 2 << 20)}


def test_what_a_process_used_is_counted_once_when_it_ends(bench: Bench) -> None:
    bench.machine.start(101, LEADER)
    bench.machine.use(101, 1500)
    assert bench.cpu() == 1
    bench.machine.use(101, 300)
    bench.machine.end(101)
    assert bench.cpu() == pytest.approx(0.2)
    assert bench.cpu() == 0


def test_a_process_that_comes_and_goes_between_two_looks_counts(bench: Bench) -> None:
    for pid in range(101, 111):
        bench.machine.start(pid, LEADER)
        bench.machine.use(pid, 75)
        bench.machine.end(pid)
    assert bench.cpu() == pytest.approx(0.5)


def test_a_process_nobody_waits_for_takes_nothing_from_the_others(bench: Bench) -> None:
    bench.machine.start(101, LEADER)
    bench.machine.use(101, 1500)
    bench.look()
    bench.machine.end(101, collected=False)
    bench.machine.use(LEADER, 150)
    assert bench.cpu() == pytest.approx(0.1)


def test_a_process_that_is_gone_before_its_parent_has_its_times_is_not_counted_twice(bench: Bench) -> None:
    bench.machine.start(101, LEADER)
    bench.machine.use(101, 1500)
    bench.look()
    bench.machine.end(101, collected=False)
    assert bench.cpu() == 0
    leader = bench.machine.table[LEADER]
    bench.machine.table[LEADER] = evolve_stat(leader, collected=1530)
    assert bench.cpu() == pytest.approx(0.02)


def test_another_process_with_the_pid_of_an_ended_one_starts_at_nothing(bench: Bench) -> None:
    bench.machine.start(101, LEADER, start=1)
    bench.machine.use(101, 1500)
    bench.look()
    bench.machine.end(101, collected=False)
    bench.machine.start(101, LEADER, start=2)
    bench.machine.use(101, 300)
    assert bench.cpu() == pytest.approx(0.2)


@given(st.lists(st.tuples(st.sampled_from(["start", "use", "end", "look"]), st.integers(0, 10**6)), max_size=60))
def test_over_all_windows_everything_is_counted_exactly_once(steps: list[tuple[str, int]]) -> None:
    bench = Bench()
    used, counted, next_pid = 0, 0.0, LEADER + 1
    for step, number in [*steps, ("look", 0)]:
        alive = sorted(bench.machine.table)
        pid = alive[number % len(alive)]
        match step:
            case "start":
                bench.machine.start(next_pid, pid)
                next_pid += 1
            case "use":
                bench.machine.use(pid, number)
                used += number
            case "end" if pid != LEADER:
                bench.machine.end(pid)
            case "look":
                cpu = bench.cpu()
                assert cpu >= 0
                counted += cpu * PERIOD_S * bench.machine.ticks_per_s
    assert counted == pytest.approx(used)


def test_a_sandbox_is_no_memory_of_the_container_and_what_is_executed_in_it_counts(bench: Bench) -> None:
    bench.watched = [evolve(bench.watched[0], programs=[Program(LEADER, 102), Program(300, 301)])]
    for pid, parent in ((101, LEADER), (102, 101), (300, 1), (301, 300)):
        bench.machine.start(pid, parent)
    bench.machine.memory = {LEADER: 1000, 101: 10, 102: 1, 300: 2000, 301: 2}
    bench.machine.use(301, 750)
    assert bench.look() == {"c": Usage(CORE // 2, 13)}


def test_a_young_container_has_no_numbers_and_an_older_one_is_measured_from_its_start(bench: Bench) -> None:
    started_s = bench.clock.boottime()
    bench.watched = [Watched("uid", "c", started_s, [Program(101, 101)])]
    bench.machine.start(101)
    bench.machine.use(101, 200)
    assert bench.look(9.0) == {}
    bench.machine.use(101, 300)
    assert bench.cpu() == pytest.approx(0.2)

    bench.watched = [Watched("uid", "c", bench.clock.boottime(), [Program(102, 102)])]
    bench.machine.start(102)
    bench.machine.use(102, 500)
    assert bench.cpu(10.0) == pytest.approx(0.5)


def test_a_container_that_started_again_owes_nothing_to_its_last_run(bench: Bench) -> None:
    bench.machine.use(LEADER, 3000)
    bench.look()
    bench.machine.end(LEADER)
    bench.watched = [Watched("uid", "c", bench.clock.boottime() + 3, [Program(101, 101)])]
    bench.machine.start(101)
    bench.machine.use(101, 120)
    assert bench.cpu() == pytest.approx(0.1)


def test_a_pod_is_there_when_all_its_running_containers_are_measured(bench: Bench) -> None:
    bench.watched.append(Watched("uid", "side", bench.clock.boottime() + 8, [Program(101, 101)]))
    bench.machine.start(101)
    assert bench.look() == {}
    bench.machine.use(101, 150)
    assert bench.look() == {"c": Usage(0, 0), "side": Usage(CORE // 10, 0)}
    bench.watched.pop()
    assert bench.look().keys() == {"c"}
    bench.watched.clear()
    assert bench.look() == {}


def test_a_node_is_measured_from_its_second_look_on() -> None:
    clock, machine = ManualClock(), Machine(now=Load(5000, 1 << 30))
    meter = UsageMeter(clock, list, machine=machine)
    meter.sample()
    assert meter.node() is None
    clock.advance(15)
    machine.now = Load(6500, 2 << 30)
    meter.sample()
    found = meter.node()
    assert found is not None
    assert (found.usage, found.window_s, found.until) == (Usage(CORE, 2 << 30), 15.0, clock.now())
    clock.advance(15)
    machine.now = None
    meter.sample()
    assert meter.node() is None


def test_a_machines_load_is_what_runs_and_what_is_not_available() -> None:
    stat = "cpu  10 20 30 4000 500 6 7 80 9 1\ncpu0 1 2 3 4 5 6 7 8 9 10\n"
    meminfo = "MemTotal:        1000 kB\nMemFree:          100 kB\nMemAvailable:     600 kB\nHugePages_Total:       0\n"
    assert parse_load(stat, meminfo) == Load(10 + 20 + 30 + 6 + 7, 400 * 1024)


@pytest.mark.anyio
async def test_the_meter_looks_once_a_period() -> None:
    machine = Machine()
    with anyio.move_on_after(10 * PERIOD_S - 1):
        await UsageMeter(LoopClock(), list, machine=machine).run()
    assert machine.looks == 10
