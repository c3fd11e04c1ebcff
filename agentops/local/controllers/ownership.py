"""The garbage collector's picture of who owns whom, and what to do with one object. Pure.

`Graph` is fed by watch events and answers one question: which objects must be looked at now. `decide` then
rules on one object, given its live state and what became of each of its owners. Everything goes by uid: a new object
with an old name is a stranger.

    ownerReferences ─┬─ owner there            solid      keep (drop references to the others)
                     ├─ owner gone             dangling   delete when no owner is solid
                     └─ owner waits for us     waiting    delete, in the foreground when we own something ourselves

Source: Kubernetes' garbage collector (`graph_builder.go`, `garbagecollector.go`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from attrs import define, field, frozen

from agentops.values.kinds import Kind

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
_ABSENT_LIMIT = 20_000


@frozen(slots=True)
class OwnerRef:
    api_version: str
    kind: str
    name: str
    uid: str
    block: bool = False

    @classmethod
    def from_dict(cls, ref: Mapping[str, Any]) -> OwnerRef:
        return cls(
            str(ref.get("apiVersion", "")),
            str(ref.get("kind", "")),
            str(ref.get("name", "")),
            str(ref.get("uid", "")),
            bool(ref.get("blockOwnerDeletion")),
        )

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]


@frozen(slots=True)
class Node:
    """What the collector keeps of one object."""

    kind: Kind
    namespace: str
    name: str
    uid: str
    owners: tuple[OwnerRef, ...] = ()
    deleting: bool = False
    finalizers: tuple[str, ...] = ()

    @property
    def waits_for_dependents(self) -> bool:
        return self.deleting and FOREGROUND in self.finalizers

    @property
    def orphans(self) -> bool:
        return self.deleting and ORPHAN in self.finalizers

    @classmethod
    def from_object(cls, kind: Kind, obj: Mapping[str, Any]) -> Node:
        meta = obj["metadata"]
        return cls(
            kind=kind,
            namespace=str(meta.get("namespace") or ""),
            name=str(meta["name"]),
            uid=str(meta.get("uid") or ""),
            owners=tuple(OwnerRef.from_dict(r) for r in meta.get("ownerReferences") or ()),
            deleting=bool(meta.get("deletionTimestamp")),
            finalizers=tuple(meta.get("finalizers") or ()),
        )


class Graph:
    """Nodes by uid and the edges between them. Each call returns the uids to look at."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._dependents: dict[str, set[str]] = {}
        self._absent: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, uid: str) -> Node | None:
        return self._nodes.get(uid)

    def uids(self, kind: Kind) -> list[str]:
        """The uids of all known objects of a kind."""
        return [node.uid for node in self._nodes.values() if node.kind == kind]

    def dependents(self, uid: str) -> list[Node]:
        """The known objects that name `uid` as an owner, in a stable order."""
        found = [self._nodes[d] for d in self._dependents.get(uid, ()) if d in self._nodes]
        return sorted(found, key=lambda n: (n.kind.resource, n.namespace, n.name))

    def is_absent(self, uid: str) -> bool:
        """Whether the collector saw this object go, or a look-up did not find it."""
        return uid in self._absent

    def mark_absent(self, uid: str) -> None:
        self._absent[uid] = None
        while len(self._absent) > _ABSENT_LIMIT:
            self._absent.popitem(last=False)

    def observe(self, node: Node) -> list[str]:
        """An object exists, or changed."""
        before = self._nodes.get(node.uid)
        self._nodes[node.uid] = node
        self._absent.pop(node.uid, None)
        todo: list[str] = []
        had = {o.uid: o for o in before.owners} if before else {}
        has = {o.uid: o for o in node.owners}
        for uid in had.keys() - has.keys():
            self._unlink(uid, node.uid)
            todo += self._if_waiting(uid)
        for uid, ref in has.items():
            self._dependents.setdefault(uid, set()).add(node.uid)
            if uid not in had and uid not in self._nodes:
                todo.append(node.uid)
            if uid in had and had[uid].block and not ref.block:
                todo += self._if_waiting(uid)
            owner = self._nodes.get(uid)
            if uid not in had and owner is not None and owner.waits_for_dependents:
                todo.append(node.uid)
            if owner is not None and owner.name != ref.name:
                todo.append(node.uid)  # the reference lies about its owner; a live look-up will tell
            if owner is not None and owner.namespace and owner.namespace != node.namespace:
                todo.append(node.uid)
        started_waiting = node.waits_for_dependents and not (before and before.waits_for_dependents)
        if started_waiting:
            todo.append(node.uid)
            todo += [d.uid for d in self.dependents(node.uid)]
        if node.orphans and not (before and before.orphans):
            todo.append(node.uid)
        return _unique(todo)

    def forget(self, uid: str) -> list[str]:
        """An object is gone."""
        node = self._nodes.pop(uid, None)
        self.mark_absent(uid)
        todo = [d.uid for d in self.dependents(uid)]
        if node is not None:
            for ref in node.owners:
                self._unlink(ref.uid, uid)
                todo += self._if_waiting(ref.uid)
        if not self._dependents.get(uid):
            self._dependents.pop(uid, None)
        return _unique(todo)

    def _unlink(self, owner: str, dependent: str) -> None:
        dependents = self._dependents.get(owner)
        if dependents is not None:
            dependents.discard(dependent)
            if not dependents:
                del self._dependents[owner]

    def _if_waiting(self, uid: str) -> list[str]:
        owner = self._nodes.get(uid)
        return [uid] if owner is not None and owner.waits_for_dependents else []


def _unique(uids: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(uids))


class OwnerState(Enum):
    """What a live look-up said about one owner reference."""

    SOLID = "solid"
    DANGLING = "dangling"
    WAITING = "waiting"


class Action(Enum):
    NOTHING = "nothing"
    DELETE = "delete"
    DROP_OWNERS = "drop-owners"
    RELEASE = "release"
    ORPHAN_DEPENDENTS = "orphan-dependents"
    WAIT_FOR_DEPENDENTS = "wait-for-dependents"


@define(slots=True)
class Decision:
    """`propagation` goes with DELETE, `owners` (uids to drop) with DROP_OWNERS, `look_at` with WAIT_FOR_DEPENDENTS."""

    action: Action
    propagation: str = "Background"
    owners: list[str] = field(factory=list)
    look_at: list[str] = field(factory=list)
    unblock: bool = False


def decide_deleting(node: Node, dependents: Sequence[Node]) -> Decision | None:
    """What to do with a live object that is already being deleted; `None` when it is not."""
    if not node.deleting:
        return None
    if node.orphans:
        return Decision(Action.ORPHAN_DEPENDENTS)
    if node.waits_for_dependents:
        blocking = [d for d in dependents if any(o.uid == node.uid and o.block for o in d.owners)]
        if not blocking:
            return Decision(Action.RELEASE)
        return Decision(Action.WAIT_FOR_DEPENDENTS, look_at=[d.uid for d in blocking if not d.deleting])
    return Decision(Action.NOTHING)


def decide(node: Node, dependents: Sequence[Node], owners: Mapping[str, OwnerState]) -> Decision:
    """What to do with a live object that is not being deleted. `owners` holds the state of each owner by uid."""
    if not node.owners:
        return Decision(Action.NOTHING)
    states = list(owners.values())
    gone = [uid for uid, state in owners.items() if state is not OwnerState.SOLID]
    if OwnerState.SOLID in states:
        return Decision(Action.DROP_OWNERS, owners=gone) if gone else Decision(Action.NOTHING)
    if OwnerState.WAITING in states and dependents:
        # A circle of owners that all wait for each other would never end: let this one's reference not block.
        circle = any(d.waits_for_dependents for d in dependents)
        return Decision(Action.DELETE, propagation="Foreground", unblock=circle)
    if ORPHAN in node.finalizers:
        return Decision(Action.DELETE, propagation="Orphan")
    if FOREGROUND in node.finalizers:
        return Decision(Action.DELETE, propagation="Foreground")
    return Decision(Action.DELETE, propagation="Background")
