"""The API server behind TLS on a free port, in the test's own event loop, and kubectl to drive it."""

from __future__ import annotations

import base64
import functools
import json
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import anyio
import pytest

from agentops.local.apiserver import ApiServer, ServerOptions
from agentops.local.apiserver.shell import serve_tls, server_ssl_context
from agentops.local.pki import ensure_pki

ADMIN_TOKEN = "an-admin-token"


class Cluster:
    """A served API server. `kubeconfig` is the admin's, by client certificate."""

    def __init__(self, server: ApiServer, port: int, home: Path, ca_path: Path) -> None:
        self.server = server
        self.port = port
        self.url = f"https://127.0.0.1:{port}"
        self.home = home
        self.kubeconfig = home / "kubeconfig"
        self.ca_path = ca_path

    async def kubectl(self, *args: str, stdin: str = "", ok: bool = True) -> CompletedProcess[str]:
        """Run kubectl; with `ok` its exit code must be zero."""
        with anyio.fail_after(60):
            done = await anyio.run_process([self._binary(), *args], input=stdin.encode(), env=self._env(), check=False)
        result = CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
        if ok:
            assert result.returncode == 0, f"kubectl {' '.join(args)}\n{result.stdout}{result.stderr}"
        return result

    @asynccontextmanager
    async def running(self, *args: str) -> AsyncIterator[AsyncIterator[str]]:
        """kubectl in the background, to the end of the block; gives its lines."""
        async with await anyio.open_process([self._binary(), *args], env=self._env(), stderr=None) as process:
            assert process.stdout is not None
            chunks = process.stdout

            async def lines() -> AsyncIterator[str]:
                rest = ""
                async for chunk in chunks:
                    *whole, rest = (rest + chunk.decode()).split("\n")
                    for line in whole:
                        yield line

            try:
                yield lines()
            finally:
                process.terminate()

    def _binary(self) -> str:
        binary = shutil.which("kubectl", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        assert binary is not None
        return binary

    def _env(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "KUBECONFIG": str(self.kubeconfig)}

    async def json(self, *args: str) -> Any:
        return json.loads((await self.kubectl("get", *args, "-o", "json")).stdout)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    pki = ensure_pki(tmp_path / "pki", addresses=["127.0.0.1"])
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    options = ServerOptions(
        db_path=tmp_path / "db.sqlite",
        port=port,
        sa_key_pem=pki.sa_key_pem,
        admin_token=ADMIN_TOKEN,
        require_service_account=False,
        crd_established_delay_s=0.05,
    )
    server = ApiServer(options)
    cluster = Cluster(server, port, tmp_path, tmp_path / "pki" / "ca.crt")

    def text(pem: bytes) -> str:
        return base64.b64encode(pem).decode()

    where = {"server": cluster.url, "certificate-authority-data": text(pki.ca_pem)}
    user = {"client-certificate-data": text(pki.admin_cert_pem), "client-key-data": text(pki.admin_key_pem)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": where}],
        "users": [{"name": "test", "user": user}],
    }
    cluster.kubeconfig.write_text(json.dumps(config))
    context = server_ssl_context(pki.server_cert_path, pki.server_key_path, pki.ca_pem)
    with server:
        server.bootstrap()
        async with anyio.create_task_group() as tasks:
            await tasks.start(server.run)
            await tasks.start(functools.partial(serve_tls, server, sock, context, grace_s=0.5))
            yield cluster
            tasks.cancel_scope.cancel()
