"""What the workload controllers share: finding, adopting and letting go of children, and writing them.

Double creates cannot happen: a list through the manager's client waits until the cache has seen this process's
own writes, which is what Kubernetes' controllers keep expectations for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import anyio
from attrs import frozen

from agentops.controller import Client, Manager, ObjectEvent, Request, Result
from agentops.kube.errors import ApiError, Conflict, NotFound
from agentops.kube.kinds import CONTROLLER_REVISION, POD, REPLICA_SET, REPLICATION_CONTROLLER
from agentops.local.controllers.pods import (
    Object,
    controller_ref,
    is_deleting,
    labels_of,
    make_controller_ref,
    name_of,
    namespace_of,
    uid_of,
)
from agentops.telemetry.logging import get_logger
from agentops.values.kinds import Kind
from agentops.values.selector import LabelSelector

log = get_logger("local.controllers")

CONTROLLER_INDEX = "controller-uid"
ORPHAN = "-"
"""The value orphans are indexed under."""
_CONFLICT_RETRY_S = 0.02


def by_controller(obj: Mapping[str, Any]) -> list[str]:
    """Index function: the uid of the controller, or `ORPHAN`."""
    ref = controller_ref(obj)
    return [str(ref["uid"]) if ref else ORPHAN]


def add_shared_indices(manager: Manager) -> None:
    """Once per manager, before the controllers that read by `CONTROLLER_INDEX`."""
    for kind in (POD, REPLICA_SET, CONTROLLER_REVISION):
        manager.cache.informer(kind)
        manager.cache.add_index(kind, CONTROLLER_INDEX, by_controller)


Reconcile = Callable[[Request], Awaitable[Result | None]]


def retrying_conflicts(reconcile: Reconcile) -> Reconcile:
    """A write that lost a race is not an error: look again in a moment."""

    async def wrapped(request: Request) -> Result | None:
        try:
            return await reconcile(request)
        except Conflict:
            return Result(requeue_after=_CONFLICT_RETRY_S)

    return wrapped


@frozen(slots=True)
class Children:
    """The children of one kind that owners of one kind control."""

    client: Client
    kind: Kind
    owner_kind: Kind

    async def claim(self, owner: Object, selector: LabelSelector) -> list[Object]:
        """The children `owner` controls, after taking in matching orphans and letting go of those that no longer
        match. Nothing is adopted by an owner that is being deleted."""
        namespace = namespace_of(owner)
        mine = []
        for child in await self.client.list(self.kind, namespace, index=(CONTROLLER_INDEX, uid_of(owner))):
            if selector.matches(labels_of(child)) or is_deleting(owner) or is_deleting(child):
                mine.append(child)
            else:
                await self._release(owner, child)
        if is_deleting(owner):
            return mine
        orphans = await self.client.list(self.kind, namespace, labels=selector, index=(CONTROLLER_INDEX, ORPHAN))
        orphans = [o for o in orphans if not is_deleting(o)]
        if orphans and await self._still_there(owner):
            for orphan in orphans:
                adopted = await self._adopt(owner, orphan)
                if adopted is not None:
                    mine.append(adopted)
        return mine

    async def _still_there(self, owner: Object) -> bool:
        """Adoption by an owner that was just deleted would lead to the child's deletion: ask the server."""
        try:
            live = await self.client.live.get(self.owner_kind, name_of(owner), namespace_of(owner))
        except NotFound:
            return False
        return uid_of(live) == uid_of(owner) and not is_deleting(live)

    async def _adopt(self, owner: Object, child: Object) -> Object | None:
        refs = [*(child["metadata"].get("ownerReferences") or ()), make_controller_ref(owner, self.owner_kind)]
        return await self._set_owners(child, refs)

    async def _release(self, owner: Object, child: Object) -> None:
        refs = [r for r in child["metadata"].get("ownerReferences") or () if r.get("uid") != uid_of(owner)]
        await self._set_owners(child, refs)

    async def _set_owners(self, child: Object, refs: list[Any]) -> Object | None:
        metadata = {"ownerReferences": refs, "resourceVersion": child["metadata"].get("resourceVersion")}
        try:
            return await self.client.patch(self.kind, name_of(child), {"metadata": metadata}, namespace_of(child))
        except NotFound:
            return None

    async def create_all(self, make: Callable[[], Object], count: int) -> tuple[list[Object], ApiError | None]:
        """Create `count` children, in batches of 1, 2, 4… so that a refusal costs one request, not a hundred.

        What was created, and the first refusal.
        """
        created: list[Object] = []
        failures: list[ApiError] = []

        async def create() -> None:
            try:
                created.append(await self.client.create(self.kind, make()))
            except ApiError as error:
                failures.append(error)

        batch = 1
        while count > 0 and not failures:
            size = min(batch, count)
            async with anyio.create_task_group() as tasks:
                for _ in range(size):
                    tasks.start_soon(create)
            count -= size
            batch *= 2
        return created, failures[0] if failures else None

    async def delete_all(self, children: Iterable[Object], *, grace_s: int | None = None) -> list[Object]:
        """Delete these very objects (by uid); `grace_s` in place of a pod's own. What was deleted."""
        deleted = []
        for child in children:
            try:
                await self.client.delete(
                    self.kind, name_of(child), namespace_of(child), grace_s=grace_s, uid=uid_of(child)
                )
            except NotFound:
                continue
            deleted.append(child)
        return deleted


async def put_status(client: Client, kind: Kind, obj: Object, status: Object) -> Object:
    """Write `status` when it differs from the one `obj` has; the object as it is then. Raises Conflict."""
    if (obj.get("status") or {}) == status:
        return obj
    return await client.update(kind, {**obj, "status": status}, subresource="status")


class Selectors:
    """Parsed `spec.selector`s of the owners of one kind: which of them might care about a child's labels.

    Keeps one parse per version of the owner.
    """

    def __init__(self, manager: Manager, kind: Kind, parse: Callable[[Object], LabelSelector | None]) -> None:
        self._informer = manager.cache.informer(kind)
        self._parse = parse
        self._parsed: dict[str, tuple[str, LabelSelector | None]] = {}

    def matching(self, namespace: str, labels: Mapping[str, str]) -> list[Request]:
        found = []
        for entry in self._informer.list(namespace):
            version, selector = self._parsed.get(entry.meta.uid, ("", None))
            if version != entry.meta.resource_version:
                selector = self._parse(entry.object())
                self._parsed[entry.meta.uid] = (entry.meta.resource_version, selector)
            if selector is not None and selector.matches(labels):
                found.append(Request(namespace=entry.meta.namespace, name=entry.meta.name))
        if len(self._parsed) > 2 * max(64, len(self._informer.list())):
            alive = {entry.meta.uid for entry in self._informer.list()}
            self._parsed = {uid: parsed for uid, parsed in self._parsed.items() if uid in alive}
        return found


class EnqueueSelecting:
    """Handler: the owners that select a pod by its labels before or after the change."""

    def __init__(self, selectors: Selectors) -> None:
        self._selectors = selectors

    def requests(self, event: ObjectEvent) -> Iterable[Request]:
        found: dict[Request, None] = {}
        for entry in (event.old, event.new):
            if entry is not None:
                found |= dict.fromkeys(self._selectors.matching(entry.meta.namespace, entry.meta.labels or {}))
        return list(found)


def pod_selector(obj: Object) -> LabelSelector | None:
    """`spec.selector` of a workload; `None` when it is empty, which selects nothing."""
    raw = (obj.get("spec") or {}).get("selector")
    if obj.get("kind") == REPLICATION_CONTROLLER.kind:  # whose selector is a plain map
        raw = {"matchLabels": raw}
    selector = LabelSelector.from_dict(raw)
    return None if selector.empty else selector
