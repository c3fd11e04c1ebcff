"""What the API server serves right now, custom resources included."""

from __future__ import annotations

from typing import Any

import orjson
from attrs import frozen

from agentops.kube.client import ApiClient
from agentops.kube.errors import NotFound
from agentops.values.kinds import Kind

_SKIP = frozenset({("events.k8s.io", "events")})
"""A second view of resources that are there under another group."""


@frozen(slots=True)
class Served:
    """One stored resource and what may be done with it."""

    kind: Kind
    verbs: frozenset[str]


async def served_resources(client: ApiClient) -> list[Served]:
    """Every resource that can be listed, once, in its preferred version. Raises ApiError, TransportError."""
    found: list[Served] = []
    core = orjson.loads((await client.raw("GET", "/api/v1")).body)
    found += _resources("", "v1", core)
    groups = orjson.loads((await client.raw("GET", "/apis")).body)
    for group in groups.get("groups") or ():
        name, version = group["name"], group["preferredVersion"]["version"]
        try:
            answer = await client.raw("GET", f"/apis/{name}/{version}")
        except NotFound:
            continue  # the last CRD of the group went between the two requests
        found += _resources(name, version, orjson.loads(answer.body))
    return found


def _resources(group: str, version: str, document: dict[str, Any]) -> list[Served]:
    result = []
    for item in document.get("resources") or ():
        verbs = frozenset(item.get("verbs") or ())
        if "/" in item["name"] or "list" not in verbs or (group, item["name"]) in _SKIP:
            continue
        kind = Kind(group, version, item["kind"], item["name"], namespaced=bool(item.get("namespaced")))
        result.append(Served(kind, verbs))
    return result
