"""The bytes of lists and watches, taken apart as little as possible.

An object that goes into a cache is never decoded whole: the envelope and the metadata are read with
msgspec, the rest stays the bytes that came over the wire. Relies on nothing but bytes; the network
is `transport`, the order of requests is `controller.reflector`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import orjson

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
"""Annotation of the bookmark that ends the initial events of a streaming list."""


class OwnerRef(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One entry of `metadata.ownerReferences`."""

    api_version: str = msgspec.field(default="", name="apiVersion")
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]


class Meta(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """What the framework looks at without decoding the object. Timestamps are RFC 3339 text.

    Annotations are not here: they can be a hundred kilobytes, and few readers want them.
    """

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    owner_references: tuple[OwnerRef, ...] | None = None
    finalizers: tuple[str, ...] | None = None


class MalformedObject(ValueError):
    """Bytes that should have been an object or an event are not."""


class WatchEvent(msgspec.Struct, frozen=True, gc=False):
    """One line of a watch. `type` is ADDED, MODIFIED, DELETED, BOOKMARK, ERROR, or something newer."""

    type: str
    meta: Meta
    kind: str
    raw: bytes

    def decode(self) -> dict[str, Any]:
        """The whole object: a Status for ERROR."""
        result: dict[str, Any] = orjson.loads(self.raw)
        return result

    @property
    def ends_initial_events(self) -> bool:
        """Whether this is the bookmark after the initial events of a streaming list."""
        if self.type != "BOOKMARK" or INITIAL_EVENTS_END.encode() not in self.raw:
            return False
        annotations = self.decode().get("metadata", {}).get("annotations") or {}
        return bool(annotations.get(INITIAL_EVENTS_END) == "true")


class ListPage(msgspec.Struct, frozen=True):
    """One page of a list. `continue_token` is empty on the last one."""

    kind: str
    resource_version: str
    continue_token: str
    items: list[tuple[Meta, bytes]]


class _Envelope(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Object(msgspec.Struct):
    metadata: Meta = Meta()
    kind: str = ""


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_token: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    kind: str = ""
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)
    items: list[msgspec.Raw] | None = None


class _ManagedMeta(msgspec.Struct, rename="camel"):
    managed_fields: msgspec.Raw = msgspec.Raw()


class _ManagedObject(msgspec.Struct):
    metadata: _ManagedMeta = msgspec.field(default_factory=_ManagedMeta)


_envelope = msgspec.json.Decoder(_Envelope)
_object = msgspec.json.Decoder(_Object)
_list = msgspec.json.Decoder(_List)
_managed = msgspec.json.Decoder(_ManagedObject)


def decode_event(line: bytes) -> WatchEvent:
    """One line of a watch stream. Raises MalformedObject."""
    try:
        _refuse_bad_text(line)
        envelope = _envelope.decode(line)
        raw = bytes(envelope.object)  # a Raw would keep the whole chunk alive
        if envelope.type == "ERROR":
            return WatchEvent("ERROR", Meta(), "Status", raw)
        parsed = _object.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedObject(f"watch event is not understood: {error}") from error
    return WatchEvent(envelope.type, parsed.metadata, parsed.kind, raw)


def _refuse_bad_text(data: bytes) -> None:
    """What is only skipped over is not checked by the decoder, and would fail whoever reads it later."""
    if not data.isascii():
        data.decode()


def decode_list(body: bytes) -> ListPage:
    """One page of a list answer. Raises MalformedObject, also for a `Table`."""
    try:
        _refuse_bad_text(body)
        page = _list.decode(body)
        if page.kind == "Table":
            raise MalformedObject("the server answered a list with a Table; a proxy rewrites the Accept header")
        items = [(_object.decode(raw).metadata, bytes(raw)) for raw in page.items or ()]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedObject(f"list answer is not understood: {error}") from error
    return ListPage(page.kind, page.metadata.resource_version, page.metadata.continue_token, items)


def decode_meta(raw: bytes) -> Meta:
    """The metadata of one encoded object. Raises MalformedObject."""
    try:
        return _object.decode(raw).metadata
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedObject(f"object is not understood: {error}") from error


def encode(obj: Mapping[str, Any] | list[Any]) -> bytes:
    """Exact-size JSON: orjson's own result keeps slack that a cache would pay for."""
    return bytes(memoryview(orjson.dumps(obj)))


def strip_managed_fields(raw: bytes) -> bytes:
    """`raw` without `metadata.managedFields`, cut out of the bytes when the encoding is compact."""
    value = bytes(_managed.decode(raw).metadata.managed_fields)
    if not value:
        return raw
    part = b'"managedFields":' + value
    start = raw.find(part)
    if start > 0:
        end = start + len(part)
        if raw[end : end + 1] == b",":
            return raw[:start] + raw[end + 1 :]
        if raw[start - 1 : start] == b",":
            return raw[: start - 1] + raw[end:]
    obj = orjson.loads(raw)
    obj["metadata"].pop("managedFields", None)
    return encode(obj)


class LineSplitter:
    """Cuts arbitrary slices into lines, without copying a long line again for every slice.

    Lines may be megabytes long and a slice may end inside a UTF-8 sequence. Empty lines (heartbeats)
    are dropped.
    """

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that `chunk` completes."""
        head, newline, rest = chunk.partition(b"\n")
        if not newline:
            if chunk:
                self._parts.append(chunk)
            return
        self._parts.append(head)
        first = b"".join(self._parts).strip()
        self._parts.clear()
        if first:
            yield first
        *lines, tail = rest.split(b"\n")
        if tail:
            self._parts.append(tail)
        for line in lines:
            if stripped := line.strip():
                yield stripped

    @property
    def pending_bytes(self) -> int:
        """Bytes of an unfinished line; not zero at the end of a stream means it was cut."""
        return sum(map(len, self._parts))
