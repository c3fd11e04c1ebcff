"""Whether lists can be streamed (WatchList): one watch that begins with the whole collection.

The server's memory stays flat, and list and watch are one request. Servers before 1.34 do not promise
it, aggregated APIs and proxies drop the bookmark that ends the initial events: what did not work once
is not tried again for that kind as long as the process lives.
"""

from __future__ import annotations

import re
from typing import Literal

import anyio
import orjson

from agentops.kube.client import ApiClient
from agentops.kube.errors import KubeError
from agentops.telemetry.logging import get_logger
from agentops.values.kinds import Kind

log = get_logger("controller.streaming")

Mode = Literal["auto", "always", "never"]
_SINCE = (1, 34)


class StreamingLists:
    """One server's answer to "may I stream?". `auto` asks for its version once, 1.34 and later may."""

    def __init__(self, client: ApiClient, mode: Mode = "auto") -> None:
        if mode not in ("auto", "always", "never"):
            raise ValueError(f"streaming_lists is {mode!r}; it is one of auto, always, never")
        self._client = client
        self._mode = mode
        self._recent: bool | None = {"always": True, "never": False}.get(mode)
        self._refused: set[Kind] = set()
        self._asking = anyio.Lock()

    async def wanted(self, kind: Kind) -> bool:
        """Whether the next list of `kind` should be streamed."""
        if kind in self._refused:
            return False
        if self._recent is None:
            async with self._asking:
                if self._recent is None:
                    self._recent = await self._ask()
        return bool(self._recent)

    def refuse(self, kind: Kind, why: str) -> None:
        """Remember that this server does not stream `kind`."""
        self._refused.add(kind)
        log.info("streaming.refused", resource=kind.resource, why=why)

    async def _ask(self) -> bool | None:
        """Unknown (None) when the server does not answer: lists are plain until it does."""
        try:
            answer = await self._client.raw("GET", "/version", timeout_s=5.0, retry=False)
            version = orjson.loads(answer.body)
            major, minor = (int(re.match(r"\d*", str(version[key])).group() or 0) for key in ("major", "minor"))  # type: ignore[union-attr]
        except KubeError as error:
            log.debug("streaming.version_unknown", error=str(error))
            return False if getattr(error, "code", 0) in (403, 404) else None
        except (ValueError, KeyError, TypeError):
            return False
        return (major, minor) >= _SINCE
