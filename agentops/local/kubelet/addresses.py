"""Pod addresses on the loopback network.

Linux answers on all of 127.0.0.0/8 without configuration, so each pod gets an address of its own from the plane's
range, and two pods can listen on the same port. An address whose declared ports are taken is passed over.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from agentops.local.kubelet.errors import KubeletError

DEFAULT_POD_CIDR = "127.64.0.0/12"


class PodAddresses:
    """Hands out addresses of `cidr`. Raises KubeletError for one that is not part of the loopback network."""

    def __init__(self, cidr: str = DEFAULT_POD_CIDR) -> None:
        try:
            self._network = ipaddress.IPv4Network(cidr)
        except ValueError as error:
            raise KubeletError(f"pod network {cidr!r} is not a network such as {DEFAULT_POD_CIDR}: {error}") from error
        if not self._network.is_loopback or self._network.num_addresses < 4:
            raise KubeletError(f"pod network {cidr} must be a part of 127.0.0.0/8 with four addresses or more")
        self._next = 1
        self._used: dict[str, str] = {}

    def allocate(self, uid: str, ports: Iterable[int] = (), preferred: str = "") -> str:
        """The address of a pod; the one it had before, `preferred`, if that is free."""
        if uid in self._used:
            return self._used[uid]
        ports = list(ports)
        if preferred and self._is_free(preferred, ports):
            self._used[uid] = preferred
            return preferred
        for _ in range(self._network.num_addresses):
            address = str(self._network[self._next])
            self._next = (self._next + 1) % self._network.num_addresses
            if self._is_free(address, ports):
                self._used[uid] = address
                return address
        raise KubeletError(f"no free pod address in {self._network}; delete pods or stop other planes")

    def release(self, uid: str) -> None:
        """Give an address back. It comes up again only after the whole range was used."""
        self._used.pop(uid, None)

    def _is_free(self, address: str, ports: Iterable[int]) -> bool:
        if ipaddress.IPv4Address(address) not in self._network or address in self._used.values():
            return False
        return all(_can_listen(address, port) for port in ports)


def _can_listen(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, port))
        except OSError:
            return False
    return True
