"""What reconcilers read and write with: reads from the cache, writes to the server.

A read that follows one's own write to the same key waits until the cache has seen that write, so a
reconcile never acts on a state from before its predecessor. A live read is not more correct than a
cached one, only newer; correctness comes from optimistic locking and server-side apply.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

from agentops.controller.cache import Cache
from agentops.controller.errors import ResourceNotCached
from agentops.controller.informer import Informer
from agentops.controller.store import Key, version_number
from agentops.kube.client import ApiClient, Object, Objects, Patch, key_of, require_key
from agentops.kube.errors import NotFound
from agentops.values.kinds import Kind
from agentops.values.selector import LabelSelector

Labels = str | Mapping[str, str] | LabelSelector
Consistency = Literal["own-writes", "none"]


class Client:
    """Cached reads, live writes. `live` reads around the cache.

    `consistency` is what reads do that name none.
    Kinds in `uncached` are always read live. Reads of other kinds raise ResourceNotCached until
    somebody watches them. Nothing that is passed in is ever changed.
    """

    def __init__(
        self, live: ApiClient, cache: Cache, uncached: Collection[Kind] = (), consistency: Consistency = "own-writes"
    ) -> None:
        self.live = live
        self.cache = cache
        self._uncached = frozenset(uncached)
        self._consistency = consistency

    def with_defaults(self, *, field_manager: str | None = None, dry_run: bool | None = None) -> Client:
        """The same client and cache with another field manager, or one that only tries its writes."""
        live = self.live.with_defaults(field_manager=field_manager, dry_run=dry_run)
        return Client(live, self.cache, self._uncached, self._consistency)

    # reads

    async def get(
        self,
        kind: Kind,
        name: str,
        namespace: str = "",
        *,
        subresource: str = "",
        metadata_only: bool = False,
        consistency: Consistency | None = None,
        read_only: bool = False,
    ) -> Object:
        """A private copy. Raises NotFound, StaleCache when an own write is not seen in time, ValueError for half a key.

        `read_only` gives everybody the same decoded object, for hot paths that change nothing.
        """
        if subresource or kind in self._uncached:
            return await self.live.get(kind, name, namespace, subresource=subresource)
        require_key(kind, namespace, name)
        key = (namespace if kind.namespaced else "", name)
        return await self.cache.get(
            kind,
            key,
            metadata_only=metadata_only,
            own_writes=(consistency or self._consistency) != "none",
            read_only=read_only,
        )

    async def try_get(
        self, kind: Kind, name: str, namespace: str = "", *, metadata_only: bool = False
    ) -> Object | None:
        """`get`, or None when there is no such object."""
        try:
            return await self.get(kind, name, namespace, metadata_only=metadata_only)
        except NotFound:
            return None

    async def list(
        self,
        kind: Kind,
        namespace: str = "",
        *,
        labels: Labels = "",
        index: tuple[str, str] | None = None,
        metadata_only: bool = False,
        consistency: Consistency | None = None,
        fields: str = "",
        limit: int | None = None,
        continue_token: str = "",
        read_only: bool = False,
    ) -> Objects:
        """Private copies, of all namespaces when `namespace` is empty. `index` is (name, value).

        `fields` are `path=value` terms, from the cache each with `cache.add_field_index`. `limit` cuts
        the list off; there is no going on from there: `continue_token` raises ValueError.
        """
        selector = as_selector(labels)
        if continue_token:
            raise ValueError(f"{kind.resource}: a cached list has no pages to continue; use client.live.list_page")
        if kind in self._uncached:
            if index is not None:
                raise ValueError(f"{kind.resource} is read live, so it has no index {index[0]!r}")
            found = await self.live.list(
                kind, namespace, labels=str(selector), fields=fields, metadata_only=metadata_only
            )
            return found[:limit]
        return await self.cache.list(
            kind,
            namespace,
            selector=selector,
            index=index,
            metadata_only=metadata_only,
            own_writes=(consistency or self._consistency) != "none",
            fields=fields,
            limit=limit,
            read_only=read_only,
        )

    # writes

    async def create(
        self,
        kind: Kind,
        obj: Mapping[str, Any],
        *,
        namespace: str = "",
        name: str = "",
        subresource: str = "",
        dry_run: bool | None = None,
        field_manager: str | None = None,
    ) -> Object:
        """See `ApiClient.create`. Raises AlreadyExists."""
        own_namespace, own_name = key_of(obj)
        return await self._write(
            kind,
            (namespace or own_namespace, name or own_name),
            lambda: self.live.create(
                kind,
                obj,
                namespace=namespace,
                name=name,
                subresource=subresource,
                dry_run=dry_run,
                field_manager=field_manager,
            ),
            dry_run,
        )

    async def update(
        self,
        kind: Kind,
        obj: Mapping[str, Any],
        *,
        subresource: str = "",
        dry_run: bool | None = None,
        field_manager: str | None = None,
    ) -> Object:
        """See `ApiClient.update`. Raises Conflict."""
        return await self._write(
            kind,
            key_of(obj),
            lambda: self.live.update(kind, obj, subresource=subresource, dry_run=dry_run, field_manager=field_manager),
            dry_run,
        )

    async def patch(
        self,
        kind: Kind,
        name: str,
        patch: Patch,
        namespace: str = "",
        *,
        type: str = "merge",
        subresource: str = "",
        field_manager: str | None = None,
        force: bool = False,
        dry_run: bool | None = None,
    ) -> Object:
        """See `ApiClient.patch`. An empty merge or JSON patch is not sent: the object is read instead."""
        if not patch and type in ("merge", "json"):
            try:
                return await self.get(kind, name, namespace)
            except ResourceNotCached:  # a write is no reason to watch the kind
                return await self.live.get(kind, name, namespace)
        return await self._write(
            kind,
            (namespace, name),
            lambda: self.live.patch(
                kind,
                name,
                patch,
                namespace,
                type=type,
                subresource=subresource,
                field_manager=field_manager,
                force=force,
                dry_run=dry_run,
            ),
            dry_run,
        )

    async def apply(
        self,
        kind: Kind,
        obj: Mapping[str, Any],
        *,
        field_manager: str | None = None,
        force: bool = True,
        subresource: str = "",
        dry_run: bool | None = None,
    ) -> Object:
        """See `ApiClient.apply`; `controller.apply.ensure` writes only when something differs."""
        return await self._write(
            kind,
            key_of(obj),
            lambda: self.live.apply(
                kind, obj, field_manager=field_manager, force=force, subresource=subresource, dry_run=dry_run
            ),
            dry_run,
        )

    async def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str = "",
        *,
        propagation: str = "Background",
        grace_s: int | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        dry_run: bool | None = None,
    ) -> Object:
        """See `ApiClient.delete`."""
        key = (namespace if kind.namespaced else "", name)

        async def send() -> Object:
            answer = await self.live.delete(
                kind,
                name,
                namespace,
                propagation=propagation,
                grace_s=grace_s,
                uid=uid,
                resource_version=resource_version,
                dry_run=dry_run,
            )
            tried_only = self.live.dry_run if dry_run is None else dry_run
            if not tried_only and not (answer.get("metadata") or {}).get("deletionTimestamp"):
                gone = uid or (answer.get("details") or answer.get("metadata") or {}).get("uid")
                for part in self._parts(kind, key[0]):
                    held = part.store.get(key)
                    if held is not None and (gone is None or held.meta.uid == gone):
                        part.fence.deleted(key, held.meta.uid)
                    elif gone is not None and part.fence.unseen(key):  # it will come, and then go
                        part.fence.deleted(key, gone)
            return answer

        return await self._write(kind, key, send, dry_run)

    async def delete_collection(
        self, kind: Kind, namespace: str = "", *, labels: Labels = "", propagation: str = "Background"
    ) -> Object:
        """See `ApiClient.delete_collection`. Reads do not wait for it."""
        return await self.live.delete_collection(
            kind, namespace, labels=str(as_selector(labels)), propagation=propagation
        )

    # own writes

    async def _write(self, kind: Kind, key: Key, send: Callable[[], Awaitable[Object]], dry_run: bool | None) -> Object:
        tried_only = self.live.dry_run if dry_run is None else dry_run
        parts = [] if tried_only else self._parts(kind, key[0])
        key = (key[0] if kind.namespaced else "", key[1])
        with ExitStack() as barrier:
            if key[1]:
                for part in parts:
                    barrier.enter_context(part.fence.writing(key))
            answer = await send()
            self._note(kind, parts, answer)
        return answer

    def _note(self, kind: Kind, parts: Sequence[Informer], answer: Object) -> None:
        """Remember which version the cache has to reach. Anything unclear means: do not wait."""
        if answer.get("kind") != kind.kind:
            return
        metadata = answer.get("metadata") or {}
        version = version_number(str(metadata.get("resourceVersion") or ""))
        if version < 0:
            return
        key = (str(metadata.get("namespace") or ""), str(metadata.get("name") or ""))
        for part in parts:
            target = part.target
            if not target.fields and LabelSelector.parse(target.labels).matches(metadata.get("labels")):
                part.fence.wrote(key, version)

    def _parts(self, kind: Kind, namespace: str) -> Sequence[Informer]:
        found = [i.part_of(namespace if kind.namespaced else "") for i in self.cache.informers if i.kind == kind]
        return [part for part in found if part is not None]


def as_selector(labels: Labels) -> LabelSelector:
    """Any of the notations of a label selector."""
    if isinstance(labels, LabelSelector):
        return labels
    return LabelSelector.parse(labels) if isinstance(labels, str) else LabelSelector.from_labels(labels)
