"""Content negotiation: the same objects as JSON or YAML, as a Table for kubectl, or as metadata only."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import orjson
from attrs import frozen

from agentops.local.apiserver import errors
from agentops.local.apiserver.http import Request, Response
from agentops.local.apiserver.resources import Resource
from agentops.local.apiserver.table import Columns, columns_of, row_of
from agentops.values.clock import Clock

Object = dict[str, Any]

_NOT_ACCEPTABLE = (
    "only the following media types are accepted: application/json, application/yaml, "
    "application/vnd.kubernetes.protobuf"
)


_JSON_TYPES = ("application/json", "*/*", "application/*")
_YAML_TYPE = "application/yaml"
_INSTEAD = "application/vnd.kubernetes.protobuf"
"""Of who takes nothing else JSON is asked too much, but every client we know reads the Content-Type."""
_INCLUDED = ("", "Metadata", "Object", "None")


@frozen(slots=True)
class Form:
    """What the client wants: `kind` is json, Table, PartialObjectMetadata or PartialObjectMetadataList."""

    kind: str = "json"
    version: str = "v1"
    include: str = "Metadata"

    @property
    def plain(self) -> bool:
        return self.kind == "json"

    @property
    def metadata_only(self) -> bool:
        return self.kind.startswith("PartialObjectMetadata")


JSON = Form()


def negotiate(request: Request) -> Form:
    """The form of the first alternative of Accept that can be served. Raises ApiFailure 400, 406."""
    for _, parameters in _alternatives(request):
        form = _form(request, parameters)
        if form is not None:
            return form
    raise errors.ApiFailure(406, "NotAcceptable", _NOT_ACCEPTABLE)


def check_acceptable(request: Request) -> None:
    """Raise ApiFailure 406 when no media type of Accept is served; for answers without other forms."""
    if not _alternatives(request):
        raise errors.ApiFailure(406, "NotAcceptable", _NOT_ACCEPTABLE)


def wants_yaml(request: Request) -> bool:
    """Whether the best of the media types that the client takes is YAML."""
    alternatives = _alternatives(request)
    return bool(alternatives) and alternatives[0][0] == _YAML_TYPE


def in_yaml(response: Response) -> Response:
    """A JSON answer as YAML; everything else as it is."""
    if not response.body or not response.headers.get("content-type", "").startswith("application/json"):
        return response
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    body = yaml.dump(orjson.loads(response.body), Dumper=dumper, encoding="utf-8", allow_unicode=True)
    return Response(response.status, body, {**response.headers, "content-type": _YAML_TYPE})


def _alternatives(request: Request) -> list[tuple[str, dict[str, str]]]:
    """The media types of Accept that are served, with their parameters, best first; what is meant is JSON or YAML."""
    return _parsed(request.header("accept") or "*/*")


@lru_cache(maxsize=256)
def _parsed(accept: str) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[float, bool, str, dict[str, str]]] = []
    for alternative in accept.split(","):
        media, *parts = (part.strip() for part in alternative.split(";"))
        parameters = dict(part.split("=", 1) for part in parts if "=" in part)
        if media in _JSON_TYPES or media in (_YAML_TYPE, _INSTEAD):
            known = media if media == _YAML_TYPE else "application/json"
            found.append((-_quality(parameters.get("q", "")), media == _INSTEAD, known, parameters))
    return [(media, parameters) for _, _, media, parameters in sorted(found, key=lambda item: item[:2])]


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 1.0


def _form(request: Request, parameters: dict[str, str]) -> Form | None:
    wanted, version = parameters.get("as"), parameters.get("v", "v1")
    if wanted is None:
        return JSON
    known = wanted in ("Table", "PartialObjectMetadata", "PartialObjectMetadataList") and version in ("v1", "v1beta1")
    if not known or parameters.get("g") != "meta.k8s.io":
        return None
    included = request.arg("includeObject")
    if wanted == "Table" and included not in _INCLUDED:
        detail = "must be 'Metadata', 'Object', 'None', or empty"
        problem = errors.invalid_value("includeObject", included, detail)
        raise errors.bad_request(f"Unable to convert to Table as requested: {problem}")
    return Form(wanted, version, included or "Metadata")


class Renderer:
    """Turns objects into bytes of one form."""

    def __init__(self, resource: Resource, form: Form, clock: Clock) -> None:
        self.resource = resource
        self.form = form
        self._clock = clock
        self._columns: Columns | None = columns_of(resource) if form.kind == "Table" else None
        self._first = True

    def single(self, obj: Object) -> bytes:
        """One object (a GET, or the result of a write)."""
        if self.form.plain:
            return orjson.dumps(obj)
        if self.form.metadata_only:
            return orjson.dumps(self._partial(obj))
        return self._table([obj], {"resourceVersion": obj["metadata"].get("resourceVersion", "")}, definitions=True)

    def event_object(self, obj: Object) -> bytes:
        """One object inside a watch event. Only a Table watch's first event has column definitions."""
        if self.form.kind != "Table":
            return self.single(obj)
        first, self._first = self._first, False
        return self._table([obj], {"resourceVersion": obj["metadata"].get("resourceVersion", "")}, definitions=first)

    def list(self, objects: Iterable[Object], meta: Object) -> bytes:
        if self.form.kind == "Table":
            return self._table(objects, meta, definitions=True)
        if self.form.metadata_only:
            items = [self._partial(obj) for obj in objects]
            body = {
                "kind": "PartialObjectMetadataList",
                "apiVersion": f"meta.k8s.io/{self.form.version}",
                "metadata": meta,
                "items": items,
            }
            return orjson.dumps(body)
        return self.list_bytes((orjson.dumps(obj) for obj in objects), meta)

    def list_bytes(self, items: Iterable[bytes], meta: Object) -> bytes:
        """A plain list out of already encoded items."""
        kind = self.resource.kind
        head = orjson.dumps({"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": meta})
        return b'%b,"items":[%b]}' % (head[:-1], b",".join(items))

    def bookmark(self, revision: int, annotations: dict[str, str] | None = None) -> bytes:
        kind = self.resource.kind
        meta: Object = {"resourceVersion": str(revision)}
        if annotations:
            meta["annotations"] = annotations
        if self.form.kind == "Table":
            first, self._first = self._first, False
            return self._table([], meta, definitions=first)
        if self.form.metadata_only:
            api_version, name = f"meta.k8s.io/{self.form.version}", "PartialObjectMetadata"
        else:
            api_version, name = kind.api_version, kind.kind
        meta.setdefault("creationTimestamp", None)
        return orjson.dumps({"kind": name, "apiVersion": api_version, "metadata": meta})

    def _partial(self, obj: Object) -> Object:
        return {
            "kind": "PartialObjectMetadata",
            "apiVersion": f"meta.k8s.io/{self.form.version}",
            "metadata": obj.get("metadata") or {},
        }

    def _table(self, objects: Iterable[Object], meta: Object, *, definitions: bool) -> bytes:
        assert self._columns is not None
        now = self._clock.now()
        rows = []
        for obj in objects:
            row: Object = {"cells": row_of(self._columns, obj, now)}
            if self.form.include == "Metadata":
                row["object"] = self._partial(obj)
            elif self.form.include == "Object":
                row["object"] = obj
            rows.append(row)
        body = {
            "kind": "Table",
            "apiVersion": f"meta.k8s.io/{self.form.version}",
            "metadata": meta,
            "columnDefinitions": self._columns.definitions if definitions else [],
            "rows": rows,
        }
        return orjson.dumps(body)
