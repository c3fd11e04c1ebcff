"""Puts a controller together: what it is for, what it owns, what else wakes it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from attrs import evolve, frozen

from agentops.controller.cluster import Cluster
from agentops.controller.controller import Controller, ControllerOptions
from agentops.controller.errors import BuildError
from agentops.controller.handlers import AsyncHandler, EnqueueForObject, EnqueueForOwner, Handler, Urgency
from agentops.controller.predicates import Predicate
from agentops.controller.reconcile import Reconciler
from agentops.controller.source import KindSource, Source
from agentops.values.kinds import Kind

if TYPE_CHECKING:
    from agentops.controller.manager import Manager

_NAME = re.compile(r"[a-z0-9_-]+")


@frozen(slots=True)
class _Watch:
    kind: Kind
    handler: Handler | AsyncHandler
    predicates: tuple[Predicate, ...]
    metadata_only: bool
    cluster: Cluster | None = None


class Builder:
    """`Builder(manager).for_(AGENT).owns(DEPLOYMENT).build(reconcile)`.

    Mistakes raise BuildError here, not when the manager runs.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._name = ""
        self._for: Kind | None = None
        self._owned: list[tuple[Kind, tuple[Predicate, ...], bool, bool]] = []
        self._watches: list[_Watch] = []
        self._sources: list[Source] = []
        self._predicates: tuple[Predicate, ...] = ()
        self._options = ControllerOptions(cache_sync_timeout_s=manager.options.cache_sync_timeout_s)
        self._workers: int | None = None

    def named(self, name: str) -> Self:
        """For metrics and logs; default is the lower-case kind. Unique in a manager."""
        self._name = name
        return self

    def for_(
        self,
        kind: Kind,
        predicates: tuple[Predicate, ...] = (),
        *,
        metadata_only: bool = False,
        urgency: Urgency | None = None,
    ) -> Self:
        """The kind that is reconciled. At most once. `urgency` says which of its events go before others."""
        if self._for is not None:
            raise BuildError(f"for_ is given twice: {self._for} and {kind}; a controller is for one kind")
        self._for = kind
        self._watches.insert(0, _Watch(kind, EnqueueForObject(urgency), _tuple(predicates), metadata_only))
        return self

    def owns(
        self,
        kind: Kind,
        predicates: tuple[Predicate, ...] = (),
        *,
        only_controller: bool = True,
        metadata_only: bool = False,
    ) -> Self:
        """A kind whose objects wake their owner: the controller reference, or every one."""
        self._owned.append((kind, _tuple(predicates), only_controller, metadata_only))
        return self

    def watches(
        self,
        kind: Kind,
        handler: Handler | AsyncHandler,
        predicates: tuple[Predicate, ...] = (),
        *,
        metadata_only: bool = False,
        cluster: Cluster | None = None,
    ) -> Self:
        """Any other kind, with the handler that says whom its objects wake; of another cluster if one is named."""
        if not hasattr(handler, "requests") and not hasattr(handler, "requests_async"):
            raise BuildError(f"watches({kind.kind}) was given {handler!r}, which is no handler; try EnqueueMapped(it)")
        self._watches.append(_Watch(kind, handler, _tuple(predicates), metadata_only, cluster))
        return self

    def source(self, source: Source) -> Self:
        """Events from elsewhere. Global predicates do not apply to it."""
        self._sources.append(source)
        return self

    def predicates(self, *predicates: Predicate) -> Self:
        """For every watch, before its own; again adds to them."""
        self._predicates += predicates
        return self

    def with_options(self, **options: Any) -> Self:
        """Fields of `ControllerOptions`."""
        try:
            self._options = evolve(self._options, **options)
            self._workers = options.get("max_concurrent", self._workers)
        except TypeError as error:
            raise BuildError(f"unknown controller option: {error}") from error
        return self

    def build(self, reconcile: Reconciler) -> Controller:
        """Register the watches with the cache and the controller with the manager."""
        if self._owned and self._for is None:
            raise BuildError("owns needs for_: without it nobody knows whose children these are")
        watches = list(self._watches)
        for kind, predicates, only_controller, metadata_only in self._owned:
            assert self._for is not None
            handler = EnqueueForOwner(self._for, only_controller)
            watches.append(_Watch(kind, handler, predicates, metadata_only))
        if not watches and not self._sources:
            raise BuildError("nothing to watch: give for_, watches or source")
        name = self._name or (self._for.kind.lower() if self._for else "")
        if not _NAME.fullmatch(name):
            raise BuildError(f"controller name {name!r} must match [a-z0-9_-]+; set it with named()")
        if self._workers is None:
            of_kind = self._manager.options.max_concurrent_of
            workers = of_kind.get(self._for) if self._for is not None else None
            self._options = evolve(self._options, max_concurrent=workers or self._manager.options.max_concurrent)
        default = self._manager.cluster
        sources = [
            KindSource(
                (watch.cluster or default).cache.informer(watch.kind, metadata_only=watch.metadata_only),
                watch.handler,
                (*self._predicates, *watch.predicates),
                initial_priority=self._options.initial_list_priority,
            )
            for watch in watches
        ]
        controller = Controller(
            name,
            reconcile,
            kind=self._for,
            options=self._options,
            sources=[*sources, *self._sources],
            registry=self._manager.registry,
            clock=self._manager.clock,
            explain=self._manager.options.explain,
        )
        self._manager.add_controller(controller)
        return controller


def _tuple(predicates: Iterable[Predicate]) -> tuple[Predicate, ...]:
    if callable(predicates):
        raise BuildError(f"predicates are given as a tuple: ({getattr(predicates, '__name__', 'predicate')},)")
    return tuple(predicates)
