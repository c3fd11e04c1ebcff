"""Events about objects, written beside the work (client-go `tools/events`).

Recording puts a note into a bounded queue and returns: it never waits and never raises. Repetitions
of one event become one Event with a series: the second one is written, later ones are only counted
and written every 30 minutes and when the series ends.

A legacy recorder (client-go `tools/record`) writes core/v1 Events with `count`, `firstTimestamp` and `lastTimestamp`
instead, as the controllers and the kubelet of Kubernetes do: other notes are other Events, and each repetition is
written, within the bounds of a `SpamFilter`.
"""

from __future__ import annotations

import random
import socket
import uuid
from collections import deque
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.abc
from attrs import define, frozen

from agentops.controller.spamfilter import COMBINED, SpamFilter
from agentops.kube.client import ApiClient
from agentops.kube.errors import AlreadyExists, ApiError, BadRequest, Forbidden, Invalid, NotFound, TransportError
from agentops.kube.kinds import EVENT, EVENTS_V1
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock, SystemClock, rfc3339
from agentops.values.kinds import Kind
from agentops.values.names import is_dns1123_subdomain

log = get_logger("controller.events")

_QUEUE = 1000
_SENDERS = 8
_TRIES = 12
_RETRY_S = 10.0
_REFRESH_S = 1800.0
_IDLE_S = 360.0
_LEGACY_IDLE_S = 3600.0
"""How long a server keeps Events: so long is a legacy one counted on."""
_TICK_S = 60.0
_MAX_NOTE = 1024
_MAX_INSTANCE = 128


@frozen(slots=True)
class _SeriesKey:
    """What makes two events the same; the note does so for legacy ones only."""

    type: str
    action: str
    reason: str
    component: str
    regarding: tuple[str, ...]
    related: tuple[str, ...]
    legacy_note: str | None = None

    @property
    def legacy(self) -> bool:
        return self.legacy_note is not None

    @property
    def idle_s(self) -> float:
        return _LEGACY_IDLE_S if self.legacy else _IDLE_S


@define(slots=True, eq=False)
class _Series:
    key: _SeriesKey
    body: dict[str, Any]
    count: int = 1
    created: bool = False
    first_at: float = 0.0
    last_at: float = 0.0
    last_seen: str = ""
    written_at: float = 0.0
    written_count: int = 1

    @property
    def kind(self) -> Kind:
        return EVENT if self.key.legacy else EVENTS_V1

    def summary(self) -> dict[str, Any]:
        """The fields that a repetition changes."""
        if self.key.legacy:
            return {"count": self.count, "lastTimestamp": self.last_seen, "message": self.body["message"]}
        return {"series": {"count": self.count, "lastObservedTime": self.last_seen}}


@frozen(slots=True)
class EventStatistics:
    recorded: int
    dropped: int
    written: int
    failed: int
    queued: int
    series: int


class EventRecorder:
    """Records in the name of one component."""

    def __init__(self, broadcaster: EventBroadcaster, component: str, legacy_host: str | None = None) -> None:
        self._broadcaster = broadcaster
        self.component = component
        self._legacy_host = legacy_host

    def event(
        self,
        obj: Mapping[str, Any],
        type: str,
        reason: str,
        message: str,
        action: str = "",
        *,
        related: Mapping[str, Any] | None = None,
        field_path: str = "",
    ) -> None:
        """Say something about `obj`. `type` is Normal or Warning, `reason` a CamelCase word for machines.

        `field_path` names a part of the object, such as `spec.containers{web}`: another part is another event. Legacy
        events have no `action`.
        """
        try:
            self._broadcaster.record(
                self.component,
                obj,
                type,
                reason,
                message,
                action or reason,
                related,
                field_path=field_path,
                legacy_host=self._legacy_host,
            )
        except Exception:
            log.exception("event.not_recorded", reason=reason)


class EventBroadcaster:
    """Collects from recorders and writes. `run` until cancelled, then `flush`."""

    def __init__(
        self,
        client: ApiClient,
        *,
        instance: str | None = None,
        spam: SpamFilter | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._client = client
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._spam = spam
        self._legacy_spam = SpamFilter()
        self._host = instance or socket.gethostname()
        self._series: dict[_SeriesKey, _Series] = {}
        self._queue: deque[_Series] = deque()
        self._queued: set[int] = set()
        self._arrived = anyio.Event()
        self._writing: set[int] = set()
        self._recorded = self._dropped = self._written = self._failed = 0

    def recorder(self, component: str) -> EventRecorder:
        """A recorder for one controller. Raises ValueError for a name the server would refuse."""
        _check_component(component)
        return EventRecorder(self, component)

    def legacy_recorder(self, component: str, host: str = "") -> EventRecorder:
        """One that writes core/v1 Events with counts; `host` is where the component runs. Raises ValueError."""
        _check_component(component)
        return EventRecorder(self, component, host)

    def record(
        self,
        component: str,
        obj: Mapping[str, Any],
        type: str,
        reason: str,
        note: str,
        action: str,
        related: Mapping[str, Any] | None = None,
        *,
        field_path: str = "",
        legacy_host: str | None = None,
    ) -> None:
        """See `EventRecorder.event`, which also catches what this raises. `legacy_host` makes it a legacy event."""
        if type not in ("Normal", "Warning"):
            raise ValueError(f"event type {type!r} must be Normal or Warning")
        self._recorded += 1
        legacy = legacy_host is not None
        regarding, related_reference = object_reference(obj), object_reference(related) if related is not None else {}
        spammer = _identity(regarding)
        if field_path:
            regarding["fieldPath"] = field_path
        now, moment = self._clock.boottime(), self._clock.now()
        seen = rfc3339(moment, micro=not legacy)
        verdict: str | None = note
        legacy_note = None
        if legacy:
            verdict = self._legacy_spam.judge(component, spammer, reason, note, now)
            legacy_note = COMBINED if verdict is not None and verdict.startswith(COMBINED) else note
            action = ""
        key = _SeriesKey(
            type, action, reason, component, _identity(regarding), _identity(related_reference), legacy_note
        )
        known = self._series.get(key)
        if known is not None and now - known.last_at < key.idle_s:
            known.count += 1
            known.last_at, known.last_seen = now, seen
            if legacy and verdict is not None:
                known.body["message"] = _short(verdict)
                self._put(known)
            elif known.count == 2 and not legacy:
                self._put(known)
            return
        if known is not None and known.count > known.written_count:
            self._put(known)  # its series has ended, though the clock has not said so yet
        if self._spam is not None and not legacy:
            verdict = self._spam.judge(component, spammer, reason, note, now)
        if verdict is None or len(self._queue) >= _QUEUE:
            self._dropped += 1
            return
        body: dict[str, Any] = {
            "metadata": {
                "name": self._name(str(obj["metadata"]["name"])),
                "namespace": obj["metadata"].get("namespace") or "default",
            },
            "type": type,
            "reason": reason[:128],
        }
        if legacy_host is not None:
            body |= {
                "apiVersion": EVENT.api_version,
                "kind": EVENT.kind,
                "message": _short(verdict),
                "involvedObject": regarding,
                "source": {"component": component, "host": legacy_host} if legacy_host else {"component": component},
                "count": 1,
                "firstTimestamp": seen,
                "lastTimestamp": seen,
                "reportingComponent": component,
                "reportingInstance": legacy_host,
            }
        else:
            body |= {
                "apiVersion": EVENTS_V1.api_version,
                "kind": EVENTS_V1.kind,
                "eventTime": seen,
                "action": action[:128],
                "note": _short(verdict),
                "regarding": regarding,
                "reportingController": component,
                "reportingInstance": f"{component}-{self._host}"[:_MAX_INSTANCE],
            }
        if related_reference:
            body["related"] = related_reference
        series = _Series(key, body, first_at=now, last_at=now, last_seen=seen)
        self._series[key] = series
        self._put(series)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled."""
        task_status.started()
        async with anyio.create_task_group() as tasks:
            for _ in range(_SENDERS):
                tasks.start_soon(self._send_all)
            while True:
                await self._clock.sleep(_TICK_S)
                self._tick()

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Write what is queued and the last counts, once each, without waiting longer than `timeout_s`."""
        with anyio.move_on_after(timeout_s, shield=True):
            for series in list(self._series.values()):
                if series.created and series.count > series.written_count:
                    self._put(series)
            while self._queue:
                await self._send(self._take(), tries=1)

    def statistics(self) -> EventStatistics:
        return EventStatistics(
            recorded=self._recorded,
            dropped=self._dropped,
            written=self._written,
            failed=self._failed,
            queued=len(self._queue),
            series=len(self._series),
        )

    def _name(self, of: str) -> str:
        """The object's name and the time; a uuid for names that events cannot have, such as a role's `system:node`."""
        name = f"{of}.{int(self._clock.now().timestamp() * 1e9) + self._recorded:x}"
        return name if is_dns1123_subdomain(name) else str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def _put(self, series: _Series) -> None:
        if id(series) in self._queued:
            return
        if len(self._queue) >= _QUEUE:
            self._dropped += 1
            return
        self._queued.add(id(series))
        self._queue.append(series)
        self._arrived.set()

    def _take(self) -> _Series:
        series = self._queue.popleft()
        self._queued.discard(id(series))
        return series

    async def _send_all(self) -> None:
        while True:
            while self._queue:
                series = self._take()
                if id(series) in self._writing:
                    continue  # its sender looks again when it is done
                await self._send(series)
            if self._arrived.is_set():
                self._arrived = anyio.Event()
            if not self._queue:
                await self._arrived.wait()

    async def _send(self, series: _Series, tries: int = _TRIES) -> None:
        self._writing.add(id(series))
        try:
            for left in range(tries - 1, -1, -1):
                try:
                    await self._write(series)
                except (Forbidden, BadRequest, Invalid) as error:
                    self._failed += 1
                    if not _terminating(error):
                        log.warning("event.refused", reason=series.key.reason, error=error.message)
                    self._series.pop(series.key, None)
                    return
                except (ApiError, TransportError) as error:
                    if not left:
                        self._failed += 1
                        log.warning("event.lost", reason=series.key.reason, error=str(error))
                        return
                    await self._clock.sleep(_RETRY_S * self._rng.uniform(0.75, 1.25))
                else:
                    self._written += 1
                    grown = series.count > series.written_count
                    if not grown or (series.written_count > 1 and not series.key.legacy):
                        return  # a series that has grown meanwhile is written once more, later ones by the clock
            if series.key.legacy:
                self._put(series)
        except anyio.get_cancelled_exc_class():
            self._put(series)  # for `flush`: whether it was written nobody knows
            raise
        finally:
            self._writing.discard(id(series))

    async def _write(self, series: _Series) -> None:
        name, namespace = series.body["metadata"]["name"], series.body["metadata"]["namespace"]
        kind, count, summary = series.kind, series.count, series.summary()
        if series.created:
            try:
                await self._client.patch(kind, name, summary, namespace)
            except NotFound:
                series.created = False  # its time to live has ended: begin a new one
        if not series.created:
            body = {**series.body, **summary} if count > 1 else series.body
            try:
                await self._client.create(kind, body)
            except AlreadyExists:  # an earlier try was stored, and its answer lost
                if count > 1:
                    await self._client.patch(kind, name, summary, namespace)
            series.created = True
        series.written_count, series.written_at = count, self._clock.boottime()

    def _tick(self) -> None:
        now = self._clock.boottime()
        for series in list(self._series.values()):
            idle = now - series.last_at >= series.key.idle_s
            due = series.count > 1 and not series.key.legacy and now - series.written_at >= _REFRESH_S
            if due or (idle and series.count > series.written_count):
                self._put(series)
            if idle:
                del self._series[series.key]


def object_reference(obj: Mapping[str, Any]) -> dict[str, str]:
    """What an Event says about which object it regards."""
    metadata = obj["metadata"]
    reference = {
        "apiVersion": obj.get("apiVersion"),
        "kind": obj.get("kind"),
        "namespace": metadata.get("namespace"),
        "name": metadata.get("name"),
        "uid": metadata.get("uid"),
        "resourceVersion": metadata.get("resourceVersion"),
    }
    return {key: str(value) for key, value in reference.items() if value}


def _identity(reference: Mapping[str, str]) -> tuple[str, ...]:
    """The reference without its version: a status update does not make it another object."""
    return tuple(value for key, value in reference.items() if key != "resourceVersion")


def _short(note: str) -> str:
    return note if len(note) <= _MAX_NOTE else note[: _MAX_NOTE - 1] + "…"


def _check_component(component: str) -> None:
    if not component or len(component) > 63:
        raise ValueError(f"event component {component!r} must have 1 to 63 characters")


def _terminating(error: ApiError) -> bool:
    return any(cause.get("reason") == "NamespaceTerminating" for cause in error.causes)
