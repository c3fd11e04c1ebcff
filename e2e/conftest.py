"""Drives the real kubectl against $KUBECONFIG, else against local planes of its own, one per isolation tier (`tiers`).

The plane, the manifests and the hello example are set up once for each. With KUBECONFIG set,
the cluster must hold the image (see hack/kind-e2e); what the tests create there they delete.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiers
from cluster import Cluster
from objects import SCRIPT, agent, scripted_model
from support.collector import collecting


def pytest_configure() -> None:
    try:
        tiers.asked()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test of a cluster once per tier; on a real cluster there are none."""
    if "cluster" not in metafunc.fixturenames:
        return
    if os.environ.get("KUBECONFIG"):
        runs = [pytest.param(None, id="cluster")]
    else:
        runs = [pytest.param(tier, id=f"tier-{tier}", marks=marks) for tier, marks in tiers.runs_of(metafunc.function)]
    metafunc.parametrize("cluster", runs, indirect=True, scope="session")


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    given = os.environ.get("KUBECONFIG")
    if given:
        yield Cluster(Path(given), None)
        return
    with tempfile.TemporaryDirectory(prefix="agentops-e2e-") as directory, collecting() as collector:
        state = Path(directory)
        up = subprocess.run(
            [sys.executable, "-m", "agentops", "local", "up", "--detach", "--state-dir", str(state),
             "--audit-log", str(state / "audit.log"), "--backoff-scale", "0.2",
             "--isolation", tiers.TIERS[request.param], "--pod-env", "OTEL_EXPORTER_OTLP_ENDPOINT"],
            capture_output=True, text=True, check=False, timeout=120,
            env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url},
        )  # fmt: skip
        assert up.returncode == 0, up.stdout + up.stderr
        kubeconfig = state / "kubeconfig"
        kubeconfig.write_text(
            subprocess.run(
                [sys.executable, "-m", "agentops", "local", "kubeconfig", "--state-dir", str(state)],
                capture_output=True, text=True, check=True,
            ).stdout
        )  # fmt: skip
        try:
            yield Cluster(kubeconfig, state, collector)
        finally:
            subprocess.run([sys.executable, "-m", "agentops", "local", "down", "--state-dir", str(state)], check=False)


@pytest.fixture(scope="session")
def installed(cluster: Cluster) -> Cluster:
    """The manifests of the default overlay, ready."""
    cluster.kubectl("apply", "-k", "manifests/overlays/default")
    for namespace, name in (("agent-system", "agentops-operator"), ("agents", "agentops-memory")):
        cluster.kubectl(
            "wait", "--for=condition=Available", f"deployment/{name}", "-n", namespace, "--timeout=120s", timeout_s=130
        )
    return cluster


@pytest.fixture(scope="session")
def scripted(installed: Cluster) -> Iterator[Cluster]:
    """The scripted model and a Provider `scripted` for it."""
    manifests = scripted_model("scripted", SCRIPT)
    installed.apply(*manifests)
    installed.kubectl("wait", "--for=condition=Available", "deployment/scripted", "-n", "agents", "--timeout=60s")
    yield installed
    for manifest in reversed(manifests):
        installed.kubectl("delete", manifest["kind"], "scripted", "-n", "agents", "--wait=false", check=False)


@pytest.fixture(scope="session")
def daemon(scripted: Cluster) -> Iterator[str]:
    """A running daemon agent with memory and bash, called `e2e-daemon`."""
    scripted.apply(agent("e2e-daemon", memory={"serverRef": "agentops-memory"}, storage={"size": "1Gi"}))
    scripted.kubectl("wait", "--for=condition=Ready", "agent/e2e-daemon", "-n", "agents", "--timeout=90s")
    yield "e2e-daemon"
    scripted.kubectl("delete", "agent", "e2e-daemon", "-n", "agents", check=False)
