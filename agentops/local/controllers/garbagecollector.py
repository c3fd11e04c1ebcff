"""Deletes what nobody owns any more. `ownership` keeps the picture and rules, this watches, asks and writes.

### Expected flow
Every resource the server serves is watched as metadata. An owner's deletion puts its dependents on the queue; a worker
gets each from the server, looks up its owners by uid, and deletes it when all are gone.

### Guarantees
Nothing is deleted on the word of the cache alone: the object and its unknown owners are read from the server first, and
the delete carries uid and resource version. Custom resources come and go with their CRD.

### Caveats
A reference to a kind the server never served holds its object: it cannot be told from a CRD that is on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import anyio
import anyio.abc

from agentops.controller import Manager, ObjectEvent
from agentops.controller.cache import SharedInformer, SharedRegistration
from agentops.controller.rate_limiting_queue import RateLimitingQueue
from agentops.controller.store import Entry
from agentops.controller.workqueue import QueueShutDown
from agentops.kube.errors import Conflict, KubeError, NotFound
from agentops.kube.kinds import CRD
from agentops.local.controllers.discovered import served_resources
from agentops.local.controllers.ownership import (
    FOREGROUND,
    ORPHAN,
    Action,
    Decision,
    Graph,
    Node,
    OwnerRef,
    OwnerState,
    decide,
    decide_deleting,
)
from agentops.local.controllers.pods import Object
from agentops.telemetry.logging import get_logger
from agentops.values.kinds import Kind

log = get_logger("local.gc")

_WORKERS = 4
_NEEDED = frozenset({"delete", "list", "watch"})
_IGNORED = frozenset({("", "events"), ("events.k8s.io", "events")})
_SETTLE_S = 0.05
_REDISCOVER_S = 300.0


class UnknownOwnerKind(Exception):
    """An owner reference names a kind that is not served."""


class GarbageCollector:
    """Runs as one runnable of the manager."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._live = manager.client.live
        self._events = manager.legacy_recorder("garbage-collector-controller")
        self._graph = Graph()
        self._queue: RateLimitingQueue[str] = RateLimitingQueue(clock=manager.clock)
        self._kinds: dict[tuple[str, str], Kind] = {}
        self._former: dict[tuple[str, str], Kind] = {}
        """Kinds whose CRD is gone: their objects are, too, but may still be named as owners."""
        self._waiting: set[str] = set()
        """Objects with an owner of a kind that is not served."""
        self._watched: dict[Kind, SharedRegistration] = {}
        self._own: set[Kind] = set()
        self._crds_changed = anyio.Event()
        manager.cache.informer(CRD)

    @property
    def graph(self) -> Graph:
        """The picture it works from, for tests and debugging."""
        return self._graph

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Watch and collect until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._queue.run)
            self._manager.cache.informer(CRD).add_handler(self._crd_changed)
            await self._discover()
            task_status.started()
            for informer in self._informers():
                await informer.wait_for_sync()
            for _ in range(_WORKERS):
                tasks.start_soon(self._work)
            await self._keep_discovering()

    # what is watched

    def _crd_changed(self, event: ObjectEvent) -> None:
        kind = _kind_of(event.object)
        if event.type == "delete":
            self._former[kind.group, kind.kind] = kind
            self._stop_watching([k for k in self._watched if (k.group, k.plural) == (kind.group, kind.plural)])
        else:
            self._former.pop((kind.group, kind.kind), None)
        self._crds_changed.set()

    async def _keep_discovering(self) -> None:
        while True:
            with anyio.move_on_after(_REDISCOVER_S):
                await self._crds_changed.wait()
                await self._manager.clock.sleep(_SETTLE_S)
            self._crds_changed = anyio.Event()
            try:
                await self._discover()
            except KubeError as error:
                log.warning("gc.discovery_failed", error=str(error))
                self._crds_changed.set()
                await self._manager.clock.sleep(1.0)

    async def _discover(self) -> None:
        served = await served_resources(self._live)
        self._kinds = {(s.kind.group, s.kind.kind): s.kind for s in served}
        wanted = {s.kind for s in served if s.verbs >= _NEEDED and (s.kind.group, s.kind.plural) not in _IGNORED}
        for kind in sorted(wanted - self._watched.keys(), key=str):
            self._watched[kind] = self._informer(kind).add_handler(self._observer(kind))
        self._stop_watching(self._watched.keys() - wanted)
        self._look_at(sorted(self._waiting))
        self._waiting.clear()

    def _stop_watching(self, kinds: Iterable[Kind]) -> None:
        """What was of these kinds is gone."""
        for kind in list(kinds):
            self._watched.pop(kind).remove()
            if kind in self._own:
                self._own.discard(kind)
                self._manager.cache.remove_informer(kind)
            for uid in self._graph.uids(kind):
                self._look_at(self._graph.forget(uid))

    def _informer(self, kind: Kind) -> SharedInformer:
        """The informer another controller has anyway, else one of metadata only."""
        for informer in self._manager.cache.informers:
            target = informer.target
            if target.kind == kind and not (target.labels or target.fields or target.namespace):
                return informer
        self._own.add(kind)
        return self._manager.cache.informer(kind, metadata_only=True)

    def _informers(self) -> list[SharedInformer]:
        return [self._informer(kind) for kind in self._watched]

    def _observer(self, kind: Kind) -> Callable[[ObjectEvent], None]:
        def observe(event: ObjectEvent) -> None:
            if event.type == "delete":
                self._look_at(self._graph.forget(event.entry.meta.uid))
            elif event.new is not None:
                self._look_at(self._graph.observe(_node(kind, event.new)))

        return observe

    def _look_at(self, uids: list[str]) -> None:
        for uid in uids:
            self._queue.add(uid)

    # work

    async def _work(self) -> None:
        while True:
            try:
                uid = await self._queue.get()
            except QueueShutDown:
                return
            try:
                await self._attempt(uid)
                self._queue.forget(uid)
            except Conflict:
                self._queue.add_rate_limited(uid)
            except UnknownOwnerKind as error:
                log.debug("gc.unknown_owner", error=str(error))
                self._waiting.add(uid)
            except KubeError as error:
                log.warning("gc.retry", uid=uid, error=str(error))
                self._queue.add_rate_limited(uid)
            finally:
                self._queue.done(uid)

    async def _attempt(self, uid: str) -> None:
        known = self._graph.get(uid)
        if known is None or self._nothing_to_do(known):
            return
        try:
            live = await self._live.get(known.kind, known.name, known.namespace)
        except NotFound:
            self._look_at(self._graph.forget(uid))
            return
        node = Node.from_object(known.kind, live)
        if node.uid != uid:
            self._look_at(self._graph.forget(uid))
            return
        dependents = self._graph.dependents(uid)
        decision = decide_deleting(node, dependents)
        if decision is None:
            owners = {ref.uid: await self._owner_state(node, live, ref) for ref in node.owners}
            decision = decide(node, dependents, owners)
        await self._carry_out(node, live, decision)

    def _nothing_to_do(self, node: Node) -> bool:
        """Whether the picture alone shows that all owners are there and nobody waits."""
        if node.deleting:
            return not (node.waits_for_dependents or node.orphans)
        owners = [(ref, self._graph.get(ref.uid)) for ref in node.owners]
        return all(o is not None and _same(node, r, o) and not o.waits_for_dependents for r, o in owners)

    async def _owner_state(self, node: Node, live: Object, ref: OwnerRef) -> OwnerState:
        if self._graph.is_absent(ref.uid):
            return OwnerState.DANGLING
        known = self._graph.get(ref.uid)
        if known is not None and _same(node, ref, known):
            return OwnerState.WAITING if known.waits_for_dependents else OwnerState.SOLID
        named = (ref.group, ref.kind)
        kind = self._kinds.get(named) or self._former.get(named)
        if kind is None:
            raise UnknownOwnerKind(f"{node.kind.resource} {node.namespace}/{node.name} is owned by unserved {ref.kind}")
        if kind.namespaced and not node.namespace:
            message = f"ownerRef {ref.kind} {ref.name} is namespaced, which an object without a namespace cannot have"
            self._events.event(live, "Warning", "OwnerRefInvalidNamespace", message)
            return OwnerState.SOLID
        try:
            found = await self._live.get(kind, ref.name, node.namespace if kind.namespaced else "")
        except NotFound:
            found = None
        if found is None or found["metadata"].get("uid") != ref.uid:
            if known is not None and known.namespace != node.namespace:
                message = f"ownerRef {ref.kind} {ref.name} (uid {ref.uid}) does not exist in namespace {node.namespace}"
                self._events.event(live, "Warning", "OwnerRefInvalidNamespace", message)
            elif known is None:
                self._graph.mark_absent(ref.uid)
            return OwnerState.DANGLING
        owner = Node.from_object(kind, found)
        return OwnerState.WAITING if owner.waits_for_dependents else OwnerState.SOLID

    async def _carry_out(self, node: Node, live: Object, decision: Decision) -> None:
        try:
            if decision.action is Action.DELETE:
                await self._delete(node, live, decision)
            elif decision.action is Action.DROP_OWNERS:
                await self._drop_owners(node, live, set(decision.owners))
            elif decision.action is Action.RELEASE:
                await self._drop_finalizer(node, live, FOREGROUND)
            elif decision.action is Action.ORPHAN_DEPENDENTS:
                await self._orphan_dependents(node)
                await self._drop_finalizer(node, live, ORPHAN)
            elif decision.action is Action.WAIT_FOR_DEPENDENTS:
                self._look_at(decision.look_at)
        except NotFound:
            return

    async def _delete(self, node: Node, live: Object, decision: Decision) -> None:
        if decision.unblock:
            refs = [{**r, "blockOwnerDeletion": False} for r in live["metadata"]["ownerReferences"]]
            live = await self._patch(node, live, {"ownerReferences": refs})
        log.info("gc.delete", kind=node.kind.kind, namespace=node.namespace, name=node.name)
        await self._live.delete(
            node.kind,
            node.name,
            node.namespace,
            propagation=decision.propagation,
            uid=node.uid,
            resource_version=live["metadata"]["resourceVersion"],
        )

    async def _drop_owners(self, node: Node, live: Object, uids: set[str]) -> None:
        refs = [r for r in live["metadata"].get("ownerReferences") or () if r.get("uid") not in uids]
        await self._patch(node, live, {"ownerReferences": refs})

    async def _orphan_dependents(self, owner: Node) -> None:
        for dependent in self._graph.dependents(owner.uid):
            try:
                live = await self._live.get(dependent.kind, dependent.name, dependent.namespace)
                if live["metadata"].get("uid") == dependent.uid:
                    await self._drop_owners(dependent, live, {owner.uid})
            except NotFound:
                continue

    async def _drop_finalizer(self, node: Node, live: Object, finalizer: str) -> None:
        finalizers = [f for f in live["metadata"].get("finalizers") or () if f != finalizer]
        await self._patch(node, live, {"finalizers": finalizers})

    async def _patch(self, node: Node, live: Object, metadata: Object) -> Object:
        versioned = {**metadata, "resourceVersion": live["metadata"]["resourceVersion"]}
        return await self._live.patch(node.kind, node.name, {"metadata": versioned}, node.namespace)


def _kind_of(crd: Object) -> Kind:
    """The kind a CRD defines, in any version that is served."""
    spec = crd["spec"]
    version = next((v["name"] for v in spec["versions"] if v.get("served")), spec["versions"][0]["name"])
    names = spec["names"]
    return Kind(spec["group"], version, names["kind"], names["plural"], namespaced=spec.get("scope") == "Namespaced")


def _same(node: Node, ref: OwnerRef, owner: Node) -> bool:
    """Whether `ref` of `node` rightly names `owner`: same name, and in a place `node` can refer to."""
    return ref.name == owner.name and owner.namespace in ("", node.namespace)


def _node(kind: Kind, entry: Entry) -> Node:
    meta = entry.meta
    if meta.owner_references:
        return Node.from_object(kind, entry.object())
    return Node(
        kind=kind,
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        deleting=bool(meta.deletion_timestamp),
        finalizers=tuple(meta.finalizers or ()),
    )
