"""The local plane's API server alone, in a process: over TLS on loopback, without controllers and kubelet.

    python -m benchmarks.apiserver DIR [--port P] [--keep] [--forget]      until SIGTERM

Writes DIR/kubeconfig.yaml when it listens. In memory; with `--keep` in DIR/db.sqlite, to survive a kill.
"""

from __future__ import annotations

import argparse
import gc
import os
import socket
from functools import partial
from pathlib import Path

import anyio

from agentops.local.apiserver import ApiServer, ServerOptions
from agentops.local.apiserver.shell import serve_tls, server_ssl_context
from agentops.local.kubeconfig import render_kubeconfig
from agentops.local.pki import ensure_pki
from agentops.net.serve import run_until_signal
from agentops.telemetry import logging

HOST = "127.0.0.1"


async def run(directory: Path, port: int, keep: bool, forget: bool, audit: Path | None) -> None:
    """Serve until cancelled."""
    pki = ensure_pki(directory / "pki", addresses=[HOST])
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((HOST, port))
    sock.listen(512)
    port = sock.getsockname()[1]
    options = ServerOptions(
        db_path=directory / "db.sqlite" if keep else None,
        host=HOST,
        port=port,
        sa_key_pem=pki.sa_key_pem,
        crd_established_delay_s=0.0,
        audit_log=audit,
        watch_queue_size=100_000,
        history_revisions=1_000_000,
    )
    context = server_ssl_context(pki.server_cert_path, pki.server_key_path, pki.ca_pem)
    with ApiServer(options) as server:
        server.bootstrap()
        if forget:
            server.store.compact(server.store.revision)
        gc.collect()
        gc.freeze()
        async with anyio.create_task_group() as tasks:
            await tasks.start(server.run)
            await tasks.start(partial(serve_tls, server, sock, context, grace_s=0.5))
            text = render_kubeconfig(
                name="bench",
                server=f"https://{HOST}:{port}",
                ca_pem=pki.ca_pem,
                cert_pem=pki.admin_cert_pem,
                key_pem=pki.admin_key_pem,
            )
            written = directory / "kubeconfig.yaml.new"
            written.write_text(text)
            os.replace(written, directory / "kubeconfig.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.apiserver", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--forget", action="store_true", help="begin without a history of changes")
    parser.add_argument("--audit", type=Path, help="write every request here")
    args = parser.parse_args()
    logging.configure("text", "warning")
    run_until_signal(partial(run, args.directory, args.port, args.keep, args.forget, args.audit))


if __name__ == "__main__":
    main()
