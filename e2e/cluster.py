"""kubectl and `agentops` on one cluster, as a user has them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import anyio

from agentops.api.runs import TOKEN_HEADER
from agentops.kube import AiohttpTransport, ApiClient, load_config
from agentops.kube.kinds import SECRET

if TYPE_CHECKING:  # commands beside pytest have no tests/ on their path
    from support.collector import Collector

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


class Cluster:
    """kubectl on one cluster, and `agentops` beside it."""

    def __init__(self, kubeconfig: Path, state_dir: Path | None, collector: Collector | None = None) -> None:
        self.kubeconfig = kubeconfig
        self.state_dir = state_dir
        """The local plane's state dir; None on a real cluster."""
        self.collector = collector
        """Where every pod's spans arrive; None where pods cannot reach the test."""
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

    def raw(self, path: str, token_of: str, method: str = "GET") -> Any:
        """Ask the API server for `path` with the bearer of a Secret in `agents` for what is behind it; parsed."""
        return anyio.run(self._raw, path, token_of, method)

    async def _raw(self, path: str, token_of: str, method: str) -> Any:
        config = await load_config(str(self.kubeconfig))
        async with AiohttpTransport(config) as transport:
            client = ApiClient(transport)
            secret = await client.get(SECRET, token_of, "agents")
            token = base64.b64decode(secret["data"]["token"]).decode()
            path, _, query = path.partition("?")
            answer = await client.raw(method, path, query=parse_qsl(query), headers={TOKEN_HEADER: token})
            return json.loads(answer.body or b"null")

    def eventually(self, check: Callable[[], Any], what: str, timeout_s: float = 60, *, pause_s: float = 0.3) -> Any:
        """Poll `check` until it returns something truthy; say what never happened."""
        deadline = time.monotonic() + timeout_s
        while True:
            last = check()
            if last:
                return last
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
            time.sleep(pause_s)

    def condition(self, resource: str, type: str, namespace: str = "agents") -> dict[str, Any]:
        """A condition of an object, or an empty dict."""
        conditions = self.get(resource, namespace=namespace).get("status", {}).get("conditions") or []
        return next((c for c in conditions if c["type"] == type), {})
