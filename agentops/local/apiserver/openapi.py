"""/openapi/v3: enough for kubectl's apply, diff and explain to be content, one document a group version.

/openapi/v2 is an empty document: kubectl asks for it only to check a `List`, whose items it then checks
one by one against v3's promise that the server validates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from agentops.kube.patches import APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH
from agentops.local.apiserver.http import Request, Response
from agentops.local.apiserver.resources import Registry, Resource, fingerprint
from agentops.local.apiserver.schema.builtin import definition_name, definitions
from agentops.local.apiserver.schema.structural import OBJECT_META

Object = dict[str, Any]

_V2_PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
# message Document { string swagger = 1; Info info = 2 }, message Info { string title = 1; string version = 2 }
_EMPTY_V2_PROTOBUF = b"\x0a\x032.0" + b"\x12\x1c" + b"\x0a\x0aKubernetes" + b"\x12\x0eagentops-local"
_REF = "#/$defs/"
_COMPONENT = "#/components/schemas/"


class OpenApi:
    """Documents are made when asked for and kept until the registry changes."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._documents: dict[str, tuple[int, bytes]] = {}

    def index(self, request: Request) -> Response:
        paths: Object = {}
        for group, versions in self._registry.groups().items():
            for version in versions:
                key = f"apis/{group}/{version}" if group else f"api/{version}"
                paths[key] = {"serverRelativeURL": f"/openapi/v3/{key}?hash={self._hash(group, version)}"}
        return _answer(request, orjson.dumps({"paths": paths}), immutable=False)

    def v2(self, request: Request) -> Response:
        """Swagger 2.0 without definitions, as protobuf for kubectl and as JSON for everybody else."""
        if "protobuf" in request.header("accept"):
            return _answer(request, _EMPTY_V2_PROTOBUF, immutable=False, content_type=_V2_PROTOBUF)
        document = {"swagger": "2.0", "info": {"title": "Kubernetes", "version": "agentops-local"}, "paths": {}}
        return _answer(request, orjson.dumps(document), immutable=False)

    def document(self, request: Request, group: str, version: str) -> Response | None:
        if not self._registry.in_group_version(group, version):
            return None
        body = self._body(group, version)
        return _answer(request, body, immutable=request.arg("hash") == self._hash(group, version))

    def _hash(self, group: str, version: str) -> str:
        """Changes whenever the document does; cheap for built-ins, whose documents never change."""
        resources = self._registry.in_group_version(group, version)
        if all(not r.custom for r in resources):
            return fingerprint(f"builtin {group} {version} {[r.kind.plural for r in resources]}".encode())
        return fingerprint(self._body(group, version))

    def _body(self, group: str, version: str) -> bytes:
        key = f"{group}/{version}"
        found = self._documents.get(key)
        if found is None or found[0] != self._registry.generation:
            found = (self._registry.generation, orjson.dumps(self._make(group, version)))
            self._documents[key] = found
        return found[1]

    def _make(self, group: str, version: str) -> Object:
        resources = self._registry.in_group_version(group, version)
        schemas: Object = {}
        paths: Object = {}
        for resource in resources:
            name = self._schema(resource, schemas)
            if "get" in resource.verbs:
                self._paths(resource, name, paths)
            elif "create" in resource.verbs:
                path = resource.kind.path("{namespace}" if resource.kind.namespaced else "").replace("%7B", "{")
                paths[path.replace("%7D", "}")] = {"post": _operation(resource, "post", name, ("application/json",))}
        return {
            "openapi": "3.0.0",
            "info": {"title": "AgentOps local plane", "version": "v1.37.0+agentops-local"},
            "paths": paths,
            "components": {"schemas": schemas},
        }

    def _paths(self, resource: Resource, name: str, paths: Object) -> None:
        base = f"/apis/{resource.group}/{resource.kind.version}" if resource.group else f"/api/{resource.kind.version}"
        if resource.kind.namespaced:
            base += "/namespaces/{namespace}"
        patches = [JSON_PATCH, MERGE_PATCH, APPLY_PATCH]
        if not resource.custom:
            patches.insert(2, STRATEGIC_MERGE_PATCH)
        collection = f"{base}/{resource.plural}"
        everything = ("application/json", "application/yaml")
        paths[collection] = {
            "get": _operation(resource, "list", name, ()),
            "post": _operation(resource, "post", name, everything),
        }
        one = {
            "get": _operation(resource, "get", name, ()),
            "put": _operation(resource, "put", name, everything),
            "patch": _operation(resource, "patch", name, tuple(patches)),
            "delete": _operation(resource, "delete", name, ()),
        }
        if "patch" not in resource.verbs:  # only read
            paths[collection], one = {"get": paths[collection]["get"]}, {"get": one["get"]}
        paths[f"{collection}/{{name}}"] = one
        if "status" in resource.subresources:
            paths[f"{collection}/{{name}}/status"] = {k: v for k, v in one.items() if k in ("get", "put", "patch")}

    def _schema(self, resource: Resource, schemas: Object) -> str:
        name = None if resource.custom else definition_name(resource.kind)
        if name is None:
            return self._custom(resource, schemas)
        _pull(name, schemas)
        return name

    def _custom(self, resource: Resource, schemas: Object) -> str:
        """Of a kind that brings its own schema."""
        kind = resource.kind
        name = ".".join([*reversed(kind.group.split(".")), kind.version, kind.kind])
        raw = resource.schema.raw if resource.schema is not None else {"type": "object"}
        published = _publish(raw)
        properties = dict(published.get("properties") or {})
        properties["apiVersion"] = {"type": "string", "description": _API_VERSION}
        properties["kind"] = {"type": "string", "description": _KIND}
        properties["metadata"] = {
            "allOf": [{"$ref": _COMPONENT + OBJECT_META}],
            "description": "Standard object's metadata. More info: "
            "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
        }
        published["properties"] = properties
        gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
        published["x-kubernetes-group-version-kind"] = [gvk]
        schemas[name] = published
        schemas[f"{name}List"] = {
            "type": "object",
            "required": ["items"],
            "properties": {"apiVersion": {"type": "string"}, "kind": {"type": "string"},
                           "items": {"type": "array", "items": {"$ref": _COMPONENT + name}}},
            "x-kubernetes-group-version-kind": [{**gvk, "kind": f"{kind.kind}List"}],
        }  # fmt: skip
        _pull(OBJECT_META, schemas)
        return name


_API_VERSION = (
    "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized "
    "schemas to the latest internal value, and may reject unrecognized values."
)
_KIND = "Kind is a string value representing the REST resource this object represents."


def _publish(raw: Mapping[str, Any]) -> Object:
    """A CRD schema as published: int-or-string spelled out, the rest as it is."""
    out: Object = {}
    for key, value in raw.items():
        if key in ("properties",) and isinstance(value, dict):
            out[key] = {name: _publish(child) for name, child in value.items()}
        elif key in ("items", "additionalProperties", "not") and isinstance(value, dict):
            out[key] = _publish(value)
        else:
            out[key] = value
    if raw.get("x-kubernetes-int-or-string") and "anyOf" not in out:
        out["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return out


def _pull(name: str, schemas: Object) -> None:
    """A built-in definition and all it refers to."""
    if name in schemas:
        return
    schemas[name] = {}
    schemas[name] = _convert(definitions()[name], schemas)


def _convert(raw: Any, schemas: Object) -> Any:
    if isinstance(raw, list):
        return [_convert(item, schemas) for item in raw]
    if not isinstance(raw, dict):
        return raw
    out: Object = {}
    for key, value in raw.items():
        if key == "$ref":
            target = value.removeprefix(_REF)
            _pull(target, schemas)
            out[key] = _COMPONENT + target
        elif key == "type" and isinstance(value, list):
            out[key] = next((t for t in value if t != "null"), "object")
        elif key == "properties":
            out[key] = {name: _convert(child, schemas) for name, child in value.items()}
        elif key == "enum" and "string" in str(raw.get("type")):
            out[key] = [v for v in value if v is not None]
        else:
            out[key] = _convert(value, schemas)
    if "$ref" in out and len(out) > 1:
        out["allOf"] = [{"$ref": out.pop("$ref")}]
    return out


def _operation(resource: Resource, action: str, schema: str, bodies: tuple[str, ...]) -> Object:
    kind = resource.kind
    gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    parameters = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}] if bodies else []
    if bodies:
        parameters += [{"name": n, "in": "query", "schema": {"type": "string"}} for n in ("dryRun", "fieldManager")]
    found: Object = {
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk,
        "parameters": parameters,
        "responses": {
            "200": {"description": "OK", "content": {"application/json": {"schema": {"$ref": _COMPONENT + schema}}}}
        },
    }
    if bodies:
        found["requestBody"] = {"content": {media: {"schema": {"$ref": _COMPONENT + schema}} for media in bodies}}
    return found


def _answer(request: Request, body: bytes, *, immutable: bool, content_type: str = "application/json") -> Response:
    etag = f'"{fingerprint(body)}"'
    caching = "public, immutable" if immutable else "no-cache, private"
    headers = {"content-type": content_type, "etag": etag, "cache-control": caching, "vary": "Accept"}
    if request.header("if-none-match") == etag:
        return Response(304, b"", headers)
    return Response(200, body, headers)
