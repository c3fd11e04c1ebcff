"""Drives the real kubectl against $KUBECONFIG, else against a local plane of its own.

The plane, the manifests and the hello example are set up once for the whole run. With KUBECONFIG set,
the cluster must hold the image (see hack/kind-e2e); what the tests create there they delete.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import anyio
import pytest
from objects import SCRIPT, agent, scripted_model

from agentops.api.runs import TOKEN_HEADER
from agentops.kube import AiohttpTransport, ApiClient, load_config
from agentops.kube.kinds import SECRET

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


class Cluster:
    """kubectl on one cluster, and `agentops` beside it."""

    def __init__(self, kubeconfig: Path, state_dir: Path | None) -> None:
        self.kubeconfig = kubeconfig
        self.state_dir = state_dir
        """The local plane's state dir; None on a real cluster."""
        self.env = {**os.environ, "KUBECONFIG": str(kubeconfig), "PATH": f"{BIN}:{os.environ['PATH']}"}
        self._kubectl = shutil.which("kubectl", path=str(BIN)) or shutil.which("kubectl") or "kubectl"

    def kubectl(
        self, *args: str, stdin: str | None = None, check: bool = True, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl; with `check`, a failure shows both its streams."""
        done = subprocess.run(
            [self._kubectl, *args],
            input=stdin, capture_output=True, text=True, env=self.env, cwd=ROOT, timeout=timeout_s, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"kubectl {' '.join(args)}\n{done.stdout}\n{done.stderr}"
        return done

    def get(self, *args: str, namespace: str = "agents") -> Any:
        """`kubectl get … -o json`, parsed."""
        return json.loads(self.kubectl("get", *args, "-n", namespace, "-o", "json").stdout)

    def apply(self, *manifests: dict[str, Any]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        self.kubectl("apply", "-f", "-", stdin=text)

    def agentops(self, *args: str, timeout_s: float = 180) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "agentops", *args],
            capture_output=True, text=True, env=self.env, cwd=ROOT, timeout=timeout_s, check=False,
        )  # fmt: skip

    def raw(self, path: str, token_of: str) -> Any:
        """GET `path` of the API server with the bearer of a Secret in `agents` for what is behind it, parsed."""
        return anyio.run(self._raw, path, token_of)

    async def _raw(self, path: str, token_of: str) -> Any:
        config = await load_config(str(self.kubeconfig))
        async with AiohttpTransport(config) as transport:
            client = ApiClient(transport)
            secret = await client.get(SECRET, token_of, "agents")
            token = base64.b64decode(secret["data"]["token"]).decode()
            path, _, query = path.partition("?")
            answer = await client.raw("GET", path, query=parse_qsl(query), headers={TOKEN_HEADER: token})
            return json.loads(answer.body)

    def eventually(self, check: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
        """Poll `check` until it returns something truthy; say what never happened."""
        deadline = time.monotonic() + timeout_s
        while True:
            last = check()
            if last:
                return last
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
            time.sleep(0.3)

    def condition(self, resource: str, type: str, namespace: str = "agents") -> dict[str, Any]:
        """A condition of an object, or an empty dict."""
        conditions = self.get(resource, namespace=namespace).get("status", {}).get("conditions") or []
        return next((c for c in conditions if c["type"] == type), {})


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    given = os.environ.get("KUBECONFIG")
    if given:
        yield Cluster(Path(given), None)
        return
    with tempfile.TemporaryDirectory(prefix="agentops-e2e-") as directory:
        state = Path(directory)
        up = subprocess.run(
            [sys.executable, "-m", "agentops", "local", "up", "--detach", "--state-dir", str(state),
             "--audit-log", str(state / "audit.log"), "--backoff-scale", "0.2"],
            capture_output=True, text=True, check=False, timeout=120,
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
            yield Cluster(kubeconfig, state)
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
