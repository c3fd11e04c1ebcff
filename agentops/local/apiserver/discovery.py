"""What is served, in the two shapes clients ask for: aggregated (kubectl) and one document a group version."""

from __future__ import annotations

from typing import Any

import orjson

from agentops.local.apiserver.http import Request, Response
from agentops.local.apiserver.resources import Registry, Resource, fingerprint, version_rank

Object = dict[str, Any]

_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

_SUBRESOURCES: dict[str, tuple[tuple[str, str, str] | None, tuple[str, ...]]] = {
    # name: ((group, version, kind) or None for the resource's own, verbs)
    "status": (None, ("get", "patch", "update")),
    "resize": (None, ("get", "patch", "update")),
    "scale": (("autoscaling", "v1", "Scale"), ("get", "patch", "update")),
    "finalize": (None, ("update",)),
    "log": (None, ("get",)),
    "exec": (("", "v1", "PodExecOptions"), ("create", "get")),
    "attach": (("", "v1", "PodAttachOptions"), ("create", "get")),
    "portforward": (("", "v1", "PodPortForwardOptions"), ("create", "get")),
    "binding": (("", "v1", "Binding"), ("create",)),
    "eviction": (("policy", "v1", "Eviction"), ("create",)),
    "token": (("authentication.k8s.io", "v1", "TokenRequest"), ("create",)),
}
_PROXY_VERBS = ("create", "delete", "get", "patch", "update")
_PREFERRED_ORDER = ("", "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io", "batch",
                    "networking.k8s.io", "policy", "rbac.authorization.k8s.io", "storage.k8s.io",
                    "admissionregistration.k8s.io", "apiextensions.k8s.io", "scheduling.k8s.io", "coordination.k8s.io",
                    "discovery.k8s.io")  # fmt: skip


class Discovery:
    """Answers /api, /apis and below, from the registry; documents are kept until it changes."""

    def __init__(self, registry: Registry, server_address: str) -> None:
        self._registry = registry
        self._address = server_address
        self._cache: dict[str, tuple[int, bytes]] = {}

    def root(self, request: Request, *, core: bool) -> Response:
        """/api or /apis."""
        if _asks_for_v2(request):
            body = self._cached("aggregated-core" if core else "aggregated", lambda: self._aggregated(core))
            return _answer(request, body, _AGGREGATED)
        if core:
            address = [{"clientCIDR": "0.0.0.0/0", "serverAddress": self._address}]
            plain = {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": address}
            return _answer(request, orjson.dumps(plain))
        return _answer(request, self._cached("groups", self._group_list))

    def paths(self) -> list[str]:
        """What / lists."""
        found = ["/api", "/api/v1", "/apis"]
        for group, versions in self._registry.groups().items():
            if group:
                found += [f"/apis/{group}", *(f"/apis/{group}/{version}" for version in versions)]
        return sorted([*found, "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"])

    def group(self, request: Request, group: str) -> Response | None:
        """/apis/G."""
        versions = self._registry.groups().get(group)
        if not group or versions is None:
            return None
        return _answer(request, orjson.dumps({"kind": "APIGroup", "apiVersion": "v1", **_group(group, versions)}))

    def group_version(self, request: Request, group: str, version: str) -> Response | None:
        """/api/v1 or /apis/G/V."""
        resources = self._registry.in_group_version(group, version)
        if not resources:
            return None
        items: list[Object] = []
        for resource in sorted(resources, key=lambda r: r.kind.plural):
            items.append(_legacy(resource))
            items.extend(_legacy_sub(resource, name) for name in resource.subresources)
        body: Object = {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{group}/{version}" if group else version,
            "resources": items,
        }
        return _answer(request, orjson.dumps(body))

    def _cached(self, key: str, make: Any) -> bytes:
        found = self._cache.get(key)
        if found is None or found[0] != self._registry.generation:
            found = self._cache[key] = (self._registry.generation, orjson.dumps(make()))
        return found[1]

    def _groups(self) -> list[tuple[str, list[str]]]:
        def order(item: tuple[str, list[str]]) -> tuple[int, str]:
            group = item[0]
            return (_PREFERRED_ORDER.index(group) if group in _PREFERRED_ORDER else len(_PREFERRED_ORDER), group)

        return sorted(self._registry.groups().items(), key=order)

    def _group_list(self) -> Object:
        groups = [_group(group, versions) for group, versions in self._groups() if group]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}

    def _aggregated(self, core: bool) -> Object:
        items = []
        for group, versions in self._groups():
            if bool(group) == core:
                continue
            listed = []
            for version in versions:
                resources = sorted(self._registry.in_group_version(group, version), key=lambda r: r.kind.plural)
                listed.append(
                    {"version": version, "resources": [_aggregated(r) for r in resources], "freshness": "Current"}
                )
            meta: Object = {"name": group} if group else {}
            items.append({"metadata": meta, "versions": listed})
        return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def _answer(request: Request, body: bytes, content_type: str = "application/json") -> Response:
    etag = f'"{fingerprint(body)}"'
    headers = {"content-type": content_type, "vary": "Accept", "etag": etag, "cache-control": "public"}
    if request.header("if-none-match") == etag:
        return Response(304, b"", headers)
    return Response(200, body, headers)


def _group(group: str, versions: list[str]) -> Object:
    listed = [{"groupVersion": f"{group}/{v}", "version": v} for v in sorted(versions, key=version_rank)]
    return {"name": group, "versions": listed, "preferredVersion": listed[0]}


def _response_kind(resource: Resource, other: tuple[str, str, str] | None) -> Object:
    if other is not None:
        return {"group": other[0], "version": other[1], "kind": other[2]}
    kind = resource.kind
    if resource.custom:
        return {"group": kind.group, "version": kind.version, "kind": kind.kind}
    return {"group": "", "version": "", "kind": kind.kind}


def _sub(resource: Resource, name: str) -> tuple[tuple[str, str, str] | None, tuple[str, ...]]:
    if name == "proxy":
        return (("", "v1", f"{resource.kind.kind}ProxyOptions"), _PROXY_VERBS)
    return _SUBRESOURCES[name]


def _asks_for_v2(request: Request) -> bool:
    """Whether the aggregated form is asked for in the version served; who asks for v2beta1 only gets the plain one."""
    for choice in request.header("accept").split(","):
        parameters = {part.strip() for part in choice.split(";")[1:]}
        if {"g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"} <= parameters:
            return True
    return False


def _aggregated(resource: Resource) -> Object:
    kind = resource.kind
    item: Object = {
        "resource": kind.plural,
        "responseKind": _response_kind(resource, None),
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.advertised_verbs),
    }
    if resource.short_names:
        item["shortNames"] = list(resource.short_names)
    if resource.categories:
        item["categories"] = list(resource.categories)
    if resource.subresources:
        item["subresources"] = [
            {"subresource": name, "responseKind": _response_kind(resource, _sub(resource, name)[0]),
             "verbs": list(_sub(resource, name)[1])}
            for name in resource.subresources
        ]  # fmt: skip
    return item


def _legacy(resource: Resource) -> Object:
    kind = resource.kind
    item: Object = {
        "name": kind.plural,
        "singularName": resource.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(resource.advertised_verbs),
    }
    if resource.short_names:
        item["shortNames"] = list(resource.short_names)
    if resource.categories:
        item["categories"] = list(resource.categories)
    return item


def _legacy_sub(resource: Resource, name: str) -> Object:
    other, verbs = _sub(resource, name)
    item: Object = {
        "name": f"{resource.kind.plural}/{name}",
        "singularName": "",
        "namespaced": resource.kind.namespaced,
        "kind": other[2] if other else resource.kind.kind,
        "verbs": list(verbs),
    }
    if other and other[0] and (other[0], other[1]) != (resource.kind.group, resource.kind.version):
        item["group"], item["version"] = other[0], other[1]
    return item
