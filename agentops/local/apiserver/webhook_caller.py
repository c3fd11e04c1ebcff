"""Calling webhooks: where a clientConfig points to, TLS, and what counts as an answer."""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Mapping
from typing import Any, Protocol

import httpx2
import orjson
from attrs import frozen

from agentops.kube.kinds import ENDPOINTS, SERVICE
from agentops.local.apiserver.store import Store
from agentops.net.resolve import http_client

Object = dict[str, Any]

_MAX_CONTEXTS = 64


class CallFailed(Exception):
    """There was no usable answer; the message says why."""


@frozen(slots=True)
class Target:
    """`server_name` is what the certificate must be for, when it is not the URL's host."""

    url: str
    ca_pem: str = ""
    server_name: str = ""


class Caller(Protocol):
    """Posts a review and returns the review that comes back. Raises CallFailed."""

    async def __call__(self, target: Target, review: Object, timeout_s: float) -> Object: ...


class HttpCaller:
    """A connection per call; the trust of each caBundle is built once."""

    def __init__(self) -> None:
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def __call__(self, target: Target, review: Object, timeout_s: float) -> Object:
        extensions = {"sni_hostname": target.server_name} if target.server_name else {}
        try:
            async with http_client(verify=self._context(target.ca_pem), timeout=timeout_s) as client:
                answer = await client.post(
                    target.url,
                    params={"timeout": f"{timeout_s:g}s"},
                    content=orjson.dumps(review),
                    headers={"content-type": "application/json", "accept": "application/json"},
                    extensions=extensions,
                )
        except httpx2.TimeoutException as error:
            raise CallFailed(f'Post "{target.url}": context deadline exceeded') from error
        except (httpx2.HTTPError, OSError) as error:
            raise CallFailed(f'Post "{target.url}": {error or type(error).__name__}') from error
        if answer.status_code != 200:
            raise CallFailed(f"the server answered {answer.status_code}: {answer.text[:200].strip()}")
        try:
            decoded = orjson.loads(answer.content)
        except orjson.JSONDecodeError as error:
            raise CallFailed(f"the answer is not JSON: {error}") from error
        if not isinstance(decoded, dict):
            raise CallFailed("the answer is not an object")
        return decoded

    def _context(self, ca_pem: str) -> ssl.SSLContext:
        context = self._contexts.get(ca_pem)
        if context is None:
            try:
                context = ssl.create_default_context(cadata=ca_pem or None)
            except (ssl.SSLError, ValueError) as error:
                raise CallFailed(f"unable to load root certificates: {error}") from error
            while len(self._contexts) >= _MAX_CONTEXTS:
                self._contexts.pop(next(iter(self._contexts)))
            self._contexts[ca_pem] = context
        return context


def target_of(config: Mapping[str, Any], store: Store) -> Target:
    """Where a `clientConfig` points to. Raises CallFailed for a Service without endpoints, or a bad caBundle."""
    try:
        ca_pem = base64.b64decode(config.get("caBundle") or "", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise CallFailed("caBundle is not base64 of PEM") from error
    if config.get("url"):
        return Target(str(config["url"]), ca_pem)
    service = config.get("service") or {}
    namespace, name = service.get("namespace") or "", service.get("name") or ""
    path = str(service.get("path") or "/")
    host, port = _address(store, namespace, name, int(service.get("port") or 443))
    host = f"[{host}]" if ":" in host else host
    return Target(
        f"https://{host}:{port}{path if path.startswith('/') else '/' + path}", ca_pem, f"{name}.{namespace}.svc"
    )


def _address(store: Store, namespace: str, name: str, port: int) -> tuple[str, int]:
    """A ready endpoint of the Service; its cluster IP when nobody keeps endpoints for it."""
    entry = store.get(SERVICE.resource, namespace, name)
    if entry is None:
        raise CallFailed(f'service "{name}" not found')
    spec = entry.obj().get("spec") or {}
    found = next((item for item in spec.get("ports") or () if item.get("port") == port), None)
    if found is None:
        raise CallFailed(f'no service port {port} found for service "{name}"')
    endpoints = store.get(ENDPOINTS.resource, namespace, name)
    for subset in (endpoints.obj().get("subsets") or ()) if endpoints is not None else ():
        for target in subset.get("ports") or ():
            if target.get("name", "") == found.get("name", "") and subset.get("addresses"):
                return subset["addresses"][0]["ip"], int(target["port"])
    if endpoints is not None or spec.get("clusterIP") in (None, "", "None"):
        raise CallFailed(f'no endpoints available for service "{name}"')
    return str(spec["clusterIP"]), port
