"""Access to a Kubernetes API server.

`config` finds the server, `transport` is the seam to the network (`aiohttp_transport` crosses it),
`client` reads and writes objects as dicts, `watch` takes the bytes of lists and watches apart,
`patches` computes and applies patches, `errors` is what can go wrong. Knows nothing of our own API.
"""

from agentops.kube.client import ApiClient, retry_on_conflict
from agentops.kube.config import ClusterConfig, load_config
from agentops.kube.transport import Response, StreamResponse, Transport

__all__ = [
    "AiohttpTransport",
    "ApiClient",
    "ClusterConfig",
    "Response",
    "StreamResponse",
    "Transport",
    "load_config",
    "retry_on_conflict",
]


def __getattr__(name: str) -> object:
    """`AiohttpTransport` on demand: the local plane and most tests never load aiohttp."""
    if name == "AiohttpTransport":
        from agentops.kube.aiohttp_transport import AiohttpTransport

        return AiohttpTransport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
