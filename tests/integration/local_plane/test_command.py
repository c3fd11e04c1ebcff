"""`agentops local` as a user meets it: up, down, status, kubeconfig, logs, and every way to get it wrong."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.plane import agentops, kubectl_path, plane_process

from agentops.local.overview import is_alive, stop_plane
from agentops.local.state import StateDir


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """A state directory whose plane, if one was started, is stopped at the end."""
    yield tmp_path / "state"
    stop_plane(StateDir(tmp_path / "state"))


def local(*args: str, state_dir: Path, check: bool = False) -> subprocess.CompletedProcess[str]:
    return agentops("local", *args, "--state-dir", str(state_dir), check=check)


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr of a refused command."""
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_up_detached_is_ready_when_it_returns_and_down_leaves_nothing(state_dir: Path) -> None:
    up = local("up", "--detach", state_dir=state_dir, check=True)
    assert re.fullmatch(
        r"development plane ready at https://127\.0\.0\.1:\d+ \(pod isolation: \w[\w-]*\); use it with: "
        r"agentops local kubeconfig --state-dir \S+ > kubeconfig\.yaml && export KUBECONFIG=\$PWD/kubeconfig\.yaml\n",
        up.stdout,
    )
    status = local("status", state_dir=state_dir)
    assert status.returncode == 0
    assert "running (development plane)" in status.stdout
    assert re.search(r"^namespaces +4$", status.stdout, re.MULTILINE)
    pid = int(re.search(r"^pid +(\d+)$", status.stdout, re.MULTILINE)[1])  # type: ignore[index]
    config = state_dir / "kubeconfig"
    config.write_text(local("kubeconfig", state_dir=state_dir).stdout)
    nodes = subprocess.run(
        [kubectl_path(), "--kubeconfig", str(config), "--cache-dir", str(state_dir / "cache"), "get", "nodes"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.search(r"^local +Ready ", nodes.stdout, re.MULTILINE), nodes.stderr
    assert "plane.ready" in local("logs", state_dir=state_dir).stdout
    down = local("down", state_dir=state_dir)
    assert down.stdout == f"stopped the plane on {state_dir} (pid {pid})\n"
    assert not is_alive(pid)
    assert local("status", state_dir=state_dir).returncode == 3
    assert local("down", state_dir=state_dir).returncode == 0


def test_a_second_up_names_the_first(state_dir: Path) -> None:
    with plane_process(state_dir) as plane:
        for flags in ([], ["--detach"]):
            second = local("up", *flags, state_dir=state_dir)
            assert second.returncode == 2
            assert f"pid {plane.pid}, {plane.url}" in one_line(second)


def test_a_taken_port_is_refused_in_one_line(state_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for flags in (["--port", port], ["--port", port, "--detach"]):
            result = local("up", *flags, state_dir=state_dir)
            assert result.returncode == 2
            last = result.stderr.splitlines()[-1]
            assert last.startswith("agentops: ")
            assert f"127.0.0.1:{port}" in last
            assert "taken" in last


def test_a_state_dir_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for flags in ([], ["--detach"]):
        result = local("up", *flags, state_dir=tmp_path / "file" / "state")
        assert result.returncode == 2
        assert "choose another with --state-dir" in one_line(result)


def test_an_unset_pod_variable_is_refused(state_dir: Path) -> None:
    result = local("up", "--pod-env", "SURELY_NOT_SET_ANYWHERE", state_dir=state_dir)
    assert result.returncode == 2
    assert "--pod-env SURELY_NOT_SET_ANYWHERE" in one_line(result)


def test_kubeconfig_needs_a_plane_that_has_run(state_dir: Path) -> None:
    result = local("kubeconfig", state_dir=state_dir)
    assert result.returncode == 2
    assert "agentops local up" in one_line(result)


def test_port_and_credentials_are_the_same_after_a_restart(state_dir: Path) -> None:
    with plane_process(state_dir) as plane:
        first = plane.kubeconfig.read_text()
    with plane_process(state_dir) as plane:
        assert plane.kubeconfig.read_text() == first
    config = yaml.safe_load(first)
    assert config["current-context"].startswith("agentops-local-")
    assert "client-key-data" in config["users"][0]["user"]


def test_the_users_own_kubeconfig_is_left_alone(state_dir: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".kube").mkdir(parents=True)
    mine = home / ".kube" / "config"
    mine.write_text("mine")
    with plane_process(state_dir, env={"HOME": str(home), "KUBECONFIG": str(mine)}) as plane:
        plane.kubectl("get", "namespaces")
    assert mine.read_text() == "mine"
    assert sorted(p.name for p in home.iterdir()) == [".kube"]


def test_in_the_foreground_only_the_ready_line_is_printed_and_sigterm_exits_zero(state_dir: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "agentops", "local", "up", "--state-dir", str(state_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("development plane ready at ")
    process.terminate()
    rest, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert rest == ""


def test_only_loopback_is_bound(state_dir: Path) -> None:
    with plane_process(state_dir) as plane:
        sockets = {os.readlink(f) for f in Path(f"/proc/{plane.pid}/fd").iterdir() if f.is_symlink()}
        inodes = {s[8:-1] for s in sockets if s.startswith("socket:[")}
        for table in ("tcp", "tcp6"):
            for row in Path(f"/proc/{plane.pid}/net/{table}").read_text().splitlines()[1:]:
                fields = row.split()
                if fields[3] == "0A" and fields[9] in inodes:
                    assert table == "tcp", f"listens on IPv6: {row}"
                    assert fields[1][6:8] == "7F", f"listens beyond loopback: {row}"


def test_two_planes_live_side_by_side(tmp_path: Path) -> None:
    with plane_process(tmp_path / "one") as one, plane_process(tmp_path / "two") as two:
        assert one.url != two.url
        ips = {
            plane.kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}").stdout
            for plane in (one, two)
        }
        assert len(ips) == 2


def test_a_killed_plane_has_lost_nothing_it_acknowledged(state_dir: Path) -> None:
    with plane_process(state_dir) as plane:
        plane.kubectl("create", "configmap", "kept", "--from-literal=a=b")
        version = int(plane.kubectl("get", "cm", "kept", "-o", "jsonpath={.metadata.resourceVersion}").stdout)
        plane.kill()
        assert local("status", state_dir=state_dir).returncode == 3
    with plane_process(state_dir) as plane:
        assert plane.kubectl("get", "cm", "kept", "-o", "jsonpath={.data.a}").stdout == "b"
        plane.kubectl("create", "configmap", "later")
        later = int(plane.kubectl("get", "cm", "later", "-o", "jsonpath={.metadata.resourceVersion}").stdout)
        assert later > version


def test_an_idle_plane_uses_hardly_any_processor(state_dir: Path) -> None:
    with plane_process(state_dir) as plane:
        time.sleep(3)

        def ticks() -> int:
            fields = Path(f"/proc/{plane.pid}/stat").read_text().rpartition(")")[2].split()
            return int(fields[11]) + int(fields[12])

        before = ticks()
        time.sleep(5)
        share = (ticks() - before) / os.sysconf("SC_CLK_TCK") / 5
        assert share < 0.05, f"{share:.1%} of a core while nothing happens"


def test_the_audit_log_has_a_line_for_every_request(state_dir: Path, tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    with plane_process(state_dir, "--audit-log", str(audit)) as plane:
        plane.kubectl("create", "configmap", "seen")
    assert any('"configmaps' in line or "/configmaps" in line for line in audit.read_text().splitlines())
