"""Ends the leading operator again and again, and measures until the other one leads and has reconciled a change.

    python e2e/takeover.py [--rounds N] [--signals SIGKILL,SIGTERM]

Two operator processes campaign for the Lease of a local plane. In each round the leader gets the signal while a run
it dispatched is going; a run is made while nobody leads, and an Agent once the other one does. The round is over when
both have been reconciled. Afterwards nothing may have been done twice: the audit log must not show an object created
twice, nor the model's record a prompt asked twice.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from attrs import define
from doomed_plane import AGENT, MODEL, DoomedPlane
from objects import agent, run, scripted_model

NAME = "followed"
_GROUP = "/apis/agents.agentops.io/v1alpha1"
LIMITS_S = {"SIGKILL": 24.0, "SIGTERM": 4.5}
SCRIPT = {
    "turns": [{"when": {"user": "slowly"}, "text": ["one", "two", "three", "four"], "chunk_delay": 0.5}],
    "otherwise": {"text": "An ordinary answer."},
}


@define
class Operator:
    """One `agentops operator` process; `name` is its identity as a candidate."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def campaigns(self) -> bool:
        """Whether it leads, or has seen who does."""
        assert self.process.poll() is None, f"operator {self.name} ended:\n{self.log.read_text()[-2000:]}"
        log = self.log.read_text()
        return "leader.observed" in log or "leader.elected" in log


class Takeover:
    """Two operators on one plane."""

    def __init__(self, plane: DoomedPlane) -> None:
        self.plane = plane
        self._started = 0
        self._round = 0
        self._operators: list[Operator] = []

    @contextmanager
    def operators(self, first: Path | None = None) -> Iterator[None]:
        """Two of them, with an agent the first has brought up; with `first`, that one uses another kubeconfig."""
        try:
            self.plane.kubectl("apply", "-k", "manifests/crd")
            self.plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
            self.plane.kubectl("apply", "-f", "manifests/base/namespaces.yaml")
            self.plane.apply(*scripted_model("scripted", json.dumps(SCRIPT)), agent(NAME))
            self._start(first)
            self.plane.eventually(lambda: self._operators[0].campaigns(), "the first operator campaigns", 60)
            self._start()
            self.plane.eventually(self._up, "two operators campaign and the agent runs", 120)
            yield
        finally:
            for operator in self._operators:
                operator.process.kill()
                operator.process.wait()

    def replace_ended(self) -> None:
        """Start another one for each that has ended, as a kubelet would."""
        for operator in [o for o in self._operators if o.process.poll() is not None]:
            self._operators.remove(operator)
            self._start()
        self.plane.eventually(self._up, "two operators campaign again", 60)

    def round(self, number: signal.Signals) -> float:
        """Seconds from the signal until the other one leads and has reconciled what was made meanwhile."""
        plane, self._round = self.plane, self._round + 1
        slug = f"round-{self._round}"
        leader = self.leader()
        self.start_run(f"{slug}-going")
        with plane.api() as api:
            signalled = time.monotonic()
            leader.process.send_signal(number)
            _create(api, run(f"{slug}-orphan", NAME, f"hello {slug}"))
            plane.eventually(lambda: _holder(api) not in ("", leader.name), "the other leads", 60, pause_s=0.02)
            _create(api, agent(slug, mode="task"))
            plane.eventually(lambda: _reconciled(api, slug), "the change is reconciled", 60, pause_s=0.02)
            took_s = time.monotonic() - signalled
        code = leader.process.wait(60)
        assert code == (0 if number is signal.SIGTERM else -signal.SIGKILL), f"the old leader ended with {code}"
        self._operators.remove(leader)
        self._start()
        for name in (f"{slug}-going", f"{slug}-orphan"):
            self.succeeds(name)
        plane.kubectl("delete", "agent", slug, "-n", "agents")
        plane.eventually(self._up, "two operators campaign again", 60)
        return took_s

    def start_run(self, name: str) -> None:
        """A run that takes two seconds; returns when the agent has it."""
        self.plane.apply(run(name, NAME, f"slowly {name}"))
        self.plane.eventually(lambda: self._phase(name) == "Running", f"{name} runs", 30)

    def succeeds(self, name: str) -> None:
        self.plane.eventually(lambda: self._phase(name) == "Succeeded", f"{name} succeeds", 60)

    def twice(self) -> list[str]:
        """What was done more than once."""
        made: Counter[str] = Counter()
        for line in (self.plane.path / "audit.log").read_text().splitlines():
            event = json.loads(line)
            where = event.get("objectRef") or {}
            by_operator = event["userAgent"].startswith("agentops-operator/")
            if by_operator and event["verb"] == "create" and where.get("resource") != "events":
                made[f"create {where.get('resource')}/{where.get('name')} {event['responseStatus']['code']}"] += 1
        raw = self.plane.kubectl("get", "--raw", "/api/v1/namespaces/agents/services/scripted:8000/proxy/requests")
        for line in raw.stdout.splitlines():
            users = [m["content"] for m in json.loads(line)["body"]["messages"] if m["role"] == "user"]
            made[f"prompt {users[-1]!r}"] += 1
        assert any(what.startswith("prompt") for what in made), "the model kept no requests"
        assert any(what.startswith("create") for what in made), "the audit log shows no creates of an operator"
        return [f"{what}: {count} times" for what, count in made.items() if count > 1]

    def _start(self, kubeconfig: Path | None = None) -> None:
        self._started += 1
        name = f"operator-{self._started}"
        config = str(kubeconfig or self.plane.kubeconfig)
        unserved = ["--metrics-bind-address", "0", "--health-probe-bind-address", "0"]
        log = self.plane.path / f"{name}.log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "agentops", "operator", "--leader-elect", "--kubeconfig", config, *unserved],
                env={**os.environ, "POD_NAME": name, "AGENTOPS_RESOLVE_FILE": str(self._hosts())}, stderr=stderr,
            )  # fmt: skip
        self._operators.append(Operator(name, process, log))

    def _hosts(self) -> Path:
        """The plane's names, for a process that runs beside it and not in a pod."""
        return self.plane.path / "resolve" / "agent-system"

    def _up(self) -> bool:
        pods = {pod.role for pod in self.plane.pods() if pod.ready_since}
        return {AGENT, MODEL} <= pods and self._holder() != "" and all(o.campaigns() for o in self._operators)

    def _holder(self) -> str:
        found = self.plane.kubectl(
            "get", "lease", "agentops-operator", "-n", "agent-system", "-o", "jsonpath={.spec.holderIdentity}",
            check=False,
        )  # fmt: skip
        return found.stdout

    def leader(self) -> Operator:
        holder = self._holder()
        return next(operator for operator in self._operators if operator.name == holder)

    def _phase(self, name: str) -> str:
        return str(self.plane.get("agentrun", name).get("status", {}).get("phase", ""))


def _create(api: httpx2.Client, obj: dict[str, Any]) -> None:
    plural = f"{obj['kind'].lower()}s"
    api.post(f"{_GROUP}/namespaces/agents/{plural}", json=obj).raise_for_status()


def _holder(api: httpx2.Client) -> str:
    lease = api.get("/apis/coordination.k8s.io/v1/namespaces/agent-system/leases/agentops-operator").json()
    return str(lease["spec"].get("holderIdentity") or "")


def _reconciled(api: httpx2.Client, slug: str) -> bool:
    """The Agent has its children and the status that says so, and the run made meanwhile was taken notice of."""
    made = api.get(f"{_GROUP}/namespaces/agents/agents/{slug}").json().get("status", {}).get("phase")
    orphan = api.get(f"{_GROUP}/namespaces/agents/agentruns/{slug}-orphan").json().get("status", {}).get("phase")
    return made == "Ready" and bool(orphan)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="of each signal; 20 by default")
    parser.add_argument("--signals", default=",".join(LIMITS_S), help="comma-separated; both by default")
    args = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory(prefix="agentops-takeover-") as directory:
        plane = DoomedPlane(Path(directory))
        try:
            plane.up()
            takeover = Takeover(plane)
            with takeover.operators():
                for name in args.signals.split(","):
                    times = []
                    for number in range(args.rounds):
                        times.append(takeover.round(signal.Signals[name]))
                        print(f"{name} {number + 1}: {times[-1]:.2f} s", file=sys.stderr, flush=True)
                    missed = missed or max(times) > LIMITS_S[name]
                    spread = f"min {min(times):.2f}, median {statistics.median(times):.2f}, max {max(times):.2f} s"
                    print(f"{name}: {len(times)} rounds, {spread}, at most {LIMITS_S[name]:g} s wanted", flush=True)
                twice = takeover.twice()
                print("done twice:", "; ".join(twice) or "nothing")
        finally:
            plane.down()
    return 1 if missed or twice else 0


if __name__ == "__main__":
    raise SystemExit(main())
