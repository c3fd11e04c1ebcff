"""Finding and ending every process of a pod, also when the plane is gone.

A container is its main process and whatever descends from it. Descendants that leave the process group
are found by session, by parentage (who leaves its parent falls to the container's leader, see `launch`), and by the
environment they inherited: `AGENTOPS_ROOT` is a path below the plane's state directory, so it marks them without a
doubt. Nothing is ever ended by name.

Only the standard library is imported: the file is also run by path, as the plane's watchdog
(`python -I -S strays.py STATE_DIR`). The watchdog waits on its standard input: the byte `q` means a clean stop; end
of file means the plane was killed, and then it ends what is left of the pods.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT_VAR = b"AGENTOPS_ROOT="
PIDFILE = "pid.json"


class Stat(NamedTuple):
    """One line of /proc/PID/stat, times in clock ticks.

    `start` counts from boot; with the pid it names a process for good. `cpu` is what the process has used, `collected`
    what those it has waited for had used, and those they had waited for.
    """

    pid: int
    ppid: int
    pgid: int
    sid: int
    zombie: bool
    start: int
    cpu: int
    collected: int


def read_stat(pid: int) -> Stat | None:
    """None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command name may hold spaces and brackets; the last bracket ends it.
    fields = text[text.rindex(")") + 2 :].split()
    ppid, pgid, sid = map(int, fields[1:4])
    user, system, collected_user, collected_system = map(int, fields[11:15])
    cpu, collected = user + system, collected_user + collected_system
    return Stat(pid, ppid, pgid, sid, fields[0] in "ZX", int(fields[19]), cpu, collected)


def snapshot() -> dict[int, Stat]:
    """Every process of the machine this user can see."""
    found = (read_stat(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {stat.pid: stat for stat in found if stat is not None}


def pod_root(pid: int) -> str:
    """The `AGENTOPS_ROOT` a process was started with; empty when it has none or cannot be read."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return ""
    for entry in environ.split(b"\0"):
        if entry.startswith(ROOT_VAR):
            return os.fsdecode(entry[len(ROOT_VAR) :])
    return ""


def below(root: str, folder: str) -> bool:
    return root == folder or root.startswith(folder + "/")


def members(processes: Mapping[int, Stat], leaders: Iterable[int], root: str) -> set[int]:
    """Pids that belong to the sessions or descend from `leaders`, or carry a root at or below `root`. Never our own."""
    sessions = set(leaders)
    found = {stat.pid for stat in processes.values() if stat.pid in sessions or {stat.sid, stat.pgid} & sessions}
    if root:
        found |= {pid for pid in processes if pid not in found and below(pod_root(pid), root)}
    children = by_parent(processes)
    found |= {below_it for pid in list(found) for below_it in descendants(pid, children)}
    return found - {os.getpid(), os.getppid(), 0, 1}


def by_parent(processes: Mapping[int, Stat]) -> dict[int, list[int]]:
    """The children of every pid that has some."""
    children: dict[int, list[int]] = {}
    for stat in processes.values():
        children.setdefault(stat.ppid, []).append(stat.pid)
    return children


def descendants(pid: int, children: Mapping[int, Collection[int]]) -> set[int]:
    """`pid` itself, and all below it."""
    found, unseen = {pid}, [pid]
    while unseen:
        for child in children.get(unseen.pop(), ()):
            if child not in found:
                found.add(child)
                unseen.append(child)
    return found


def memory_bytes(pid: int) -> int:
    """What a process has for itself: resident, without mapped files, which the system can drop at any time."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def kill_round(
    leaders: Collection[int], root: str, *, started: Collection[int] = (), spared: Collection[int] = ()
) -> int:
    """SIGKILL to every living member once but the `spared`, and reaping of inherited ones; how many were alive.

    `leaders` and the other processes `started` by us are not reaped: somebody wants their exit status.
    """
    processes = snapshot()
    alive = 0
    for pid in members(processes, leaders, root) - set(spared):
        if processes[pid].zombie:
            if processes[pid].ppid == os.getpid() and pid not in leaders and pid not in started:
                reap(pid)
            continue
        alive += 1
        send(pid, signal.SIGKILL)
    return alive


def send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def write_pidfile(path: Path, pid: int) -> None:
    """Remember a container's leader so that a later plane can recognise it."""
    stat = read_stat(pid)
    path.write_text(json.dumps({"pid": pid, "start": stat.start if stat else 0, "boot": boot_id()}))


def recorded_leaders(pods_dir: Path) -> set[int]:
    """Leaders of pidfiles whose process is still the same one: same boot, same start time."""
    leaders = set()
    for path in pods_dir.glob(f"*/containers/*/{PIDFILE}"):
        try:
            record = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        stat = read_stat(int(record.get("pid", 0)))
        if stat is not None and stat.start == record.get("start") and record.get("boot") == boot_id():
            leaders.add(stat.pid)
    return leaders


def end_leftovers(pods_dir: Path, *, deadline_s: float = 5.0) -> int:
    """End every process of the pods below `pods_dir`; how many were found alive. For a plane that is not running."""
    leaders = recorded_leaders(pods_dir)
    total = 0
    give_up = time.monotonic() + deadline_s
    while time.monotonic() < give_up:
        alive = kill_round(leaders, str(pods_dir))
        total += alive
        if not alive:
            break
        time.sleep(0.02)
    return total


def watch(pods_dir: Path) -> None:
    """The watchdog's whole life."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        data = os.read(sys.stdin.fileno(), 16)
        if b"q" in data:
            return
        if not data:
            end_leftovers(pods_dir)
            return


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
