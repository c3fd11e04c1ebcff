"""Calling a webhook server as an API server would: TLS, AdmissionReview, ConversionReview."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx2

from agentops.controller.certificates import Pair, self_signed
from agentops.controller.manager import Manager
from agentops.controller.webhook import WebhookOptions, WebhookServer

HOSTS = ("localhost", "127.0.0.1")


def make_pair(directory: Path, *hosts: str) -> Pair:
    """A self-signed pair, written where a webhook server looks for it."""
    pair = self_signed(hosts or HOSTS, datetime.now(UTC))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tls.crt").write_bytes(pair.cert_pem)
    (directory / "tls.key").write_bytes(pair.key_pem)
    return pair


def client(ca_pem: bytes, **options: Any) -> httpx2.AsyncClient:
    """Trusts `ca_pem` and nothing else; a connection per request."""
    context = ssl.create_default_context(cadata=ca_pem.decode())
    return httpx2.AsyncClient(verify=context, limits=httpx2.Limits(max_keepalive_connections=0), **options)


def admission_review(obj: Mapping[str, Any] | None, uid: str = "review-1", **request: Any) -> dict[str, Any]:
    sent = {"uid": uid, "operation": "CREATE", "object": obj, **request}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": sent}


def conversion_review(desired: str, *objects: Mapping[str, Any], uid: str = "review-1") -> dict[str, Any]:
    request = {"uid": uid, "desiredAPIVersion": desired, "objects": list(objects)}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "request": request}


async def call(server: WebhookServer, path: str, review: Any, *, ca_pem: bytes = b"") -> httpx2.Response:
    async with client(ca_pem or server.ca_pem) as http:
        return await http.post(f"https://127.0.0.1:{server.port}{path}", json=review)


def local_options(cert_dir: Path, **options: Any) -> WebhookOptions:
    return WebhookOptions(bind="127.0.0.1:0", cert_dir=cert_dir, grace_s=1.0, **options)


@asynccontextmanager
async def serving(server: WebhookServer) -> AsyncIterator[WebhookServer]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.run)
        yield server
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def running(manager: Manager) -> AsyncIterator[Manager]:
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(20):
            await tasks.start(manager.run)
        yield manager
        tasks.cancel_scope.cancel()
