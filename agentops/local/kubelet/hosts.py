"""Names of Services, as one hosts file per namespace.

The file is what `AGENTOPS_RESOLVE_FILE` names in tier C (`address name…` per line, read by
`agentops.net.resolve`): a bare Service name means the pod's own namespace, which is why there is one each.
Where pods have a file system of their own it is a part of their /etc/hosts.
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
    """The files of the namespaces, rewritten by rename so that no reader sees half of one.

    Pods with a file system of their own have a file each, mounted as /etc/hosts: written in place, because a mount
    stays with the file it was made from.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[str, str] = {}
        self._pods: dict[Path, tuple[str, str]] = {}

    def path(self, namespace: str) -> Path:
        """Where a namespace's file is."""
        return self._folder / namespace

    def pod_path(self, pod_dir: Path) -> Path:
        """Where a pod's own file is."""
        return pod_dir / "hosts"

    def add_pod(self, pod_dir: Path, pod: Object, ip: str) -> None:
        """Make the pod's file, its own lines first, and keep it up to date until `forget_pod`."""
        path, namespace = self.pod_path(pod_dir), str(pod["metadata"].get("namespace", ""))
        try:
            machine = Path("/etc/hosts").read_text()
        except OSError:
            machine = ""
        own = pod_lines(pod, ip, machine)
        self._pods[path] = (namespace, own)
        _write_in_place(path, own + self._written.get(namespace, ""))

    def forget_pod(self, pod_dir: Path) -> None:
        self._pods.pop(self.pod_path(pod_dir), None)

    def write(self, namespace: str, text: str) -> None:
        if self._written.get(namespace) == text and self.path(namespace).exists():
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self._folder / f".{namespace}.new"
        fresh.write_text(text)
        os.replace(fresh, self.path(namespace))
        self._written[namespace] = text
        for path, (home, own) in self._pods.items():
            if home == namespace:
                _write_in_place(path, own + text)

    @property
    def namespaces(self) -> list[str]:
        """Those written so far."""
        return list(self._written)


def hostname_of(pod: Object) -> str:
    """What the pod's containers call themselves."""
    return str(pod["spec"].get("hostname") or pod["metadata"]["name"])[:63]


def pod_lines(pod: Object, ip: str, machine: str) -> str:
    """A pod's own lines: itself, its hostAliases, and what `machine` (the text of its /etc/hosts) says.

    The last because pods are on the machine's network, as hostNetwork pods of a cluster are.
    """
    hostname = hostname_of(pod)
    lines = ["127.0.0.1 localhost", f"{ip} {hostname}"]
    lines += [f"{alias['ip']} {' '.join(alias['hostnames'])}" for alias in pod["spec"].get("hostAliases") or ()]
    for line in machine.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        others = [name for name in names if name not in ("localhost", hostname)]
        if others:
            lines.append(f"{address} {' '.join(others)}")
    return "".join(f"{line}\n" for line in lines)


def _write_in_place(path: Path, text: str) -> None:
    """One write that overlays the old text wholly, then the new length: never an empty file in between."""
    data = text.encode()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(fd, data.ljust(os.fstat(fd).st_size, b"\n"), 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)
