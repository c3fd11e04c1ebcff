"""All informers of a manager, and reads from them.

Who may read what is explicit: a kind that nobody watches is not cached, and reading it is an error
with the two fixes in its text, because an informer that starts by surprise holds the whole cluster
in memory. Predicates never reduce what is cached; selectors do.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import anyio
import anyio.abc
from attrs import field, frozen

from agentops.controller.errors import CacheNotStarted, ControllerError, ResourceNotCached, StaleCache
from agentops.controller.informer import EventHandler, Informer, InformerStatistics, Transform
from agentops.controller.store import Entry, IndexFn, Key
from agentops.controller.streaming import Mode, StreamingLists
from agentops.controller.target import Observer, Target, WatchOptions
from agentops.kube.client import ApiClient
from agentops.kube.discovery import NoKindMatch
from agentops.kube.errors import NotFound
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock, SystemClock
from agentops.values.kinds import Kind
from agentops.values.selector import FieldSelector, LabelSelector

log = get_logger("controller.cache")

_UNFRESH_S = 300.0


@frozen(slots=True)
class Scope:
    """What the cache keeps of one kind.

    `namespaces` None means the manager's; an empty tuple means all. A mapping gives each namespace a
    scope of its own, whose `labels`, `fields` and `transform` come before this one's; `ALL_NAMESPACES`
    among its keys is every namespace that is not named.
    """

    labels: str = ""
    fields: str = ""
    metadata_only: bool = False
    namespaces: Namespaces | None = None
    transform: Transform | None = None
    shard: str = ""
    """An opaque `shardSelector` that is sent along."""


Namespaces = tuple[str, ...] | Mapping[str, Scope]
"""Which namespaces are watched; as a mapping with what is kept of each."""

ALL_NAMESPACES = ""
FIELD_INDEX = "field:"
"""Indices of this prefix serve `list(fields=…)`; the rest of their name is the path."""


class SharedRegistration:
    """One handler at every watch of a shared informer."""

    def __init__(self, informer: SharedInformer, handler: EventHandler) -> None:
        self._informer = informer
        self._parts = [part.add_handler(handler) for part in informer.parts]

    @property
    def has_synced(self) -> bool:
        return all(part.has_synced for part in self._parts)

    async def wait_for_sync(self) -> None:
        """Until `has_synced`."""
        for part in self._parts:
            await part.wait_for_sync()

    def remove(self) -> None:
        """No call starts after this returns."""
        for part in self._parts:
            part.remove()


class SharedInformer:
    """One kind as the cache has it: one watch, or one per configured namespace."""

    def __init__(self, target: Target, parts: Mapping[str, Informer]) -> None:
        self.target = target
        self._parts = dict(parts)
        self._removed = False

    @property
    def kind(self) -> Kind:
        return self.target.kind

    @property
    def parts(self) -> list[Informer]:
        """The single watches."""
        return list(self._parts.values())

    @property
    def has_synced(self) -> bool:
        return all(part.has_synced for part in self.parts)

    async def wait_for_sync(self) -> None:
        """Until every watch has stored its first list."""
        for part in self.parts:
            await part.wait_for_sync()

    @property
    def last_error(self) -> str:
        return next((part.last_error for part in self.parts if part.last_error), "")

    def stale_s(self) -> float:
        """Seconds since the oldest part stopped being kept current."""
        return max((part.stale_s() for part in self.parts), default=0.0)

    def add_handler(self, handler: EventHandler) -> SharedRegistration:
        """See `Informer.add_handler`."""
        return SharedRegistration(self, handler)

    def count_failure(self, callback: str) -> None:
        """A predicate, map or other function that was given objects of this kind raised."""
        self.parts[0].count_failure(callback)

    def add_index(self, name: str, function: IndexFn) -> None:
        """Index existing and later objects. Raises ValueError when the name is taken."""
        for part in self.parts:
            part.store.add_index(name, function)

    def part_of(self, namespace: str) -> Informer | None:
        """The watch that covers a namespace."""
        return self._parts.get(namespace) or self._parts.get(ALL_NAMESPACES)

    def covers(self, obj: Mapping[str, Any]) -> bool:
        """Whether the cache would show this object."""
        labels = (obj.get("metadata") or {}).get("labels") or {}
        return not self.target.fields and LabelSelector.parse(self.target.labels).matches(labels)

    def get(self, key: Key) -> Entry | None:
        """The entry as the store has it now. Raises ResourceNotCached for a namespace nobody watches."""
        return self._part(key[0]).store.get(key)

    def list(
        self, namespace: str = "", selector: LabelSelector | None = None, index: tuple[str, str] | None = None
    ) -> list[Entry]:
        """Entries as the stores have them now."""
        found: list[Entry] = []
        for part in self.parts_for(namespace):
            if index is not None:
                found += part.store.by_index(index[0], index[1], namespace, selector)
            else:
                found += part.store.list(namespace, selector)
        return found

    def parts_for(self, namespace: str) -> Sequence[Informer]:
        """The watches that hold objects of a namespace, or of all when it is empty."""
        return [self._part(namespace)] if namespace else self.parts

    def statistics(self) -> tuple[InformerStatistics, ...]:
        return tuple(part.statistics() for part in self.parts)

    def _part(self, namespace: str) -> Informer:
        if self._removed:
            raise ResourceNotCached(f"{self.kind.resource} is no longer cached: its informer was removed")
        part = self.part_of(namespace)
        if part is None:
            configured = ", ".join(sorted(self._parts))
            raise ResourceNotCached(
                f"{self.kind.resource} of namespace {namespace!r} is not cached; the cache covers {configured}"
            )
        return part


@frozen(slots=True)
class CacheOptions:
    """`scopes` says per kind what is kept; `namespaces` is the default for namespaced kinds (empty: all).

    What several of them name is decided by the first of: the kind's scope for the namespace, the kind's
    scope, the default for the namespace, `default`.
    """

    namespaces: Namespaces = ()
    default: Scope = field(factory=Scope)
    scopes: Mapping[Kind, Scope] = field(factory=dict)
    resync_s: float = 10 * 3600.0
    page_size: int = 500
    streaming_lists: Mode = "auto"
    """`auto` streams lists from servers of 1.34 and later; `always`; `never`."""
    max_concurrent_lists: int = 8
    watch: WatchOptions = field(factory=WatchOptions)
    read_timeout_s: float = 10.0
    """How long a read waits for an own write to be seen before it raises StaleCache."""
    start_on_read: bool = False
    """Whether reading a kind that nobody watches starts watching all of it, as Go does, instead of raising."""
    raise_when_kind_is_gone: bool = False
    """Whether reads of a kind whose CRD was deleted raise NoKindMatch, instead of answering with what was."""


class Cache:
    """Informers by what they watch. Register before or while running; `run` until cancelled."""

    def __init__(
        self,
        client: ApiClient,
        options: CacheOptions | None = None,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        observe: Callable[[Kind], Observer] | None = None,
        on_stale: Callable[[Kind], None] | None = None,
    ) -> None:
        self._client = client
        self._options = options or CacheOptions()
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._observe = observe
        self._on_stale = on_stale
        self._informers: dict[Target, SharedInformer] = {}
        self._scopes: dict[SharedInformer, list[anyio.CancelScope]] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self._gate = anyio.Semaphore(self._options.max_concurrent_lists)
        self._streaming = StreamingLists(client, self._options.streaming_lists)
        self._warned: set[Kind] = set()
        for kind, scope in self._options.scopes.items():
            if scope.namespaces and not kind.namespaced:
                raise ControllerError(f"the cache scope of {kind.resource} has namespaces, but the kind has none")
        for held in (self._options.namespaces, *(scope.namespaces for scope in self._options.scopes.values())):
            if isinstance(held, tuple) and ALL_NAMESPACES in held:
                raise ControllerError("a tuple of namespaces names '', leave it empty for all, or use a mapping")

    @property
    def informers(self) -> list[SharedInformer]:
        return list(self._informers.values())

    def informer(
        self,
        kind: Kind,
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
        transform: Transform | None = None,
        keep_managed_fields: bool = False,
    ) -> SharedInformer:
        """The informer of `kind`; what is not given comes from the kind's scope. Equal calls share one.

        Runs at once when the cache runs. `transform` and `keep_managed_fields` count for the first call.
        """
        scope = self._options.scopes.get(kind, Scope())
        target = Target(
            kind,
            namespace if kind.namespaced else "",
            labels or scope.labels,
            fields or scope.fields,
            metadata_only or scope.metadata_only,
            scope.shard,
        )
        known = self._informers.get(target)
        if known is not None:
            for part in known.parts:
                part.keep_managed_fields |= keep_managed_fields
            return known
        informer = SharedInformer(
            target,
            {
                name: Informer(
                    self._client,
                    Target(kind, name, part.labels, part.fields, target.metadata_only, target.shard),
                    clock=self._clock,
                    rng=self._rng,
                    transform=transform or part.transform,
                    keep_managed_fields=keep_managed_fields,
                    resync_s=self._options.resync_s,
                    page_size=self._options.page_size,
                    observer=self._observe(kind) if self._observe else None,
                    streaming=self._streaming,
                    gate=self._gate,
                    options=self._options.watch,
                )
                for name, part in self._namespaces(target, scope).items()
            },
        )
        self._warn_about_both(target)
        self._informers[target] = informer
        if self._tasks is not None:
            self._launch(informer)
        return informer

    def add_index(self, kind: Kind, name: str, function: IndexFn) -> None:
        """Make `list(kind, index=(name, value))` possible."""
        self.lookup(kind, started=False).add_index(name, function)

    def add_field_index(self, kind: Kind, path: str) -> None:
        """Make `list(kind, fields="path=value")` possible, for a path such as `spec.nodeName`."""
        steps = path.split(".")

        def values(obj: dict[str, Any]) -> Iterable[str]:
            found: Any = obj
            for step in steps:
                found = found.get(step) if isinstance(found, dict) else None
            if isinstance(found, bool):
                return ("true" if found else "false",)
            return () if found is None or isinstance(found, dict | list) else (str(found),)

        self.add_index(kind, FIELD_INDEX + path, values)

    def remove_informer(self, kind: Kind) -> None:
        """Stop watching `kind` and free its store; later reads raise ResourceNotCached."""
        for target in [target for target in self._informers if target.kind == kind]:
            informer = self._informers.pop(target)
            informer._removed = True
            for scope in self._scopes.pop(informer, ()):
                scope.cancel()
            for part in informer.parts:
                part.close()

    async def wait_for_sync(self) -> None:
        """Until everything registered has stored its first list."""
        for informer in self.informers:
            await informer.wait_for_sync()

    def is_fresh(self) -> bool:
        """Whether every watch is current, or was within the last five minutes."""
        return not self.problems()

    def problems(self) -> list[str]:
        """What keeps the cache from being current, one text per informer."""
        found = []
        for informer in self.informers:
            if not informer.has_synced:
                found.append(informer.last_error or f"{informer.kind.resource} has not been listed yet")
            elif informer.stale_s() > _UNFRESH_S:
                found.append(informer.last_error)
        return found

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run every informer until cancelled; an informer that ends by itself is an error."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                for informer in self.informers:
                    self._launch(informer)
                task_status.started()
                await anyio.sleep_forever()
            finally:
                self._tasks = None

    def statistics(self) -> tuple[InformerStatistics, ...]:
        return tuple(part for informer in self.informers for part in informer.statistics())

    # reads

    def lookup(self, kind: Kind, *, metadata_only: bool = False, started: bool = True) -> SharedInformer:
        """The informer that answers reads of `kind`. Raises CacheNotStarted and ResourceNotCached."""
        candidates = [informer for informer in self.informers if informer.kind == kind]
        usable = [informer for informer in candidates if metadata_only or not informer.target.metadata_only]
        if not candidates:
            raise ResourceNotCached(
                f"{kind.resource} is not cached: watch it with a controller (for_, owns, watches) or cache.informer, "
                "or name it in ManagerOptions.uncached to read it live"
            )
        if not usable and started:
            raise ResourceNotCached(
                f"{kind.resource} is cached as metadata only: read it with metadata_only=True, "
                "or read the one you need with client.live.get"
            )
        if started and self._tasks is None:
            raise CacheNotStarted(
                f"{kind.resource} is read before the cache runs; read it in a runnable or a reconciler"
            )
        # prefer the whole collection over one that a selector narrows
        return min(
            usable or candidates, key=lambda i: (bool(i.target.namespace), bool(i.target.labels or i.target.fields))
        )

    async def get(
        self,
        kind: Kind,
        key: Key,
        *,
        metadata_only: bool = False,
        own_writes: bool = True,
        read_only: bool = False,
    ) -> dict[str, Any]:
        """A private copy; with `read_only` one that is shared, for who does not change it.

        Raises NotFound, StaleCache, ResourceNotCached, CacheNotStarted.
        """
        informer = self._lookup_for_read(kind, metadata_only)
        part = informer._part(key[0])
        if not part.has_synced:
            await part.wait_for_sync()
        if own_writes and part.fence.blocked(key):
            await self._catch_up(part, key.__eq__, f"{kind.resource} {'/'.join(key)}")
        self._refuse_gone(part)
        entry = part.store.get(key)
        if entry is None:
            raise not_found(kind, key[1])
        return part.store.shared(entry) if read_only else entry.object()

    async def list(
        self,
        kind: Kind,
        namespace: str = "",
        *,
        selector: LabelSelector | None = None,
        index: tuple[str, str] | None = None,
        metadata_only: bool = False,
        own_writes: bool = True,
        fields: str = "",
        limit: int | None = None,
        read_only: bool = False,
    ) -> list[dict[str, Any]]:
        """Private copies, at most `limit`. `fields` are `path=value` terms, each with a field index.

        Raises as `get`; KeyError for an unknown index, ValueError for terms that no index can answer.
        """
        informer = self._lookup_for_read(kind, metadata_only)
        terms = _terms(kind, fields)
        if terms and index is not None:
            raise ValueError(f"{kind.resource}: give either an index or fields, not both")
        parts = informer.parts_for(namespace)
        for part in parts:
            if not part.has_synced:
                await part.wait_for_sync()
            if own_writes and part.fence.blocked_in(namespace):
                within = partial(_within, namespace)
                await self._catch_up(part, within, f"{kind.resource} (list)")
            self._refuse_gone(part)
        first, rest = (terms[0], terms[1:]) if terms else (index, ())
        found: list[dict[str, Any]] = []
        for part in parts:
            store = part.store
            entries = store.by_index(*first, namespace, selector) if first else store.list(namespace, selector)
            for entry in entries:
                if limit is not None and len(found) >= limit:
                    return found
                if all(store.indexed_under(name, entry.key, value) for name, value in rest):
                    found.append(store.shared(entry) if read_only else entry.object())
        return found

    def _lookup_for_read(self, kind: Kind, metadata_only: bool) -> SharedInformer:
        try:
            return self.lookup(kind, metadata_only=metadata_only)
        except ResourceNotCached:
            if not self._options.start_on_read or self._tasks is None:
                raise
            return self.informer(kind, metadata_only=metadata_only)

    def _refuse_gone(self, part: Informer) -> None:
        if self._options.raise_when_kind_is_gone and part.kind_is_gone:
            raise NoKindMatch(f"the server does not serve {part.target.kind.resource} any more: {part.last_error}")

    async def _catch_up(self, part: Informer, concerned: Callable[[Key], bool], what: str) -> None:
        unseen = part.fence.unseen_now(concerned)
        with anyio.move_on_after(self._options.read_timeout_s):
            while unseen() and not part.closed:
                await part.fence.progress()
            if part.closed:
                raise ResourceNotCached(f"{what} is no longer cached: its informer was removed")
            return
        if self._on_stale is not None:
            self._on_stale(part.target.kind)
        raise StaleCache(
            f"the cache of {what} has not seen an own write within {self._options.read_timeout_s:g} s"
            + (f" ({part.last_error})" if part.last_error else "")
        )

    # helpers

    def _launch(self, informer: SharedInformer) -> None:
        assert self._tasks is not None
        for part in informer.parts:
            scope = anyio.CancelScope()
            self._scopes.setdefault(informer, []).append(scope)
            self._tasks.start_soon(self._run_one, part, scope, name=f"informer {part.target.kind.resource}")

    async def _run_one(self, part: Informer, scope: anyio.CancelScope) -> None:
        with scope:
            await part.run()
        if not scope.cancel_called:
            raise ControllerError(f"the informer of {part.target.kind.resource} ended by itself")

    def _namespaces(self, target: Target, scope: Scope) -> Mapping[str, Scope]:
        """The watches of a target, with what each keeps. The target holds what the caller or the kind's scope say."""
        defaults = self._options.namespaces
        configured = defaults if scope.namespaces is None else scope.namespaces
        own = scope.namespaces if isinstance(scope.namespaces, Mapping) else {}
        shared = defaults if isinstance(defaults, Mapping) else {}

        def kept(namespace: str, *but: str) -> Scope:
            layers = [own.get(namespace, Scope()), Scope(target.labels, target.fields, transform=scope.transform)]
            layers += [shared.get(namespace, Scope()), self._options.default]
            fields = next((layer.fields for layer in layers if layer.fields), "")
            return Scope(
                labels=next((layer.labels for layer in layers if layer.labels), ""),
                fields=",".join([*([fields] if fields else ()), *(f"metadata.namespace!={name}" for name in but)]),
                transform=next((layer.transform for layer in layers if layer.transform), None),
            )

        if not target.kind.namespaced:
            return {"": kept("")}
        if target.namespace:
            return {target.namespace: kept(target.namespace)}
        if configured:
            named = sorted(name for name in configured if name != ALL_NAMESPACES)
            parts = {name: kept(name) for name in named}
            if ALL_NAMESPACES in configured:
                parts[ALL_NAMESPACES] = kept(ALL_NAMESPACES, *named)
            return parts
        for path, op, value in FieldSelector.parse(target.fields).terms:
            if path == "metadata.namespace" and op == "=":
                return {value: kept(value)}
        return {"": kept("")}

    def _warn_about_both(self, target: Target) -> None:
        others = [t for t in self._informers if t.kind == target.kind and t.metadata_only != target.metadata_only]
        if others and target.kind not in self._warned:
            self._warned.add(target.kind)
            log.warning("cache.kind_held_twice", resource=target.kind.resource, why="full and metadata-only informers")


def _within(namespace: str, key: Key) -> bool:
    return not namespace or key[0] == namespace


def _terms(kind: Kind, fields: str) -> tuple[tuple[str, str], ...]:
    """(index, value) per term of a field selector."""
    terms = FieldSelector.parse(fields).terms
    if any(op != "=" for _, op, _ in terms):
        raise ValueError(f"{kind.resource}: the cache answers only = and == in field selectors, not {fields!r}")
    return tuple((FIELD_INDEX + path, value) for path, _, value in terms)


def not_found(kind: Kind, name: str) -> NotFound:
    """What a server answers for an absent object."""
    message = f'{kind.resource} "{name}" not found'
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": "NotFound",
        "details": {"name": name, "group": kind.group, "kind": kind.plural},
        "code": 404,
    }
    return NotFound(404, "NotFound", message, status)
