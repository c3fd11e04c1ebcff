"""The bytes of lists and watches, taken apart as little as possible.

An object that goes into a cache is never decoded whole: the envelope and the metadata are read with
msgspec, the rest stays the bytes that came over the wire. Relies on nothing but bytes; the network
is `transport`, the order of requests is `controller.reflector`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from sys import intern
from typing import Any, TypeVar

import msgspec
import orjson

T = TypeVar("T")

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
        """The whole object: a Status for ERROR. Raises MalformedObject."""
        return decode_object(self.raw)

    @property
    def ends_initial_events(self) -> bool:
        """Whether this is the bookmark after the initial events of a streaming list."""
        if self.type != "BOOKMARK" or INITIAL_EVENTS_END.encode() not in self.raw:
            return False
        annotations = self.decode()["metadata"].get("annotations")
        return isinstance(annotations, dict) and annotations.get(INITIAL_EVENTS_END) == "true"


class ListPage(msgspec.Struct, frozen=True):
    """One page of a list. `continue_token` is empty on the last one.

    Objects are copied out of `body`, slice by slice, when they are asked for: a whole list in one answer need
    not be in memory twice.
    """

    kind: str
    resource_version: str
    continue_token: str
    body: list[msgspec.Raw]
    managed_fields: bool = True

    def __len__(self) -> int:
        return len(self.body)

    @property
    def items(self) -> list[tuple[Meta, bytes]]:
        """Every object. Raises MalformedObject."""
        return self.slice(0, len(self.body))

    def slice(self, start: int, end: int) -> list[tuple[Meta, bytes]]:
        """The objects from `start` to before `end`. Raises MalformedObject."""
        items: list[tuple[Meta, bytes]] = []
        try:
            for item in self.body[start:end]:
                raw = bytes(item)
                _refuse_bad_text(raw)
                meta, _, raw = _take(raw, self.managed_fields)
                items.append((meta, raw))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise MalformedObject(f"list answer is not understood: {error}") from error
        return items


class _Envelope(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _WireMeta(Meta, frozen=True, gc=False, rename="camel"):
    managed_fields: msgspec.Raw = msgspec.Raw()


class _Object(msgspec.Struct):
    metadata: _WireMeta = _WireMeta()
    kind: str = ""


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_token: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    kind: str = ""
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)
    items: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET


_envelope = msgspec.json.Decoder(_Envelope)
_object = msgspec.json.Decoder(_Object)
_list = msgspec.json.Decoder(_List)

_TYPES = {name.encode(): name for name in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK")}
_HEAD = b'{"type":"'
_MIDDLE = b'","object":'
_MANAGED = b'"managedFields":'

_LINE_BYTES = 64 << 20
"""More than any object: etcd takes 1.5 MiB of one."""

_DEPTH = 11_000
"""API servers take objects that are nested 10,000 deep, ten times what Python recurses into unasked.

CPython 3.12 has a limit of 1,500 that nobody can raise; what is deeper is malformed there.
"""


def decode_event(line: bytes, *, managed_fields: bool = True) -> WatchEvent:
    """One line of a watch stream, without `metadata.managedFields` if so told. Raises MalformedObject."""
    try:
        _refuse_bad_text(line)
        return _compact_event(line, managed_fields) or _any_event(line, managed_fields)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedObject(f"watch event is not understood: {error}") from error


def _compact_event(line: bytes, managed_fields: bool) -> WatchEvent | None:
    """The event, if it is written as API servers do: type, object, and no blanks between.

    What is between that and the last brace is one JSON value or this is no such line, so the envelope needs no parsing.
    """
    middle = line.find(_MIDDLE, len(_HEAD), 40)
    type = _TYPES.get(line[len(_HEAD) : middle]) if middle > 0 and line.startswith(_HEAD) else None
    if type is None or not line.endswith(b"}"):
        return None
    raw = line[middle + len(_MIDDLE) : -1]
    try:
        meta, kind, raw = _take(raw, managed_fields)
    except msgspec.MsgspecError:
        return None
    return WatchEvent(type, meta, kind, raw)


def _any_event(line: bytes, managed_fields: bool) -> WatchEvent:
    envelope = _deep(_envelope.decode, line)
    raw = bytes(envelope.object)  # a Raw would keep the whole line alive
    if envelope.type == "ERROR":
        return WatchEvent("ERROR", Meta(), "Status", raw)
    meta, kind, raw = _take(raw, managed_fields)
    return WatchEvent(envelope.type, meta, kind, raw)


def _take(raw: bytes, managed_fields: bool) -> tuple[Meta, str, bytes]:
    """Metadata, kind and bytes to keep of one encoded object, in one pass over it."""
    parsed = _deep(_object.decode, raw)
    wire = parsed.metadata
    references = wire.owner_references
    if references:
        references = tuple(
            [OwnerRef(intern(r.api_version), intern(r.kind), r.name, r.uid, r.controller) for r in references]
        )
    meta = Meta(
        wire.name,
        intern(wire.namespace),
        wire.uid,
        wire.resource_version,
        wire.generation,
        wire.creation_timestamp,
        wire.deletion_timestamp,
        wire.labels,
        references,
        wire.finalizers,
    )
    if not managed_fields and (value := bytes(wire.managed_fields)):
        raw = _without(raw, value)
    return meta, parsed.kind, raw


def _without(raw: bytes, managed_fields: bytes) -> bytes:
    """`raw` without `metadata.managedFields`, cut out of the bytes when the encoding is compact."""
    start = raw.find(_MANAGED)
    end = start + len(_MANAGED) + len(managed_fields)
    once = raw.find(_MANAGED, end) < 0  # else it may be somebody's field of the same name that comes first
    if start > 0 and once and raw[start + len(_MANAGED) : end] == managed_fields:
        if raw[end : end + 1] == b",":
            return raw[:start] + raw[end + 1 :]
        if raw[start - 1 : start] == b",":
            return raw[: start - 1] + raw[end:]
    obj = decode_object(raw)
    obj["metadata"].pop("managedFields", None)
    return encode(obj)


def _deep(function: Callable[[Any], T], argument: Any) -> T:
    """`function(argument)`, however deep that is nested. Raises MalformedObject beyond what servers allow."""
    try:
        return function(argument)
    except RecursionError:
        limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + _DEPTH)
    try:
        return function(argument)
    except RecursionError:
        raise MalformedObject("an object is nested too deep to be read") from None
    finally:
        sys.setrecursionlimit(limit)


def _refuse_bad_text(data: bytes) -> None:
    """What is only skipped over is not checked by the decoder, and would fail whoever reads it later."""
    if not data.isascii():
        data.decode()


def decode_list(body: bytes, *, managed_fields: bool = True) -> ListPage:
    """One page of a list answer, without `managedFields` if so told. Raises MalformedObject, also for a `Table`."""
    try:
        page = _deep(_list.decode, body)
    except msgspec.MsgspecError as error:
        raise MalformedObject(f"list answer is not understood: {error}") from error
    if page.kind == "Table":
        raise MalformedObject("the server answered a list with a Table; a proxy rewrites the Accept header")
    if page.items is msgspec.UNSET:  # what is no list must not pass for an empty one
        raise MalformedObject(f"the server answered a list with a {page.kind or 'document'} that has no items")
    metadata = page.metadata
    return ListPage(page.kind, metadata.resource_version, metadata.continue_token, page.items or [], managed_fields)


def decode_meta(raw: bytes) -> Meta:
    """The metadata of one encoded object. Raises MalformedObject."""
    try:
        return _take(raw, True)[0]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedObject(f"object is not understood: {error}") from error


def decode_object(raw: bytes) -> dict[str, Any]:
    """One encoded object, whole. Raises MalformedObject."""
    try:
        decoded = orjson.loads(raw)
    except orjson.JSONDecodeError:  # perhaps only of its depth
        try:
            decoded = _deep(msgspec.json.decode, raw)
        except msgspec.MsgspecError as error:
            raise MalformedObject(f"object is not understood: {error}") from error
    if not isinstance(decoded, dict):
        raise MalformedObject("object is not understood: it is no JSON object")
    return decoded


def encode(obj: Mapping[str, Any] | list[Any]) -> bytes:
    """Exact-size JSON: orjson's own result keeps slack that a cache would pay for. Raises TypeError."""
    try:
        return bytes(memoryview(orjson.dumps(obj)))
    except orjson.JSONEncodeError:  # perhaps only of its depth
        return _deep(msgspec.json.encode, obj)


def strip_managed_fields(raw: bytes) -> bytes:
    """`raw` without `metadata.managedFields`. Raises MalformedObject."""
    try:
        return _take(raw, False)[2]
    except msgspec.MsgspecError as error:
        raise MalformedObject(f"object is not understood: {error}") from error


class LineSplitter:
    """Cuts arbitrary slices into lines, without copying a long line again for every slice.

    Lines may be megabytes long and a slice may end inside a UTF-8 sequence. Empty lines (heartbeats)
    are dropped.
    """

    __slots__ = ("_parts", "_pending")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._pending = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that `chunk` completes. Raises MalformedObject for a line that does not end."""
        end = chunk.find(b"\n")  # a search per line is quicker than split, which looks at every byte by itself
        if end < 0:
            if chunk:
                self._parts.append(chunk)
                self._pending += len(chunk)
                if self._pending > _LINE_BYTES:
                    raise MalformedObject(f"a line of more than {_LINE_BYTES >> 20} MiB is no watch event")
            return
        start = 0
        if self._parts:
            start = end + 1
            first = b"".join([*self._parts, chunk[:end]]).strip()
            self._parts.clear()
            self._pending = 0
            if first:
                yield first
            end = chunk.find(b"\n", start)
        while end >= 0:
            line = chunk[start:end].strip()
            if line:
                yield line
            start = end + 1
            end = chunk.find(b"\n", start)
        if start < len(chunk):
            self._parts.append(chunk[start:])
            self._pending = len(chunk) - start

    @property
    def pending_bytes(self) -> int:
        """Bytes of an unfinished line; not zero at the end of a stream means it was cut."""
        return self._pending
