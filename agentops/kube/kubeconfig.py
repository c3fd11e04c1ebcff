"""Kubeconfigs that need no library: one file, one server, an identity that is written down.

That is most of them, and importing the `kubernetes` package for it costs 20 MiB and half a second of start. What
needs a plugin, an identity provider or a merge of several files, and everything that is wrong with a file, is left
to that package: `static` answers None.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from attrs import frozen

_ELSEWHERE = {"exec", "auth-provider"}


@frozen(slots=True)
class StaticKubeconfig:
    """What one context of a kubeconfig says, files read. `token_file` is an absolute path."""

    server: str
    namespace: str
    ca_pem: bytes | None
    client_cert_pem: bytes | None
    client_key_pem: bytes | None
    authorization: str | None
    token_file: str | None
    insecure: bool
    tls_server_name: str | None
    proxy: str | None
    impersonate: tuple[tuple[str, str], ...]


def static(path: str, context: str | None = None) -> StaticKubeconfig | None:
    """The file's `context`, or its current one; None when the `kubernetes` package has to look at it."""
    try:
        document = yaml.safe_load(Path(path).read_text())
        chosen = _named(document, "contexts", context or document["current-context"])["context"]
        cluster = _named(document, "clusters", chosen["cluster"])["cluster"]
        user = _named(document, "users", chosen["user"])["user"] if chosen.get("user") else {}
        if _ELSEWHERE & set(user or {}):
            return None
        return _read(Path(path).absolute().parent, cluster, user or {}, chosen.get("namespace") or "default")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, binascii.Error, yaml.YAMLError):
        return None


def _read(base: Path, cluster: Mapping[str, Any], user: Mapping[str, Any], namespace: str) -> StaticKubeconfig:
    server = cluster["server"].rstrip("/")
    secure = server.startswith("https")
    token_file = str(base / user["tokenFile"]) if user.get("tokenFile") else None
    if token_file is not None:
        Path(token_file).read_text()
    return StaticKubeconfig(
        server=server,
        namespace=namespace,
        ca_pem=_bytes(base, cluster, "certificate-authority") if secure else None,
        client_cert_pem=_bytes(base, user, "client-certificate") if secure else None,
        client_key_pem=_bytes(base, user, "client-key") if secure else None,
        authorization=None if token_file else _authorization(user),
        token_file=token_file,
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        tls_server_name=cluster.get("tls-server-name"),
        proxy=cluster.get("proxy-url"),
        impersonate=impersonation(user),
    )


def impersonation(user: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The headers that make a request one of who the user's `as`, `as-uid`, `as-groups` and `as-user-extra` name."""
    named = [("Impersonate-User", user.get("as")), ("Impersonate-Uid", user.get("as-uid"))]
    named += [("Impersonate-Group", group) for group in user.get("as-groups") or ()]
    for key, values in (user.get("as-user-extra") or {}).items():
        named += [(f"Impersonate-Extra-{quote(key, safe='')}", value) for value in values]
    return tuple((name, str(value)) for name, value in named if value)


def _named(document: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
    """The one entry of that name; none or several is for the package to explain."""
    (entry,) = (entry for entry in document[kind] if entry["name"] == name)
    return dict(entry)


def _bytes(base: Path, entry: Mapping[str, Any], key: str) -> bytes | None:
    if entry.get(f"{key}-data"):
        return base64.b64decode(entry[f"{key}-data"])
    return (base / entry[key]).read_bytes() if entry.get(key) else None


def _authorization(user: Mapping[str, Any]) -> str | None:
    if user.get("token"):
        return f"Bearer {user['token']}"
    if "username" in user and "password" in user:
        return "Basic " + base64.b64encode(f"{user['username']}:{user['password']}".encode()).decode()
    return None
