"""What containers and the machine use: the numbers behind `kubectl top`.

`UsageMeter` looks at all processes once a period and keeps the rates since the look before, so asking costs nothing.
CPU of a container is what its processes used between two looks:

      what each process that is there used itself
    + what ended processes left to those that waited for them, less what had been counted of it while they ran

The second line is never less than nothing. What a process used since the last look is lost when nobody waits for it,
as when its parent ignores SIGCHLD. The first look at a container counts from its start when that is long enough ago,
as in metrics-server, so that a new pod is there after one period or a little more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from attrs import field, frozen

from agentops.local.apiserver.node import NodeUsage, PodUsage, Usage
from agentops.local.kubelet import strays
from agentops.local.kubelet.strays import Stat
from agentops.values.clock import Clock

PERIOD_S = 15.0
"""metrics-server's own resolution."""
_YOUNGEST = 2 / 3
"""Of a period: a container that runs for less is not measured from its start."""
_BUSY = (0, 1, 2, 5, 6)
"""The columns user, nice, system, irq and softirq of /proc/stat; what guests use is in the first two."""


class Program(Protocol):
    """A started program. What is below `leader` is its; the leader itself may be a sandbox around it."""

    @property
    def leader(self) -> int: ...

    @property
    def pid(self) -> int: ...


@frozen(slots=True)
class Watched:
    """A running container: the pod's uid, its own name, when it started by the clock's boot time, what runs in it."""

    pod: str
    name: str
    started_s: float
    programs: Sequence[Program]


@frozen(slots=True)
class Load:
    """The whole machine: CPU time since boot in clock ticks, and memory that could not be had by who asked for it."""

    busy_ticks: int
    memory_bytes: int


class Machine(Protocol):
    """Where the numbers come from."""

    @property
    def ticks_per_s(self) -> int: ...

    def processes(self) -> Mapping[int, Stat]: ...

    def memory_bytes(self, pid: int) -> int:
        """Of one process; 0 when it is gone."""
        ...

    def load(self) -> Load | None:
        """None where the system does not say."""
        ...


class ThisMachine:
    """/proc."""

    ticks_per_s = os.sysconf("SC_CLK_TCK")

    def processes(self) -> Mapping[int, Stat]:
        return strays.snapshot()

    def memory_bytes(self, pid: int) -> int:
        return strays.memory_bytes(pid)

    def load(self) -> Load | None:
        try:
            return parse_load(Path("/proc/stat").read_text(), Path("/proc/meminfo").read_text())
        except (OSError, ValueError, KeyError, IndexError):
            return None


def parse_load(stat: str, meminfo: str) -> Load:
    """From the texts of /proc/stat and /proc/meminfo. Raises ValueError, KeyError or IndexError for others."""
    columns = [int(word) for word in stat.split("\n", 1)[0].split()[1:]]
    sizes_kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in meminfo.splitlines())}
    return Load(
        busy_ticks=sum(columns[column] for column in _BUSY),
        memory_bytes=max(0, sizes_kib["MemTotal"] - sizes_kib["MemAvailable"]) * 1024,
    )


@frozen(slots=True)
class Look:
    """CPU ticks by process (pid and start): its own, and what it collected. `unsettled` is what ended processes owe."""

    at_s: float
    ticks: Mapping[tuple[int, int], tuple[int, int]] = field(factory=dict)
    unsettled: int = 0

    def next(self, at_s: float, ticks: Mapping[tuple[int, int], tuple[int, int]]) -> tuple[int, Look]:
        """The ticks used since, and the look to go on from."""
        own = collected = 0
        for process, (cpu, handed_up) in ticks.items():
            cpu_before, handed_up_before = self.ticks.get(process, (0, 0))
            own += cpu - cpu_before
            collected += handed_up - handed_up_before
        ended = sum(sum(used) for process, used in self.ticks.items() if process not in ticks)
        # A process may be gone before who waited for it shows what it left: that comes with the next look.
        return own + max(0, collected - ended - self.unsettled), Look(at_s, ticks, max(0, ended - collected))


class UsageMeter:
    """Inert until `run`; `sample` is one look. `watched` says what runs."""

    def __init__(
        self,
        clock: Clock,
        watched: Callable[[], Iterable[Watched]],
        *,
        machine: Machine | None = None,
        period_s: float = PERIOD_S,
    ) -> None:
        self._clock = clock
        self._watched = watched
        self._machine = machine or ThisMachine()
        self._period_s = period_s
        self._looks: dict[tuple[str, str, float], Look] = {}
        self._pods: dict[str, PodUsage] = {}
        self._machine_before: tuple[float, Load] | None = None
        self._node: NodeUsage | None = None

    def pod(self, uid: str) -> PodUsage | None:
        """As of the last look; None unless all containers that ran then had been watched for a window."""
        return self._pods.get(uid)

    def node(self) -> NodeUsage | None:
        """As of the last look; None before the second."""
        return self._node

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.sample()
            await self._clock.sleep(self._period_s)

    def sample(self) -> None:
        """Look at everything that runs now."""
        self._sample_node()
        watched = list(self._watched())
        processes = self._machine.processes() if watched else {}
        children = strays.by_parent(processes)
        at_s = self._clock.boottime()
        looks: dict[tuple[str, str, float], Look] = {}
        pods: dict[str, list[tuple[str, float, Usage] | None]] = {}
        for container in watched:
            every, counted = _members(container, children)
            key = (container.pod, container.name, container.started_s)
            before = self._looks.get(key) or self._beginning(container, at_s)
            used, looks[key] = (before or Look(at_s)).next(at_s, _ticks(processes, every))
            measured = None
            if before is not None and at_s > before.at_s:
                window_s = at_s - before.at_s
                memory_bytes = sum(map(self._machine.memory_bytes, counted))
                measured = container.name, window_s, Usage(self._nanocores(used, window_s), memory_bytes)
            pods.setdefault(container.pod, []).append(measured)
        self._looks = looks
        self._pods = {uid: usage for uid, found in pods.items() if (usage := self._together(found)) is not None}

    def _together(self, containers: Sequence[tuple[str, float, Usage] | None]) -> PodUsage | None:
        """None when one of them has not been measured."""
        measured = [container for container in containers if container is not None]
        if len(measured) < len(containers):
            return None
        window_s = max(window_s for _, window_s, _ in measured)
        return PodUsage(self._clock.now(), window_s, {name: usage for name, _, usage in measured})

    def _beginning(self, container: Watched, now_s: float) -> Look | None:
        """Where a container is measured from that has not been looked at before: its start, when nothing was used."""
        old_enough = now_s - container.started_s >= self._period_s * _YOUNGEST
        return Look(container.started_s) if old_enough else None

    def _sample_node(self) -> None:
        at_s, load = self._clock.boottime(), self._machine.load()
        before, self._machine_before = self._machine_before, (at_s, load) if load is not None else None
        self._node = None
        if before is not None and load is not None and at_s > before[0]:
            window_s = at_s - before[0]
            used = max(0, load.busy_ticks - before[1].busy_ticks)
            usage = Usage(self._nanocores(used, window_s), load.memory_bytes)
            self._node = NodeUsage(self._clock.now(), window_s, usage)

    def _nanocores(self, ticks: int, window_s: float) -> int:
        return round(ticks * 1_000_000_000 / self._machine.ticks_per_s / window_s)


def _members(container: Watched, children: Mapping[int, Collection[int]]) -> tuple[set[int], set[int]]:
    """All its processes, and those without sandboxes, whose memory is not its but to whom its ended processes fall."""
    every: set[int] = set()
    counted: set[int] = set()
    for program in container.programs:
        below = strays.descendants(program.leader, children)
        every |= below
        counted |= below - {program.leader} | {program.pid}
    return every, counted


def _ticks(processes: Mapping[int, Stat], pids: Collection[int]) -> dict[tuple[int, int], tuple[int, int]]:
    found = (processes[pid] for pid in pids if pid in processes)
    return {(stat.pid, stat.start): (stat.cpu, stat.collected) for stat in found}
