"""The embedded Kubernetes API server of the development plane.

`server` is the I/O-free core (`ApiServer.handle`), `shell` puts aiohttp and TLS around it,
`inprocess` plugs clients in without sockets. Below: `store` (revisions in SQLite), `writes`, `reads`
and `watch` (the verbs), `schema/` and `apply/` (what objects may be and who owns their fields),
`strategies/` (what makes each kind itself). Imports kube (errors, transport, patches, kinds) and values.
"""

from agentops.local.apiserver.http import ADMIN, Request, Response, Stream, User, WebSocketUpgrade
from agentops.local.apiserver.inprocess import InProcessTransport
from agentops.local.apiserver.server import ApiServer, ServerOptions

__all__ = [
    "ADMIN",
    "ApiServer",
    "InProcessTransport",
    "Request",
    "Response",
    "ServerOptions",
    "Stream",
    "User",
    "WebSocketUpgrade",
]
