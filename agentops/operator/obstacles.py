"""Objects of somebody else, watched one by one: those in an Agent's way until they move, missing ones until they come.

The cache holds only what carries the operator's labels, so nothing else would say that the name is free, or taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import anyio
import anyio.abc
from attrs import frozen

from agentops.controller import Client, Request
from agentops.kube.errors import KubeError
from agentops.kube.watch import LineSplitter, MalformedObject, decode_event
from agentops.operator.inbox import Inbox
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock
from agentops.values.kinds import Kind

log = get_logger("operator.obstacles")

WATCH_S = 300
"""When a watch ends without news, its Agent looks again all the same."""
RETRY_S = 10.0
GONE_S = 1.0
"""What is gone at the first look was in the way of a cache that is behind, which would send it here again at once."""


@frozen(slots=True)
class Obstacle:
    """What is in the way, or what is `missing`."""

    kind: Kind
    namespace: str
    name: str
    missing: bool = False


class Obstacles:
    """Add `run` to the manager; tell it by `expect` what stands in the way of an Agent. No caller ever waits."""

    def __init__(self, client: Client, wake: Callable[[Request], None], clock: Clock) -> None:
        self._client = client
        self._wake = wake
        self._clock = clock
        self._orders: Inbox[tuple[Request, Obstacle, anyio.CancelScope]] = Inbox()
        self._watched: dict[Request, dict[Obstacle, anyio.CancelScope]] = {}

    def expect(self, request: Request, obstacles: Collection[Obstacle]) -> None:
        """Wake `request` when one of these moves; what it waited for before and is not among them is forgotten."""
        known = self._watched.setdefault(request, {})
        for obstacle in set(known) - set(obstacles):
            known.pop(obstacle).cancel()
        for obstacle in obstacles:
            if obstacle not in known:
                known[obstacle] = anyio.CancelScope()
                self._orders.put((request, obstacle, known[obstacle]))
        if not known:
            del self._watched[request]

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with anyio.create_task_group() as tasks:
            task_status.started()
            while True:
                tasks.start_soon(self._watch, *await self._orders.get())

    async def _watch(self, request: Request, obstacle: Obstacle, scope: anyio.CancelScope) -> None:
        with scope:
            while True:
                try:
                    await self._until_it_moves(obstacle)
                    break
                except (KubeError, MalformedObject) as error:
                    log.info("obstacle.unwatched", kind=obstacle.kind.kind, name=obstacle.name, error=str(error))
                    await self._clock.sleep(RETRY_S)
            known = self._watched.get(request, {})
            if known.get(obstacle) is scope:
                del known[obstacle]
            self._wake(request)

    async def _until_it_moves(self, obstacle: Obstacle) -> None:
        """Return when it is gone or has another owner, or has come, and when the watch has lasted long enough."""
        kind, namespace = obstacle.kind, obstacle.namespace
        only = f"metadata.name={obstacle.name}"
        page = await self._client.live.list_page(kind, namespace, fields=only, metadata_only=True)
        found = page.get("items") or []
        if bool(found) is obstacle.missing:
            await self._clock.sleep(GONE_S)
            return
        before = [reference["uid"] for item in found for reference in item["metadata"].get("ownerReferences") or ()]
        query = [
            ("watch", "true"),
            ("fieldSelector", only),
            ("resourceVersion", page["metadata"]["resourceVersion"]),
            ("timeoutSeconds", str(WATCH_S)),
        ]
        path, lines = kind.path(namespace), LineSplitter()
        async with self._client.live.stream("GET", path, query=query, total_s=WATCH_S + 30.0) as answer:
            async for chunk in answer.chunks():
                for line in lines.feed(chunk):
                    event = decode_event(line)
                    if obstacle.missing and event.type != "BOOKMARK":
                        return
                    owners = [reference.uid for reference in event.meta.owner_references or ()]
                    if event.type in ("DELETED", "ERROR") or owners != before:
                        return
