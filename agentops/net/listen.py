"""Listening addresses, `host:port` as Go and Kubernetes write them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping

from attrs import frozen

from agentops.net.errors import ListenError, UsageError

BIND_HOST_VAR = "AGENTOPS_BIND_HOST"
"""Replaces a wildcard host: pods of the local plane share one network, and each has its own address."""

_WILDCARDS = {"", "0.0.0.0", "::"}


@frozen(slots=True)
class ListenAddress:
    """Where to listen. An empty `host` is every interface; port 0 picks a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, environ: Mapping[str, str] = os.environ) -> ListenAddress:
        """From `:4096`, `127.0.0.1:80` or `[::1]:80`. Raises UsageError naming the text."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise UsageError(f"listen address {text!r}: put an IPv6 host in brackets, as in [::1]:8080")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise UsageError(f"listen address {text!r}: write host:port, such as :8080 or 127.0.0.1:8080")
        if host in _WILDCARDS:
            host = environ.get(BIND_HOST_VAR, host)
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def bind(address: ListenAddress, backlog: int = 1024) -> socket.socket:
    """A listening, non-blocking TCP socket. Raises ListenError with the one line a person needs."""
    family = socket.AF_INET6 if ":" in address.host or (not address.host and socket.has_dualstack_ipv6()) else None
    try:
        if family is socket.AF_INET6 and not address.host:
            try:
                sock = socket.create_server(("", address.port), family=family, backlog=backlog, dualstack_ipv6=True)
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                sock = socket.create_server(("", address.port), backlog=backlog)
        else:
            sock = socket.create_server((address.host, address.port), family=family or socket.AF_INET, backlog=backlog)
    except socket.gaierror as error:
        raise ListenError(f"cannot listen on {address}: {address.host!r} is not an address of this machine") from error
    except OSError as error:
        reason = {
            errno.EADDRINUSE: "the port is taken by another process; stop it or choose another port",
            errno.EACCES: "not permitted; choose a port above 1023",
            errno.EADDRNOTAVAIL: "the host is not an address of this machine",
        }.get(error.errno or 0, os.strerror(error.errno or 0))
        raise ListenError(f"cannot listen on {address}: {reason}") from error
    sock.setblocking(False)
    # asyncio sets it only where a socket names its protocol, which listening ones do not; without it an answer in two
    # parts waits for the peer's delayed acknowledgement, 40 ms
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
