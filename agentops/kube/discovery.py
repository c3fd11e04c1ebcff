"""What a server serves, for kinds that no constant names.

Code written for a kind uses its constant; discovery is for the command line and for tests that
install their own CRDs.
"""

from __future__ import annotations

from typing import Any

import anyio
import orjson

from agentops.kube.client import ApiClient
from agentops.kube.errors import KubeError, NotFound, TransportError
from agentops.values.clock import Clock, SystemClock
from agentops.values.kinds import Kind


class NoKindMatch(KubeError):
    """The server does not serve this kind; its CRD may be missing."""


class Discovery:
    """Finds kinds by what objects say they are, and remembers them.

    A miss asks the server again, at most once per `min_interval_s`.
    """

    def __init__(self, client: ApiClient, *, clock: Clock | None = None, min_interval_s: float = 10.0) -> None:
        self._client = client
        self._clock = clock or SystemClock()
        self._min_interval_s = min_interval_s
        self._groups: dict[str, tuple[float, dict[str, Kind]]] = {}
        self._lock = anyio.Lock()

    async def find(self, api_version: str, kind: str) -> Kind:
        """The Kind of an object. Raises NoKindMatch."""
        known = self._groups.get(api_version)
        if known and kind in known[1]:
            return known[1][kind]
        async with self._lock:
            known = self._groups.get(api_version)
            if known is None or self._clock.boottime() - known[0] >= self._min_interval_s:
                known = (self._clock.boottime(), await self._load(api_version))
                self._groups[api_version] = known
        if kind not in known[1]:
            raise NoKindMatch(f"the server has no kind {kind!r} in {api_version!r}; is its CRD installed?")
        return known[1][kind]

    async def _load(self, api_version: str) -> dict[str, Kind]:
        group, _, version = api_version.rpartition("/")
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        try:
            answer = await self._client.raw("GET", path)
        except NotFound:
            return {}
        try:
            return {kind.kind: kind for kind in _kinds(group, version, answer.body)}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TransportError(f"GET {path}: the answer is no list of resources ({error!r})") from error


def _kinds(group: str, version: str, body: bytes) -> list[Kind]:
    resources: list[dict[str, Any]] = orjson.loads(body).get("resources") or []
    return [
        Kind(item.get("group") or group, item.get("version") or version, item["kind"], item["name"], item["namespaced"])
        for item in resources
        if "/" not in item["name"]
    ]
