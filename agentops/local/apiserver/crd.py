"""CRDs at work: names accepted, established after a moment, served, and cleaned up when deleted.

Serving starts only when Established, a short delay after creation, because clients that do not wait
for it work here and fail on a real cluster.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel

from agentops.kube.kinds import CRD
from agentops.local.apiserver import errors
from agentops.local.apiserver.conversion import WebhookConverter, converter_of
from agentops.local.apiserver.http import ADMIN
from agentops.local.apiserver.resources import CRD_VERBS, Registry, Resource, version_rank
from agentops.local.apiserver.schema.defaulting import has_defaults
from agentops.local.apiserver.schema.structural import Schema
from agentops.local.apiserver.store import Event, Store
from agentops.local.apiserver.strategies.base import Strategy
from agentops.local.apiserver.strategies.crd import FINALIZER
from agentops.local.apiserver.undecided import Undecided
from agentops.local.apiserver.webhook_caller import Caller
from agentops.local.apiserver.writes import DeleteOptions, WriteOptions, Writer
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock, rfc3339
from agentops.values.kinds import Kind

Object = dict[str, Any]

log = get_logger("apiserver.crd")

_WRITE = WriteOptions(ADMIN, "kube-apiserver", subresource="status")


class CustomStrategy(Strategy):
    """Custom resources: everything comes from the schema."""

    has_generation = True
    unconditional_update = False


class CustomResources:
    """Keeps the registry in step with the CRDs in the store. `gone` is told when a storage is no longer served."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        writer: Writer,
        clock: Clock,
        *,
        delay_s: float,
        gone: Callable[[str], None],
        caller: Callable[[], Caller],
    ) -> None:
        self._store = store
        self._registry = registry
        self._writer = writer
        self._clock = clock
        self._delay_s = delay_s
        self._gone = gone
        self._caller = caller
        self._due: dict[str, float] = {}
        self._wake = anyio.Event()
        self._served: dict[str, list[Resource]] = {}

    @property
    def _crds(self) -> Resource:
        found = self._registry.find(CRD.group, CRD.version, CRD.plural)
        assert found is not None
        return found

    def load(self) -> Callable[[], None]:
        """Serve what is established; follow later writes. Returns the way out."""
        for entry in list(self._store.list(CRD.resource)):
            obj = entry.obj()
            self._sync(obj, entry.revision)
            if not _established(obj) or obj["metadata"].get("deletionTimestamp"):
                self._schedule(entry.name, 0.0)
        return self._store.subscribe(CRD.resource, self._on_event)

    async def run(self) -> None:
        """Establish and clean up, until cancelled."""
        while True:
            now = anyio.current_time()
            ready = [name for name, at in self._due.items() if at <= now]
            for name in ready:
                del self._due[name]
                try:
                    self._step(name)
                except errors.ApiFailure as failure:
                    log.warning("crd.step_failed", crd=name, error=failure.message)
                    self._schedule(name, 1.0)
                except Undecided as undecided:
                    await self._decide(name, undecided)
            if ready:
                await anyio.lowlevel.checkpoint()
                continue
            self._wake = anyio.Event()
            with anyio.move_on_after(min(self._due.values(), default=math.inf) - now):
                await self._wake.wait()

    async def _decide(self, name: str, undecided: Undecided) -> None:
        try:
            await undecided.decide()
            self._schedule(name, 0.0)
        except errors.ApiFailure as failure:
            log.warning("crd.step_failed", crd=name, error=failure.message)
            self._schedule(name, 1.0)

    def establish_now(self) -> None:
        """Finish everything pending without waiting (tests, start-up)."""
        for name in list(self._due):
            del self._due[name]
            self._step(name)

    def _schedule(self, name: str, delay_s: float) -> None:
        try:
            now = anyio.current_time()
        except RuntimeError:  # before the event loop runs: due at once
            now = 0.0
        at = now + delay_s
        self._due[name] = min(at, self._due.get(name, math.inf))
        self._wake.set()

    def _on_event(self, event: Event) -> None:
        obj = event.entry.obj()
        name = event.entry.name
        if event.type == "DELETED":
            self._unserve(name)
            return
        self._sync(obj, event.revision)
        if obj["metadata"].get("deletionTimestamp"):
            self._schedule(name, 0.0)
        elif not _established(obj):
            self._schedule(name, self._delay_s)

    def _step(self, name: str) -> None:
        entry = self._store.get(CRD.resource, "", name)
        if entry is None:
            return
        obj = entry.obj()
        if obj["metadata"].get("deletionTimestamp"):
            self._clean_up(name, obj)
        elif not _established(obj):
            self._establish(name)

    def _establish(self, name: str) -> None:
        now = rfc3339(self._clock.now())

        def change(obj: Object) -> Object:
            names = {k: v for k, v in obj["spec"]["names"].items() if v}
            conflict = self._name_conflict(obj)
            status = obj.setdefault("status", {})
            if conflict:
                status["conditions"] = [
                    _condition("NamesAccepted", "False", conflict[0], conflict[1], now),
                    _condition("Established", "False", "NotAccepted", "not all names are accepted", now),
                ]
                return obj
            status["acceptedNames"] = names
            status["conditions"] = [
                _condition("NamesAccepted", "True", "NoConflicts", "no conflicts found", now),
                _condition("Established", "True", "InitialNamesAccepted", "the initial names have been accepted", now),
            ]
            obj["metadata"].pop("resourceVersion", None)
            return obj

        self._writer.update(self._crds, "", name, change, _WRITE)

    def _name_conflict(self, obj: Object) -> tuple[str, str] | None:
        spec = obj["spec"]
        names = spec["names"]
        for resource in self._registry:
            if resource.group != spec["group"] or resource.plural == names["plural"]:
                continue
            taken = {resource.plural, resource.singular, *resource.short_names}
            for value in (names["plural"], names.get("singular"), *(names.get("shortNames") or ())):
                if value in taken:
                    return "ShortNamesConflict" if value in resource.short_names else "PluralConflict", (
                        f'"{value}" is already in use'
                    )
            if names["kind"] == resource.kind.kind:
                return "KindConflict", f'"{names["kind"]}" is already in use'
        return None

    def _clean_up(self, name: str, obj: Object) -> None:
        """Say so, delete all objects, then let the CRD go."""
        if _condition_of(obj, "Terminating") != "True":
            self._writer.update(self._crds, "", name, self._terminating, _WRITE)
        served = self._served.get(name)
        storage = f"{obj['spec']['names']['plural']}.{obj['spec']['group']}"
        if served:
            for entry in list(self._store.list(storage)):
                if not entry.obj()["metadata"].get("deletionTimestamp"):
                    options = DeleteOptions(propagation=None)
                    self._writer.delete(served[0], entry.namespace, entry.name, options, WriteOptions(ADMIN))
        if self._store.count(storage):
            self._schedule(name, 0.1)
            return

        def release(live: Object) -> Object:
            meta = live["metadata"]
            meta["finalizers"] = [f for f in meta.get("finalizers") or () if f != FINALIZER]
            meta.pop("resourceVersion", None)
            return live

        if FINALIZER in (obj["metadata"].get("finalizers") or ()):
            self._writer.update(self._crds, "", name, release, WriteOptions(ADMIN, "kube-apiserver"))

    def _terminating(self, obj: Object) -> Object:
        now = rfc3339(self._clock.now())
        said = ("InstanceDeletionInProgress", "CustomResource deletion is in progress")
        status = obj.setdefault("status", {})
        others = [c for c in status.get("conditions") or () if c.get("type") != "Terminating"]
        status["conditions"] = [*others, _condition("Terminating", "True", *said, now)]
        obj["metadata"].pop("resourceVersion", None)
        return obj

    # registry

    def _sync(self, obj: Object, revision: int) -> None:
        name = obj["metadata"]["name"]
        if not _established(obj):
            return
        storage = f"{obj['spec']['names']['plural']}.{obj['spec']['group']}"
        converter = converter_of(obj, storage, self._store, self._caller())
        resources = resources_of(obj, revision, converter)
        present = self._served.get(name)
        if present is not None and _same(present, resources):
            self._mark_terminating(present, obj)
            return
        if present is not None:
            self._registry.remove(obj["spec"]["group"], obj["spec"]["names"]["plural"])
        for resource in resources:
            self._registry.add(resource)
        self._mark_terminating(resources, obj)
        self._served[name] = resources
        if present is not None:
            self._gone(f"{obj['spec']['names']['plural']}.{obj['spec']['group']}")
        log.info("crd.served", crd=name, versions=[r.kind.version for r in resources])

    def _mark_terminating(self, resources: list[Resource], crd: Object) -> None:
        deleted = bool(crd["metadata"].get("deletionTimestamp"))
        for resource in resources:
            if resource.terminating != deleted:
                resource.terminating = deleted
                self._registry.touch()

    def _unserve(self, name: str) -> None:
        resources = self._served.pop(name, None)
        if resources:
            kind = resources[0].kind
            self._registry.remove(kind.group, kind.plural)
            self._gone(kind.resource)


def resources_of(crd: Object, revision: int, converter: WebhookConverter | None = None) -> list[Resource]:
    """The served resources of a CRD, one a version."""
    spec = crd["spec"]
    names = spec["names"]
    stored = next(v["name"] for v in spec["versions"] if v.get("storage"))
    strategy = CustomStrategy()
    found = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        raw = (version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"}
        schema = Schema(raw)
        subresources = version.get("subresources") or {}
        found.append(
            Resource(
                Kind(spec["group"], version["name"], names["kind"], names["plural"], spec.get("scope") == "Namespaced"),
                strategy,
                f"{names['plural']}.{spec['group']}",
                lambda schema=schema: schema,  # type: ignore[misc]
                singular=names.get("singular") or "",
                short_names=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                subresources=tuple(s for s in ("status", "scale") if subresources.get(s) is not None),
                verbs=CRD_VERBS,
                columns=version.get("additionalPrinterColumns"),
                custom=True,
                converter=converter,
                storage_api_version=f"{spec['group']}/{stored}",
                scale=subresources.get("scale"),
                selectable=tuple(
                    f["jsonPath"].lstrip(".") for f in version.get("selectableFields") or () if f.get("jsonPath")
                ),
                default_since=revision if has_defaults(schema) else None,
                deprecation=_deprecation(version, spec),
            )
        )
    return found


def _deprecation(version: Object, spec: Object) -> str:
    """What is said of a deprecated version: its author's words, or the newest version to use instead."""
    if not version.get("deprecated"):
        return ""
    if version.get("deprecationWarning"):
        return str(version["deprecationWarning"])
    group, kind, name = spec["group"], spec["names"]["kind"], version["name"]
    text = f"{group}/{name} {kind} is deprecated"
    others = [v["name"] for v in spec["versions"] if v.get("served") and not v.get("deprecated")]
    newer = sorted((v for v in others if version_rank(v) < version_rank(name)), key=version_rank)
    return f"{text}; use {group}/{newer[0]} {kind}" if newer else text


def _same(left: list[Resource], right: list[Resource]) -> bool:
    def key(resource: Resource) -> Any:
        raw = resource.schema.raw if resource.schema else None
        return (resource.kind, raw, resource.columns, resource.subresources, resource.short_names,
                resource.categories, resource.scale, resource.selectable,
                resource.storage_api_version, resource.converter, resource.deprecation)  # fmt: skip

    return [key(r) for r in left] == [key(r) for r in right]


def _established(obj: Object) -> bool:
    return _condition_of(obj, "Established") == "True"


def _condition_of(obj: Object, kind: str) -> str:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((str(c.get("status")) for c in conditions if c.get("type") == kind), "")


def _condition(kind: str, status: str, reason: str, message: str, now: str) -> Object:
    return {"type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message}
