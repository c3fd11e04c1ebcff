"""A local plane of one's own, whose processes can be found, stopped and killed."""

from __future__ import annotations

import base64
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
from attrs import frozen
from cluster import Cluster

from agentops.api.runs import TOKEN_HEADER
from agentops.local.kubelet import strays
from agentops.local.state import StateDir

AGENT, MEMORY, MODEL, OPERATOR = "agent", "memory", "model", "operator"
_SELECTORS = {
    AGENT: ("agents", "agents.agentops.io/component=runtime"),
    MEMORY: ("agents", "app.kubernetes.io/component=memory"),
    MODEL: ("agents", "app=scripted"),
    OPERATOR: ("agent-system", "app.kubernetes.io/component=operator"),
}


@frozen
class Pod:
    """What of a pod tells whether its container was restarted. `ready_since` is epoch seconds, 0 when not Ready."""

    role: str
    name: str
    uid: str
    ip: str
    restarts: int
    ready_since: float

    @classmethod
    def of(cls, role: str, pod: dict[str, Any]) -> Pod:
        status = pod.get("status") or {}
        ready = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), {})
        return cls(
            role=role,
            name=pod["metadata"]["name"],
            uid=pod["metadata"]["uid"],
            ip=status.get("podIP", ""),
            restarts=sum(c["restartCount"] for c in status.get("containerStatuses") or ()),
            ready_since=epoch(ready["lastTransitionTime"]) if ready.get("status") == "True" else 0.0,
        )


class DoomedPlane(Cluster):
    """`agentops local up` on `state_dir`, as often as it takes."""

    def __init__(self, state_dir: Path, *, backoff_scale: float = 0.02) -> None:
        super().__init__(state_dir / "kubeconfig", state_dir)
        self.path = state_dir
        self._backoff_scale = backoff_scale

    # the plane

    def up(self) -> None:
        """Start it; return when it is ready."""
        arguments = ["--state-dir", str(self.path)]
        log, scale = str(self.path / "audit.log"), str(self._backoff_scale)
        up = self._agentops("up", "--detach", *arguments, "--audit-log", log, "--backoff-scale", scale)
        assert up.returncode == 0, up.stdout + up.stderr
        self.kubeconfig.write_text(self._agentops("kubeconfig", *arguments).stdout)

    def kill(self) -> None:
        """SIGKILL; returns when it, and its pods with it, are gone."""
        os.kill(self.pid, signal.SIGKILL)
        state = StateDir(self.path)
        self.eventually(lambda: not state.locked(), "the killed plane is gone", 20)
        self.eventually(lambda: not self.of_pods(), "the pods of the killed plane are gone", 20)

    @contextmanager
    def api(self) -> Iterator[httpx2.Client]:
        """The API server for what has to be quicker than starting kubectl."""
        pki = StateDir(self.path).pki
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        with httpx2.Client(base_url=self.url, verify=context, timeout=30) as client:
            yield client

    def down(self) -> None:
        self._agentops("down", "--state-dir", str(self.path))

    @property
    def pid(self) -> int:
        return int(json.loads((self.path / "plane.json").read_text())["pid"])

    @property
    def url(self) -> str:
        """Of the API server."""
        return str(json.loads((self.path / "plane.json").read_text())["url"])

    def _agentops(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "agentops", "local", *args],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    # its pods

    def install(self, *manifests: dict[str, Any]) -> None:
        """The default overlay and `manifests`, ready."""
        self.kubectl("apply", "-k", "manifests/overlays/default")
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        self.apply(*manifests)
        self.eventually(self.settled, "everything is ready", 120)

    def pods(self) -> list[Pod]:
        """The pods that are not on their way out."""
        found = []
        for role, (namespace, selector) in _SELECTORS.items():
            items = self.get("pods", "-l", selector, namespace=namespace)["items"]
            found += [Pod.of(role, pod) for pod in items if not pod["metadata"].get("deletionTimestamp")]
        return found

    def pod(self, role: str) -> Pod:
        """The only pod of `role`."""
        (found,) = [pod for pod in self.pods() if pod.role == role]
        return found

    def settled(self) -> bool:
        """Whether every pod there should be, and no other, is Ready, and so are the agents."""
        pods = self.pods()
        counts = {role: sum(pod.role == role for pod in pods) for role in _SELECTORS}
        agents = self.get("agents")["items"]
        if counts != {AGENT: len(agents), MEMORY: 1, MODEL: 1, OPERATOR: 2} or not all(p.ready_since for p in pods):
            return False
        going = [pod for role in _SELECTORS for pod in self._going(role)]
        return not going and all(agent.get("status", {}).get("phase") == "Running" for agent in agents)

    def _going(self, role: str) -> list[str]:
        namespace, selector = _SELECTORS[role]
        items = self.get("pods", "-l", selector, namespace=namespace)["items"]
        return [pod["metadata"]["name"] for pod in items if pod["metadata"].get("deletionTimestamp")]

    def leader(self) -> Pod:
        """The operator that holds the Lease."""
        holder = self.get("lease", "agentops-operator", namespace="agent-system")["spec"].get("holderIdentity")
        return next(pod for pod in self.pods() if pod.name == holder)

    # processes

    def processes(self, pod: Pod) -> set[int]:
        """Every process of the pod."""
        folder = self.path / "pods" / pod.uid
        leaders = [json.loads(file.read_text())["pid"] for file in folder.glob(f"containers/*/{strays.PIDFILE}")]
        return strays.members(strays.snapshot(), leaders, str(folder))

    def role_process(self, pod: Pod) -> int:
        """The `agentops` process of the pod's container, below whatever isolates it."""
        words = {pid: command(pid) for pid in self.processes(pod)}
        (found,) = [pid for pid, line in words.items() if b"python" in line[0] and b"agentops" in line]
        return found

    def signal_role(self, pod: Pod, number: int) -> None:
        """Signal that process; one that is gone is what was wanted."""
        with suppress(ProcessLookupError, ValueError):
            os.kill(self.role_process(pod), number)

    def of_pods(self, *, known: tuple[str, ...] = ()) -> list[str]:
        """Living processes of this plane's pods, but for the pods with the uids `known`."""
        found = []
        for pid, stat in strays.snapshot().items():
            root = "" if stat.zombie else strays.pod_root(pid)
            if strays.below(root, str(self.path / "pods")) and not any(uid in root for uid in known):
                found.append(f"{pid} {b' '.join(command(pid)).decode(errors='replace')}")
        return found

    # the agent, without the plane

    def token(self, agent: str) -> str:
        """The agent's bearer, from where its pod has it."""
        found = self.kubectl("get", "secret", f"{agent}-token", "-n", "agents", "-o", "go-template={{.data.token}}")
        return base64.b64decode(found.stdout).decode()

    @contextmanager
    def events(self, ip: str, token: str, run: str) -> Iterator[Iterator[dict[str, Any]]]:
        """The run's events as the agent at `ip` streams them."""
        url = f"http://{ip}:4096/runs/{run}/events"
        with httpx2.stream("GET", url, headers={TOKEN_HEADER: token}, timeout=60) as answer:
            answer.raise_for_status()
            yield (json.loads(line[5:]) for line in answer.iter_lines() if line.startswith("data:"))


def command(pid: int) -> list[bytes]:
    """The argument vector of a process; one empty word when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return [b""]


def running(words: str) -> list[str]:
    """Command lines of all living processes that contain `words`."""
    lines = (b" ".join(command(pid)).decode(errors="replace") for pid, stat in strays.snapshot().items())
    return [line for line in lines if words in line]


def unread_bytes(ip: str, port: int) -> int:
    """The most that any connection to `ip:port` on this machine holds and nobody has read yet."""
    local = "".join(f"{int(part):02X}" for part in reversed(ip.split("."))) + f":{port:04X}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return max((int(row[4].split(":")[1], 16) for row in rows if row[1] == local and row[3] == "01"), default=0)


def epoch(stamp: str) -> float:
    return time.mktime(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
