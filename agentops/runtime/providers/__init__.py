"""Model adapters behind one protocol.

`base` is the protocol and its deltas, `factory` turns config.json's providers into adapters,
`chain` orders a primary model and its fallbacks. Vendors' SDKs are imported when an adapter is
built, never by importing this package.
"""

from agentops.runtime.providers.base import Adapter, CallOptions, Delta

__all__ = ["Adapter", "CallOptions", "Delta"]
