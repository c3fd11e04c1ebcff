"""The templates a workload has had: one ControllerRevision each, which is what `kubectl rollout history` and
`undo` read. Shared by StatefulSets and DaemonSets.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from agentops.controller import Client
from agentops.kube.errors import AlreadyExists, Conflict
from agentops.kube.kinds import CONTROLLER_REVISION
from agentops.local.controllers.claims import Children, put_status
from agentops.local.controllers.pods import (
    Object,
    annotations_of,
    controller_ref,
    is_deleting,
    labels_of,
    make_controller_ref,
    name_of,
    namespace_of,
    template_hash,
)
from agentops.local.controllers.rollout import count
from agentops.values.kinds import Kind
from agentops.values.selector import LabelSelector

REVISION_LABEL = "controller-revision-hash"
"""On pods: which revision they were made from."""


@frozen(slots=True)
class Revisions:
    """The revisions of the owners of one kind. `hash_label` holds a revision's digest."""

    client: Client
    owner_kind: Kind
    hash_label: str
    _children: Children = field(init=False)

    @_children.default
    def _make_children(self) -> Children:
        return Children(self.client, CONTROLLER_REVISION, self.owner_kind)

    async def claim(self, owner: Object, selector: LabelSelector) -> list[Object]:
        """Those that `owner` controls, the ones an orphaning deletion has left among them."""
        return await self._children.claim(owner, selector)

    async def current(self, owner: Object, known: Sequence[Object]) -> Object | None:
        """The revision of the current template, made or renumbered when it is not the newest.

        `None` when something else has taken its name: `status.collisionCount` was raised, which gives another
        name at the next try. Raises Conflict when `known` is not up to date.
        """
        data = {"spec": {"template": {**copy.deepcopy(owner["spec"]["template"]), "$patch": "replace"}}}
        newest = max((number_of(r) for r in known), default=0)
        same = [r for r in known if r.get("data") == data]
        if same:
            revision = max(same, key=number_of)
            if number_of(revision) == newest:
                return revision
            return await self.client.update(CONTROLLER_REVISION, {**revision, "revision": newest + 1})
        created = self._new(owner, data, newest + 1)
        try:
            return await self.client.create(CONTROLLER_REVISION, created)
        except AlreadyExists as error:
            there = await self.client.live.get(CONTROLLER_REVISION, name_of(created), namespace_of(owner))
            if _is_the_same(there, created):
                raise Conflict(error.code, error.reason, f"{name_of(created)} was not seen yet") from error
        status = {**(owner.get("status") or {}), "collisionCount": count(owner, "collisionCount") + 1}
        await put_status(self.client, self.owner_kind, owner, status)
        return None

    async def prune(self, owner: Object, known: Iterable[Object], in_use: Collection[str]) -> None:
        """Delete the oldest beyond `spec.revisionHistoryLimit`, but none whose name is `in_use`."""
        limit = owner["spec"].get("revisionHistoryLimit")
        past = sorted((r for r in known if name_of(r) not in in_use), key=number_of)
        surplus = len(past) - (10 if limit is None else int(limit))
        await self._children.delete_all(past[: max(0, surplus)])

    def _new(self, owner: Object, data: Object, number: int) -> Object:
        digest = template_hash(data, count(owner, "collisionCount"))
        metadata: Object = {
            "name": f"{name_of(owner)}-{digest}",
            "namespace": namespace_of(owner),
            "labels": {**labels_of(owner["spec"]["template"]), self.hash_label: digest},
            "ownerReferences": [make_controller_ref(owner, self.owner_kind)],
        }
        if notes := annotations_of(owner):
            metadata["annotations"] = notes  # kubernetes.io/change-cause among them
        return {
            "apiVersion": "apps/v1",
            "kind": CONTROLLER_REVISION.kind,
            "metadata": metadata,
            "data": data,
            "revision": number,
        }


def _is_the_same(there: Object, created: Object) -> bool:
    """Whether what has the name of a new revision is that revision, owned already or still to be claimed."""
    ref, mine = controller_ref(there), controller_ref(created)
    return (
        there.get("data") == created["data"]
        and not is_deleting(there)
        and labels_of(created).items() <= labels_of(there).items()
        and (ref is None or ref["uid"] == (mine or {}).get("uid"))
    )


def number_of(revision: Mapping[str, Any]) -> int:
    return int(revision.get("revision") or 0)


def template_of(revision: Mapping[str, Any]) -> Object:
    """The pod template that a revision keeps."""
    return {key: value for key, value in revision["data"]["spec"]["template"].items() if key != "$patch"}
