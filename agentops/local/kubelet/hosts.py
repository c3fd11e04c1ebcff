"""Names of Services, as one hosts file per namespace.

The file is what `AGENTOPS_RESOLVE_FILE` names in every container (`address name…` per line, read by
`agentops.net.resolve`): a bare Service name means the pod's own namespace, which is why there is one each.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Object = Mapping[str, Any]

CLUSTER_DOMAIN = "cluster.local"


def render(namespace: str, services: Iterable[Object], slices: Iterable[Object]) -> str:
    """The file for pods of `namespace`. Headless Services lead to their ready endpoints, one line each."""
    by_service: dict[tuple[str, str], list[Object]] = {}
    for piece in slices:
        meta = piece["metadata"]
        name = (meta.get("labels") or {}).get("kubernetes.io/service-name", "")
        by_service.setdefault((meta.get("namespace", ""), name), []).append(piece)
    lines = []
    for service in services:
        meta, spec = service["metadata"], service.get("spec") or {}
        name, home = meta["name"], meta.get("namespace", "")
        ip = spec.get("clusterIP")
        if ip == "None":
            lines += _headless(name, home, namespace, by_service.get((home, name), []))
        elif ip:
            lines.append(_line(ip, name, home, namespace))
    return "".join(f"{line}\n" for line in sorted(set(lines)))


def _headless(name: str, home: str, namespace: str, slices: Iterable[Object]) -> list[str]:
    lines = []
    for piece in slices:
        for endpoint in piece.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready") is False:
                continue
            for address in endpoint.get("addresses") or ():
                lines.append(_line(address, name, home, namespace))
                if endpoint.get("hostname"):
                    lines.append(_line(address, f"{endpoint['hostname']}.{name}", home, namespace))
    return lines


def _line(address: str, name: str, home: str, namespace: str) -> str:
    names = [f"{name}.{home}", f"{name}.{home}.svc", f"{name}.{home}.svc.{CLUSTER_DOMAIN}"]
    return " ".join([address, *([name] if home == namespace else []), *names])


class HostsFiles:
    """The files, rewritten by rename so that no reader sees half of one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[str, str] = {}

    def path(self, namespace: str) -> Path:
        """Where a namespace's file is."""
        return self._folder / namespace

    def write(self, namespace: str, text: str) -> None:
        if self._written.get(namespace) == text and self.path(namespace).exists():
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self._folder / f".{namespace}.new"
        fresh.write_text(text)
        os.replace(fresh, self.path(namespace))
        self._written[namespace] = text

    @property
    def namespaces(self) -> list[str]:
        """Those written so far."""
        return list(self._written)
