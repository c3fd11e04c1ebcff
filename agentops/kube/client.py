"""Uncached requests on one API server, objects as plain dicts.

Every method is one round trip (lists: one per page). Answers that ask to be retried
(`Retry-After` on 429 and 5xx) are retried here, with the caller's timeout as the bound; a failed
write without that header is never repeated, because it may have happened.
"""

from __future__ import annotations

import copy
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio

from agentops.kube.errors import (
    ApiError,
    Conflict,
    NotFound,
    TransportError,
    UnsupportedMediaType,
    error_from_response,
)
from agentops.kube.limiter import RequestLimiter
from agentops.kube.transport import Query, Response, StreamResponse, Transport
from agentops.kube.watch import MalformedObject, decode_object, encode
from agentops.net.retry import retrying
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock, SystemClock
from agentops.values.kinds import Kind

log = get_logger("kube.client")

Object = dict[str, Any]
Objects = list[Object]
Patch = Mapping[str, Any] | list[Any]
QueryList = list[tuple[str, str]]
Observe = Callable[[str, str], None]
"""Called with (method, status code) once per answer; the code of no answer is `<error>`, as in Go."""

Measure = Callable[[str, str, float, int, int, int], None]
"""Called with (method, status code, seconds, bytes sent, bytes received, number of the try) once per answer."""

T = TypeVar("T")

PATCH_TYPES: Mapping[str, str] = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;q=0.9"
METADATA_ONLY_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;q=0.9"

_MAX_THROTTLED = 10
_WARNING = re.compile(r'\b299 \S+ "((?:[^"\\]|\\.)*)"')
"""One of the warnings of a header, as Kubernetes writes them."""


class ApiClient:
    """Reads and writes any kind.

    `field_manager` names the owner of fields in applies and writes. Errors: every method raises the
    `ApiError` subclass of the server's answer, or `TransportError` when there was no complete answer.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        user_agent: str = "agentops",
        field_manager: str = "agentops",
        observe: Observe | None = None,
        measure: Measure | None = None,
        limiter: RequestLimiter | None = None,
        dry_run: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.transport = transport
        self.field_manager = field_manager
        self.dry_run = dry_run
        """Whether writes are only tried, unless a call says otherwise."""
        self._measure = measure
        self._limiter = limiter
        self._user_agent = user_agent
        self._observe = observe
        self._clock = clock or SystemClock()
        self._warnings: set[str] = set()

    def with_defaults(self, *, field_manager: str | None = None, dry_run: bool | None = None) -> ApiClient:
        """The same client with another field manager, or one that only tries its writes."""
        other = copy.copy(self)
        other.field_manager = field_manager or self.field_manager
        other.dry_run = self.dry_run if dry_run is None else dry_run
        return other

    # reads

    async def get(
        self, kind: Kind, name: str, namespace: str = "", *, subresource: str = "", resource_version: str = ""
    ) -> Object:
        """One object. Raises NotFound."""
        query = [("resourceVersion", resource_version)] if resource_version else []
        return await self._json("GET", _path(kind, namespace, name, subresource), query=query)

    async def list(
        self,
        kind: Kind,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        limit: int | None = None,
        metadata_only: bool = False,
    ) -> Objects:
        """All objects, read in pages of `limit` (500); `apiVersion` and `kind` are filled in."""
        items: Objects = []
        token = ""
        while True:
            page = await self.list_page(
                kind,
                namespace,
                labels=labels,
                fields=fields,
                limit=limit or 500,
                continue_token=token,
                metadata_only=metadata_only,
            )
            identity = {"apiVersion": kind.api_version, "kind": kind.kind}
            items.extend({**item, **identity} for item in page.get("items") or ())
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return items

    async def list_page(
        self,
        kind: Kind,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        limit: int = 500,
        continue_token: str = "",
        resource_version: str = "",
        metadata_only: bool = False,
    ) -> Object:
        """One page, as the List object the server sent."""
        query = list_query(labels, fields, limit, continue_token, resource_version)
        headers = {"accept": METADATA_ONLY_LIST} if metadata_only else {}
        return await self._json("GET", kind.path(namespace), query=query, headers=headers)

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
        """POST `obj`; with `name` and `subresource` to a subresource such as eviction or token."""
        namespace = namespace or str((obj.get("metadata") or {}).get("namespace") or "")
        path = _path(kind, namespace, name, subresource) if name else kind.path(namespace)
        return await self._json("POST", path, query=self._write_query(field_manager, dry_run), obj=obj)

    async def update(
        self,
        kind: Kind,
        obj: Mapping[str, Any],
        *,
        subresource: str = "",
        dry_run: bool | None = None,
        field_manager: str | None = None,
    ) -> Object:
        """PUT `obj`. Raises Conflict when its resourceVersion is no longer current."""
        namespace, name = key_of(obj)
        path = _path(kind, namespace, name, subresource)
        return await self._json("PUT", path, query=self._write_query(field_manager, dry_run), obj=obj)

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
        """PATCH with `type` merge, json, strategic (built-in kinds only) or apply."""
        query = self._write_query(field_manager, dry_run)
        if type == "apply":
            query += [("force", "true" if force else "false"), ("fieldValidation", "Strict")]
        headers = {"content-type": PATCH_TYPES[type]}
        path = _path(kind, namespace, name, subresource)
        return await self._json("PATCH", path, query=query, headers=headers, obj=patch)

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
        """Server-side apply: the server makes `obj`'s fields ours and drops what we no longer name.

        Raises Conflict naming managers and fields when others own some and `force` is off.
        """
        namespace, name = key_of(obj)
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **obj}
        return await self.patch(
            kind,
            name,
            body,
            namespace,
            type="apply",
            subresource=subresource,
            field_manager=field_manager,
            force=force,
            dry_run=dry_run,
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
        """DELETE. `uid` and `resource_version` are preconditions (Conflict). With `propagation` "" the kind decides.

        Returns the object while finalizers or a grace period keep it, else a Status.
        """
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if propagation:
            options["propagationPolicy"] = propagation
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        if any(preconditions.values()):
            options["preconditions"] = {key: value for key, value in preconditions.items() if value}
        if self.dry_run if dry_run is None else dry_run:
            options["dryRun"] = ["All"]
        return await self._json("DELETE", _path(kind, namespace, name), obj=options)

    async def delete_collection(
        self, kind: Kind, namespace: str = "", *, labels: str = "", fields: str = "", propagation: str = "Background"
    ) -> Object:
        """DELETE every object that matches."""
        query = [*list_query(labels, fields), ("propagationPolicy", propagation)]
        return await self._json("DELETE", kind.path(namespace), query=query)

    # anything else

    async def raw(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = 30.0,
        retry: bool = True,
    ) -> Response:
        """Any request. Raises ApiError for a status of 400 and above.

        With `retry`, an answer that carries Retry-After is repeated after that time, at most 10 times
        and never past `timeout_s`.
        """
        sent = {"user-agent": self._user_agent, "accept": "application/json", **(headers or {})}
        deadline = None if timeout_s is None else self._clock.boottime() + timeout_s
        attempt = 0
        while True:
            attempt += 1
            if self._limiter is not None:
                await self._limiter.wait(method)
            started = self._clock.boottime() if self._measure is not None else 0.0
            try:
                answer = await self.transport.request(
                    method, path, query=query, headers=sent, body=body, timeout_s=timeout_s
                )
            except TransportError:
                self._count(method, "<error>")
                raise
            self._count(method, str(answer.status))
            if self._measure is not None:
                seconds = self._clock.boottime() - started
                self._measure(method, str(answer.status), seconds, len(body or b""), len(answer.body), attempt)
            if "warning" in answer.headers:
                self._warn(answer.headers)
            if answer.status < 400:
                return answer
            error = error_from_response(answer.status, answer.body, answer.headers)
            delay_s = throttled_s(error)
            if not retry or delay_s is None or attempt > _MAX_THROTTLED:
                raise error
            if deadline is not None and self._clock.boottime() + delay_s > deadline:
                raise error
            log.debug("request.throttled", method=method, path=path, delay_s=delay_s, attempt=attempt)
            await self._clock.sleep(delay_s)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        idle_s: float | None = None,
        total_s: float | None = None,
    ) -> AsyncIterator[StreamResponse]:
        """A streaming answer (watch, logs). Raises ApiError for a status of 400 and above."""
        sent = {"user-agent": self._user_agent, "accept": "application/json", **(headers or {})}
        opened = False
        try:
            async with self.transport.stream(
                method, path, query=query, headers=sent, idle_s=idle_s, total_s=total_s
            ) as answer:
                opened = True
                self._count(method, str(answer.status))
                if answer.status >= 400:
                    raise error_from_response(answer.status, await answer.read(), answer.headers)
                yield answer
        except TransportError:
            if not opened:
                self._count(method, "<error>")
            raise

    # helpers

    async def _json(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        obj: Patch | None = None,
    ) -> Object:
        body = None if obj is None else encode(obj)
        sent = dict(headers or {})
        if body is not None:
            sent.setdefault("content-type", "application/json")
        try:
            answer = await self.raw(method, path, query=query, headers=sent, body=body)
        except NotFound as error:
            if path.rpartition("/")[2] in ("status", "scale") and not error.details.get("name"):
                error.add_note(f"the kind may have no {path.rpartition('/')[2]} subresource: its CRD has to declare it")
            raise
        except UnsupportedMediaType as error:
            error.add_note("strategic merge patches exist for built-in kinds only; use type='merge' or 'apply'")
            raise
        try:
            return decode_object(answer.body)
        except MalformedObject as error:
            raise TransportError(f"{method} {path}: the answer is not a JSON object ({error})") from error

    def _write_query(self, field_manager: str | None, dry_run: bool | None) -> QueryList:
        query = [("fieldManager", field_manager or self.field_manager)]
        if self.dry_run if dry_run is None else dry_run:
            query.append(("dryRun", "All"))
        return query

    def _count(self, method: str, code: str) -> None:
        if self._observe is not None:
            self._observe(method, code)

    def _warn(self, headers: Mapping[str, str]) -> None:
        said = headers.get("warning", "")
        for text in _WARNING.findall(said) or [said]:
            if text and text not in self._warnings and len(self._warnings) < 1000:
                self._warnings.add(text)
                log.warning("server.warning", text=text)


async def retry_on_conflict(
    attempt: Callable[[], Awaitable[T]],
    *,
    tries: int = 5,
    factor: float = 1.0,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
) -> T:
    """Run `attempt` again after a Conflict, at most `tries` times in all; the last Conflict is raised.

    `attempt` must read the object anew each time. Only Conflict is retried, after 10 ms and up to a tenth more, which
    `factor` multiplies each time: the default is client-go's DefaultRetry, `tries=4, factor=5` its DefaultBackoff.
    """
    return await retrying(
        attempt,
        when=lambda error: isinstance(error, Conflict),
        attempts=tries,
        first_s=0.01,
        max_s=60.0,
        factor=factor,
        jitter=0.1,
        sleep=sleep,
    )


def throttled_s(error: ApiError) -> float | None:
    """Seconds after which the server wants to be asked again, or None when it did not say so."""
    if error.code == 429 or error.code >= 500:
        return error.retry_after_s
    return None


def list_query(
    labels: str = "", fields: str = "", limit: int | None = None, continue_token: str = "", resource_version: str = ""
) -> list[tuple[str, str]]:
    """The query of a list or watch; empty parts are left out."""
    pairs = (
        ("labelSelector", labels),
        ("fieldSelector", fields),
        ("limit", str(limit) if limit else ""),
        ("continue", continue_token),
        ("resourceVersion", "" if continue_token else resource_version),
    )
    return [(key, value) for key, value in pairs if value]


def key_of(obj: Mapping[str, Any]) -> tuple[str, str]:
    """(namespace, name) of an object."""
    metadata = obj.get("metadata") or {}
    return str(metadata.get("namespace") or ""), str(metadata.get("name") or "")


def require_key(kind: Kind, namespace: str, name: str) -> None:
    """Raise ValueError for a key that would address a collection, or an object that cannot be."""
    if not name:
        raise ValueError(f"{kind.resource}: the object's name is empty")
    if kind.namespaced and not namespace:
        raise ValueError(f"{kind.resource} {name!r}: the object's namespace is empty")


def _path(kind: Kind, namespace: str, name: str, subresource: str = "") -> str:
    require_key(kind, namespace, name)
    return kind.path(namespace, name, subresource)
