"""Names to addresses, and HTTP clients that use them.

`AGENTOPS_RESOLVE_FILE` names a file of `address name…` lines in the form of /etc/hosts. Pods of the
local plane that share the host's file system find Services through it; elsewhere it is unset and the
system's resolver answers. The file is read again when it changes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp.abc
from aiohttp.resolver import ThreadedResolver

if TYPE_CHECKING:
    import httpx2

RESOLVE_VAR = "AGENTOPS_RESOLVE_FILE"


class HostsFile:
    """A hosts file, re-read when its modification time or size changes."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._seen: tuple[int, int, int] | None = None
        self._names: dict[str, str] = {}

    def lookup(self, name: str) -> str | None:
        """The address of `name`, or None. A file that is missing or being replaced answers as before."""
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp != self._seen:
                self._names = _parse(self._path.read_text().splitlines())
                self._seen = stamp
        except OSError:
            pass
        return self._names.get(name.rstrip(".").lower())


def _parse(lines: Iterable[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for line in lines:
        address, *hosts = line.partition("#")[0].split() or [""]
        for host in hosts:
            names.setdefault(host.lower(), address)
    return names


_files: dict[str, HostsFile] = {}


def resolve(host: str, environ: Mapping[str, str] = os.environ) -> str:
    """The address the resolve file has for `host`, else `host` itself."""
    path = environ.get(RESOLVE_VAR)
    if not path:
        return host
    return _files.setdefault(path, HostsFile(path)).lookup(host) or host


class AiohttpResolver(aiohttp.abc.AbstractResolver):
    """The same for aiohttp: the file first, then the system."""

    def __init__(self) -> None:
        self._system: ThreadedResolver | None = None

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        address = resolve(host)
        if address != host:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            return [
                aiohttp.abc.ResolveResult(
                    hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
                )
            ]
        if self._system is None:
            self._system = ThreadedResolver()
        return await self._system.resolve(host, port, family)

    async def close(self) -> None:
        if self._system is not None:
            await self._system.close()


def aiohttp_resolver() -> AiohttpResolver:
    """For `aiohttp.TCPConnector(resolver=…)`; call inside a running loop."""
    return AiohttpResolver()


def http_client(**options: Any) -> httpx2.AsyncClient:
    """An `httpx2.AsyncClient` that resolves as this module does. `options` are the client's own."""
    from agentops.net import dialing  # what speaks to an API server only needs no second HTTP library

    return dialing.client(**options)
